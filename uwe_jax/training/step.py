"""One optimizer step: encode all sides, let skills and targets interact, take the loss, update."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from uwe_jax.data.graph import GRAPHS, SIDES
from uwe_jax.data.loader import Batch
from uwe_jax.distributed import mesh
from uwe_jax.interaction import has_attention, late_interaction, mean_entropy
from uwe_jax.loss import many_to_many_info_nce
from uwe_jax.training.config import Config
from uwe_jax.training.flops import step_flops
from uwe_jax.training.state import State

Metrics = Mapping[str, Any]


def make_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    config: Config,
    device_mesh: Mesh,
    shardings: State,
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """Makes the update, compiled; it donates the state that it takes.

    Args:
      graphdef: the encoder without its parameters.
      optimizer: updates the parameters.
      schedule: the learning rate that the optimizer uses, to report it.
      config: see `configs/uwe.py`.
      device_mesh: the batch's rows are split over it.
      shardings: of the state.

    Returns:
      A function from a state and a batch to the next state and the step's metrics: scalars by name, on the devices.
    """

    def loss_of_batch(params: dict[str, Any], batch: Batch, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        encoder = nnx.merge(graphdef, params)
        embeddings = {}
        for number, side in enumerate(SIDES):
            with jax.named_scope('encoder'):
                dropout_key = jax.random.fold_in(key, number) if config.model.dropout > 0 else None
                tokens = encoder(batch.texts[side].ids, batch.texts[side].length, dropout_key=dropout_key)  # [B, L, d]
                tokens = jax.lax.with_sharding_constraint(tokens, mesh.rows(device_mesh))
                embeddings[side] = tokens.astype(config.interaction.dtype)

        loss, metrics = jnp.zeros(()), {}
        skill, skill_length = embeddings['skill'], batch.texts['skill'].length
        for graph in GRAPHS:
            target, target_length = embeddings[graph], batch.texts[graph].length
            pairs = skill, skill_length, target, target_length
            with jax.named_scope('interaction'):
                s_qy, s_yq = late_interaction(
                    *pairs,
                    config.score,
                    form=config.interaction.form,
                    exchange=config.interaction.exchange,
                    block_entries=config.interaction.block_entries,
                    mesh=device_mesh,
                )
            with jax.named_scope('loss'):
                directions = many_to_many_info_nce(
                    s_qy,
                    s_yq,
                    batch.edges[graph],
                    skill_length > 0,
                    target_length > 0,
                    config.loss.temperature[graph],
                    config.loss,
                )
            for direction, values in directions.items():
                loss += config.loss.weight[graph] * values.loss
                metrics |= {f'{graph}/{direction}/{name}': value for name, value in values._asdict().items()}
            metrics[f'{graph}/filled'] = jnp.mean(target_length > 0, dtype=jnp.float32)
            if has_attention(config.score):
                with jax.named_scope('interaction'):
                    metrics[f'{graph}/entropy'] = mean_entropy(*jax.lax.stop_gradient(pairs), config.score)
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
        in_shardings=(shardings, mesh.rows(device_mesh)),
        out_shardings=(shardings, mesh.replicated(device_mesh)),
        donate_argnums=0,
    )


def _amounts(batch: Batch) -> Metrics:
    """The texts and tokens of the batch, and the share of padding in what the encoder reads."""
    texts = sum(jnp.sum(side.length > 0) for side in batch.texts.values())
    tokens = sum(jnp.sum(side.length) for side in batch.texts.values())
    padded = sum(side.ids.size for side in batch.texts.values())
    return {'texts': texts, 'tokens': tokens, 'padding': 1.0 - tokens / padded}
