"""Files and directories that appear under their names only when they are complete, and their checksums."""

import contextlib
import errno
import glob
import hashlib
import os
import pathlib
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence

from uwe_jax.io import buckets, paths
from uwe_jax.io.errors import DataError


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yields a path to write to; the file becomes `path`, or replaces it, when it is complete and on the disk.

    The path is unique, so that several processes may write the same file. After an error, `path` is as it was before.
    """
    path = paths.parse(path)
    if not isinstance(path, pathlib.Path):
        with tempfile.TemporaryDirectory() as scratch:
            partial = pathlib.Path(scratch) / path.name
            yield partial
            buckets.put_file(partial, path)
        return
    partial = path.with_name(f'.{path.name}.{uuid.uuid4().hex}')
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding='utf-8')


@contextlib.contextmanager
def whole_directory(path: str | os.PathLike[str], last: str = '') -> Iterator[pathlib.Path]:
    """Yields a directory to write into; it becomes `path` when its files are on the disk, or vanishes after an error.

    The directory above `path` is made if it does not exist. A `path` in a bucket, which must be writable when the block
    begins, receives the files when it ends, `last` at last.
    """
    path = paths.parse(path)
    if not isinstance(path, pathlib.Path):
        buckets.check_writable(path)
        with tempfile.TemporaryDirectory() as scratch:
            yield pathlib.Path(scratch)
            buckets.upload(pathlib.Path(scratch), path, last)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix='.partial-') as scratch:
        partial = pathlib.Path(scratch) / path.name
        partial.mkdir()
        yield partial
        for file in partial.rglob('*'):
            if file.is_file():
                _sync(file)
        partial.rename(path)


def _sync(path: pathlib.Path) -> None:
    """Forces a file to the disk. Otherwise, after a power cut, it may have its name but not its content."""
    with open(path, 'rb') as file:
        os.fsync(file.fileno())


def files_of(patterns: Sequence[str], flag: str) -> list[pathlib.Path]:
    """The files that globs match: sorted for each glob, each file once.

    Raises:
      DataError: a glob, which `flag` gave, matches no file.
    """
    files: dict[pathlib.Path, None] = {}
    for pattern in patterns:
        paths.check_local(pattern)
        matches = [path for path in map(pathlib.Path, sorted(glob.glob(pattern, recursive=True))) if path.is_file()]
        if not matches:
            raise DataError(f'{flag}={pattern}: matches no file')
        files |= dict.fromkeys(matches)
    return list(files)


def check_absent(output: str | os.PathLike[str], last: str = '') -> None:
    """Refuses an output that exists: it is complete, and is not written again.

    Args:
      output: a file or directory. A directory in a bucket is complete if it has the file `last`.
      last: as for `whole_directory`.

    Raises:
      DataError: it exists.
    """
    path = paths.parse(output)
    if paths.exists(path if isinstance(path, pathlib.Path) else path / last):
        raise DataError(f'{output}: already there; choose another --output or remove it')


def check_writable(path: pathlib.Path) -> None:
    """Checks that a file can be written, before hours of work depend on it; makes the directory above it.

    Raises:
      OSError: `path` is a directory, or no file can be made beside it.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not path.parent.exists():
        path.parent.mkdir(parents=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def sha256(path: pathlib.Path) -> str:
    """The checksum of a file, in hexadecimal digits."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def checksums(files: Sequence[pathlib.Path]) -> dict[str, str]:
    """The files' checksums, by their paths below the directory that contains them all."""
    if not files:
        return {}
    root = os.path.commonpath([path.resolve().parent for path in files])
    return {path.resolve().relative_to(root).as_posix(): sha256(path) for path in files}


def damage(directory: pathlib.Path, checksums: Mapping[str, str]) -> str | None:
    """Says which file is missing or has another checksum; None if all files are whole.

    Args:
      directory: contains the files.
      checksums: by the files' paths within the directory.
    """
    return difference(checksums, {name: sha256(directory / name) for name in checksums if (directory / name).exists()})


def difference(expected: Mapping[str, str], actual: Mapping[str, str]) -> str | None:
    """Says which file is missing, has another checksum or was not expected; None if there is none.

    Args:
      expected, actual: checksums by the files' names.
    """
    for name in sorted(expected.keys() | actual.keys()):
        if name not in expected:
            return f'{name} does not belong to it'
        if name not in actual:
            return f'{name} is missing'
        if actual[name] != expected[name]:
            return f'{name} was cut short or altered'
    return None
