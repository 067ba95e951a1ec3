"""A heartbeat for processes that wait for each other: JAX notices a process that died, this one that hangs."""

import socket
import sys
import threading
import time
from typing import Any

import jax
from jax._src import distributed  # there is no public access to the coordinator's key-value store

from uwe_jax.distributed.processes import RESTART, exit_now

PREFIX = 'uwe_jax/heartbeat/'


class Heartbeat:
    """Ends the process with status `RESTART` when its heartbeat stops, after a line that names the stragglers.

    Every process publishes its number of beats on the coordinator. A single process is not watched.

    Args:
      timeout: the longest time between two calls of `beat`, in seconds.
    """

    def __init__(self, timeout: int):
        self._timeout = timeout
        self._ended = threading.Event()

    def __enter__(self) -> 'Heartbeat':
        self._beats = 0
        self.beat()
        if jax.process_count() > 1:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def beat(self) -> None:
        """Reports progress; all processes must call it equally often."""
        self._beats += 1
        self._last = time.monotonic()

    def _watch(self) -> None:
        client: Any = distributed.global_state.client
        while not self._ended.wait(min(10, self._timeout / 4)):
            beats = f'{self._beats} {socket.gethostname()}'
            client.key_value_set(f'{PREFIX}{jax.process_index()}', beats, allow_overwrite=True)
            if time.monotonic() - self._last > self._timeout:
                try:
                    published = dict(client.key_value_dir_get(PREFIX))
                    names = stragglers(published, jax.process_count()) or 'none; they wait for something else'
                    print(
                        f'error: no step and no evaluation has finished for {self._timeout} s; '
                        f'processes behind the others: {names}',
                        file=sys.stderr,
                    )
                finally:
                    exit_now(RESTART)


def stragglers(published: dict[str, str], processes: int) -> str:
    """Names the processes with fewer beats than others.

    Args:
      published: `BEATS HOST` under `PREFIX` and the process's number; a process that never came so far has no entry.
      processes: how many there are.
    """
    beats = {int(key.removeprefix(PREFIX)): value.split() for key, value in published.items()}
    most = max(int(count) for count, _ in beats.values())
    names = []
    for index in range(processes):
        if index not in beats:
            names.append(f'{index}, which has not begun')
        elif int(beats[index][0]) < most:
            names.append(f'{index} on {beats[index][1]}')
    return ', '.join(names)
