"""The plots of the report. Needs matplotlib."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

DPI = 160
GREY, LIGHT = '#5f6368', '#e8eaed'
COLOURS = ('#1a73e8', '#e8710a', '#188038')
NAMES = {'skill': 'skills', 'job': 'job titles', 'sentence': 'sentences', 'alternative': 'alternative names'}


def figures(numbers: Mapping[str, Any]) -> dict[str, Figure]:
    """All plots by name, of what `balance` returns."""
    return {
        'titles_per_skill': titles_per_skill(numbers['titles_per_skill']),
        'epoch': epoch(numbers['epoch']),
        'tokens': tokens(numbers['tokens']),
        'batch': batch(numbers['batch'], numbers['epoch']),
    }


def titles_per_skill(numbers: Mapping[str, Any]) -> Figure:
    """How many skills have fewer than x titles: one line per source of titles, each with the sources before it."""
    figure = _figure(8.0, 4.6)
    axes = figure.subplots()
    wanted = numbers['wanted']
    sources = list(numbers['by_source'].items())
    largest = max(wanted, *(counts['skills'][-1][0] for _, counts in sources))
    for (name, counts), colour in zip(sources, COLOURS, strict=False):
        titles, skills = np.array(counts['skills']).T
        below = np.cumsum(skills)
        label = name if name == sources[0][0] else f'and {name}'
        x = np.concatenate([[0.5], titles + 1, [largest * 1.2]])
        y = np.concatenate([[0], below, below[-1:]])
        axes.step(x, y, where='post', color=colour, label=f'{label}: {counts["fewer"]:,} skills below {wanted}')
        axes.plot(wanted, counts['fewer'], 'o', color=colour, markersize=5)
    axes.axvline(wanted, color=GREY, linestyle='--', linewidth=1, zorder=0)
    axes.annotate(f'{wanted} titles', (wanted, 1.0), (4, -4), xycoords=('data', 'axes fraction'),
                  textcoords='offset points', va='top', color=GREY, fontsize=9)  # fmt: skip
    axes.set_xscale('log')
    axes.set_xlim(0.9, largest * 1.2)
    axes.set_ylim(0, None)
    axes.set_xlabel('titles, n')
    axes.set_ylabel('skills with fewer than n titles')
    axes.legend(loc='lower right', edgecolor='none', framealpha=1, title='titles from', alignment='left')
    _plain(axes)
    _thousands(axes, 'xy')
    axes.set_title('Titles per skill', loc='left')
    return figure


def epoch(numbers: Mapping[str, Any]) -> Figure:
    """How often a skill is seen in an epoch, by how many targets it has: one panel per graph."""
    figure = _figure(11.0, 4.2)
    graphs = {name: rows for name, rows in numbers['skills'].items() if any(row['targets'][1] for row in rows)}
    panels = figure.subplots(1, len(graphs), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (name, rows) in zip(panels, graphs.items(), strict=True):
        with_targets = [row for row in rows if row['targets'][1]]
        x = [row['mean_targets'] for row in with_targets]
        for key, label, style in (
            ('uniform', 'if pairs were drawn uniformly', {'color': GREY, 'linestyle': '--'}),
            ('positives', 'positives in its batch', {'color': COLOURS[1], 'marker': 'o', 'markersize': 6}),
            ('drawn', 'a target drawn for it', {'color': COLOURS[0], 'marker': 'o', 'markersize': 3.5}),
        ):
            axes.plot(x, [row[key] or np.nan for row in with_targets], label=label, **style)
        none = sum(row['skills'] for row in rows if not row['targets'][1])
        axes.set_title(f'{NAMES[name]}; skills without: {none:,}', loc='left', fontsize=10)
        axes.set_xscale('log')
        axes.set_yscale('log')
        axes.set_xlabel(f'{NAMES[name]} per skill')
        _plain(axes)
        _thousands(axes, 'xy')
    panels[0].set_ylabel('times in an epoch, mean')
    lines, labels = panels[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc='outside lower center', ncols=3, frameon=False)
    figure.suptitle(
        f'How often a skill is seen in an epoch of {numbers["batches"]} batches of {numbers["batch_size"]}; '
        'each is in one batch', x=0.01, ha='left', fontsize=11
    )  # fmt: skip
    return figure


def tokens(numbers: Mapping[str, Any]) -> Figure:
    """How many tokens texts have, and where they are cut: one panel per side."""
    figure = _figure(10.0, 6.8)
    panels = iter(figure.subplots(2, 2).flat)
    for (side, counts), axes in zip(numbers.items(), panels, strict=False):  # in this order no panel is lost
        length = counts['length']
        length_of_text, texts = np.array(counts['texts']).T
        share = texts / texts.sum()
        joined = 'joined' in counts
        axes.bar(
            length_of_text,
            share,
            width=1.0,
            color=COLOURS[0],
            alpha=0.85,
            label='alone',
            edgecolor='white',
            linewidth=0.3,
        )
        if joined:
            x, y = np.array(counts['joined']).T
            axes.step(x, y, where='mid', color=COLOURS[1], label='as in training, most with a distractor')
            axes.legend(edgecolor='none', framealpha=1, fontsize=8, loc='upper right')
        axes.set_xlim(0, 1.6 * length)
        axes.axvline(length + 0.5, color=GREY, linestyle='--', linewidth=1)
        cut = (
            f'padded to {length}, which cuts\n{counts["cut_texts"]:.2%} of texts,\n{counts["cut_tokens"]:.2%} of tokens'
        )
        if joined:
            cut += f'\nand, in training,\n{counts["joined_cut"]:.1%} of texts'
        axes.annotate(cut, (length + 0.5, 0.65), (6, 0),
                      xycoords=('data', 'axes fraction'), textcoords='offset points', color=GREY, fontsize=8,
                      va='center', bbox={'facecolor': 'white', 'edgecolor': 'none', 'alpha': 0.8})  # fmt: skip
        axes.set_title(f'{NAMES[side]}: {texts.sum():,}', loc='left', fontsize=10)
        axes.set_xlabel('tokens')
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        _plain(axes)
    for axes in panels:  # of a side without texts
        axes.set_visible(False)
    figure.suptitle('Tokens of a text, and what the length in training cuts', x=0.01, ha='left', fontsize=11)
    return figure


def batch(numbers: Mapping[str, Any], epoch: Mapping[str, Any]) -> Figure:
    """Whose tokens fill a batch: one bar per side."""
    figure = _figure(8.0, 3.2)
    axes = figure.subplots()
    sides = list(reversed(numbers['tokens'].items()))
    bars = axes.barh([NAMES[name] for name, _ in sides], [tokens for _, tokens in sides], color=COLOURS[0])
    axes.bar_label(bars, padding=5, color=GREY, fontsize=9)
    axes.margins(x=0.15)
    axes.set_xlabel(f'tokens per batch of {epoch["batch_size"]}, mean of an epoch')
    axes.set_title(
        f'A batch: {epoch["rows"]} rows of 64 tokens, {numbers["padding"]:.0%} of them padding', loc='left', fontsize=11
    )
    _plain(axes)
    axes.grid(axis='y', visible=False)
    _thousands(axes, 'x')
    return figure


def _figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, without pyplot's global state."""
    return Figure(figsize=(width, height), layout='constrained')


def _plain(axes: Axes) -> None:
    axes.grid(color=LIGHT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)


def _thousands(axes: Axes, which: str) -> None:
    """Writes numbers in full, with separators, also on logarithmic axes."""
    for name in which:
        axis = getattr(axes, f'{name}axis')
        axis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,.10g}'))
        axis.set_minor_formatter(NullFormatter())
