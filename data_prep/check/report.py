"""What a check found: as text, as JSON, and as the error that stops a build."""

from collections.abc import Sequence
from typing import Any

from data_prep.check.leaks import Leaks
from uwe_jax.data.text import normalise
from uwe_jax.io.errors import DataError

EXAMPLES = 5  # of each kind, printed and kept in manifests


def refuse_leaks(report: Sequence[Leaks]) -> None:
    """Raises DataError, in one line, if a set fails."""
    if failed := [leaks for leaks in report if leaks.failed]:
        found = '; '.join(
            f'{leaks.evaluation}: {kind} {len(items)}'
            for leaks in failed
            for kind, fails, items in leaks.kinds()
            if fails and items
        )
        raise DataError(
            f'evaluation sets reach training ({found}); leave these rows out of the set, or of the '
            'training data, as build --drop_leaks does'
        )


def summary(report: Sequence[Leaks], examples: int | None = EXAMPLES) -> dict[str, Any]:
    """The report as JSON: by set, counts and examples of each kind; all that was found if `examples` is None."""
    return {
        leaks.evaluation: {
            'held_out': leaks.held_out,
            'failed': leaks.failed,
            'queries': leaks.queries,
            'pairs': leaks.pairs,
            **{kind: {'count': len(found), 'examples': found[:examples]} for kind, _, found in leaks.kinds()},
        }
        for leaks in report
    }


def text(report: Sequence[Leaks]) -> str:
    """The report to read."""
    lines = []
    for leaks in report:
        whose = 'held out of the dataset' if leaks.held_out else 'an outside set'
        lines.append(f'{leaks.evaluation}, {whose}: {leaks.queries} queries, {leaks.pairs} pairs')
        for kind, fails, found in leaks.kinds():
            verdict = '' if not found else ', FAILS' if fails else ', reported'
            lines.append(f'  {kind}: {len(found)}{verdict}')
            lines += [f'    {_example(item)}' for item in found[:EXAMPLES]]
    failed = sum(leaks.failed for leaks in report)
    return '\n'.join([*lines, f'{len(report)} sets checked, {failed} failed'])


def _example(found: str | tuple[str, ...]) -> str:
    return ' | '.join(map(normalise, [found] if isinstance(found, str) else found))
