"""Packing: every text lies whole in one row, beside others but apart from them."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.packed import from_row
from uwe_jax.data.packing import lay_out, pack, unpacked

ROW = 16
LENGTHS = st.lists(st.integers(0, ROW), max_size=60)


def texts_of(lengths):
    return [np.full(length, number + 1, np.int32) for number, length in enumerate(lengths)]


def packed(lengths, spare=1):
    start, rows = lay_out(np.array(lengths, int), ROW)
    return pack(texts_of(lengths), start, rows + spare, ROW), start


@given(LENGTHS)
def test_every_text_lies_whole_in_one_row_and_no_token_is_taken_twice(lengths):
    start, rows = lay_out(np.array(lengths, int), ROW)
    taken = np.zeros(rows * ROW, int)
    for first, length in zip(start, lengths, strict=True):
        if length:
            assert first // ROW == (first + length - 1) // ROW
            taken[first : first + length] += 1
    assert taken.max(initial=0) <= 1


@given(LENGTHS)
def test_no_two_rows_could_be_one(lengths):
    start, rows = lay_out(np.array(lengths, int), ROW)
    filled = np.bincount(start // ROW, weights=lengths, minlength=rows)
    assert rows < 2 or sum(np.sort(filled)[:2]) > ROW


@given(LENGTHS)
def test_a_row_says_which_tokens_belong_together_and_where_each_text_begins(lengths):
    rows, start = packed(lengths)
    for text, first in zip(texts_of(lengths), start, strict=True):
        if len(text):
            row = first // ROW
            assert any(np.array_equal(text, other) for other in from_row(rows, row))
            np.testing.assert_array_equal(rows.position.reshape(-1)[first : first + len(text)], np.arange(len(text)))
    assert (rows.text > 0).sum() == sum(lengths)
    assert not rows.ids[rows.text == 0].any()


@jax.jit
def unpacked_and_pulled_back(embeddings, start, length, weights):
    out, pull = jax.vjp(lambda x: unpacked(x, start, length, ROW), embeddings)
    return out, *pull(weights)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, ROW), min_size=20, max_size=20), st.integers(0, 100))
def test_what_was_packed_comes_out_padded_with_gradients_that_go_back_to_its_tokens(lengths, seed):
    start, _ = lay_out(np.array(lengths), ROW)
    random = np.random.default_rng(seed)
    embeddings = random.normal(size=(20 * ROW, 4)).astype(np.float32)
    weights = random.normal(size=(20, ROW, 4)).astype(np.float32)
    out, gradient = unpacked_and_pulled_back(embeddings, start, np.array(lengths, np.int32), weights)
    expected, expected_gradient = np.zeros_like(weights), np.zeros_like(embeddings)
    for text, (first, length) in enumerate(zip(start, lengths, strict=True)):
        expected[text, :length] = embeddings[first : first + length]
        expected_gradient[first : first + length] = weights[text, :length]
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(gradient, expected_gradient)
