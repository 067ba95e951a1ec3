"""Compiles the training step for a pod that need not be there, and says what it would hold, compute and send.

    python -m uwe_jax.compile_for --config=configs/uwe.py --topology=v5e:16x16 [--config.FIELD=VALUE ...]

Runs on a CPU; TPUs need the extra `tpu`, GPUs the extra `cuda`. Nothing is run, and no weights are read. Padded lengths
are those of `config.data.dir`; without it, `config.data.length`, and where that is 0, what data prep chooses for
ESCO 1.2.0 with linked sentences. A table in Markdown follows the reports.
"""

import collections
import dataclasses
import logging
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence

import jax
from absl import app, flags
from jax.stages import Compiled
from ml_collections import config_flags

from uwe_jax.compile_for import compiled
from uwe_jax.compile_for.rehearsal import Rehearsal, Trial, largest
from uwe_jax.compile_for.topology import pod_mesh, usable_memory
from uwe_jax.data.graph import read_manifest
from uwe_jax.data.loader import choose_lengths
from uwe_jax.distributed import mesh
from uwe_jax.io import console
from uwe_jax.models import download
from uwe_jax.training.config import Config

logger = logging.getLogger(__name__)


CONFIG = config_flags.DEFINE_config_file('config', None, 'The experiment.', lock_config=True)
TOPOLOGY = flags.DEFINE_list(
    'topology', None, 'TPUs by their shape in chips, v5e:16x16; or GPUs, h100:8; or several, by commas.', required=True
)
SEARCH = flags.DEFINE_bool(
    'search', True, 'Also look for the largest batch that fits: two compilations or more, which take longer.'
)

ESCO_LENGTHS = {'skill': 16, 'job': 16, 'sentence': 64, 'alternative': 16}  # padded tokens
GIB, MIB = 2**30, 2**20


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit status."""
    del argv
    jax.config.update('jax_platforms', 'cpu')  # an accelerator that is there is left to others
    return console.run(compile_for_all)


def compile_for_all() -> None:
    """Prints the report of every topology, and a table of them."""
    config = Config.of(CONFIG.value.to_dict())
    lengths = padded_lengths(config)
    rows = [compile_for(topology, config, lengths, search=SEARCH.value) for topology in TOPOLOGY.value]
    print('\n'.join(markdown(rows)))


def padded_lengths(config: Config) -> dict[str, int]:
    """Of every side, in tokens: the dataset's, or without one the config's or ESCO's."""
    chosen = ESCO_LENGTHS if config.data.dir is None else read_manifest(pathlib.Path(config.data.dir))['lengths']
    return choose_lengths(chosen, config.data.length)


