"""Prints where the time of the profiled steps went: python -m uwe_jax.profile --workdir=RUN.

A run writes the profile with --config.run.profile_first=STEP.
"""

import collections
import dataclasses
import heapq
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from etils import epath

from uwe_jax.io import console
from uwe_jax.io.buckets import local_copy
from uwe_jax.io.paths import Path


@dataclasses.dataclass(frozen=True)
class Options:
    """Prints where the time of the profiled steps of a training run went."""

    workdir: epath.Path
    """The run, which wrote a profile (--config.run.profile_first=STEP)."""


SCOPES = 'encoder', 'interaction', 'loss', 'optimizer'  # the names that `training/step.py` gives to its parts
COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-', 'ragged-all-to-all')
CALLERS = ('while', 'conditional', 'call')  # instructions that only run others
PARTS = (
    'encoder forward',
    'encoder backward',
    'interaction',
    'loss',
    'optimizer',
    'other operations',
    'collectives',
    'waiting for data',
    'idle',
)
# What counts when several things happen at a time: computing, and only then what it did not hide.
COMPUTES, SENDS, CALLS, WAITS = range(4)


class Span(NamedTuple):
    """What a device, or the host for it, did for some time.

    Attributes:
      start, end: in ns.
      rank: COMPUTES, SENDS, CALLS or WAITS.
      part: one of `PARTS`.
    """

    start: float
    end: float
    rank: int
    part: str


class Profile(NamedTuple):
    """The profile of some steps.

    Attributes:
      steps: how many there are.
      devices: by name, what each did.
    """

    steps: int
    devices: Mapping[str, list[Span]]


def print_table(options: Options) -> None:
    """Prints the table.

    Raises:
      ValueError: the workdir has no profile, or it shows no operation of the step.
    """
    profile = read(options.workdir)
    of_devices = [spent(spans) for spans in profile.devices.values()]
    parts = {part: sum(times[part] for times in of_devices) / len(of_devices) for part in PARTS}
    print('\n'.join(table(parts, profile.steps, len(profile.devices))))


def table(parts: Mapping[str, float], steps: int, devices: int) -> Iterator[str]:
    r"""The lines of the table.

    >>> print('\n'.join(table({'encoder forward': 6e6, 'idle': 2e6}, steps=2, devices=1)))
    2 steps on 1 device, 4.0 ms each
    part                 ms per step   share
    encoder forward              3.0   75.0%
    idle                         1.0   25.0%

    Args:
      parts: time in ns, of all steps, the mean of the devices.
      steps, devices: how many were profiled.
    """
    total = sum(parts.values())
    yield f'{_plural(steps, "step")} on {_plural(devices, "device")}, {total / steps / 1e6:,.1f} ms each'
    yield f'{"part":20}{"ms per step":>12}{"share":>8}'
    for part, time in parts.items():
        yield f'{part:20}{time / steps / 1e6:>12,.1f}{time / total:>8.1%}'


def spent(spans: Iterable[Span]) -> dict[str, float]:
    """The time in ns that each part took, from the first operation to the last: together the whole time.

    At each moment only the spans of the lowest rank count, and they share it. So collectives that a computation hides
    take no time, and the time of a loop belongs to the operations in its body. Moments without a span are `idle`.

    >>> whole = Span(0, 10, COMPUTES, 'loss'), Span(5, 12, SENDS, 'collectives'), Span(14, 15, COMPUTES, 'optimizer')
    >>> sorted(spent(whole).items())
    [('collectives', 2.0), ('idle', 2.0), ('loss', 10.0), ('optimizer', 1.0)]
    """
    spans = sorted(spans)
    start = min(span.start for span in spans if span.rank < WAITS)
    end = max(span.end for span in spans if span.rank < WAITS)
    boundaries = heapq.merge(
        ((span.start, 1, span) for span in spans), sorted((span.end, -1, span) for span in spans), key=lambda x: x[0]
    )
    running = [collections.Counter() for _ in range(WAITS + 1)]
    time = collections.defaultdict(float)
    now = start
    for moment, change, span in boundaries:
        moment = min(max(moment, start), end)
        if moment > now:
            sharing = next((parts for parts in running if parts), {'idle': 1})
            for part, count in sharing.items():
                time[part] += (moment - now) * count / sum(sharing.values())
            now = moment
        running[span.rank][span.part] += change
        if not running[span.rank][span.part]:
            del running[span.rank][span.part]
    return time


