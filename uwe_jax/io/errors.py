"""Errors in a user's input or output. Each message is one line that says what to do."""

import contextlib
import os
from collections.abc import Iterator


class DataError(ValueError):
    """An input cannot be used, or an output cannot be written.

    The message names the file and the line or field, what was found, and what was expected.
    """


class EmptyFileError(DataError):
    """A file has no rows, which callers that read several files may pass over."""


class NoColumnError(DataError):
    """A table lacks a column; callers add by which flag the user names it."""


@contextlib.contextmanager
def writing(path: str | os.PathLike[str], remedy: str = 'choose another --output') -> Iterator[None]:
    """Turns an OSError within into a DataError that names `path`, the cause and the remedy."""
    try:
        yield
    except OSError as error:
        raise DataError(f'{path}: cannot be written ({error.strerror or error}); {remedy}') from error
