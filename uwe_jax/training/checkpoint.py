"""Saving and restoring a run. The only module that knows Orbax.

checkpoints/step_N/                   the state after N steps; under this name only when it is complete
checkpoints/step_N/checksums.json     of its files, which show damage: SHA-256, or MD5 if they were saved in a bucket
checkpoints/damaged_step_N/           was passed over when the run was continued

A bucket cannot rename a directory: there a checkpoint is complete when it has `commit_success.txt`. A bucket knows the
MD5 of each of its objects, so damage is found without reading them. Workdirs may be copied to buckets and back.
"""

import base64
import contextlib
import hashlib
import json
import logging
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath  # Orbax's paths
from flax import nnx

from uwe_jax.distributed.processes import broadcast
from uwe_jax.io.buckets import listing
from uwe_jax.io.files import difference, write_whole
from uwe_jax.io.paths import NoAnswerError, Path, in_bucket, is_passing, reaching
from uwe_jax.training.state import State
from uwe_jax.training.workdir import FOLDER, PREFIX

logger = logging.getLogger(__name__)


CHECKSUMS, COMMITTED = 'checksums.json', 'commit_success.txt'
# Orbax writes these after the checksums, and restores nothing from them.
LATER = ('_CHECKPOINT_METADATA', COMMITTED)


class CheckpointError(ValueError):
    """No checkpoint of a run can be used, although there are some."""


class Checkpoints:
    """The checkpoints of one workdir: the training state, and JSON that tells which experiment it belongs to.

    Saving happens in the background, and a checkpoint gets its final name when it is complete. One that was damaged
    later is passed over and renamed.

    Args:
      workdir: an absolute directory, or one in a bucket.
      keep: how many checkpoints to keep, the newest ones.
      check: called before a checkpoint is completed; an error that it raises prevents that.

    Attributes:
      start: the step of the checkpoint that the run continues from, the same in all processes; None if there is none.

    Raises:
      CheckpointError: there are checkpoints, and none is whole.
    """

    def __init__(self, workdir: Path, keep: int, check: Callable[[], None] = lambda: None):
        self._workdir, self._check = epath.Path(workdir), check
        self._folder = self._workdir / FOLDER
        newest = None
        if jax.process_index() == 0:
            with reaching(self._workdir):
                newest = _newest_whole(self._workdir)
                if newest is not None:
                    _move_aside(self._workdir, newest)
        # Process 0 decides: the others may see an older state of a network file system.
        start = broadcast(-1 if newest is None else newest)
        self.start = None if start < 0 else start
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            step_prefix=PREFIX.removesuffix('_'),
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_checksums),
        )
        with reaching(self._workdir):
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
          NoAnswerError: it has failed because the bucket does not answer.
        """
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        with _one_line_error(self._workdir):
            self._manager.save(step, args=args)

    def restore(self, like):
        """Reads the state after `start` steps.

        Args:
          like: the state as a tree of `jax.ShapeDtypeStruct`, with the shardings to restore to. They may differ from
            those that it was saved with.
        """
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
        with reaching(self._workdir):
            return self._manager.restore(self.start, args=args)['state']

    def close(self) -> None:
        """Waits until every save is complete.

        Raises:
          OSError, NoAnswerError: the last save has failed.
        """
        with _one_line_error(self._workdir):
            self._manager.wait_until_finished()
            self._manager.close()

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_checksums(self) -> None:
        """Adds them to the checkpoint being written, just before Orbax completes it."""
        self._check()
        [directory] = (path for path in self._folder.glob(f'{PREFIX}*') if not _is_complete(path))
        algorithm = 'md5' if in_bucket(directory) else 'sha256'
        write_whole(directory / CHECKSUMS, json.dumps(_checksums(directory, algorithm), indent=2))


class _Manager(ocp.CheckpointManager):
    """Orbax's, without its check for preemption: JAX counts the calls, and only `preemption.py` may make them."""

    def reached_preemption(self, step: int) -> bool:
        return False


@contextlib.contextmanager
def _one_line_error(workdir: epath.Path) -> Iterator[None]:
    """Turns the errors of the many libraries that write a checkpoint into an OSError of one line."""
    try:
        yield
    except Exception as error:
        try:
            newest = next((step for step, directory in reversed(_steps(workdir)) if _damage(directory) is None), None)
            whole = (
                'No checkpoint is whole' if newest is None else f'The newest whole one is the one after step {newest}'
            )
        except Exception:  # a bucket that could not be written may not be readable either
            whole = 'Those before it are as they were'
        reason = ' '.join(str(error).split())
        message = f'{workdir / FOLDER}: a checkpoint could not be written: {reason}. {whole}'
        raise NoAnswerError(message) if in_bucket(workdir) and is_passing(error) else OSError(message) from error


