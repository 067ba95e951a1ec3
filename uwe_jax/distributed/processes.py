"""The processes of a run: how they find each other, agree, and end. No wait for another process is without end.

Where several hosts compute together, each runs one process (with GPUs under SLURM: one for each GPU), all with the same
command. JAX's coordination service, in process 0, joins them, and ends them all if one is lost.
"""

import contextlib
import logging
import os
import pathlib
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

import jax
import numpy as np
from jax._src.clusters import ClusterEnv  # there is no public way to ask what a cluster says without joining
from jax.experimental import multihost_utils

from uwe_jax.io.files import whole_file

logger = logging.getLogger(__name__)


RESTART = 75  # exit status (EX_TEMPFAIL): nothing is wrong with the run; the same command continues it


class NotJoinedError(OSError):
    """The processes could not be joined now; another attempt may succeed."""

    exit_status = RESTART


class Place(NamedTuple):
    """Where a process stands among those of its run.

    Attributes:
      coordinator: HOST:PORT of process 0.
      count: how many processes there are.
      index: which this is, from 0.
      local_device_ids: the devices of its host that are its own; None for all of them.
    """

    coordinator: str
    count: int
    index: int
    local_device_ids: list[int] | None


def join_processes(folder: pathlib.Path, join_timeout: int = 300, peer_timeout: int = 100) -> None:
    """Joins the other processes of the run, where there are any.

    Args:
      folder: one that all processes share; while they join, each leaves a note there that it has come.
      join_timeout: seconds to wait for all to come. Then the process ends with status `RESTART`, after a line that says
        who came and who did not.
      peer_timeout: seconds without a sign of life after which a process counts as lost, from then on. JAX then ends all
        others, with a line that gives the lost one's number.

    Raises:
      ValueError: the environment tells only a part of where the coordinator is, and which of how many this is.
      NotJoinedError: the coordinator's name is not known to the network in time, or it cannot be joined.
    """
    place = find_place(join_timeout)
    if place is None or place.count == 1:
        logger.info('one process; there is nothing to join')
        return
    logger.info(
        'process %d of %d, on %s: joining at %s', place.index, place.count, socket.gethostname(), place.coordinator
    )
    with _roll_call(folder / 'joining', place, join_timeout):
        try:
            jax.distributed.initialize(
                place.coordinator,
                place.count,
                place.index,
                place.local_device_ids,
                initialization_timeout=join_timeout + 60,  # the roll call, which can say who is missing, ends before
                heartbeat_timeout_seconds=peer_timeout,
                shutdown_timeout_seconds=peer_timeout,
            )
        except jax.errors.JaxRuntimeError as error:  # the port is still taken by the last attempt, for example
            raise NotJoinedError(f'process {place.index} of {place.count} at {place.coordinator}: {error}') from error
        multihost_utils.sync_global_devices('joined')


def find_place(timeout: int) -> Place | None:
    """What the environment says of this process's place; None if it says nothing.

    It is said by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or, where these are not given, by what
    JAX knows of Cloud TPUs, GKE and SLURM.

    Args:
      timeout: seconds in which the name of process 0's host must be known to the network.

    Raises:
      ValueError: only a part is said.
      NotJoinedError: the host of process 0 has no address yet, or the cloud does not answer.
    """
    coordinator = os.environ.get('JAX_COORDINATOR_ADDRESS')
    count, index = _number('JAX_NUM_PROCESSES'), _number('JAX_PROCESS_ID')
    given = count is not None or index is not None
    local = [int(i) for i in os.environ.get('JAX_LOCAL_DEVICE_IDS', '').split(',') if i] or None
    if coordinator is None or count is None or index is None:
        try:
            coordinator, count, index, local = ClusterEnv.auto_detect_unset_distributed_params(
                coordinator, count, index, local, None, timeout
            )
        except (RuntimeError, OSError) as error:
            raise NotJoinedError(f'after up to {timeout} s, no process 0 to join: {error}') from error
    if coordinator is None and not given:
        return None
    if coordinator is None or count is None or index is None or not 0 <= index < count:
        raise ValueError(
            f'JAX_COORDINATOR_ADDRESS is {coordinator}, JAX_NUM_PROCESSES {count}, JAX_PROCESS_ID {index}; expected '
            'HOST:PORT of process 0, how many processes there are, and which this is, from 0'
        )
    return Place(coordinator, count, index, None if local is None else list(local))


def _number(variable: str) -> int | None:
    value = os.environ.get(variable)
    if value is None:
        return None
    if not value.isdecimal():
        raise ValueError(f'{variable}: {value!r}, expected a whole number')
    return int(value)


@contextlib.contextmanager
def _roll_call(folder: pathlib.Path, place: Place, timeout: int) -> Iterator[None]:
    """Ends the process if what is done meanwhile, which cannot be interrupted otherwise, takes too long."""
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / str(place.index)
    oldest = time.time() - timeout  # notes from before are of an attempt that was killed
    with whole_file(own) as partial:
        partial.write_text(f'{socket.gethostname()}, pid {os.getpid()}')

    def give_up() -> None:
        try:
            notes = [note for note in folder.iterdir() if note.name.isdecimal() and note.stat().st_mtime > oldest]
            came = {int(note.name): note.read_text() for note in notes}
            missing = ', '.join(str(index) for index in range(place.count) if index not in came)
            here = '; '.join(f'{index} on {where}' for index, where in sorted(came.items()))
            print(
                f'error: after {timeout} s, of {place.count} processes these have not come: {missing or "none"}. '
                f'In {folder} are: {here}. Expected all to be started with one --workdir that they share, and to reach '
                f'{place.coordinator}',
                file=sys.stderr,
            )
            own.unlink(missing_ok=True)
        finally:
            exit_now(RESTART)

    timer = threading.Timer(timeout, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        own.unlink(missing_ok=True)


def broadcast(value: int) -> int:
    """Process 0's value, in all processes; they wait for each other here."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def exit_after(error: Exception, peer_timeout: int) -> NoReturn:
    """Ends one process of several after an error, so that the others notice, with status 1.

    What JAX's runtime says of a failed exchange may be no fault of this process but of another. If that was lost, JAX
    knows it after `peer_timeout` seconds, says which it was, and ends this one with SIGABRT; if it lives and stands
    still, this one ends with status `RESTART`.
    """
    if not _may_be_of_others(error):
        exit_now(1)
    logger.error('waiting up to %d s for word of a lost process', 2 * peer_timeout)
    time.sleep(2 * peer_timeout)
    exit_now(RESTART)


def _may_be_of_others(error: BaseException | None) -> bool:
    """Whether it is an error of the runtime, by its status; some of them arrive as a ValueError."""
    while error is not None:
        if re.match(r'(UNKNOWN|UNAVAILABLE|DEADLINE_EXCEEDED|INTERNAL|ABORTED|CANCELLED): ', str(error)):
            return True
        error = error.__cause__
    return False


def exit_now(status: int) -> NoReturn:
    """Ends the process at once: JAX's farewell would wait for the processes that still compute."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
