"""Claiming an output, so that no two processes work on it at the same time.

On a disk a claim is a locked file, in a bucket an object that its holder renews.
"""

import contextlib
import email.utils
import fcntl
import json
import logging
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from uwe_jax.io import generations
from uwe_jax.io.errors import DataError, writing
from uwe_jax.io.paths import Path, in_bucket, reaching

logger = logging.getLogger(__name__)

LEASE = 120  # s; NFSv4 keeps the locks of a client that went silent for about 90


@contextlib.contextmanager
def claim(output: Path, flag: str = '--output', lease: float = LEASE) -> Iterator[Callable[[], None]]:
    """Keeps other processes away from an output while the block runs; the claim ends with the process, however it ends.

    A file or an object names the holder: `lock` in a directory, `.NAME.lock` beside a file. If the holder runs on
    another machine, it is waited for, up to `lease` seconds: nobody may have noticed yet that the machine is gone.

    On a disk the file is locked. Where the file system has no locks, a warning says so, and the work continues.

    In a bucket the holder renews the object. If it has not for `lease` seconds, by the bucket's clock, or was killed on
    this machine, the claim is taken over. A process that was only suspended meanwhile ends, with status 1 and one line.

    Args:
      output: an existing directory, a directory in a bucket, or a file to be written.
      flag: the option by which a user chooses another output.
      lease: seconds.

    Yields:
      A function to call before a write: it ends the process if another one has taken over the claim.

    Raises:
      DataError: another process holds the claim, and the message names its host and pid; or the output cannot be
        written.
    """
    if in_bucket(output):
        with _Leased(output, flag, lease) as leased:
            yield leased.check
        return
    path = output / 'lock' if output.is_dir() else output.with_name(f'.{output.name}.lock')
    with writing(output, f'choose another {flag}'):
        with contextlib.suppress(FileExistsError):  # if it is a file, opening the lock says so
            path.parent.mkdir(parents=True, exist_ok=True)
        locked = _locked(path, output, flag, lease)
    with locked as file:
        file.truncate(0)
        file.write(f'{socket.gethostname()}, pid {os.getpid()}\n')
        file.flush()
        try:
            yield lambda: None  # the file system keeps others away
        finally:
            path.unlink(missing_ok=True)


def _locked(path: Path, output: Path, flag: str, lease: float) -> TextIO:
    """Opens and locks the file; its lock ends when it is closed."""
    while True:
        file = open(path, 'a+', encoding='utf-8')  # noqa: SIM115 (the caller closes it)
        try:
            _wait_for_lock(file, lease)
            if _is_at(path, file):
                return file
        except BlockingIOError as error:
            holder = _holder(file) or 'it has just begun'
            file.close()
            remedy = f'. If its machine is gone but the lock is not, delete {path}'
            raise DataError(_refusal(output, holder, flag) + remedy) from error
        except OSError as error:  # some network file systems have no locks
            logger.warning('%s: cannot be locked (%s); make sure that no second process works on it', output, error)
            return file
        file.close()


def _wait_for_lock(file: TextIO, lease: float) -> None:
    """Takes the lock; waits up to `lease` seconds for a holder on another machine.

    Raises:
      BlockingIOError: another process holds it.
      OSError: the file system has no locks.
    """
    host, _, _ = _holder(file).partition(',')
    patience = lease if host not in ('', socket.gethostname()) else 0  # '': locked just now, and not yet written
    end = time.monotonic() + patience
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            logger.info('waiting up to %d s for the lock that %s holds', end - time.monotonic(), _holder(file))
            time.sleep(5)


