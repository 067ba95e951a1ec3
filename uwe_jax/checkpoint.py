"""Saving and restoring a run. The only module that knows Orbax."""

import pathlib

import orbax.checkpoint as ocp

FOLDER = 'checkpoints'


class Checkpoints:
    """The checkpoints of one workdir: the training state, and a little JSON that tells what it belongs to.

    Saving happens in the background; a checkpoint has its final name only when it is complete.

    Args:
      workdir: an absolute directory.
      keep: how many of the newest to keep.
    """

    def __init__(self, workdir: pathlib.Path, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, step_prefix='step')
        self._manager = ocp.CheckpointManager(workdir / FOLDER, options=options)

    @property
    def latest(self) -> int | None:
        """The step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state, meta: dict) -> None:
        """Starts saving the state after `step` steps; the arrays may be donated as soon as this returns."""
        self._manager.save(
            step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        )

    def restore(self, like):
        """Reads the newest state.

        Args:
          like: the state's tree of `jax.ShapeDtypeStruct`s, with the shardings to restore to; they need not be those
            that it was saved with.
        """
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
        return self._manager.restore(self.latest, args=args)['state']

    def close(self) -> None:
        """Waits until what was saved is complete."""
        self._manager.wait_until_finished()
        self._manager.close()


def has_checkpoints(directory: pathlib.Path) -> bool:
    """Whether a directory is the workdir of a run that has saved, or begun to."""
    return (directory / FOLDER).is_dir()


def load_params(workdir: pathlib.Path) -> tuple[dict, int]:
    """Reads the parameters alone of the newest checkpoint, as a nested dict of numpy arrays, and its step.

    Raises:
      FileNotFoundError: the workdir has no complete checkpoint.
    """
    options = ocp.CheckpointManagerOptions(step_prefix='step', create=False)
    manager = ocp.CheckpointManager((workdir / FOLDER).absolute(), options=options)
    step = manager.latest_step()
    if step is None:
        raise FileNotFoundError(f'{workdir}: no complete checkpoint in {FOLDER}/; train with python -m uwe_jax.main')
    state = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))['state']
    return state['params'], step
