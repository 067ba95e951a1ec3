"""One optimizer step: encode all sides, let skills and targets interact, take the loss, update."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Float

from uwe_jax.data.graph import GRAPHS, SIDES
from uwe_jax.data.loader import Batch, Texts
from uwe_jax.data.packing import Rows, unpacked
from uwe_jax.distributed import mesh
from uwe_jax.interaction import exchanged, has_attention, late_interaction, mean_entropy
from uwe_jax.loss import many_to_many_info_nce
from uwe_jax.training.config import Config
from uwe_jax.training.flops import step_flops
from uwe_jax.training.state import State, shardings_of

Metrics = Mapping[str, Any]


def make_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    config: Config,
    lengths: Mapping[str, int],
    chunks: int,
    device_mesh: Mesh,
    like: State,
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """Makes the update, compiled; it donates the state that it takes.

    Args:
      graphdef: the encoder without its parameters.
      optimizer: updates the parameters.
      schedule: the learning rate that the optimizer uses, to report it.
      config: see `configs/uwe.py`.
      lengths: the tokens of the longest text, by side.
      chunks: in how many parts each device encodes its rows. With two or more, the backward pass computes the
        activations of each part again, so that those of one part are stored at a time.
      device_mesh: the batch is split over it.
      like: the state as a tree of `jax.ShapeDtypeStruct` with shardings, which the step keeps.

    Returns:
      A function from a state and a batch to the next state and the step's metrics: scalars by name, on the devices.
    """
    platform = device_mesh.devices.flat[0].platform

    def encode(
        params: dict[str, Any], rows: Rows, texts: Mapping[str, Texts], key: jax.Array
    ) -> dict[str, Float[jax.Array, 'texts tokens d']]:
        """Encodes what one device holds, and takes the texts of every side out of the rows."""
        encoder = nnx.merge(graphdef, params)
        # A loop over the layers compiles in a sixth of the time for a GPU. On CPUs its steps take longer.
        layers = None if platform == 'cpu' else encoder.stacked_layers()

        @jax.named_scope('encoder')
        def encode_part(part: tuple[Rows, jax.Array]) -> Float[jax.Array, 'rows tokens d']:
            rows, number = part
            dropout_key = jax.random.fold_in(key, number) if config.model.dropout > 0 else None
            return encoder(*rows, layers=layers, dropout_key=dropout_key).astype(config.interaction.dtype)

        key = jax.random.fold_in(key, jax.lax.axis_index(device_mesh.axis_names))
        if chunks == 1:
            tokens = encode_part((rows, jnp.zeros((), jnp.int32)))
        else:
            parts = jax.tree.map(lambda x: x.reshape(chunks, -1, x.shape[1]), rows)
            tokens = jax.lax.map(jax.checkpoint(encode_part), (parts, jnp.arange(chunks)))
        tokens = tokens.reshape(-1, tokens.shape[-1])
        return {side: unpacked(tokens, *texts[side], lengths[side]) for side in SIDES}

    # Within, the parameters are whole; on the way out their gradients are summed over the devices, once, in float32.
    split, whole = PartitionSpec(device_mesh.axis_names), PartitionSpec()
    encode_all = jax.shard_map(
        encode, mesh=device_mesh, in_specs=(whole, split, split, whole), out_specs=split, check_vma=False
    )

    def interact(skill, skill_length, targets, target_length):
        """The scores of both directions, by graph."""
        return {
            graph: late_interaction(
                skill,
                skill_length,
                targets[graph],
                target_length[graph],
                config.score,
                form=config.interaction.form,
                block_entries=config.interaction.block_entries,
                platform=platform,
            )
            for graph in GRAPHS
        }

    def loss_of_batch(params: dict[str, Any], batch: Batch, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        targets = encode_all(params, batch.rows, batch.texts, key)
        target_length = {side: texts.length for side, texts in batch.texts.items()}
        skills = targets.pop('skill'), target_length.pop('skill')
        with jax.named_scope('interaction'):
            scores = exchanged(
                interact, *skills, targets, target_length, exchange=config.interaction.exchange, mesh=device_mesh
            )
        loss, metrics = jnp.zeros(()), {}
        for graph in GRAPHS:
            with jax.named_scope('loss'):
                # Split as the scores are; otherwise XLA would send those, in float32.
                edges = jax.lax.with_sharding_constraint(batch.edges[graph], mesh.columns(device_mesh))
                s_qy, s_yq = scores[graph]
                directions = many_to_many_info_nce(
                    s_qy,
                    s_yq,
                    edges,
                    skills[1] > 0,
                    target_length[graph] > 0,
                    config.loss.temperature[graph],
                    config.loss,
                )
            for direction, values in directions.items():
                loss += config.loss.weight[graph] * values.loss
                metrics |= {f'{graph}/{direction}/{name}': value for name, value in values._asdict().items()}
            metrics[f'{graph}/filled'] = jnp.mean(target_length[graph] > 0, dtype=jnp.float32)
            if has_attention(config.score):
                with jax.named_scope('interaction'):
                    pairs = jax.lax.stop_gradient((*skills, targets[graph], target_length[graph]))
                    metrics[f'{graph}/entropy'] = mean_entropy(*pairs, config.score)
        return loss, metrics

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        sizes = nnx.merge(graphdef, state.params).config
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        grad = jax.value_and_grad(loss_of_batch, has_aux=True)
        (loss, metrics), gradient = grad(state.params, batch, key)
        with jax.named_scope('optimizer'):
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            gradient_norm = optax.tree.norm(gradient)
        skipped = 0
        if isinstance(opt_state, optax.ApplyIfFiniteState):
            skipped = state.opt_state.total_notfinite
            metrics |= {'skipped': opt_state.total_notfinite, 'skipped/in_a_row': opt_state.notfinite_count}
        metrics |= {
            'loss': loss,
            'gradient_norm': gradient_norm,
            'learning_rate': schedule(state.step - skipped),
            **_amounts(batch),
            'flops': sum(step_flops(sizes, config.score, {s: t.length for s, t in batch.texts.items()}).values()),
        }
        return State(state.step + 1, params, opt_state, state.key), metrics

    return jax.jit(
        step,
        in_shardings=(shardings_of(like), mesh.rows(device_mesh)),
        out_shardings=(shardings_of(like), mesh.replicated(device_mesh)),
        donate_argnums=0,
    )


def _amounts(batch: Batch) -> Metrics:
    """The texts and tokens of the batch, the share of padding in what the encoder reads, and what did not fit."""
    texts = sum(jnp.sum(side.length > 0) for side in batch.texts.values())
    tokens = sum(jnp.sum(side.length) for side in batch.texts.values())
    padding = 1.0 - tokens / batch.rows.ids.size
    return {'texts': texts, 'tokens': tokens, 'padding': padding, 'left_out': jnp.sum(batch.left_out)}
