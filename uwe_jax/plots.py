"""Drawings: an attention map, and a sweep of temperatures. The only module of `uwe_jax` that knows matplotlib."""

import importlib.util
import pathlib
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from uwe_jax.interaction import Score
from uwe_jax.io.files import check_writable, whole_file
from uwe_jax.ranking import AttentionMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 144
MOST_WRITTEN = 14  # tokens of either text up to which the cells show their values
GREY = '#5f6368'


def check_output(output: pathlib.Path) -> None:
    """Refuses, before any long work, a drawing that `save` could not write.

    Raises:
      ValueError: matplotlib is not installed, the name does not end in .png, or its directory does not exist.
      OSError: the file cannot be written.
    """
    if importlib.util.find_spec('matplotlib') is None:
        raise ValueError("drawing needs matplotlib; install it: pip install -c constraints.txt -e '.[plot]'")
    if output.suffix != '.png':
        raise ValueError(f'--output: {output}, expected the name of a file that ends in .png')
    if not output.parent.is_dir():
        raise ValueError(f'--output: {output.parent} is not a directory; make it first')
    check_writable(output)


def save(figure: 'Figure', output: pathlib.Path) -> None:
    """Writes a drawing as PNG."""
    with whole_file(output) as partial:
        figure.savefig(partial, format='png', dpi=DPI)


def attention_map(attention: AttentionMap, query: str, target: str, score: Score) -> 'Figure':
    """Draws A and C, with the query's tokens from top to bottom and the target's from left to right.

    Labels beside C show what each attending token adds to the score: the sum of A·C over the tokens that it attends to.
    If the tokens of both texts attend, they show what each token of the query adds.

    Args:
      attention: what `Ranker.attention` returned.
      query, target: the two texts.
      score: the ranker's.
    """
    rows, columns = attention.a.shape
    written = max(rows, columns) <= MOST_WRITTEN
    stacked = columns > 2 * rows and not written  # wide maps: C below A
    cell = 0.56 if written else 0.24  # inches
    width, height = cell * columns + 1.5, cell * rows + 1.2  # with room for the tokens
    width, height = (width, 2 * height) if stacked else (2 * width, height)
    figure = _figure(max(width, 7.0), height + 0.7)
    a_axes, c_axes = figure.subplots(2, 1) if stacked else figure.subplots(1, 2)
    by_row = score.query_attends
    c_colours, least = ('Oranges', 0.0) if attention.c.min() >= 0 else ('RdBu_r', -1.0)
    sums = {'target': 'each row sums to 1', 'query': 'each column sums to 1', 'both': 'the mean of both sides'}
    a_title = f'A, attention: {sums[score.attend]}'
    _heat_map(figure, a_axes, attention.a, attention, a_title, written, 'Blues', (0.0, 1.0))
    _heat_map(figure, c_axes, attention.c, attention, 'C, cosines', written, c_colours, (least, 1.0))
    _label_sums(c_axes, attention, by_row, 0 if by_row or written else 90)
    most = int(5 * max(width, 7.0))  # characters of each text that fit half a line
    texts = '  →  '.join(textwrap.shorten(text, most, placeholder=' …') for text in (query, target))
    figure.suptitle(f'{texts}\nsim = {attention.score:.3f}  ({_description(score)})', fontsize=11, parse_math=False)
    return figure


