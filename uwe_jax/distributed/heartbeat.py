"""A bound on how long processes wait for each other: JAX notices one that died, and this one that stands still."""

import socket
import sys
import threading
import time
from typing import Any

import jax
from jax._src import distributed  # JAX has no public way to what its processes can tell each other

from uwe_jax.distributed.processes import RESTART, exit_now

KEY = 'uwe_jax/stall/'


class Heartbeat:
    """Ends the process with status `RESTART` when it has not got on for too long, after a line that says who is behind.

    One process alone is not watched.

    Args:
      timeout: seconds from one call of `beat` to the next.
    """

    def __init__(self, timeout: int):
        self._timeout = timeout
        self._ended = threading.Event()

    def __enter__(self) -> 'Heartbeat':
        self._times = 0
        self.beat()
        if jax.process_count() > 1:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def beat(self) -> None:
        """To be called equally often by all processes."""
        self._times += 1
        self._last = time.monotonic()

    def _watch(self) -> None:
        client: Any = distributed.global_state.client
        while not self._ended.wait(min(10, self._timeout / 4)):
            where = f'{self._times} {socket.gethostname()}'
            client.key_value_set(f'{KEY}{jax.process_index()}', where, allow_overwrite=True)
            if time.monotonic() - self._last > self._timeout:
                try:
                    told = dict(client.key_value_dir_get(KEY))
                    print(f'error: {behind(told, jax.process_count(), self._timeout)}', file=sys.stderr)
                finally:
                    exit_now(RESTART)


def behind(told: dict[str, str], processes: int, timeout: int) -> str:
    """Says which processes got on less often than others, by what each told, 'TIMES HOST' under its key, if it did."""
    times = {int(key.removeprefix(KEY)): value.split() for key, value in told.items()}
    most = max(int(count) for count, _ in times.values())
    names = []
    for index in range(processes):
        if index not in times:
            names.append(f'{index}, which never got so far')
        elif int(times[index][0]) < most:
            names.append(f'{index} on {times[index][1]}')
    return (
        f'for {timeout} s no step and no evaluation has been finished; behind the others: '
        f'{", ".join(names) or "none, so that they wait for something else"}'
    )
