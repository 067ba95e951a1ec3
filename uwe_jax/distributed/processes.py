"""The processes of a run: how they join, share a value, and exit. Every wait for another process has a timeout.

Each host runs one process (under SLURM, each GPU has one), all with the same command. JAX's coordinator, in process 0,
joins them and ends them all when one is lost.
"""

import contextlib
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

import jax
import numpy as np
from etils import epath
from jax._src.clusters import ClusterEnv  # there is no public way to ask for these settings without joining
from jax.experimental import multihost_utils

from uwe_jax.io.files import write_whole
from uwe_jax.io.paths import in_bucket, reaching

RESTART = 75  # exit status (EX_TEMPFAIL): nothing is wrong with the run; the same command continues it

logger = logging.getLogger(__name__)


class NotJoinedError(OSError):
    """The processes could not be joined now; another attempt may succeed."""

    exit_status = RESTART


class Cluster(NamedTuple):
    """The processes of a run as this one sees them, in the words of `jax.distributed.initialize`.

    Attributes:
      coordinator_address: HOST:PORT of process 0.
      num_processes: how many processes there are.
      process_id: the number of this one, from 0.
      local_device_ids: the devices of its host that it uses; None for all of them.
    """

    coordinator_address: str
    num_processes: int
    process_id: int
    local_device_ids: list[int] | None


def join_processes(folder: os.PathLike[str], join_timeout: int = 300, peer_timeout: int = 100) -> None:
    """Joins the other processes of the run, if there are any.

    Args:
      folder: shared by all processes; each leaves a note there while it joins.
      join_timeout: seconds to wait for all processes. The process then ends with status `RESTART`, after a line that
        names those that came and those that did not.
      peer_timeout: seconds without a heartbeat after which a process counts as lost. JAX then ends all others, with a
        line that gives the number of the lost one.

    Raises:
      ValueError: the environment names only some of coordinator, number of processes and process number.
      NotJoinedError: the coordinator's host has no address yet, or the coordinator cannot be joined.
    """
    cluster = detect_cluster(join_timeout)
    if cluster is None or cluster.num_processes == 1:
        logger.debug('one process; there is nothing to join')
        return
    who = f'process {cluster.process_id} of {cluster.num_processes}'
    logger.info('%s, on %s: joining at %s', who, socket.gethostname(), cluster.coordinator_address)
    with _roll_call(epath.Path(folder) / 'joining', cluster, join_timeout):
        try:
            jax.distributed.initialize(
                **cluster._asdict(),
                initialization_timeout=join_timeout + 60,  # longer than the roll call, which can say who is missing
                heartbeat_timeout_seconds=peer_timeout,
                shutdown_timeout_seconds=peer_timeout,
            )
        except jax.errors.JaxRuntimeError as error:  # for example, the last attempt still holds the port
            raise NotJoinedError(f'{who} at {cluster.coordinator_address}: {error}') from error
        multihost_utils.sync_global_devices('joined')


def detect_cluster(timeout: int) -> Cluster | None:
    """Finds the run's other processes; None where the environment names none.

    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID name them; without these variables, what JAX detects
    on Cloud TPU VMs, on GKE and under SLURM.

    Args:
      timeout: seconds until the host of process 0 must have an address.

    Raises:
      ValueError: only some of the variables are set.
      NotJoinedError: the host of process 0 has no address yet, or the cloud does not answer.
    """
    address = os.environ.get('JAX_COORDINATOR_ADDRESS')
    count, index = _number('JAX_NUM_PROCESSES'), _number('JAX_PROCESS_ID')
    counted = count is not None or index is not None
    local = [int(i) for i in os.environ.get('JAX_LOCAL_DEVICE_IDS', '').split(',') if i] or None
    if address is None or count is None or index is None:
        try:
            address, count, index, local = ClusterEnv.auto_detect_unset_distributed_params(
                address, count, index, local, None, timeout
            )
        except (RuntimeError, OSError) as error:
            raise NotJoinedError(f'no process 0 to join, after up to {timeout} s: {error}') from error
    if address is None and not counted:
        return None
    if address is None or count is None or index is None or not 0 <= index < count:
        raise ValueError(
            f'JAX_COORDINATOR_ADDRESS is {address}, JAX_NUM_PROCESSES {count}, JAX_PROCESS_ID {index}; expected '
            'HOST:PORT of process 0, the number of processes, and the number of this process, from 0'
        )
    return Cluster(address, count, index, None if local is None else list(local))


def _number(variable: str) -> int | None:
    value = os.environ.get(variable)
    if value is None:
        return None
    if not value.isdecimal():
        raise ValueError(f'{variable}: {value!r}, expected a whole number')
    return int(value)


@contextlib.contextmanager
def _roll_call(folder: epath.Path, cluster: Cluster, timeout: int) -> Iterator[None]:
    """Ends the process if the block takes too long; nothing else can interrupt it."""
    if not in_bucket(folder):
        folder.mkdir(parents=True, exist_ok=True)
    note = folder / str(cluster.process_id)
    oldest = time.time() - timeout  # older notes are left from an attempt that was killed
    write_whole(note, f'{socket.gethostname()}, pid {os.getpid()}')

    def give_up() -> None:
        try:
            notes = [path for path in folder.iterdir() if path.name.isdecimal() and path.stat().mtime >= int(oldest)]
            present = {int(path.name): path.read_text() for path in notes}
            missing = ', '.join(str(index) for index in range(cluster.num_processes) if index not in present)
            came = '; '.join(f'{index} on {where}' for index, where in sorted(present.items()))
            print(
                f'error: after {timeout} s, of {cluster.num_processes} processes these are missing: '
                f'{missing or "none"}. Present in {folder}: {came}. Expected all of them to be started with one '
                f'--workdir that they share, and to reach {cluster.coordinator_address}',
                file=sys.stderr,
            )
            note.unlink(missing_ok=True)
        finally:
            exit_now(RESTART)

    timer = threading.Timer(timeout, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with reaching(note):
            note.unlink(missing_ok=True)


def broadcast(value: int) -> int:
    """Returns process 0's value in every process; they wait for each other here."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def exit_after(error: Exception, peer_timeout: int) -> NoReturn:
    """Ends one of several processes after an error, so that the others notice.

    The status is the error's `exit_status` or 1, unless the error may come from another process. If that one was lost,
    JAX knows it after `peer_timeout` seconds, names it, and ends this process with SIGABRT; if it hangs, this one ends
    with `RESTART`.
    """
    if not may_come_from_peer(error):
        exit_now(getattr(error, 'exit_status', 1))
    logger.error('waiting up to %d s for word of a lost process', 2 * peer_timeout)
    time.sleep(2 * peer_timeout)
    exit_now(RESTART)


def may_come_from_peer(error: BaseException | None) -> bool:
    """Whether JAX's runtime may have raised an error because another process failed.

    Only the status at the head of the message tells; some of these errors arrive as a ValueError.
    """
    while error is not None:
        if re.match(r'(UNKNOWN|UNAVAILABLE|DEADLINE_EXCEEDED|INTERNAL|ABORTED|CANCELLED): ', str(error)):
            return True
        error = error.__cause__
    return False


def exit_now(status: int) -> NoReturn:
    """Ends the process at once; JAX's own shutdown would wait for processes that still compute."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