def _steps(workdir: epath.Path) -> list[tuple[int, epath.Path]]:
    """The complete checkpoints, oldest first."""
    complete = filter(_is_complete, (workdir / FOLDER).glob(f'{PREFIX}*'))
    return sorted((int(path.name.removeprefix(PREFIX)), path) for path in complete)


def _is_complete(directory: epath.Path) -> bool:
    """Whether a checkpoint is no longer being written. On a disk it has its final name, in a bucket its last file."""
    if in_bucket(directory):
        return (directory / COMMITTED).exists()
    return directory.name.removeprefix(PREFIX).isdecimal()


def _checksums(directory: epath.Path, algorithm: str) -> dict[str, str]:
    """Of all files that have one, in hexadecimal digits, by their paths within the checkpoint."""
    if in_bucket(directory):
        known = {name: about.get('md5Hash', '') for name, about in listing(directory).items()}
    else:
        files = (path for path in pathlib.Path(directory).rglob('*') if path.is_file())
        known = {path.relative_to(directory).as_posix(): '' for path in files}
    checksums = {}
    for name in sorted(known.keys() - {CHECKSUMS, *LATER}):
        if algorithm == 'md5' and known[name]:
            checksums[name] = base64.b64decode(known[name]).hex()
        else:
            with (directory / name).open('rb') as file:
                checksums[name] = hashlib.file_digest(cast(Any, file), algorithm).hexdigest()
    return checksums


def _damage(directory: epath.Path) -> str | None:
    """What is wrong with a checkpoint; None if it is whole."""
    try:
        expected = json.loads((directory / CHECKSUMS).read_text())
    except (OSError, ValueError) as error:
        return f'{CHECKSUMS} cannot be read ({error})'
    algorithm = 'md5' if all(len(checksum) == 32 for checksum in expected.values()) else 'sha256'
    return difference(expected, _checksums(directory, algorithm))


def _newest_whole(workdir: epath.Path) -> int | None:
    """The step of the newest checkpoint that is whole; None if there is no checkpoint.

    Raises:
      CheckpointError: there are some, and none is whole.
    """
    steps = _steps(workdir)
    for step, directory in reversed(steps):
        wrong = _damage(directory)
        if wrong is None:
            return step
        logger.warning('%s is passed over: %s', directory, wrong)
    if steps:
        raise CheckpointError(
            f'{workdir / FOLDER}: no checkpoint is whole, of steps {", ".join(str(step) for step, _ in steps)}; '
            'the log says what is wrong with each. Restore a copy, or begin anew in another --workdir'
        )
    return None


def _move_aside(workdir: epath.Path, newest: int) -> None:
    """Renames the damaged checkpoints that are newer than the newest whole one."""
    for step, directory in _steps(workdir):
        if step > newest:
            aside = directory.with_name(f'damaged_{directory.name}')
            aside.rmtree(missing_ok=True)  # from an earlier time
            directory.rename(aside)


def load_params(workdir: Path) -> tuple[dict, int]:
    """Reads the parameters of the newest whole checkpoint, as a nested dict of numpy arrays, and its step.

    Raises:
      CheckpointError: there are checkpoints, and none is whole.
      FileNotFoundError: the workdir has no complete checkpoint.
    """
    state, step = load_state(workdir, ('params',))
    return nnx.restore_int_paths(state['params']), step  # '10', as Orbax has it, would stand before '2'


def load_state(workdir: Path, names: Sequence[str] = State._fields) -> tuple[dict, int]:
    """Reads parts of the newest whole checkpoint, as `load_params` does, on any number of devices.

    Args:
      workdir: of a run.
      names: fields of `State`.
    """
    workdir = epath.Path(workdir)
    with reaching(workdir):
        step = _newest_whole(workdir)
    if step is None:
        raise FileNotFoundError(f'{workdir}: no complete checkpoint in {FOLDER}/; train with python -m uwe_jax.main')
    directory = workdir / FOLDER / f'{PREFIX}{step}' / 'state'
    directory = directory if in_bucket(directory) else directory.absolute()
    # A `Checkpointer` would warn of files that are not needed here.
    with reaching(workdir), contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
        saved = reader.metadata(directory)
        like = {name: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), saved[name]) for name in names}
        on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
        return reader.restore(directory, args=ocp.args.PyTreeRestore(like, on_host, partial_restore=True)), step