def compile_for(topology: str, config: Config, lengths: Mapping[str, int], *, search: bool) -> dict[str, str]:
    """Prints the report of one topology, with the largest batch that fits if it is asked for; returns its table row.

    Raises:
      ValueError: there is no compiler for the topology, or the config does not fit to it.
    """
    device_mesh = pod_mesh(topology, config.mesh.data, config.mesh.fsdp)
    chips, chip = device_mesh.size, device_mesh.devices.flat[0]
    batch_size = config.data.batch_size
    mesh.check_divides(batch_size, device_mesh)
    rehearsal = Rehearsal(config, download.fetch_config(config.init), lengths, device_mesh, usable_memory(chip))
    print(f'{topology}: {chips} x {chip.device_kind}, mesh {dict(device_mesh.shape)}, padded to {dict(lengths)}')
    configured = timed_trial(rehearsal, batch_size)
    print('\n'.join(report(rehearsal, configured)), flush=True)
    row = {
        'topology': topology,
        'chips': f'{chips}',
        'memory': f'{rehearsal.usable / GIB:.2f}',
        f'peak, batch {batch_size}': gib(configured),
        'TFLOP': f'{sum(rehearsal.flops(batch_size).values()) / 1e12:.2f}',
        'MiB sent': f'{compiled.sent(configured.program) / MIB:,.0f}' if configured.program else '-',
    }
    if not search:
        return row

    trials = {batch_size // chips: without_program(configured)}
    guess = first_guess(rehearsal, configured)
    del configured

    def fits(rows: int) -> bool:
        if rows not in trials:
            trials[rows] = without_program(timed_trial(rehearsal, rows * chips))
        return not trials[rows].refusal

    fitting, refused = largest(fits, guess)
    print(
        f'largest batch: {fitting * chips:,}, {fitting} rows a chip; {refused * chips:,}, {refused} rows, do not fit\n',
        flush=True,
    )
    of_largest = gib(trials[fitting]) if fitting else '-'
    return row | {'largest batch': f'{fitting * chips:,}', 'rows a chip': f'{fitting}', 'its peak': of_largest}


def timed_trial(rehearsal: Rehearsal, batch_size: int) -> Trial:
    """Compiles, and says in the log how it went."""
    start = time.perf_counter()
    trial = rehearsal.trial(batch_size)
    found = trial.refusal or f'fits, peak {gib(trial)} GiB'
    logger.info('batch %d: %s, compiled in %.0f s', batch_size, found, time.perf_counter() - start)
    return trial


def without_program(trial: Trial) -> Trial:
    """Forgets what was compiled, which takes gigabytes for a pod; JAX's caches would keep it."""
    jax.clear_caches()
    return dataclasses.replace(trial, program=None)


def first_guess(rehearsal: Rehearsal, trial: Trial) -> int:
    """Rows a chip to search from: so many that memory would be full if all grew with the batch but state and gradients.

    Where the compiler refused the trial, half of its rows.
    """
    rows, arguments = trial.batch_size // rehearsal.devices, rehearsal.arguments(trial.batch_size)
    if not trial.memory:
        return max(1, rows // 2)
    fixed = 2 * arguments['parameters'] + arguments['optimizer state']  # gradients are as large as the parameters
    growing = max(1, trial.memory.needed - fixed)
    return max(1, rows * (rehearsal.usable - fixed) // growing)


def report(rehearsal: Rehearsal, trial: Trial) -> Iterator[str]:
    """The lines that say what one step with a trial's batch holds, computes and sends."""
    yield f'batch {trial.batch_size}, {trial.batch_size // rehearsal.devices} rows a chip'
    yield f'memory of a chip, MiB, of {rehearsal.usable / MIB:,.0f} that a program may use:'
    for name, size in rehearsal.arguments(trial.batch_size).items():
        yield f'  {name:<20}{size / MIB:>12,.1f}'
    if trial.memory:
        yield f'  {"temporaries":<20}{trial.memory.temporary / MIB:>12,.1f}'
        yield f'  {"peak, all together":<20}{trial.memory.needed / MIB:>12,.1f}'
    yield f'  {"does not fit: " + trial.refusal if trial.refusal else "fits"}'

    flops = rehearsal.flops(trial.batch_size)
    yield 'TFLOP a chip and step:'
    yield f'  {"by formula":<20}{sum(flops.values()) / 1e12:>12.3f}  matrix products: ' + ', '.join(
        f'{part} {value / 1e12:.3f}' for part, value in flops.items()
    )
    if not trial.program:
        return
    if (counted := compiled.flops(trial.program)) is not None:
        yield f'  {"by the compiler":<20}{counted / 1e12:>12.3f}  loops counted once, Pallas kernels not at all'
    yield 'collectives of a step; operands and what a chip sends in MiB:'
    yield f'  {"kind":<20}{"devices":>12}{"times":>8}{"operands":>12}{"sent":>12}'
    for (kind, group), (times, size, sent) in collectives(trial.program).items():
        yield f'  {kind:<20}{group:>12}{times:>8}{size / MIB:>12,.1f}{sent / MIB:>12,.1f}'
    yield f'  {"all":<20}{"":>32}{compiled.sent(trial.program) / MIB:>12,.1f}'


def collectives(program: Compiled) -> dict[tuple[str, int], list[int]]:
    """By kind and devices joined: how many run in a step, the bytes of their operands, and those that a chip sends."""
    sums = collections.defaultdict(lambda: [0, 0, 0])
    for one in compiled.collectives(program):
        numbers = one.times, one.times * one.bytes, one.times * one.sent
        sums[one.kind, one.group] = [a + b for a, b in zip(sums[one.kind, one.group], numbers, strict=True)]
    return dict(sorted(sums.items(), key=lambda item: -item[1][2]))


def gib(trial: Trial) -> str:
    """The peak of a trial, '-' where the compiler refused the program."""
    return f'{trial.memory.needed / GIB:.2f}' if trial.memory else '-'


def markdown(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """A table of rows with the same columns."""
    yield f'| {" | ".join(rows[0])} |'
    yield f'|{"---|" * len(rows[0])}'
    for row in rows:
        yield f'| {" | ".join(row.values())} |'


if __name__ == '__main__':
    flags.mark_flag_as_required('config')
    app.run(main, flags_parser=console.parse_config_flags)
