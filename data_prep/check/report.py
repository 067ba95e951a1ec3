"""What a check found: as text, as JSON, and as the error that stops a build."""

from collections.abc import Sequence
from typing import Any

from data_prep.check.leaks import Leaks
from uwe_jax.data.text import normalise
from uwe_jax.io.errors import DataError

EXAMPLES = 5  # of each kind, printed and kept in manifests


def refuse_leaks(report: Sequence[Leaks]) -> None:
    """Raises a DataError that names the sets that fail, if there are any."""
    if failed := [leaks for leaks in report if leaks.failed]:
        reasons = '; '.join(
            f'{leaks.evaluation}: {kind} {len(items)}'
            for leaks in failed
            for kind, fails, items in leaks.kinds()
            if fails and items
        )
        raise DataError(
            f'evaluation sets reach training ({reasons}); leave these rows out of the set, or of the '
            'training data, as build --drop_leaks does'
        )


def summary(report: Sequence[Leaks], examples: int | None = EXAMPLES) -> dict[str, Any]:
    """The report as JSON: by set, counts and examples of each kind of leak; all leaks if `examples` is None."""
    return {
        leaks.evaluation: {
            'held_out': leaks.held_out,
            'failed': leaks.failed,
            'queries': leaks.queries,
            'pairs': leaks.pairs,
            **{kind: {'count': len(items), 'examples': items[:examples]} for kind, _, items in leaks.kinds()},
        }
        for leaks in report
    }


def text(report: Sequence[Leaks]) -> str:
    """The report for people: leaks set by set, and one line about the sets that have none."""
    lines = []
    clean, leaking = ([leaks for leaks in report if leaks.clean == wanted] for wanted in (True, False))
    for leaks in leaking:
        whose = 'held out of the dataset' if leaks.held_out else 'an outside set'
        lines.append(f'{leaks.evaluation}, {whose}: {leaks.queries} queries, {leaks.pairs} pairs')
        for kind, fails, items in leaks.kinds():
            verdict = '' if not items else ', FAILS' if fails else ', reported'
            lines.append(f'  {kind}: {len(items)}{verdict}')
            lines += [f'    {_example(item)}' for item in items[:EXAMPLES]]
    if clean:
        names = ', '.join(leaks.evaluation for leaks in clean)
        queries, pairs = sum(leaks.queries for leaks in clean), sum(leaks.pairs for leaks in clean)
        lines.append(f'{names}: none of {queries} queries and {pairs} pairs is in training')
    if leaking or not report:
        lines.append(f'{len(report)} sets checked, {sum(leaks.failed for leaks in leaking)} failed')
    return '\n'.join(lines)


def _example(item: str | tuple[str, ...]) -> str:
    return ' | '.join(map(normalise, [item] if isinstance(item, str) else item))
