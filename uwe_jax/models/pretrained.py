"""Reads the parameters of a Hugging Face directory, and writes an export. Weights are safetensors, never pickles."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from uwe_jax.io.files import whole_directory
from uwe_jax.models.download import CONFIG, EXPORTED, OTHER_FILES, SETTINGS, TOKENIZER, WEIGHTS, weight_files
from uwe_jax.models.mpnet import MPNet, MPNetConfig
from uwe_jax.models.tokenizer import Tokenizer

# Hugging Face's name for each part of `MPNet`; `encoder.layer.N.` precedes the parts of a layer.
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
    """The keys along one of JAX's paths through nested dicts."""
    return [key.key for key in keys]


def abstract_encoder(directory: pathlib.Path, *, dtype: str, dropout: float = 0.0, layers: int | None = None) -> MPNet:
    """The encoder that config.json describes, with abstract parameters: shapes and shardings, no values.

    Args:
      directory: a Hugging Face directory.
      dtype: as in `MPNet`, like dropout.
      dropout: probability.
      layers: how many of the first layers to keep; all by default.

    Raises:
      ValueError: config.json does not describe an MPNet, the model has fewer layers, or its vectors are more than means
        of token embeddings.
    """
    _check_modules(directory)
    config = MPNetConfig.read(directory / CONFIG)
    if layers is not None:
        if not 1 <= layers <= config.num_hidden_layers:
            raise ValueError(f'model.layers: {layers}, expected 1 to {config.num_hidden_layers}')
        config = dataclasses.replace(config, num_hidden_layers=layers)
    return nnx.eval_shape(lambda: MPNet(config, dtype=dtype, dropout=dropout, rngs=nnx.Rngs(0)))


def _check_modules(directory: pathlib.Path) -> None:
    """Refuses a sentence-transformers directory that asks for more than is implemented here.

    Raises:
      ValueError: a module is not an encoder, the mean of its vectors or their normalisation, or texts get a prompt or
        have to be lower-cased before they are tokenised.
    """
    remedy = 'to use the encoder of the model alone, copy the directory without modules.json'
    path = directory / 'modules.json'
    if not path.is_file():
        return
    for module in _read_json(path):
        kind = str(module.get('type') if isinstance(module, dict) else [module]).rsplit('.')[-1]
        if kind not in ('Transformer', 'Pooling', 'Normalize'):
            raise ValueError(f'{path}: module {kind}, expected only Transformer, Pooling and Normalize; {remedy}')
        if kind == 'Pooling':
            pooling = directory / module.get('path', '') / CONFIG
            config = _read_json(pooling)
            old = [name.split('_')[2] for name, on in config.items() if name.startswith('pooling_mode_') and on]
            if config.get('pooling_mode', old) not in ('mean', ['mean']):
                raise ValueError(f'{pooling}: pooling {config.get("pooling_mode", old)}, expected mean; {remedy}')
    path = directory / 'sentence_bert_config.json'
    if path.is_file() and _read_json(path).get('do_lower_case'):
        upper, lower = Tokenizer.from_pretrained(directory).encode(['A', 'a'])
        if not np.array_equal(upper, lower):
            raise ValueError(f'{path}: do_lower_case, expected a tokenizer that does so; set it in {TOKENIZER}')
    path = directory / 'config_sentence_transformers.json'
    settings = _read_json(path) if path.is_file() else {}
    if prompt := (settings.get('prompts') or {}).get(settings.get('default_prompt_name')):
        raise ValueError(f'{path}: texts get the prompt {prompt!r}, expected none; {remedy}')


def load_params(directory: pathlib.Path, like: nnx.State) -> dict[str, Any]:
    """Reads an encoder's parameters from a model's safetensors files.

    Args:
      directory: a Hugging Face directory.
      like: the encoder's abstract parameters.

    Returns:
      Nested dicts of float32 numpy arrays.

    Raises:
      ValueError: a file is damaged, or a tensor is missing or has the wrong shape or dtype. The message names the file
        and the tensor.
    """
    tensors = _tensors(directory)
    where = f'{directory}/{" and ".join(weight_files(directory))}'

    def read(keys, expected) -> np.ndarray:
        parameter = _names_of(keys)
        name = tensor_name(parameter)
        if name not in tensors:
            raise ValueError(f'{where}: tensor {name} missing, expected float32 {expected.shape}')
        tensor = tensors[name]()
        if parameter[-1] == 'kernel':
            tensor = tensor.T  # torch stores [out, in]
        if tensor.shape != expected.shape or tensor.dtype != np.float32:
            raise ValueError(
                f'{where}: tensor {name} is {tensor.dtype} {tensor.shape}, expected float32 {expected.shape}'
            )
        return np.ascontiguousarray(tensor)

    return jax.tree_util.tree_map_with_path(read, nnx.to_pure_dict(like))


