"""Seeing the attention: the tokens, A, C and score of a pair of texts, and its drawing."""

import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT, without_weights
from uwe_jax import plots
from uwe_jax.attention import Options, draw
from uwe_jax.interaction import Score

QUERY, TARGET = 'Data engineer', 'develop data processing applications'
LONG = 'maintains pipelines in the cloud ' * 20
PNG = b'\x89PNG\r\n\x1a\n'


@pytest.fixture(scope='module')
def attention(ranker):
    return ranker.attention(QUERY, TARGET)


def test_a_pair_has_the_tokens_of_both_texts(attention):
    assert attention.query_tokens == ['<s>', 'data', 'engineer', '</s>']
    assert attention.target_tokens == ['<s>', 'develop', 'data', 'processing', 'applications', '</s>']


def test_a_pair_has_a_weight_and_a_cosine_for_every_pair_of_tokens(attention):
    assert attention.a.shape == attention.c.shape == (4, 6)
    np.testing.assert_allclose(attention.a.sum(axis=1), 1, atol=1e-5)
    assert np.abs(attention.c).max() <= 1 + 1e-5


@pytest.mark.parametrize(
    'score',
    [
        Score(),
        Score(reduce='sum'),
        Score(kind='maxsim'),
        Score(attend='query'),
        Score(attend='both'),
        Score(special_tokens=False),
    ],
    ids=str,
)
def test_a_times_c_is_the_score_that_ranks(make_ranker, score):
    ranker = make_ranker(score)
    attention = ranker.attention(QUERY, TARGET)
    total = (attention.a * attention.c).sum() / (1 if score.reduce == 'sum' else attention.a.sum())
    assert attention.score == pytest.approx(total, abs=1e-5)
    assert attention.score == pytest.approx(ranker.score([QUERY], [TARGET]).item(), abs=1e-5)


def test_a_long_text_is_cut_as_for_ranking(ranker):
    attention = ranker.attention(LONG, TARGET)
    assert attention.a.shape == (64, 6)
    assert attention.query_tokens[-1] == '</s>'
    assert attention.score == pytest.approx(ranker.score([LONG], [TARGET]).item(), abs=1e-5)


def test_a_score_without_attention_is_refused(make_ranker):
    with pytest.raises(ValueError, match="kind 'mean' with target 'tokens' has no attention"):
        make_ranker(Score(kind='mean')).attention(QUERY, TARGET)


@pytest.fixture(scope='module')
def figure(attention):
    return plots.attention_map(attention, QUERY, TARGET, Score())


def test_the_drawing_shows_a_and_c_with_the_tokens_on_both_axes(figure, attention):
    for axes, title in zip(figure.axes[:2], ['A, attention: each row sums to 1', 'C, cosines'], strict=True):
        assert axes.get_title() == title
        assert [label.get_text() for label in axes.get_yticklabels()] == attention.query_tokens
        assert [label.get_text() for label in axes.get_xticklabels()] == attention.target_tokens


def test_the_drawing_of_a_small_pair_shows_the_values(figure, attention):
    for axes, values in zip(figure.axes, (attention.a, attention.c), strict=True):
        assert [text.get_text() for text in axes.texts] == [f'{value:.2f}' for value in values.ravel()]


@pytest.mark.parametrize(('attend', 'axis'), [('target', 1), ('query', 0), ('both', 1)])
def test_the_drawing_shows_what_each_attending_token_adds(make_ranker, attend, axis):
    score = Score(attend=attend)
    attention = make_ranker(score).attention(QUERY, TARGET)
    [sums] = plots.attention_map(attention, QUERY, TARGET, score).axes[1].child_axes
    labels = sums.get_yticklabels() if axis == 1 else sums.get_xticklabels()
    added = (attention.a * attention.c).sum(axis=axis)
    assert [label.get_text() for label in labels] == [f'{value:.2f}' for value in added]


def test_the_drawing_names_the_texts_and_their_score(figure, attention):
    assert figure.get_suptitle().startswith(f'{QUERY}  →  {TARGET}\nsim = {attention.score:.3f}  (soft, τₐ = 0.1')


@pytest.mark.parametrize(('query', 'target'), [(LONG, TARGET), (TARGET, LONG), ('costs $5', 'costs $6 and \\frac')])
def test_long_texts_and_mathematical_signs_are_drawn_too(ranker, tmp_path, query, target):
    plots.save(plots.attention_map(ranker.attention(query, target), query, target, Score()), tmp_path / 'map.png')
    assert (tmp_path / 'map.png').read_bytes().startswith(PNG)
    assert [path.name for path in tmp_path.iterdir()] == ['map.png']


def test_a_drawing_that_is_not_a_png_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'map.jpg, expected the name of a file that ends in .png'):
        plots.check_output(tmp_path / 'map.jpg')


def test_a_drawing_in_a_directory_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ValueError, match='nowhere is not a directory; make it first'):
        plots.check_output(tmp_path / 'nowhere' / 'map.png')


def test_a_drawing_with_the_name_of_a_directory_is_refused(tmp_path):
    (tmp_path / 'folder.png').mkdir()
    with pytest.raises(IsADirectoryError, match=r'folder\.png'):
        plots.check_output(tmp_path / 'folder.png')


def test_without_matplotlib_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    with pytest.raises(ValueError, match=r"pip install -c constraints.txt -e '.\[plot\]'"):
        plots.check_output(tmp_path / 'map.png')


def test_the_command_line_draws_a_pair_and_prints_its_score(attention, narrow_model, tmp_path):
    output = tmp_path / 'map.png'
    arguments = [f'--model={narrow_model}', f'--query={QUERY}', f'--target={TARGET}', f'--output={output}']
    command = [sys.executable, '-m', 'uwe_jax.attention', *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f'{attention.score:.3f}  {output}\n'
    assert output.read_bytes().startswith(PNG)


def test_a_model_whose_skills_attend_has_to_be_told_where_they_are(narrow_model, tmp_path):
    model = without_weights(narrow_model, tmp_path / 'from_skill', Score(attend='from_skill'))
    with pytest.raises(ValueError, match="expected attend='query' if the targets are skills"):
        draw(Options(str(model), QUERY, TARGET, tmp_path / 'map.png'))


def test_a_model_without_attention_is_refused_before_its_weights_are_read(narrow_model, tmp_path):
    pooled = without_weights(narrow_model, tmp_path / 'pooled', Score(target='mean'))
    with pytest.raises(ValueError, match="kind 'soft' with target 'mean' has no attention between tokens to draw"):
        draw(Options(str(pooled), QUERY, TARGET, tmp_path / 'map.png'))


def test_a_blank_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--query: '  ', expected a text that is not blank"):
        draw(Options('model', '  ', TARGET, tmp_path / 'map.png'))
