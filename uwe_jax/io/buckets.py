"""Copies between this machine and a bucket. They are whole or not there, checked, and continued if interrupted."""

import base64
import contextlib
import fcntl
import fnmatch
import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from uwe_jax.io.console import Progress
from uwe_jax.io.errors import writing
from uwe_jax.io.paths import BUCKET, BucketError, Path, cache_root, client, in_bucket, reaching

logger = logging.getLogger(__name__)

MB = 1_000_000


def listing(path: Path) -> dict[str, dict[str, Any]]:
    """The objects below a path in a bucket, by their names from there on; '' is the path itself.

    Raises:
      BucketError: there is no such bucket, it may not be read, or it does not answer.
    """
    prefix = str(path).removeprefix(BUCKET)
    with reaching(path):
        objects = client().find(str(path), detail=True)
    return {name[len(prefix) + 1 :]: about for name, about in objects.items() if not name.endswith('/')}


def local_copy(path: Path, wanted: Collection[str] = ('*',)) -> pathlib.Path:
    """A file or directory on this machine: the path itself, or a copy of what is in the bucket.

    Copies are kept in the cache, under a name that stands for their contents, so that each is made once. One process of
    this machine makes it, file by file, and others wait; a copy that was interrupted is continued.

    Args:
      path: a file or directory.
      wanted: globs of the files that are copied.

    Raises:
      BucketError: nothing wanted is there, or the bucket cannot be read.
      DataError: the cache cannot be written.
    """
    if not in_bucket(path):
        return pathlib.Path(path)
    files = {name: about for name, about in listing(path).items() if any(fnmatch.fnmatch(name, one) for one in wanted)}
    if not files:
        raise BucketError(f'{path}: nothing there')
    if unsafe := [name for name in files if name.startswith('/') or '..' in name.split('/')]:
        raise BucketError(f'{path}: contains {unsafe[0]!r}, which would be a file outside of the copy')
    identity = [(name, about['size'], about.get('md5Hash') or about['generation']) for name, about in files.items()]
    key = hashlib.sha256(json.dumps([path.name, sorted(identity)]).encode()).hexdigest()[:32]
    copy = cache_root() / 'buckets' / key / path.name
    with writing(copy, f'free some space for {path}, or set UWE_JAX_CACHE to another directory'):
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists():
            with _alone(copy.parent / '.lock', f'waiting for another process to copy {path}'):
                if not copy.exists():
                    _download(path, files, copy)
    return copy


@contextlib.contextmanager
def _alone(lock: pathlib.Path, waiting: str) -> Iterator[None]:
    """Lets one process of this machine at a time into the block."""
    with open(lock, 'a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info('%s', waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(path: Path, files: Mapping[str, dict[str, Any]], copy: pathlib.Path) -> None:
    partial = copy.with_name('.partial')
    with reaching(path), _Shown(f'copying {path}', sum(about['size'] for about in files.values())) as shown:
        for name, about in files.items():
            file, source = partial / name, path / name
            if not _is_same(file, about):
                file.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # it was removed
                    client().get_file(str(source), str(file), callback=shown.callback())
                if not _is_same(file, about):
                    raise BucketError(f'{source}: changed while it was copied; run the same command again')
                with open(file, 'rb') as written:
                    os.fsync(written.fileno())
            shown.finish(about['size'])
    partial.rename(copy)
    logger.info('copied %s to %s', path, copy)


def upload(directory: pathlib.Path, path: Path, last: str) -> None:
    """Copies a directory into a bucket. Objects that are there already with the same contents are kept.

    Args:
      directory: on this machine.
      path: where its files go.
      last: the file without which nobody takes the rest for complete.

    Raises:
      BucketError: the bucket cannot be written.
    """
    files = {file.relative_to(directory).as_posix(): file for file in directory.rglob('*') if file.is_file()}
    there = listing(path)
    size = sum(file.stat().st_size for file in files.values())
    with reaching(path), _Shown(f'copying to {path}', size) as shown:
        for name, file in sorted(files.items(), key=lambda item: (item[0] == last, item[0])):
            if name not in there or not _is_same(file, there[name]):
                put_file(file, path / name, callback=shown.callback())
            shown.finish(file.stat().st_size)


def put_file(file: pathlib.Path, path: Path, **options: Any) -> None:
    """Makes or replaces an object; it appears when it is complete.

    Raises:
      BucketError: the bucket cannot be written.
    """
    with reaching(path):
        client().put_file(str(file), str(path), consistency='md5', **options)


def check_writable(path: Path) -> None:
    """Checks that objects can be made and removed below a path, before hours of work depend on it.

    Raises:
      BucketError: they cannot.
    """
    probe = str(path / '.writable')
    with reaching(path):
        client().pipe_file(probe, b'')
        client().rm_file(probe)


def _is_same(file: pathlib.Path, about: Mapping[str, Any]) -> bool:
    """Whether a file on this machine is what a bucket holds, by size and checksum."""
    import google_crc32c  # it comes with gcsfs

    if not file.is_file() or file.stat().st_size != about['size']:
        return False
    checksum = google_crc32c.Checksum()
    with open(file, 'rb') as content:
        while part := content.read(1 << 20):
            checksum.update(part)
    return base64.b64encode(checksum.digest()).decode() == about['crc32c']


class _Shown(Progress):
    """Progress in megabytes, from bytes."""

    def __init__(self, what: str, size: int):
        super().__init__(what, round(size / MB), 'MB')
        self._finished = self._reached = 0

    def callback(self) -> Any:
        """What gcsfs tells how much of a file is copied."""
        import fsspec

        return fsspec.Callback(hooks={'show': lambda size, value, **_: self._reach(self._finished + value)})

    def finish(self, size: int) -> None:
        """Counts a whole file."""
        self._finished += size
        self._reach(self._finished)

    def _reach(self, size: int) -> None:
        reached = max(self._reached, round(size / MB))
        self.advance(reached - self._reached)
        self._reached = reached
