"""What a workdir belongs to: it is claimed by one config and one dataset, and refused to any other."""

import json
import pathlib

import jax

from uwe_jax.experiment import Config
from uwe_jax.files import whole_file

# How and where a run goes on, as opposed to what it computes: free to change when it is continued.
FREE = ('mesh', 'interaction', 'run', 'data.dir')


def claim(workdir: pathlib.Path, config: Config, data_fingerprint: str) -> None:
    """Writes the config and the dataset's fingerprint into a new workdir, or compares them with what is there.

    Raises:
      ValueError: the workdir was made by another config or with other data; the message names the first field.
    """
    wanted = {'config.json': json.loads(config.to_json()), 'data.json': {'fingerprint': data_fingerprint}}
    workdir.mkdir(parents=True, exist_ok=True)
    for name, content in wanted.items():
        path = workdir / name
        if path.exists():
            _compare(path, json.loads(path.read_text()), content)
    if jax.process_index() == 0:
        for name, content in wanted.items():
            with whole_file(workdir / name) as partial:
                partial.write_text(json.dumps(content, indent=2) + '\n')


def _compare(path: pathlib.Path, found: dict, wanted: dict) -> None:
    found, wanted = _flat(found), _flat(wanted)
    for field in sorted(found.keys() | wanted.keys()):
        if any(field == free or field.startswith(f'{free}.') for free in FREE):
            continue
        if found.get(field) != wanted.get(field):
            raise ValueError(
                f'{path}: made with {field}={found.get(field)!r}, but now {field}={wanted.get(field)!r}; '
                'continue with what it was made with, or choose another --workdir'
            )


def _flat(tree: dict, prefix: str = '') -> dict:
    """Nested fields as one level: {'a': {'b': 1}} -> {'a.b': 1}."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f'{prefix}{name}.')
        else:
            flat[prefix + name] = value
    return flat
