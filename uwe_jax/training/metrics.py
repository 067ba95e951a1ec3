"""A run's numbers: collected on the devices, written as JSON lines and for TensorBoard, and summed up for people.

metrics.jsonl       one line per optimizer step
evaluation.jsonl    one line per evaluation of a held-out task
tensorboard/        the numbers of both
"""

import json
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import jax

from uwe_jax.data.graph import GRAPHS
from uwe_jax.data.loader import Batch
from uwe_jax.io.files import write_whole
from uwe_jax.io.generations import WorkingCopy
from uwe_jax.io.jsonl import read_whole_lines
from uwe_jax.io.paths import Path, exists, reaching

FILES = 'metrics.jsonl', 'evaluation.jsonl'
WAITING = 'waiting for data'  # its name in a profile

logger = logging.getLogger(__name__)


class MetricsLog:
    """Writes the numbers of a run.

    A run that continues from a checkpoint first cuts the files back to that step, so that they read as if it had never
    stopped. In a bucket the files are replaced by `publish`, and after each evaluation.

    Args:
      workdir: where the files go.
      restored: the step that the run continues from; lines of later steps are dropped.
      writes: False in all processes but one.
    """

    def __init__(self, workdir: Path, restored: int, *, writes: bool):
        self._writes = writes
        if writes:
            self._files = WorkingCopy(workdir, FILES)
            workdir = self._files.folder
        self._metrics, self._evaluation = (workdir / name for name in FILES)
        if writes:
            for path in (self._metrics, self._evaluation):
                _cut_back(path, restored)
            # Not before: its library imports PyTorch where that is installed, which takes seconds.
            from uwe_jax.training.tensorboard import TensorBoard

            self._tensorboard = TensorBoard(self._files.folder / 'tensorboard', restored + 1)

    def write_steps(self, lines: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Writes the numbers of optimizer steps."""
        for step, values in lines:
            self._write(self._metrics, step, values, values)

    def write_evaluation(self, step: int, task: str, values: Mapping[str, float]) -> None:
        """Writes the result of one task after `step` steps."""
        named = {f'evaluation/{task}/{name}': values[name] for name in ('map', 'rp@10')}
        self._write(self._evaluation, step, {'task': task, **values}, named)
        self.publish()

    def publish(self) -> None:
        """Brings what was written into the bucket, if the workdir is in one."""
        if self._writes:
            self._files.publish()

    def _write(self, path: Path, step: int, line: Mapping, scalars: Mapping[str, float]) -> None:
        if not self._writes:
            return
        # JSON has no NaN and no infinity: null stands for both.
        line = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        with open(path, 'a') as file:
            file.write(json.dumps({'step': step, **line}) + '\n')
        self._tensorboard.write(step, scalars)

    def evaluated(self, step: int) -> list[str]:
        """The tasks that were evaluated after `step` steps, in order."""
        return [line['task'] for line in self.evaluations() if line['step'] == step]

    def evaluations(self) -> list[dict]:
        """The lines of `evaluation.jsonl`: `step`, `task`, `queries`, `targets`, and the metrics in per cent."""
        return read_lines(self._evaluation)

    def __enter__(self) -> 'MetricsLog':
        return self

    def __exit__(self, *_: object) -> None:
        if self._writes:
            self._tensorboard.close()
            self.publish()


def read_lines(path: Path) -> list[dict]:
    """The lines of a JSONL file, without a last line that a crash cut short; none if there is no file.

    Raises:
      DataError: another line is damaged; the message names it.
    """
    with reaching(path):
        return [line for line, _ in read_whole_lines(path, 'remove the line')] if exists(path) else []


def _cut_back(path: Path, step: int) -> None:
    """Drops the lines of later steps."""
    if path.exists():
        kept = [line for line in read_lines(path) if line['step'] <= step]
        write_whole(path, ''.join(json.dumps(line) + '\n' for line in kept))


class Meter:
    """Keeps the metrics of steps on the devices, and reads those of many steps together.

    One step at most is queued behind the one that runs: enough to keep the devices busy, and a run that is asked to
    stop has only that one to finish.

    The time between two readings is shared evenly by the steps between them; `restart` leaves evaluations out.

    Args:
      peak: FLOP/s of all devices together, see `flops.peak_flops`; None if it is unknown.
    """

    def __init__(self, peak: float | None):
        self._peak = peak
        self._steps: list[tuple[int, Mapping[str, jax.Array]]] = []
        self._newest: Mapping[str, jax.Array] = {}
        self.restart()

    def restart(self) -> None:
        """Starts the clock anew."""
        self._start = time.perf_counter()
        self._waited = 0.0

    def waiting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Passes batches on, and measures how long the devices waited for each.

        They wait if the step before is over when the batch arrives. It may have ended a moment before, so what is
        measured is an upper bound.
        """
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            with jax.profiler.TraceAnnotation(WAITING):
                batch = next(iterator, None)
            if all(x.is_ready() for x in jax.tree.leaves(self._newest)):
                self._waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Takes the metrics of one step, which may still be running, and waits for the step before."""
        if self._steps:
            jax.block_until_ready(self._steps[-1][1])
        self._steps.append((step, metrics))
        self._newest = metrics

    def read(self) -> list[tuple[int, dict[str, float]]]:
        """Waits for the last step, and returns the metrics of all steps since the reading before.

        It adds times in s, speeds in 1/s, the share of the time in which the devices waited for data
        (`speed/waiting`), and where the peak is known the share of it that real tokens needed (`speed/mfu`).
        """
        lines = [(step, {k: float(v) for k, v in jax.device_get(metrics).items()}) for step, metrics in self._steps]
        seconds = (time.perf_counter() - self._start) / len(lines)
        for _, values in lines:
            values['time/step'] = seconds
            values['time/waiting_for_data'] = self._waited / len(lines)
            values['speed/texts'] = values['texts'] / seconds
            values['speed/tokens'] = values['tokens'] / seconds
            values['speed/waiting'] = values['time/waiting_for_data'] / seconds
            if self._peak:
                values['speed/mfu'] = values['flops'] / seconds / self._peak
        self._steps = []
        self.restart()
        return lines


def check_finite(lines: list[tuple[int, dict[str, float]]], max_skips: int, last_good: int | None) -> None:
    """Stops training at a non-finite loss or gradient, unless the optimizer skipped the update.

    Args:
      lines: the metrics of steps.
      max_skips: how many updates in a row may be skipped.
      last_good: the step of the newest checkpoint.

    Raises:
      FloatingPointError: the message names the first step that is non-finite.
    """
    for step, values in lines:
        if math.isfinite(values['loss']) and math.isfinite(values['gradient_norm']):
            continue
        in_a_row = values.get('skipped/in_a_row', 0)
        if 0 < in_a_row <= max_skips:
            logger.warning('step %d: loss %s, update skipped; %d in a row', step, values['loss'], in_a_row)
            continue
        newest = f'the newest good checkpoint is the one after step {last_good}'
        if last_good is None:
            newest = 'there is no good checkpoint'
        raise FloatingPointError(
            f'step {step}: loss {values["loss"]}, gradient norm {values["gradient_norm"]}; {newest}'
        )


def speed(lines: Sequence[tuple[int, Mapping[str, float]]]) -> str:
    """The last step of `Meter.read` in a few words: its loss, speed, padding, and use of the devices."""
    _, last = lines[-1]
    mfu = f', MFU {last["speed/mfu"]:.1%}' if 'speed/mfu' in last else ''
    waiting = f', {last["speed/waiting"]:.1%} waiting for data'
    return f'loss {last["loss"]:.4f}, {last["speed/tokens"]:,.0f} tokens/s, {last["padding"]:.0%} padding{mfu}{waiting}'


def losses(lines: Sequence[tuple[int, Mapping[str, float]]]) -> str:
    """The loss of each graph, from skills to targets, in the last step."""
    return ', '.join(f'{graph} {lines[-1][1][f"{graph}/forward/loss"]:.3f}' for graph in GRAPHS)


def before_and_after(evaluations: Sequence[Mapping]) -> str:
    """A table of each task's first and last evaluation, from the lines of `evaluation.jsonl`.

    >>> first = {'task': 'job_to_skill', 'step': 0, 'queries': 31, 'targets': 3299, 'map': 26.11, 'rp@10': 49.5}
    >>> print(before_and_after([first, first | {'step': 32, 'map': 32.64, 'rp@10': 55.1}]))
                                            MAP, %                     RP@10, %
    held-out task         queries  targets  step 0    step 32          step 0    step 32
    job_to_skill               31     3299  26.11     32.64      rose  49.50     55.10
    """
    compared = []
    for task in dict.fromkeys(line['task'] for line in evaluations):
        of_task = [line for line in evaluations if line['task'] == task]
        # A run that was continued may have measured another number of queries before.
        compared.append((next(line for line in of_task if line['queries'] == of_task[-1]['queries']), of_task[-1]))
    columns = ''.join(f'step {line["step"]:<5}' for line in compared[0]) if compared else ''
    rows = [
        f'{"":40}{"MAP, %":27}RP@10, %',
        f'{"held-out task":20}{"queries":>9}{"targets":>9}  {columns:27}{columns}'.rstrip(),
    ]
    for first, last in compared:
        rise = round(last['map'], 2) - round(first['map'], 2)
        change = 'rose' if rise > 0 else 'FELL' if rise < 0 else 'same'
        rows.append(
            f'{last["task"]:20}{last["queries"]:9}{last["targets"]:9}  '
            f'{first["map"]:<10.2f}{last["map"]:<10.2f} {change:6}'
            f'{first["rp@10"]:<10.2f}{last["rp@10"]:.2f}'
        )
    return '\n'.join(rows)
