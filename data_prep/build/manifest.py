"""The manifest of a dataset: what was read, held out, repaired and dropped, and a checksum for every file."""

import hashlib
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.build.options import Options
from data_prep.build.sources import Sources
from data_prep.check.report import EXAMPLES
from uwe_jax.data.graph import MANIFEST
from uwe_jax.io.files import checksums, sha256


def describe_sources(options: Options, sources: Sources) -> list[dict[str, Any]]:
    """The files that were read, with their checksums."""
    version = re.search(r'\d+\.\d+(\.\d+)?', options.esco.name)  # the portal's files do not say it
    described: list[dict[str, Any]] = [
        {
            'name': 'ESCO',
            'version': version[0] if version else 'unknown',
            'language': 'en',
            'files': checksums(sources.esco.files),
        }
    ]
    if sources.stand_in:
        described.append(
            {'name': 'sentences', 'from': "the skills' descriptions, since there are no vacancy sentences"}
        )
    if sources.vacancies:
        files = checksums(sources.vacancies)
        described.append({'name': 'vacancies', 'columns': options.columns.names(), 'files': files})
    if sources.synthetic:
        described.append({'name': 'synthetic titles', 'files': checksums(sources.synthetic)})
    return described


def describe_names(matched: int, unmatched: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many skill names meant one skill, none (`unknown`) or several (`ambiguous`), with the most frequent ones.

    Args:
      matched: how many meant one skill.
      unmatched: what `SkillNames.unmatched` returns.
    """
    kinds = {
        'unknown': [name for name in unmatched if not name['could_mean']],
        'ambiguous': [name for name in unmatched if name['could_mean']],
    }
    return {'matched': matched} | {
        kind: {
            'count': sum(name['count'] for name in names),
            'distinct': len(names),
            'examples': [name['name'] for name in names[:EXAMPLES]],
        }
        for kind, names in kinds.items()
    }


def write_manifest(directory: pathlib.Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest, with the size and checksum of every other file, and a fingerprint of the contents.

    The fingerprint covers the files' checksums and the padded lengths.
    """
    paths = sorted(path for path in directory.rglob('*') if path.is_file())
    files = {str(path.relative_to(directory)): {'bytes': path.stat().st_size, 'sha256': sha256(path)} for path in paths}
    contents = {name: file['sha256'] for name, file in files.items()}
    identity = json.dumps([contents, manifest['lengths']], sort_keys=True)
    manifest = {'fingerprint': hashlib.sha256(identity.encode()).hexdigest(), **manifest, 'files': files}
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
