"""What a run leaves to read: JSON lines and TensorBoard in the workdir, and a line for people in the log."""

import json
import logging
import math
import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping

import jax

from uwe_jax.data.graph import GRAPHS
from uwe_jax.data.loader import Batch
from uwe_jax.io.files import whole_file

logger = logging.getLogger(__name__)


class Logs:
    """Writes a run's numbers.

    A run that continues from a checkpoint first cuts the files back to its step, so that they read as if it had never
    stopped.

    Args:
      workdir: where `metrics.jsonl`, `evaluation.jsonl` and `tensorboard/` go.
      restored: the step that the run goes on from; what was written for later ones is dropped.
      writes: False in all processes but one.
    """

    def __init__(self, workdir: pathlib.Path, restored: int, *, writes: bool):
        self._writes = writes
        self._metrics = workdir / 'metrics.jsonl'
        self._evaluation = workdir / 'evaluation.jsonl'
        if writes:
            for path in (self._metrics, self._evaluation):
                _cut_back(path, restored)
            from uwe_jax.training.tensorboard import (
                TensorBoard,  # its library imports PyTorch where that is installed: seconds
            )

            self._tensorboard = TensorBoard(workdir / 'tensorboard', restored + 1)

    def metrics(self, lines: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Writes the numbers of optimizer steps."""
        for step, values in lines:
            self._write(self._metrics, step, values, values)

    def evaluation(self, step: int, task: str, values: Mapping[str, float]) -> None:
        """Writes one task's result after so many steps."""
        named = {f'evaluation/{task}/{name}': values[name] for name in ('map', 'rp@10')}
        self._write(self._evaluation, step, {'task': task, **values}, named)

    def _write(self, path: pathlib.Path, step: int, line: Mapping, scalars: Mapping[str, float]) -> None:
        if not self._writes:
            return
        # JSON has no NaN; null says that a number was not one.
        line = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        with open(path, 'a') as file:
            file.write(json.dumps({'step': step, **line}) + '\n')
        self._tensorboard.write(step, scalars)

    def evaluated(self, step: int) -> list[str]:
        """The tasks that were evaluated after so many steps, in order."""
        return [line['task'] for line in self.evaluations() if line['step'] == step]

    def evaluations(self) -> list[dict]:
        """What was written by `evaluation`, first to last."""
        return read(self._evaluation)

    def __enter__(self) -> 'Logs':
        return self

    def __exit__(self, *_: object) -> None:
        if self._writes:
            self._tensorboard.close()


def read(path: pathlib.Path) -> list[dict]:
    """The lines of a JSONL file; a last line that was cut short by a crash is left out.

    Raises:
      ValueError: another line is damaged; the message names it.
    """
    if not path.exists():
        return []
    lines = []
    for number, line in enumerate(path.read_text().splitlines(keepends=True), 1):
        if line.endswith('\n'):
            try:
                lines.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f'{path}, line {number}: not JSON ({error}); remove the line') from error
    return lines


def _cut_back(path: pathlib.Path, step: int) -> None:
    """Keeps the lines up to a step, by a rename, so that no moment leaves half a file."""
    if path.exists():
        kept = [line for line in read(path) if line['step'] <= step]
        with whole_file(path) as partial:
            partial.write_text(''.join(json.dumps(line) + '\n' for line in kept))


class Meter:
    """Collects the numbers of steps where they are, on the devices, and reads them together.

    A step is not waited for before the next one is on its way, so that the devices never idle; but no longer either, so
    that a run that is to stop has one step to finish and not all that could be queued.

    The time between two readings is shared evenly by the steps between them; evaluations are left out by `restart`.
    """

    def __init__(self):
        self._steps: list[tuple[int, Mapping[str, jax.Array]]] = []
        self.restart()

    def restart(self) -> None:
        """Begins to count time."""
        self._start = time.perf_counter()
        self._waited = 0.0

    def waiting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Passes batches on, and counts the time for which they were waited for."""
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(iterator, None)
            self._waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Takes the numbers of one step, which may not be computed yet, and waits for those of the one before."""
        if self._steps:
            jax.block_until_ready(self._steps[-1][1])
        self._steps.append((step, metrics))

    def read(self) -> list[tuple[int, dict[str, float]]]:
        """Waits for the numbers of all steps since the last reading, and adds times (s) and speeds (1/s)."""
        lines = [(step, {k: float(v) for k, v in jax.device_get(metrics).items()}) for step, metrics in self._steps]
        seconds = (time.perf_counter() - self._start) / len(lines)
        for _, values in lines:
            values['time/step'] = seconds
            values['time/waiting_for_data'] = self._waited / len(lines)
            values['speed/texts'] = values['texts'] / seconds
            values['speed/tokens'] = values['tokens'] / seconds
        self._steps = []
        self.restart()
        return lines


def check_finite(lines: list[tuple[int, dict[str, float]]], max_skips: int, last_good: int | None) -> None:
    """Refuses to go on from a loss or a gradient that is no number, unless the update was skipped.

    Args:
      lines: the numbers of steps.
      max_skips: so many skipped updates in a row are put up with.
      last_good: the step of the newest checkpoint.

    Raises:
      FloatingPointError: as said; the message names the first such step.
    """
    for step, values in lines:
        if math.isfinite(values['loss']) and math.isfinite(values['gradient_norm']):
            continue
        in_a_row = values.get('skipped/in_a_row', 0)
        if 0 < in_a_row <= max_skips:
            logger.warning('step %d: loss %s, skipped; %d in a row', step, values['loss'], in_a_row)
            continue
        raise FloatingPointError(
            f'step {step}: loss {values["loss"]}, gradient norm {values["gradient_norm"]}; the newest good '
            f'checkpoint is {"none" if last_good is None else f"the one after step {last_good}"}'
        )


def progress(step: int, steps: int, values: Mapping[str, float]) -> None:
    """Logs one line that tells how the run is doing."""
    losses = ', '.join(f'{graph} {values[f"{graph}/forward/loss"]:.3f}' for graph in GRAPHS)
    logger.info(
        'step %d/%d: loss %.4f (%s), %.1f s a step, %.0f texts/s, %.0f tokens/s, %.0f %% padding',
        step,
        steps,
        values['loss'],
        losses,
        values['time/step'],
        values['speed/texts'],
        values['speed/tokens'],
        100 * values['padding'],
    )