def temperature_sweep(rows: Sequence[dict], score: Score) -> 'Figure':
    """Draws MAP, its change from the model's own τ_a, and the mean entropy of A: one line per task.

    Args:
      rows: what `sweep.sweep` yielded.
      score: the ranker's.
    """
    figure = _figure(8.5, 9.5)
    axes_of = dict(zip(('map', 'change', 'entropy'), figure.subplots(3, 1, sharex=True), strict=True))
    for task in dict.fromkeys(row['task'] for row in rows):
        of_task = sorted((row for row in rows if row['task'] == task), key=lambda row: row['temperature'])
        [base] = [row['map'] for row in of_task if row['temperature'] == score.temperature]
        label = f'{task}: {of_task[0]["queries"]} queries, {of_task[0]["targets"]} targets'
        for key, axes in axes_of.items():
            values = [row['map'] - base if key == 'change' else row[key] for row in of_task]
            axes.plot([row['temperature'] for row in of_task], values, marker='o', markersize=4, label=label)
    axes_of['map'].set_ylabel('MAP, %')
    axes_of['change'].set_ylabel(f'MAP, points from τₐ = {score.temperature:g}')
    axes_of['entropy'].set_ylabel('mean entropy of A')
    axes_of['entropy'].set_ylim(-0.03, 1.03)
    axes_of['entropy'].set_xlabel("τₐ; dashed: the model's own")
    for axes in axes_of.values():
        axes.axvline(score.temperature, color=GREY, linestyle='--', linewidth=1, zorder=0)
        axes.grid(axis='y', color='#e8eaed')
        axes.spines[['top', 'right']].set_visible(False)
        axes.set_xscale('log')
    temperatures = sorted({row['temperature'] for row in rows})
    axes_of['entropy'].set_xticks(temperatures, [f'{temperature:g}' for temperature in temperatures])
    axes_of['entropy'].minorticks_off()
    lines, labels = axes_of['map'].get_legend_handles_labels()
    figure.legend(lines, labels, loc='outside upper center', ncols=2, frameon=False)
    figure.align_ylabels()
    return figure


def _figure(width: float, height: float) -> 'Figure':
    """An empty drawing, its size in inches, free of pyplot's global state."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(compress=True, w_pad=0.12, h_pad=0.12)
    return Figure(figsize=(width, height), layout=layout)


def _heat_map(
    figure: 'Figure',
    axes: 'Axes',
    values: np.ndarray,
    attention: AttentionMap,
    title: str,
    written: bool,
    colours: str,
    limits: tuple[float, float],
) -> None:
    """One of the two panels of an attention map, with values in the cells if `written`, else with a colour bar."""
    image = axes.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1])
    slanted: dict[str, Any] = (
        {'rotation': 40, 'ha': 'right', 'rotation_mode': 'anchor'} if written else {'rotation': 90}
    )
    axes.set_xticks(range(len(attention.target_tokens)), attention.target_tokens, parse_math=False, **slanted)
    axes.set_yticks(range(len(attention.query_tokens)), attention.query_tokens, parse_math=False)
    axes.set_xlabel('target', color=GREY)
    axes.set_ylabel('query', color=GREY)
    axes.set_title(title, fontsize=10)
    # White lines between the cells.
    axes.set_xticks(np.arange(0.5, values.shape[1] - 1), minor=True)
    axes.set_yticks(np.arange(0.5, values.shape[0] - 1), minor=True)
    axes.grid(which='minor', color='white', linewidth=2 if written else 0.5)
    axes.tick_params(which='both', length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    if not written:
        bar = figure.colorbar(image, ax=axes, shrink=min(1.0, 12 / len(values)), aspect=16, pad=0.08)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8)
        return
    for (row, column), value in np.ndenumerate(values):
        colour = 'white' if abs(value) > 0.65 * limits[1] else 'black' if abs(value) >= 0.05 else '#9aa0a6'
        axes.text(column, row, f'{value:.2f}', ha='center', va='center', fontsize=8, color=colour)


def _label_sums(axes: 'Axes', attention: AttentionMap, by_row: bool, rotation: float) -> None:
    """Writes Σ A·C of each attending token at the end of its row, or above its column."""
    sums = (attention.a * attention.c).sum(axis=1 if by_row else 0)
    other = axes.secondary_yaxis('right') if by_row else axes.secondary_xaxis('top')
    place = other.set_yticks if by_row else other.set_xticks
    place(range(len(sums)), [f'{value:.2f}' for value in sums], rotation=rotation)
    other.tick_params(length=0, labelsize=8, labelcolor=GREY)
    other.spines[:].set_visible(False)
    (other.set_ylabel if by_row else other.set_xlabel)('Σ A·C', color=GREY)


def _description(score: Score) -> str:
    """The settings of a score, in a few words."""
    kind = f'soft, τₐ = {score.temperature:g}' if score.kind == 'soft' else score.kind
    side = {'target': "query's", 'query': "target's", 'both': "query's and the target's"}[score.attend]
    special = '' if score.special_tokens else ', without <s> and </s>'
    return f'{kind}; {score.reduce} of Σ A·C over the {side} tokens{special}'
