"""A Hugging Face directory, in and out: weights to parameters, and parameters to an export.

No pickle is ever read: weights are safetensors.
"""

import contextlib
import dataclasses
import json
import pathlib
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from uwe_jax.io.files import whole_directory
from uwe_jax.models.download import OTHER_FILES
from uwe_jax.models.mpnet import MPNet, MPNetConfig

SETTINGS = 'uwe.json'  # in an export: what a score is

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
