"""Training steps of this project, taken one by one."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from configs.uwe import get_config
from uwe_jax.data.graph import GRAPHS, SIDES, Dataset, open_dataset
from uwe_jax.data.loader import Batch, batches
from uwe_jax.data.plan import EMPTY, BatchPlan
from uwe_jax.distributed import mesh
from uwe_jax.models import pretrained
from uwe_jax.training.config import Config
from uwe_jax.training.optimizer import make_optimizer
from uwe_jax.training.state import abstract_state, first_state
from uwe_jax.training.step import make_step


def experiment(variant: str = '', **changes: Any) -> Config:
    """A variant of the paper's recipe, with some fields changed."""
    config = get_config(variant)
    config.update_from_flattened_dict(changes)
    return Config.of(config.to_dict())


class Training:
    """A run of the paper's recipe that the caller drives, on one device.

    Args:
      directory: of the base model.
      config: the experiment; its `data.dir` names the dataset.

    Attributes:
      config: the experiment.
      device_mesh: the device.
      plan: of the batches.
    """

    def __init__(self, directory: pathlib.Path, config: Config):
        self.device_mesh = mesh.make_mesh(devices=jax.devices()[:1])
        self.config, self._dataset = config, open_dataset(config.data.dir)
        self.plan = config.packed_plan(self._dataset, devices=1)
        graphdef, params = nnx.split(pretrained.abstract_encoder(directory, **dataclasses.asdict(config.model)))
        optimizer, schedule = make_optimizer(config.optimizer, config.steps)
        like = abstract_state(params, optimizer, self.device_mesh)
        self._state = first_state(pretrained.load_params(directory, params), optimizer, config.seed, like)
        self._take_step = make_step(
            graphdef,
            optimizer,
            schedule,
            config,
            self.plan.lengths,
            self.plan.chunks,
            self.device_mesh,
            like,
        )

    def batches(self, steps: int) -> Iterator[Batch]:
        """The batches of the first steps."""
        return batches(self._dataset, self.plan, mesh.rows(self.device_mesh), range(steps), 0)

    def step(self, batch: Batch) -> float:
        """Takes a step; returns the loss."""
        self._state, metrics = self._take_step(self._state, batch)
        return float(metrics['loss'])


class Texts:
    """The texts of a dataset's batches."""

    def __init__(self, dataset: Dataset):
        self._nodes = {side: [node['text'] for node in dataset.nodes(side)] for side in SIDES}

    def __call__(self, batch: BatchPlan) -> tuple[list[str], list[tuple[list[int], list[str]]]]:
        """The skills of a batch; for each graph, the places of skills that have a target, and the targets."""
        pairs = []
        for graph in GRAPHS:
            places = np.flatnonzero(batch.targets[graph].node != EMPTY)
            pairs.append((places.tolist(), self._of(graph, batch.targets[graph].node[places])))
        return self._of('skill', batch.skill), [(places, targets) for places, targets in pairs if places]

    def _of(self, side: str, nodes: Sequence[int]) -> list[str]:
        return [self._nodes[side][node] for node in nodes]
