"""A workdir belongs to one config, one dataset, and one run at a time; any other is refused.

config.json    the experiment
data.json      of the dataset: fingerprint, sources and attribution, which an export names
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping

import jax

from uwe_jax.data.graph import read_manifest
from uwe_jax.io.claims import claim
from uwe_jax.io.files import write_whole
from uwe_jax.io.paths import Path, exists, in_bucket, parse, reaching
from uwe_jax.training.config import Config

# How and where a run computes, as opposed to what: these may change when it is continued.
FREE = ('mesh', 'interaction.form', 'interaction.exchange', 'interaction.block_entries', 'run', 'data.dir')
FREE += ('sources', 'attribution')  # of the data: its fingerprint covers them, and older workdirs lack them

CONFIG, DATA = 'config.json', 'data.json'
FOLDER = 'checkpoints'
PREFIX = 'step_'  # of a checkpoint's name


@contextlib.contextmanager
def claimed(workdir: Path, config: Config, manifest: Mapping) -> Iterator[Callable[[], None]]:
    """Claims a workdir, which is made if it does not exist, and keeps other runs out as long as this one lasts.

    A new workdir receives the config and what the dataset's manifest says of its origin; those of an old one are
    compared with them.

    Yields:
      A function to call before a write, see `claim`.

    Raises:
      ValueError: the workdir was made with another config or other data, and the message names the first field; or
        another run is at work in it.
    """
    wanted = _wanted(config, manifest)
    if not in_bucket(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    first = jax.process_index() == 0  # its claim stands for all processes, as none of them can run without it
    with claim(workdir, '--workdir') if first else contextlib.nullcontext(lambda: None) as check:
        check_same(workdir, config, manifest)
        for name, content in wanted.items() if first else ():
            write_whole(workdir / name, json.dumps(content, indent=2) + '\n')
        yield check


def check_same(workdir: Path, config: Config, manifest: Mapping) -> None:
    """Checks that a workdir, if it exists, was made with this config and these data.

    Raises:
      ValueError: it was made with others; the message names the first field.
    """
    for name, content in _wanted(config, manifest).items():
        path = workdir / name
        with reaching(path):
            if exists(path):
                _compare(path, json.loads(path.read_text()), content)


def is_complete(workdir: Path, steps: int) -> bool:
    """Whether a run of this many steps has saved its last one."""
    return (workdir / FOLDER / f'{PREFIX}{steps}').is_dir()


def workdir_of(source: str | os.PathLike[str]) -> Path | None:
    """The workdir of a run that has begun to save, if that is what the source of a model is; None otherwise."""
    path = parse(source).expanduser()
    with reaching(path):
        return path if (path / FOLDER).is_dir() else None


def read_config(workdir: Path) -> Config:
    """The experiment that a workdir belongs to.

    Raises:
      ValueError: the directory is not a workdir, or its config is not as expected.
    """
    path = workdir / CONFIG
    if not exists(path):
        raise ValueError(f'{workdir}: not the workdir of a run, it has no {CONFIG}')
    with reaching(path):
        content = path.read_text()
    try:
        return Config.of(json.loads(content))
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error


def read_data(workdir: Path, config: Config) -> dict:
    """What the model was trained on: `fingerprint`, `sources` and `attribution`, as in the dataset's manifest.

    Raises:
      DatasetError: the workdir is of an older version, which wrote the fingerprint only, and the dataset is gone.
    """
    path = workdir / DATA
    with reaching(path):
        data = json.loads(path.read_text()) if path.exists() else {}
    return data if 'sources' in data else read_manifest(str(config.data.dir))


def _wanted(config: Config, manifest: Mapping) -> dict[str, dict]:
    """The files that say what a workdir belongs to."""
    origin = {name: manifest[name] for name in ('fingerprint', 'sources', 'attribution')}
    return {CONFIG: dataclasses.asdict(config), DATA: origin}


def _compare(path: Path, before: dict, now: dict) -> None:
    before, now = _flat(before), _flat(now)
    for field in sorted(before.keys() | now.keys()):
        if any(field == free or field.startswith(f'{free}.') for free in FREE):
            continue
        if before.get(field) != now.get(field):
            raise ValueError(
                f'{path}: made with {field}={before.get(field)!r}, but now {field}={now.get(field)!r}; '
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