def _tensors(directory: pathlib.Path) -> dict[str, Callable[[], np.ndarray]]:
    """Functions that read the tensors of an encoder, by their names; float16 and bfloat16 become float32.

    A model with a head puts a prefix before the names of its encoder's tensors, such as `mpnet.`. The head is left out.

    Raises:
      ValueError: a file is damaged. Some damage shows only when a tensor is read.
    """
    tensors = {}
    for path in (directory / name for name in weight_files(directory)):
        with _undamaged(path):
            file = safetensors.safe_open(path, framework='numpy')
            tensors |= {name: functools.partial(_read_tensor, path, file, name) for name in file.keys()}  # noqa: SIM118
    first = tensor_name(('word_embeddings', 'embedding'))
    prefix = next((name.removesuffix(first) for name in tensors if name.endswith(first)), '')
    return {name.removeprefix(prefix): read for name, read in tensors.items() if name.startswith(prefix)}


def _read_tensor(path: pathlib.Path, file: Any, name: str) -> np.ndarray:
    with _undamaged(path):
        tensor = file.get_tensor(name)
    return tensor.astype(np.float32) if tensor.dtype in (np.float16, jnp.bfloat16) else tensor


@contextlib.contextmanager
def _undamaged(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except safetensors.SafetensorError as error:
        raise ValueError(f'{path}: damaged, or not a safetensors file ({error})') from error


def load_encoder(directory: pathlib.Path, *, dtype: str) -> MPNet:
    """The encoder that a directory contains, with its parameters.

    Raises:
      ValueError: as `abstract_encoder` and `load_params`.
    """
    graphdef, like = nnx.split(abstract_encoder(directory, dtype=dtype))
    return nnx.merge(graphdef, jax.tree.map(jnp.asarray, load_params(directory, like)))


def save_pretrained(
    output: str | os.PathLike[str], *, base: pathlib.Path, params: dict[str, Any], settings: dict[str, Any], card: str
) -> None:
    """Writes an export: a copy of the base model's directory with new encoder weights, `uwe.json` and a scorer.

    Tensors that the encoder lacks, such as the pooler, are copied from the base: other libraries expect them.

    Args:
      output: the directory to make, here or in a bucket; appears when it is complete.
      base: the Hugging Face directory that training started from.
      params: the encoder's parameters, nested dicts of arrays.
      settings: the content of `uwe.json`.
      card: the text of README.md.

    Raises:
      ValueError: the base model's weights are damaged.
      OSError: the output cannot be written.
    """
    tensors = {}
    for keys, value in jax.tree_util.tree_leaves_with_path(params):
        path = _names_of(keys)
        tensors[tensor_name(path)] = np.ascontiguousarray(np.asarray(value).T if path[-1] == 'kernel' else value)
    for name, read in _tensors(base).items():
        cut_off = name.startswith('encoder.layer.')  # a layer that the encoder no longer has
        if name not in tensors and not cut_off:
            tensors[name] = read()

    with whole_directory(output, last=CONFIG) as partial:
        for name in OTHER_FILES:
            if (base / name).is_file():
                (partial / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(base / name, partial / name)
        shutil.copyfile(base / TOKENIZER, partial / TOKENIZER)
        config = _read_json(base / CONFIG)
        dtypes = dict.fromkeys(config.keys() & {'dtype', 'torch_dtype'}, 'float32')
        layers = {'num_hidden_layers': len(params['layers'])}
        _write_json(partial / CONFIG, config | dtypes | layers | {EXPORTED: SETTINGS})
        _write_json(partial / 'sentence_bert_config.json', {'max_seq_length': settings['max_tokens']})
        _write_json(partial / SETTINGS, settings)
        (partial / 'README.md').write_text(card, encoding='utf-8')
        shutil.copyfile(pathlib.Path(__file__).with_name('torch_scorer.py'), partial / 'uwe_scorer.py')
        safetensors.numpy.save_file(tensors, partial / WEIGHTS, metadata={'format': 'pt'})
        (partial / WEIGHTS).chmod(0o644)  # the library lets only the owner read it


def is_export(directory: pathlib.Path) -> bool:
    """Whether a directory is an export of this project, even if its `uwe.json` was lost."""
    return EXPORTED in _read_json(directory / CONFIG)


def _read_json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f'{path}: cannot be read as JSON ({error})') from error


def _write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + '\n')
