"""What a path may be: a file or directory on this machine, or gs://BUCKET/NAME in Google Cloud Storage.

A path on this machine is a `pathlib.Path`; one in a bucket is an `epath.Path`, which has the same methods. It needs the
extra `gcs`, of which nothing is imported before.
"""

import contextlib
import importlib.util
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any, TypeAlias

from etils import epath

from uwe_jax.io.errors import DataError

BUCKET = 'gs://'
EXPECTED = f'expected a local path or {BUCKET}BUCKET/NAME'
Path: TypeAlias = pathlib.Path | epath.Path
os.environ.setdefault('EPATH_USE_TF', 'false')  # otherwise TensorFlow, where it is installed, takes gcsfs's place
_SCHEME = re.compile('[a-z0-9]+:/')  # pathlib makes one slash of two
_ROLES = 'the roles storage.objectUser and storage.legacyBucketReader on the bucket'


class BucketError(DataError):
    """A bucket does not exist, may not be used, or does not answer."""


class NoAnswerError(BucketError):
    """A bucket does not answer; another attempt may succeed."""

    exit_status = 75  # `distributed.processes.RESTART`


def parse(path: str | os.PathLike[str]) -> Path:
    """The path that a user wrote. Asks no bucket anything.

    Raises:
      DataError: it has another scheme, lacks the name of a bucket or a name within it, or the extra `gcs` is missing.
    """
    words = os.fspath(path)
    if not words.startswith(BUCKET):
        if _SCHEME.match(words):
            raise DataError(f'{words}: {EXPECTED}')
        return pathlib.Path(words)
    bucket, _, name = words.removeprefix(BUCKET).partition('/')
    if not bucket or not name.strip('/'):
        raise DataError(f'{words}: {EXPECTED}')
    if importlib.util.find_spec('gcsfs') is None:
        raise DataError(f"{words}: a bucket needs the extra gcs: pip install -c constraints.txt -e '.[gcs]'")
    _configure()
    return epath.Path(words)


def unchecked(words: str) -> pathlib.PurePath:
    """The path that a user wrote, for `parse`, which says what is wrong with it."""
    if words.startswith(BUCKET):
        return epath.Path(words)
    return pathlib.PurePosixPath(words) if _SCHEME.match(words) else pathlib.Path(words)


def check_local(path: str | os.PathLike[str]) -> None:
    """Refuses a path in a bucket, where only paths on this machine are expected.

    Raises:
      DataError: the path has a scheme.
    """
    if _SCHEME.match(os.fspath(path)):
        raise DataError(f'{path}: expected a local path; gcloud storage cp copies from and to a bucket')


def _configure() -> None:
    """Settings of gcsfs, which `epath.Path` uses for buckets; they are read when the first bucket is used."""
    import fsspec.config

    # Otherwise gcsfs asks by gRPC for the kind of each bucket; where it gets no answer, it asks again for a minute.
    os.environ['GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT'] = 'false'
    # Otherwise what other processes write is not seen.
    fsspec.config.conf.setdefault('gcs', {})['use_listings_cache'] = False


def in_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether a path is in a bucket rather than on this machine."""
    return os.fspath(path).startswith(BUCKET)


def client() -> Any:
    """The client of Google Cloud Storage: gcsfs, as `fsspec` has it."""
    import fsspec

    return fsspec.filesystem('gcs', finalize_on_close=True)  # epath's options, so that both share connections


def exists(path: Path) -> bool:
    """Whether there is a file or directory.

    Raises:
      BucketError: the bucket does not exist or cannot be used; `epath.Path.exists` says False if it does not exist.
    """
    with reaching(path):
        if path.exists():
            return True
        if in_bucket(path) and not _has_bucket(path):
            raise FileNotFoundError(path)
        return False


@contextlib.contextmanager
def reaching(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what clients of buckets raise within into a BucketError: one line with the path and what to do.

    FileNotFoundError passes as it is if the bucket exists, and so do FileExistsError and what this machine raises, for
    example because its disk is full. gcsfs asks a bucket that does not answer six times, for about half a minute.
    """
    try:
        yield
    except Exception as error:
        if not in_bucket(path):
            raise
        if is_passing(error):
            raise NoAnswerError(f'{path}: no answer from Cloud Storage ({_text(error)}); try again later') from error
        reason = _reason(error, path)
        if reason is None:
            raise
        raise BucketError(f'{path}: {reason}') from error


def is_passing(error: BaseException) -> bool:
    """Whether an error of a client of buckets says that another attempt may succeed."""
    import aiohttp
    import requests
    from google.api_core.exceptions import RetryError

    of_connections = aiohttp.ClientError | requests.RequestException | RetryError | TimeoutError | NoAnswerError
    code = str(getattr(error, 'code', ''))
    # TensorStore raises a ValueError whose message begins with the status.
    return (
        isinstance(error, of_connections)
        or code in ('408', '429', '500', '502', '503', '504')
        or re.match('(UNAVAILABLE|ABORTED|DEADLINE_EXCEEDED): ', str(error)) is not None
    )


def _text(error: Exception) -> str:
    """What a bucket or its client said, in one line."""
    text = str(error)
    with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
        text = error.response.json()['error']['message']  # pyright: ignore[reportAttributeAccessIssue]
    return ' '.join(text.split())[:300] or type(error).__name__


def _reason(error: Exception, path: str | os.PathLike[str]) -> str | None:
    """Why a bucket cannot be used, and what to do; None for errors that are no answer of a bucket."""
    import google.auth.exceptions
    from gcsfs.retry import ChecksumError, HttpError
    from google.api_core.exceptions import GoogleAPICallError

    text, code = _text(error), str(getattr(error, 'code', ''))
    denied = code in ('401', '403') or text.startswith('Forbidden')
    if denied or isinstance(error, google.auth.exceptions.GoogleAuthError):
        return f'no permission ({text}); log in (gcloud auth application-default login), or get {_ROLES}'
    missing = code == '404' or (isinstance(error, FileNotFoundError) and error.errno is None)
    if missing and not _has_bucket(path):
        return 'there is no such bucket; correct its name, or make it with: gcloud storage buckets create'
    if isinstance(error, ChecksumError):
        return 'damaged on its way; try again'
    if isinstance(error, HttpError | GoogleAPICallError) or text.startswith('Bad Request'):
        return f'refused by Cloud Storage ({text})'
    return None


def _has_bucket(path: str | os.PathLike[str]) -> bool:
    bucket = os.fspath(path).removeprefix(BUCKET).partition('/')[0]
    with reaching(path):
        try:
            client().call('GET', 'b/{}/o', bucket, maxResults=1)
        except FileNotFoundError:
            return False
    return True


def cache_root() -> pathlib.Path:
    """Where downloads are kept: $UWE_JAX_CACHE, else $XDG_CACHE_HOME/uwe_jax, else ~/.cache/uwe_jax."""
    if chosen := os.environ.get('UWE_JAX_CACHE'):
        return pathlib.Path(chosen).expanduser()
    return pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'uwe_jax'
