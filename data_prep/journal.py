"""Journals: JSONL files of what was done under certain settings, from which a killed run resumes.

The first line holds the settings. Every record is a JSON object with a `kind`.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from uwe_jax.io.errors import DataError
from uwe_jax.io.jsonl import Place, ResumableJsonl, read_whole_lines

Record = Mapping[str, Any]
SETTINGS = 'settings'  # the kind of the first record


def open_journal(path: pathlib.Path, settings: Record) -> ResumableJsonl:
    """Opens a journal to append records to; a new one begins with the settings.

    Args:
      path: the file; made if it does not exist.
      settings: what the records depend on, JSON values.

    Raises:
      DataError: the file cannot be written.
    """
    journal = ResumableJsonl(path)
    if not journal.size:
        journal.append({'kind': SETTINGS, **settings})
    return journal


def read_records(path: pathlib.Path, settings: Record) -> Iterator[tuple[Record, Place]]:
    """Yields the records of a journal, without the settings, and their places; nothing if there is no file.

    Raises:
      DataError: a line before the last is damaged, or the journal was begun with other settings; the message names the
        line, or the first setting that differs.
    """
    if not path.exists():
        return
    expected = json.loads(json.dumps({'kind': SETTINGS, **settings}))
    for number, (record, place) in enumerate(read_whole_lines(path), start=1):
        if not isinstance(record, dict) or 'kind' not in record:
            raise DataError(
                f'{path}, line {number}: damaged, expected a JSON object with a kind; '
                'restore the file or choose another --output'
            )
        if number > 1:
            yield record, place
            continue
        for name, value in expected.items():
            if record.get(name) != value:
                raise DataError(
                    f'{path}: begun with {name} {record.get(name)!r}, now {value!r}; '
                    'use the same to resume, or choose another --output'
                )
