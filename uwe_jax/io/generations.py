"""Objects in a bucket that are replaced only as long as nobody else has replaced them.

The bucket gives each version of an object a generation, and writes one only if the version before is as expected. Needs
the extra `gcs`; its library repeats requests that fail for a passing reason for up to `PATIENCE` seconds.
"""

import functools
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

from uwe_jax.io.errors import DataError
from uwe_jax.io.paths import BUCKET, Path, in_bucket, reaching

PATIENCE = 600  # s


@functools.cache
def _client() -> Any:
    from google.cloud import storage  # of the extra `gcs`

    return storage.Client()


def patiently() -> Any:
    """How a request is repeated, for the argument `retry` of `google.cloud.storage`."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(PATIENCE)


def blob(path: Path) -> Any:
    """The object with this path as a `google.cloud.storage.Blob`, whether it exists or not."""
    bucket, _, name = str(path).removeprefix(BUCKET).partition('/')
    return _client().bucket(bucket).blob(name)


def find(path: Path) -> Any | None:
    """The object as it is now, with its generation; None if there is none."""
    wanted = blob(path)
    return wanted.bucket.get_blob(wanted.name, retry=patiently())


def replace(path: Path, file: pathlib.Path, generation: int) -> int:
    """Makes a file the object if that has this generation, or does not exist for 0; returns the new generation.

    Raises:
      DataError: the object has another generation.
      BucketError: as `paths.reaching` says.
    """
    from google.api_core.exceptions import PreconditionFailed

    target = blob(path)
    with reaching(path):
        try:
            target.upload_from_filename(file, if_generation_match=generation, retry=patiently())
        except PreconditionFailed as error:
            target = find(path)  # if an answer was lost, the upload was repeated, although it had succeeded
            if target is None or target.download_as_bytes(retry=patiently()) != file.read_bytes():
                raise DataError(f'{path}: another process has replaced it; only one may') from error
    return target.generation


class WorkingCopy:
    """Files that are written on this machine and published as whole objects; another process's are not replaced.

    Args:
      path: the directory to publish to. If it is not in a bucket, the files are written right there.
      names: of files to continue, where they exist.

    Attributes:
      folder: where to write the files.

    Raises:
      BucketError: as `paths.reaching` says.
    """

    def __init__(self, path: Path, names: Sequence[str] = ()):
        self._path = path
        self._published: dict[str, tuple[tuple[int, int], int]] = {}  # size and time of each file; its generation
        if not in_bucket(path):
            self.folder = pathlib.Path(path)
            return
        self._scratch = tempfile.TemporaryDirectory(prefix='uwe_jax-')
        self.folder = pathlib.Path(self._scratch.name)
        for name in names:
            with reaching(path):
                there = find(self._path / name)
                if there is not None:
                    there.download_to_filename(self.folder / name, retry=patiently())
                    self._published[name] = ((0, 0), there.generation)

    def publish(self) -> None:
        """Replaces the objects whose files have changed since the last time.

        Raises:
          DataError: another process has replaced one of them.
          BucketError: as `paths.reaching` says.
        """
        if not in_bucket(self._path):
            return
        for file in sorted(path for path in self.folder.rglob('*') if path.is_file()):
            name, state = file.relative_to(self.folder).as_posix(), (file.stat().st_size, file.stat().st_mtime_ns)
            before, generation = self._published.get(name, (None, 0))
            if state != before:
                self._published[name] = (state, replace(self._path / name, file, generation))
