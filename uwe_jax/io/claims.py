"""Claiming an output, so that no two processes work on it at the same time."""

import contextlib
import fcntl
import logging
import os
import pathlib
import socket
import time
from collections.abc import Iterator
from typing import TextIO

from uwe_jax.io.errors import DataError, writing

logger = logging.getLogger(__name__)

LEASE = 120  # s; NFSv4 keeps the locks of a client that went silent for about 90


@contextlib.contextmanager
def claim(output: pathlib.Path, flag: str = '--output') -> Iterator[None]:
    """Keeps other processes away from an output while the block runs; the claim ends with the process, however it ends.

    A locked file names the holder: `lock` in a directory, `.NAME.lock` beside a file. If the holder ran on another
    machine, it is waited for, up to `LEASE` seconds: the file server may not have noticed yet that the machine is gone.
    Where the file system has no locks, a warning says so, and the work continues.

    Args:
      output: an existing directory, or a file to be written.
      flag: the option by which a user chooses another output.

    Raises:
      DataError: another process holds the claim, and the message names its host and pid; or the output cannot be
        written.
    """
    path = output / 'lock' if output.is_dir() else output.with_name(f'.{output.name}.lock')
    with writing(output, f'choose another {flag}'):
        with contextlib.suppress(FileExistsError):  # if it is a file, opening the lock says so
            path.parent.mkdir(parents=True, exist_ok=True)
        locked = _locked(path, output, flag)
    with locked as file:
        file.truncate(0)
        file.write(f'{socket.gethostname()}, pid {os.getpid()}\n')
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(path: pathlib.Path, output: pathlib.Path, flag: str) -> TextIO:
    """Opens and locks the file; its lock ends when it is closed."""
    while True:
        file = open(path, 'a+', encoding='utf-8')  # noqa: SIM115 (the caller closes it)
        try:
            _wait_for_lock(file)
            if _is_at(path, file):
                return file
        except BlockingIOError as error:
            holder = _holder(file) or 'it has just begun'
            file.close()
            raise DataError(
                f'{output}: another process is at work on it ({holder}); wait until it ends, or choose another {flag}. '
                f'If its machine is gone but the lock is not, delete {path}'
            ) from error
        except OSError as error:  # some network file systems have no locks
            logger.warning('%s: cannot be locked (%s); make sure that no second process works on it', output, error)
            return file
        file.close()


def _wait_for_lock(file: TextIO) -> None:
    """Takes the lock.

    Raises:
      BlockingIOError: another process holds it.
      OSError: the file system has no locks.
    """
    host, _, _ = _holder(file).partition(',')
    patience = LEASE if host not in ('', socket.gethostname()) else 0  # '': locked just now, and not yet written
    end = time.monotonic() + patience
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            logger.info('waiting up to %d s for the lock that %s holds', end - time.monotonic(), _holder(file))
            time.sleep(5)


def _is_at(path: pathlib.Path, file: TextIO) -> bool:
    """Whether the locked file still has its name; the holder before removed it if it was opened too early."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip()
