"""The report of a topology: what one step holds, computes and sends, and the largest batch that fits."""

import collections
from collections.abc import Iterator, Mapping, Sequence

from jax.stages import Compiled

from uwe_jax.compile_for import compiled
from uwe_jax.compile_for.rehearsal import Rehearsal, Trial
from uwe_jax.compile_for.search import largest_batch, timed_trial, without_program
from uwe_jax.data.packed_plan import ROW

GIB, MIB = 2**30, 2**20


def examine(topology: str, rehearsal: Rehearsal, batch_size: int, *, search: bool) -> dict[str, str]:
    """Compiles the step for a topology, prints the report, and returns its table row.

    Args:
      topology: its name.
      rehearsal: the step on its devices.
      batch_size: skills in the global batch.
      search: whether to look for the largest batch that fits.

    Raises:
      ValueError: the mesh cannot split the batch evenly.
    """
    trial = timed_trial(rehearsal, batch_size)
    print('\n'.join(describe(rehearsal, trial)), flush=True)
    row = {
        'topology': topology,
        'chips': f'{rehearsal.devices}',
        'memory': f'{rehearsal.usable / GIB:.2f}',
        f'peak, batch {batch_size}': trial.peak,
        'TFLOP': f'{sum(rehearsal.flops(batch_size).values()) / 1e12:.2f}',
        'MiB sent': f'{compiled.sent(trial.program) / MIB:,.0f}' if trial.program else '-',
    }
    if not search:
        return row
    trial = without_program(trial)
    fitting, refused = largest_batch(rehearsal, trial)
    size = fitting.batch_size if fitting else 0
    print(f'largest batch: {size:,}; {refused.batch_size:,} does not fit\n', flush=True)
    return row | {
        'largest batch': f'{size:,}',
        'its peak': fitting.peak if fitting else '-',
    }


def describe(rehearsal: Rehearsal, trial: Trial) -> Iterator[str]:
    """The lines that say what one step of a trial holds, computes and sends."""
    rows, chunks = rehearsal.rows(trial.batch_size)
    yield f'batch {trial.batch_size}, per chip {rows} rows of {ROW} tokens, {rows // chunks} at a time'
    yield f'memory per chip in MiB, of {rehearsal.usable / MIB:,.0f} that a program may use:'
    for name, size in rehearsal.arguments(trial.batch_size).items():
        yield f'  {name:<20}{size / MIB:>12,.1f}'
    if trial.memory:
        yield f'  {"temporaries":<20}{trial.memory.temporary / MIB:>12,.1f}'
        yield f'  {"peak":<20}{trial.memory.needed / MIB:>12,.1f}'
    yield f'  {"does not fit: " + trial.refusal if trial.refusal else "fits"}'

    flops = rehearsal.flops(trial.batch_size)
    yield 'TFLOP per chip and step:'
    yield f'  {"by formula":<20}{sum(flops.values()) / 1e12:>12.3f}  matrix products: ' + ', '.join(
        f'{part} {value / 1e12:.3f}' for part, value in flops.items()
    )
    if not trial.program:
        return
    if (counted := compiled.flops(trial.program)) is not None:
        yield f'  {"by the compiler":<20}{counted / 1e12:>12.3f}  counts a loop once, and no Pallas kernel'
    yield 'collectives per step; operands and bytes sent per chip in MiB:'
    yield f'  {"kind":<20}{"devices":>12}{"times":>8}{"operands":>12}{"sent":>12}'
    found = _collectives(trial.program)
    for (kind, group), (times, size, sent) in found.items():
        yield f'  {kind:<20}{group:>12}{times:>8}{size / MIB:>12,.1f}{sent / MIB:>12,.1f}'
    yield f'  {"all":<20}{"":>32}{sum(sent for *_, sent in found.values()) / MIB:>12,.1f}'


def table(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """The lines of a Markdown table; all rows have the same columns."""
    yield f'| {" | ".join(rows[0])} |'
    yield f'|{"---|" * len(rows[0])}'
    for row in rows:
        yield f'| {" | ".join(row.values())} |'


def _collectives(program: Compiled) -> dict[tuple[str, int], list[int]]:
    """By kind and number of devices: runs per step, bytes of the operands, bytes that a chip sends."""
    sums = collections.defaultdict(lambda: [0, 0, 0])
    for one in compiled.collectives(program):
        numbers = one.times, one.times * one.bytes, one.times * one.sent
        sums[one.kind, one.group] = [a + b for a, b in zip(sums[one.kind, one.group], numbers, strict=True)]
    return dict(sorted(sums.items(), key=lambda item: -item[1][2]))