def _is_at(path: Path, file: TextIO) -> bool:
    """Whether the locked file still has its name; the holder before removed it if it was opened too early."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip()


def _refusal(output: Path, holder: str, flag: str) -> str:
    return f'{output}: another process is at work on it ({holder}); wait until it ends, or choose another {flag}'


class _Leased:
    """A claim in a bucket: an object that names the holder, renewed by a thread.

    Each write of the object has the object's generation as its precondition, so of several processes one succeeds.
    Only times of the bucket are compared: that of the last renewal, and that of its answer to a write in vain.
    """

    def __init__(self, output: Path, flag: str, lease: float):
        self._output, self._flag, self._lease = output, flag, lease
        self._blob = generations.blob(output / 'lock')
        self._note = {
            'holder': f'{socket.gethostname()}, pid {os.getpid()}, since {time.strftime("%F %T UTC", time.gmtime())}',
            'pid': os.getpid(),
            'machine': _machine(),
            'claim': uuid.uuid4().hex,
        }
        self._mutex = threading.Lock()
        self._ended = threading.Event()

    def __enter__(self) -> '_Leased':
        with reaching(self._output):
            self._acquire()
        threading.Thread(target=self._renew, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with self._mutex:
            try:
                self._blob.delete(if_generation_match=self._blob.generation)
            except Exception as error:
                logger.warning('%s: the claim stays for %.0f s (%s)', self._output, self._lease, error)

    def check(self) -> None:
        """Renews the claim; ends the process if it is lost."""
        with self._mutex, reaching(self._output):
            if self._ended.is_set() or self._write(self._blob.generation):
                return
            note = self._read()
            if note and note['claim'] == self._note['claim']:
                return  # the answer to a renewal was lost
            by = f'taken over by {note["holder"]}' if note else 'the claim was removed'
            print(
                f'error: {self._output}: {by}, while this process had not renewed it; nothing more is written',
                file=sys.stderr,
                flush=True,
            )
            os._exit(1)  # an exception would let other threads write until it arrives

    def _renew(self) -> None:
        while not self._ended.wait(self._lease / 6):
            try:
                self.check()
            except (DataError, OSError) as error:
                logger.warning('%s; the claim has to be renewed within %.0f s', error, self._lease)

    def _acquire(self) -> None:
        """Takes the claim if it is free, or its holder is gone.

        Raises:
          DataError: its holder is at work.
        """
        generation, seen = 0, None  # which the object must have to be replaced, and which it had; 0: there is none
        while not self._write(generation):
            note, generation = self._read(), 0
            if note is None:
                continue  # it has just been removed
            if note['claim'] == self._note['claim']:
                return  # the answer was lost
            silent = (self._now - self._blob.updated).total_seconds()
            here = note['machine'] == self._note['machine']
            if silent > self._lease or (here and not _is_alive(note['pid'])):
                logger.info('%s: %s is gone, and its claim is taken over', self._output, note['holder'])
                generation = self._blob.generation
            elif here or seen not in (None, self._blob.generation):
                raise DataError(_refusal(self._output, note['holder'], self._flag))
            else:
                seen = self._blob.generation
                logger.info(
                    'waiting up to %.0f s to see whether %s is still at work', self._lease - silent, note['holder']
                )
                time.sleep(self._lease / 24)

    def _write(self, generation: int) -> bool:
        """Writes the object, unless it has another generation."""
        from google.api_core.exceptions import PreconditionFailed  # of the extra `gcs`

        try:
            self._blob.upload_from_string(
                json.dumps(self._note), if_generation_match=generation, retry=generations.patiently()
            )
        except PreconditionFailed as error:
            answer: Any = error.response
            self._now = email.utils.parsedate_to_datetime(answer.headers['Date'])
            return False
        return True

    def _read(self) -> dict[str, Any] | None:
        """What the object says; None if there is none."""
        there = generations.find(self._output / 'lock')
        if there is None:
            return None
        self._blob = there
        return json.loads(there.download_as_bytes(retry=generations.patiently()))


def _machine() -> str:
    """The boot and the namespace that a pid belongs to."""
    try:
        boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
        return f'{boot}, {os.readlink("/proc/self/ns/pid")}'
    except OSError:  # not Linux: whether a process is alive shows only in its renewals
        return uuid.uuid4().hex


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
