"""Files and directories that appear under their names when they are complete, never half; and their checksums."""

import contextlib
import hashlib
import os
import pathlib
import tempfile
import uuid
from collections.abc import Iterator, Mapping


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a name to write to beside `path`, which is made or replaced when the file is complete and on the disk.

    The name is of this attempt alone, so that several processes may write the same file. If anything goes wrong, `path`
    is as it was before.
    """
    partial = path.with_name(f'.{path.name}.{uuid.uuid4().hex}')
    try:
        yield partial
        with open(partial, 'rb') as file:
            os.fsync(file.fileno())  # else, after a power cut, the name may be there without the content
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_directory(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a directory beside `path` to write into; it becomes `path`, or vanishes if anything goes wrong.

    The directory above is made if it is not there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix='.partial-') as scratch:
        partial = pathlib.Path(scratch) / path.name
        partial.mkdir()
        yield partial
        partial.rename(path)


def sha256(path: pathlib.Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def damage(directory: pathlib.Path, checksums: Mapping[str, str]) -> str | None:
    """What is wrong with the first file that is missing, or has another checksum; None if all are whole.

    Args:
      directory: where they lie.
      checksums: by the files' paths within the directory.
    """
    for name, expected in sorted(checksums.items()):
        try:
            found = sha256(directory / name)
        except FileNotFoundError:
            return f'{name} is missing'
        if found != expected:
            return f'{name} was cut short or altered'
    return None
