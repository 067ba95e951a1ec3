"""The tokenizer: what becomes of short, long and empty texts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uwe_jax.models.tokenizer import Tokenizer


@pytest.fixture(scope='module')
def tokenizer(base_model):
    return Tokenizer.from_pretrained(base_model)


def test_a_text_stands_between_its_begin_and_end_tokens(tokenizer):
    [ids] = tokenizer.encode(['data engineer'])
    assert tokenizer.tokens(ids) == ['<s>', 'data', 'engineer', '</s>']


def test_the_empty_text_has_no_other_tokens(tokenizer):
    [ids] = tokenizer.encode([''])
    assert tokenizer.tokens(ids) == ['<s>', '</s>']


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text()), st.integers(2, 20))
def test_a_long_text_loses_its_last_tokens_before_the_end_token(tokenizer, texts, max_tokens):
    for whole, cut in zip(tokenizer.encode(texts), tokenizer.encode(texts, max_tokens), strict=True):
        assert tokenizer.tokens(whole[[0, -1]]) == ['<s>', '</s>']
        expected = whole if len(whole) <= max_tokens else [*whole[: max_tokens - 1], whole[-1]]
        np.testing.assert_array_equal(cut, expected)


@settings(deadline=None)
@given(st.text(), st.integers(3, 12))
def test_the_visible_part_of_a_text_has_the_tokens_that_are_left(tokenizer, text, max_tokens):
    visible = tokenizer.visible(text, max_tokens)
    assert text.startswith(visible)
    assert visible == text or len(tokenizer.encode([text])[0]) > max_tokens


def test_what_lies_beyond_the_limit_is_not_visible(tokenizer):
    assert tokenizer.visible('Data engineer, or nurse', 4) == 'Data engineer'
    assert tokenizer.visible('Data engineer', 4) == 'Data engineer'


def test_a_limit_without_room_for_both_end_tokens_is_refused(tokenizer):
    with pytest.raises(ValueError, match='max_tokens: 1, expected at least 2'):
        tokenizer.encode(['a'], 1)


def test_half_of_a_surrogate_pair_is_refused_with_its_text(tokenizer):
    with pytest.raises(ValueError, match=r"'SQL \\ud800': half of a surrogate pair, expected text"):
        tokenizer.encode(['SQL', 'SQL \ud800'])


def test_a_file_that_is_not_a_tokenizer_is_refused_by_its_name(tmp_path):
    (tmp_path / 'tokenizer.json').write_text('{}')
    with pytest.raises(ValueError, match=r'tokenizer\.json: not a readable tokenizer'):
        Tokenizer.from_pretrained(tmp_path)


def test_its_ids_are_those_of_transformers(tokenizer, base_model):
    from transformers import AutoTokenizer

    texts = ['data engineer', '', 'Köchin für kalte Küche', '<s> is no word </s>', '👩‍⚕️ nurse 🚑', 'a ' * 100]
    expected = AutoTokenizer.from_pretrained(base_model)(texts, truncation=True, max_length=64)
    assert [ids.tolist() for ids in tokenizer.encode(texts, 64)] == expected['input_ids']
