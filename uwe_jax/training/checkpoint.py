"""Saving and restoring a run. The only module that knows Orbax.

checkpoints/step_N/                   the state after N steps; under this name only when it is complete
checkpoints/step_N/checksums.json     the sha256 of its files, which show damage
checkpoints/damaged_step_N/           was passed over when the run was continued
"""

import contextlib
import json
import logging
import pathlib
import shutil
from collections.abc import Iterator, Sequence

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath  # Orbax's paths
from flax import nnx

from uwe_jax.distributed.processes import broadcast
from uwe_jax.io.files import damage, sha256, whole_file
from uwe_jax.training.state import State
from uwe_jax.training.workdir import FOLDER, PREFIX

logger = logging.getLogger(__name__)


CHECKSUMS = 'checksums.json'
# Orbax writes these after the checksums, and restores nothing from them.
LATER = ('_CHECKPOINT_METADATA', 'commit_success.txt')


class CheckpointError(ValueError):
    """No checkpoint of a run can be used, although there are some."""


class Checkpoints:
    """The checkpoints of one workdir: the training state, and JSON that tells which experiment it belongs to.

    Saving happens in the background, and a checkpoint gets its final name when it is complete. One that was damaged
    later is passed over and renamed.

    Args:
      workdir: an absolute directory.
      keep: how many checkpoints to keep, the newest ones.

    Attributes:
      start: the step of the checkpoint that the run continues from, the same in all processes; None if there is none.

    Raises:
      CheckpointError: there are checkpoints, and none is whole.
    """

    def __init__(self, workdir: pathlib.Path, keep: int):
        self._folder = workdir / FOLDER
        newest = _newest_whole(self._folder) if jax.process_index() == 0 else None
        if jax.process_index() == 0 and newest is not None:
            _move_aside(self._folder, newest)
        # Process 0 decides: the others may see an older state of a network file system.
        start = broadcast(-1 if newest is None else newest)
        self.start = None if start < 0 else start
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            step_prefix=PREFIX.removesuffix('_'),
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_checksums),
        )
        self._manager = _Manager(self._folder, options=options)

    @property
    def latest(self) -> int | None:
        """The step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state, meta: dict) -> None:
        """Starts to save the state after `step` steps, unless it is saved already.

        The arrays may be donated as soon as this returns.

        Raises:
          OSError: the save before this one has failed, for example because the disk is full.
        """
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        with _one_line_error(self._folder):
            self._manager.save(step, args=args)

    def restore(self, like):
        """Reads the state after `start` steps.

        Args:
          like: the state as a tree of `jax.ShapeDtypeStruct`, with the shardings to restore to. They may differ from
            those that it was saved with.
        """
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
        return self._manager.restore(self.start, args=args)['state']

    def close(self) -> None:
        """Waits until every save is complete.

        Raises:
          OSError: the last save has failed.
        """
        with _one_line_error(self._folder):
            self._manager.wait_until_finished()
            self._manager.close()

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_checksums(self) -> None:
        """Adds them to the checkpoint being written, just before Orbax renames it to its final name."""
        [directory] = self._folder.glob(f'{PREFIX}*.orbax-checkpoint-tmp*')
        with whole_file(directory / CHECKSUMS) as partial:
            partial.write_text(json.dumps({name: sha256(directory / name) for name in _files(directory)}, indent=2))


class _Manager(ocp.CheckpointManager):
    """Orbax's, without its check for preemption: JAX counts the calls, and only `preemption.py` may make them."""

    def reached_preemption(self, step: int) -> bool:
        return False


@contextlib.contextmanager
def _one_line_error(folder: pathlib.Path) -> Iterator[None]:
    """Turns the errors of the many libraries that write a checkpoint into an OSError of one line."""
    try:
        yield
    except Exception as error:
        newest = next((step for step, directory in reversed(_steps(folder)) if _damage(directory) is None), None)
        raise OSError(
            f'{folder}: a checkpoint could not be written: {" ".join(str(error).split())}. The newest whole one is '
            f'{"none" if newest is None else f"the one after step {newest}"}'
        ) from error


def _steps(folder: pathlib.Path) -> list[tuple[int, pathlib.Path]]:
    """The checkpoints under their final names, oldest first."""
    named = [(path.name.removeprefix(PREFIX), path) for path in folder.glob(f'{PREFIX}*')]
    return sorted((int(number), path) for number, path in named if number.isdecimal())


def _files(directory: pathlib.Path) -> list[str]:
    """The files that have a checksum, by their paths within the checkpoint."""
    paths = [path.relative_to(directory).as_posix() for path in directory.rglob('*') if path.is_file()]
    return sorted(set(paths) - {CHECKSUMS, *LATER})


def _damage(directory: pathlib.Path) -> str | None:
    """What is wrong with a checkpoint; None if it is whole."""
    try:
        expected = json.loads((directory / CHECKSUMS).read_text())
    except (OSError, ValueError) as error:
        return f'{CHECKSUMS} cannot be read ({error})'
    for name in _files(directory):
        if name not in expected:
            return f'{name} does not belong to it'
    return damage(directory, expected)


def _newest_whole(folder: pathlib.Path) -> int | None:
    """The step of the newest checkpoint that is whole; None if there is no checkpoint.

    Raises:
      CheckpointError: there are some, and none is whole.
    """
    steps = _steps(folder)
    for step, directory in reversed(steps):
        wrong = _damage(directory)
        if wrong is None:
            return step
        logger.warning('%s is passed over: %s', directory, wrong)
    if steps:
        raise CheckpointError(
            f'{folder}: no checkpoint is whole, of steps {", ".join(str(step) for step, _ in steps)}; the log says '
            'what is wrong with each. Restore a copy, or begin anew in another --workdir'
        )
    return None


def _move_aside(folder: pathlib.Path, newest: int) -> None:
    """Renames the damaged checkpoints that are newer than the newest whole one."""
    for step, directory in _steps(folder):
        if step > newest:
            aside = directory.with_name(f'damaged_{directory.name}')
            shutil.rmtree(aside, ignore_errors=True)  # from an earlier time
            directory.rename(aside)


def load_params(workdir: pathlib.Path) -> tuple[dict, int]:
    """Reads the parameters of the newest whole checkpoint, as a nested dict of numpy arrays, and its step.

    Raises:
      CheckpointError: there are checkpoints, and none is whole.
      FileNotFoundError: the workdir has no complete checkpoint.
    """
    state, step = load_state(workdir, ('params',))
    return nnx.restore_int_paths(state['params']), step  # '10', as Orbax has it, would stand before '2'


def load_state(workdir: pathlib.Path, names: Sequence[str] = State._fields) -> tuple[dict, int]:
    """Reads parts of the newest whole checkpoint, as `load_params` does, on any number of devices.

    Args:
      workdir: of a run.
      names: fields of `State`.
    """
    folder = (workdir / FOLDER).absolute()
    step = _newest_whole(folder)
    if step is None:
        raise FileNotFoundError(f'{workdir}: no complete checkpoint in {FOLDER}/; train with python -m uwe_jax.main')
    directory = epath.Path(folder / f'{PREFIX}{step}' / 'state')
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:  # a `Checkpointer` warns of files not needed here
        saved = reader.metadata(directory)
        like = {name: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), saved[name]) for name in names}
        on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
        return reader.restore(directory, args=ocp.args.PyTreeRestore(like, on_host, partial_restore=True)), step
