"""The training state: parameters, optimizer state, step and random key, and how they are sharded."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from uwe_jax.distributed import mesh


class State(NamedTuple):
    """What training changes and a checkpoint holds: a tree of arrays, or of their shapes or shardings.

    Attributes:
      step: [] int32; optimizer steps taken.
      params: the encoder's parameters, float32, as nested dicts.
      opt_state: the state of the optimizer.
      key: [2] uint32; the random key that dropout's keys are derived from.
    """

    step: Any
    params: Any
    opt_state: Any
    key: Any


def abstract_state(params: nnx.State, optimizer: optax.GradientTransformation, device_mesh: Mesh) -> State:
    """The shapes, dtypes and shardings of the state; nothing is allocated.

    Parameters are sharded as their metadata says, and what the optimizer keeps for a parameter is sharded like it.

    Args:
      params: the abstract parameters of the encoder, with sharding metadata.
      optimizer: whose state belongs to it.
      device_mesh: where the state will be.

    Returns:
      A tree of `jax.ShapeDtypeStruct`.
    """
    everywhere = mesh.replicated(device_mesh)
    specs = nnx.to_pure_dict(nnx.get_partition_spec(params))
    shapes = nnx.to_pure_dict(params)
    param_shardings = jax.tree.map(lambda _, spec: NamedSharding(device_mesh, spec), shapes, specs)
    opt_shapes = jax.eval_shape(optimizer.init, shapes)
    opt_shardings = optax.tree.map_params(
        optimizer,
        lambda _, sharding: sharding,
        opt_shapes,
        param_shardings,
        transform_non_params=lambda _: everywhere,
    )
    shape = State(jax.ShapeDtypeStruct((), jnp.int32), shapes, opt_shapes, jax.ShapeDtypeStruct((2,), jnp.uint32))
    shardings = State(everywhere, param_shardings, opt_shardings, everywhere)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shape, shardings)


def first_state(params: dict[str, Any], optimizer: optax.GradientTransformation, seed: int, like: State) -> State:
    """The state before the first step; every array is born with its sharding.

    Args:
      params: the parameters of the encoder, as host arrays that are the same in every process.
      optimizer: whose state belongs to it.
      seed: of dropout.
      like: from `abstract_state`.
    """
    shardings = shardings_of(like)

    def make(params):
        key = jax.random.key_data(jax.random.key(seed))
        return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), key)

    return jax.jit(make, out_shardings=shardings)(mesh.put(params, shardings.params))


def shardings_of(like: State) -> State:
    """The shardings of an abstract state."""
    return jax.tree.map(lambda x: x.sharding, like)