def read(workdir: Path) -> Profile:
    """Reads the profile of a run.

    On CPUs and GPUs, an event of an operation names its module and HLO instruction; on TPUs it is one in the device's
    line `XLA Ops`, under the instruction's name or its whole text. In a CUDA graph, which XLA calls a command buffer, a
    kernel has its instruction's name with `_` for `.` and `-`; a library's kernel has its own, and counts with the
    operation before it.

    Raises:
      ValueError: there is none, or it shows no operation of the step.
    """
    from jax.profiler import ProfileData  # not before: the help needs no JAX

    from uwe_jax.training.metrics import WAITING
    from uwe_jax.training.profiling import FOLDER, HLO, STEP

    folder = local_copy(workdir / FOLDER)
    files = list(folder.glob('plugins/profile/*/*.xplane.pb'))
    if not files or not (folder / HLO).exists():
        raise ValueError(f'{folder}: no profile, expected a run with --config.run.profile_first=STEP')
    text = (folder / HLO).read_text()
    module, instructions = text.split(maxsplit=2)[1].rstrip(','), parts_of(text)
    kernels = {re.sub(r'\W', '_', name): name for name in instructions}

    steps, waits, ends = 0, [], {}
    operations = []  # device, start, end, number of the operation's end, instruction
    for plane in ProfileData.from_file(str(files[0])).planes:
        on_device = plane.name.startswith('/device:')
        for line in plane.lines:
            before = None
            for event in sorted(line.events, key=lambda event: event.start_ns):
                start, end, stats = event.start_ns, event.start_ns + event.duration_ns, dict(event.stats)
                name = stats.get('hlo_op')
                if name and name.startswith('command_buffer'):
                    name = kernels.get(event.name, before)
                if name is None and on_device and line.name == 'XLA Ops':
                    name = event.name.split(' = ')[0].removeprefix('%')
                if event.name == STEP and not on_device:
                    steps += 1
                elif event.name == WAITING:
                    waits.append(Span(start, end, WAITS, 'waiting for data'))
                elif event.name.startswith('end: '):  # on CPUs, of an operation that other threads finished
                    ends[stats.get('_c')] = end
                elif name in instructions and stats.get('hlo_module', module) == module:
                    device = plane.name if on_device else f'{stats.get("device_ordinal")}'
                    operations.append((device, start, end, stats.get('_p'), name))
                    before = name
    devices = collections.defaultdict(lambda: list(waits))
    for device, start, end, number, name in operations:
        devices[device].append(Span(start, max(end, ends.get(number, end)), *instructions[name]))
    if not devices or not steps:
        raise ValueError(f'{files[0]}: no operation of {module} in it, expected the profile of a training step')
    return Profile(steps, devices)


def parts_of(hlo: str) -> dict[str, tuple[int, str]]:
    """The rank and the part of each instruction of a compiled program.

    Args:
      hlo: its optimised HLO as text. Its `op_name`s hold the scopes: `jit(step)/transpose(jvp(encoder))/dot_general`.
        An instruction without one, such as a copy that the compiler added, belongs to its first operand's part.
    """
    scopes, parts = {}, {}
    for line in hlo.splitlines():
        if match := re.match(r'\s+(?:ROOT )?%([\w.-]+) = .*? ([a-z][\w-]*)\((?:%([\w.-]+))?', line):
            name, opcode, operand = match.groups()
            op_name = re.search(r'op_name="([^"]*)"', line)
            scopes[name] = _part(op_name[1]) if op_name else scopes.get(operand, 'other operations')
            rank = CALLS if opcode in CALLERS else COMPUTES
            parts[name] = (SENDS, 'collectives') if opcode.startswith(COLLECTIVES) else (rank, scopes[name])
    return parts


def _part(op_name: str) -> str:
    """The part of a step that an operation belongs to, by its name."""
    scope = next((word for word in re.findall(r'\w+', op_name) if word in SCOPES), 'other operations')
    if scope == 'encoder':
        return 'encoder backward' if 'transpose(' in op_name else 'encoder forward'
    return scope


def _plural(count: int, noun: str) -> str:
    return f'{count} {noun}' if count == 1 else f'{count} {noun}s'


if __name__ == '__main__':
    sys.exit(console.command(Options, print_table))
