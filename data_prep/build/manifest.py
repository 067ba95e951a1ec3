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
from data_prep.skill_names import SkillNames
from uwe_jax.data.graph import MANIFEST
from uwe_jax.io.files import checksums, sha256


def describe_sources(options: Options, sources: Sources) -> list[dict[str, Any]]:
    """The files that were read, with their checksums."""
    version = re.search(r'\d+\.\d+(\.\d+)?', options.esco.name)  # the portal's files do not say it
    described: list[dict[str, Any]] = [
        {
            'name': 'ESCO',
            'version': version[0] if version else 'unknown',
            'language': ', '.join(options.languages),
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


def describe_names(names: SkillNames, unmatched: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many skill names meant one skill, none (`unknown`) or several (`ambiguous`), with the most frequent ones.

    Args:
      names: that counted them.
      unmatched: what `SkillNames.unmatched` returns.
    """
    kinds = {
        'unknown': [miss for miss in unmatched if not miss['could_mean']],
        'ambiguous': [miss for miss in unmatched if miss['could_mean']],
    }
    return {'matched': names.matched, 'lists_split': names.lists_split} | {
        kind: {
            'count': sum(miss['count'] for miss in misses),
            'distinct': len(misses),
            'examples': [miss['name'] for miss in misses[:EXAMPLES]],
        }
        for kind, misses in kinds.items()
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
