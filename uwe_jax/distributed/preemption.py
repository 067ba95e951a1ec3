"""Stopping in time when the machine is about to be taken away, which SIGTERM announces."""

import contextlib
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):  # noqa: N818 (nothing is wrong)
    """The machine is about to be taken away; the message says what is saved."""


class Preemption:
    """Listens for SIGTERM, from `with` on.

    Several processes stop together: whichever of them gets the signal, JAX's coordination service picks one call of
    `reached` for all.
    """

    def __enter__(self) -> 'Preemption':
        self._asked = self._at_once = False
        self._calls = 0
        self._alone = jax.process_count() == 1  # where there are several, JAX listens itself
        self._listens = self._alone and threading.current_thread() is threading.main_thread()
        if self._listens:
            self._before = signal.signal(signal.SIGTERM, self._note) or signal.SIG_DFL
        return self

    def __exit__(self, *_: object) -> None:
        if self._listens:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_: object) -> None:
        self._asked = True
        if self._at_once:
            self._at_once = False  # a second signal must not disturb how the first one is dealt with
            raise Preempted

    def reached(self) -> bool:
        """Whether to stop here; every process has to ask equally often."""
        self._calls += 1
        return self._asked if self._alone else multihost_utils.reached_preemption_sync_point(self._calls)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """A single process need not finish what is done in here.

        Raises:
          Preempted: the signal came before or within.
        """
        self._at_once = True
        try:
            if self._asked:
                raise Preempted
            yield
        finally:
            self._at_once = False
