"""Seeing the attention: the tokens, A, C and score of a pair of texts, and its drawing."""

import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT, without_weights
from uwe_jax import plots
from uwe_jax.interaction import Score
from uwe_jax.ranking import Ranker

QUERY, TARGET = 'Data engineer', 'develop data processing applications'
LONG = 'maintains pipelines in the cloud ' * 20
PNG = b'\x89PNG\r\n\x1a\n'


@pytest.fixture(scope='module')
def model(cut_model):
    return Ranker.from_pretrained(cut_model)


@pytest.fixture
def ranker(model, monkeypatch):
    """The model, whose score a test may change."""
    monkeypatch.setattr(model, 'pair_score', model.pair_score)
    return model


def test_a_pair_has_the_tokens_of_both_texts_and_a_number_for_every_pair_of_them(ranker):
    found = ranker.attention(QUERY, TARGET)
    assert found.query_tokens == ['<s>', 'data', 'engineer', '</s>']
    assert found.target_tokens == ['<s>', 'develop', 'data', 'processing', 'applications', '</s>']
    assert found.a.shape == found.c.shape == (4, 6)
    np.testing.assert_allclose(found.a.sum(axis=1), 1, atol=1e-5)
    assert np.abs(found.c).max() <= 1 + 1e-5


@pytest.mark.parametrize(
    'score',
    [Score(), Score(reduce='sum'), Score(kind='maxsim'), Score(attend='query'), Score(special_tokens=False)],
    ids=str,
)
def test_a_times_c_is_the_score_that_ranks(ranker, score):
    ranker.pair_score = score
    found = ranker.attention(QUERY, TARGET)
    attending = found.a.sum(axis=1 if score.attend == 'target' else 0)  # 1 for each token that takes part
    np.testing.assert_allclose(attending, attending.round(), atol=1e-5)
    total = (found.a * found.c).sum() / (1 if score.reduce == 'sum' else attending.sum())
    assert found.score == pytest.approx(total, abs=1e-5)
    assert found.score == pytest.approx(ranker.score([QUERY], [TARGET]).item(), abs=1e-5)


def test_a_long_text_is_cut_as_for_ranking(ranker):
    found = ranker.attention(LONG, TARGET)
    assert found.a.shape == (64, 6)
    assert found.query_tokens[-1] == '</s>'
    assert found.score == pytest.approx(ranker.score([LONG], [TARGET]).item(), abs=1e-5)


def test_a_score_without_attention_cannot_be_seen(ranker):
    ranker.pair_score = Score(kind='mean')
    with pytest.raises(ValueError, match="kind 'mean' with target 'tokens' has no attention"):
        ranker.attention(QUERY, TARGET)


def test_the_drawing_shows_a_and_c_with_the_tokens_on_both_axes_and_the_values_of_a_small_pair(ranker):
    found = ranker.attention(QUERY, TARGET)
    figure = plots.attention_map(found, QUERY, TARGET, ranker.pair_score)
    for axes, title in zip(figure.axes[:2], ['A, attention: each row sums to 1', 'C, cosines'], strict=True):
        assert axes.get_title() == title
        assert [label.get_text() for label in axes.get_yticklabels()] == found.query_tokens
        assert [label.get_text() for label in axes.get_xticklabels()] == found.target_tokens
        assert len(axes.texts) == 24
    assert figure.axes[0].texts[0].get_text() == f'{found.a[0, 0]:.2f}'
    title = figure.get_suptitle()
    assert f'{QUERY}  →  {TARGET}' in title
    assert f'sim = {found.score:.3f}  (soft, τₐ = 0.1' in title


@pytest.mark.parametrize(('query', 'target'), [(LONG, TARGET), (TARGET, LONG), ('costs $5', 'costs $6 and \\frac')])
def test_long_texts_and_odd_signs_are_drawn_too(ranker, tmp_path, query, target):
    found = ranker.attention(query, target)
    plots.save(plots.attention_map(found, query, target, ranker.pair_score), tmp_path / 'map.png')
    assert (tmp_path / 'map.png').read_bytes().startswith(PNG)
    assert [path.name for path in tmp_path.iterdir()] == ['map.png']


def test_what_cannot_be_written_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r'map.jpg, expected the name of a file that ends in .png'):
        plots.check_output(tmp_path / 'map.jpg')
    with pytest.raises(ValueError, match='nowhere is not a directory; make it first'):
        plots.check_output(tmp_path / 'nowhere' / 'map.png')
    (tmp_path / 'folder.png').mkdir()
    with pytest.raises(IsADirectoryError, match=r'folder\.png'):
        plots.check_output(tmp_path / 'folder.png')
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    with pytest.raises(ValueError, match=r"pip install -c constraints.txt -e '.\[plot\]'"):
        plots.check_output(tmp_path / 'map.png')


def command(model, query, output):
    arguments = [f'--model={model}', f'--query={query}', f'--target={TARGET}', f'--output={output}']
    return subprocess.run(
        [sys.executable, '-m', 'uwe_jax.attention', *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_the_command_line_draws_a_pair_and_prints_its_score(ranker, cut_model, tmp_path):
    done = command(cut_model, QUERY, tmp_path / 'map.png')
    assert done.stdout == f'{ranker.attention(QUERY, TARGET).score:.3f}  {tmp_path / "map.png"}\n'
    assert (tmp_path / 'map.png').read_bytes().startswith(PNG)


def test_the_command_line_refuses_before_the_weights_are_read(cut_model, tmp_path):
    pooled = without_weights(cut_model, tmp_path / 'pooled', Score(target='mean'))
    for query, message in (
        (QUERY, "error: score: kind 'soft' with target 'mean' has no attention between tokens to draw"),
        ('  ', "error: --query: '  ', expected a text"),
    ):
        done = command(pooled, query, tmp_path / 'map.png')
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(message)
        assert 'Traceback' not in done.stderr
        assert not (tmp_path / 'map.png').exists()
