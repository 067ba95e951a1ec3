"""The output files: titles, the skills that stayed below, and the manifest; each appears when it is complete."""

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from uwe_jax.data.graph import MANIFEST
from uwe_jax.io.errors import writing
from uwe_jax.io.files import sha256, write_whole

JOURNAL = 'journal.jsonl'
TITLES = 'titles.jsonl'
BELOW = 'below.jsonl'


def write_outputs(
    directory: pathlib.Path,
    titles: Iterable[Mapping[str, Any]],
    below: Iterable[Mapping[str, Any]],
    manifest: Mapping[str, Any],
) -> None:
    """Writes titles.jsonl and below.jsonl, then manifest.json with their checksums.

    An older manifest is removed first, so that a manifest always describes the files beside it.

    Raises:
      DataError: a file cannot be written.
    """
    with writing(directory, f'{JOURNAL} is complete, and the same command continues'):
        (directory / MANIFEST).unlink(missing_ok=True)
        for name, lines in ((TITLES, titles), (BELOW, below)):
            write_whole(directory / name, ''.join(json.dumps(line, ensure_ascii=False) + '\n' for line in lines))
        files = {
            name: {'bytes': (directory / name).stat().st_size, 'sha256': sha256(directory / name)}
            for name in (TITLES, BELOW)
        }
        content = json.dumps({**manifest, 'files': files}, indent=2, ensure_ascii=False) + '\n'
        write_whole(directory / MANIFEST, content)
