"""Stopping in time when the machine is about to be taken away, which SIGTERM announces."""

import contextlib
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):  # noqa: N818 (it is not an error)
    """The run was asked to stop early."""


class Preemption:
    """Listens for SIGTERM inside a `with` block.

    Several processes stop together: whichever of them gets the signal, JAX's coordinator chooses one call of `reached`
    for all.
    """

    def __enter__(self) -> 'Preemption':
        self._requested = self._interruptible = False
        self._calls = 0
        self._alone = jax.process_count() == 1  # JAX itself listens where there are several
        self._listens = self._alone and threading.current_thread() is threading.main_thread()
        if self._listens:
            self._previous = signal.signal(signal.SIGTERM, self._on_signal) or signal.SIG_DFL
        return self

    def __exit__(self, *_: object) -> None:
        if self._listens:
            signal.signal(signal.SIGTERM, self._previous)

    def _on_signal(self, *_: object) -> None:
        self._requested = True
        if self._interruptible:
            self._interruptible = False  # a second signal must not interrupt the handling of the first
            raise Preempted

    def reached(self) -> bool:
        """Whether to stop here; all processes must call it equally often."""
        self._calls += 1
        return self._requested if self._alone else multihost_utils.reached_preemption_sync_point(self._calls)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Lets the signal interrupt a single process at any point of the block.

        Raises:
          Preempted: the signal came before or inside the block.
        """
        self._interruptible = True
        try:
            if self._requested:
                raise Preempted
            yield
        finally:
            self._interruptible = False
