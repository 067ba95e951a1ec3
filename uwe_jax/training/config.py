"""The experiment as a typed value, checked as a whole before any work is done for it.

`configs/uwe.py` says what each field means and where its value comes from; this module defines which values it may
have.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from uwe_jax.data.graph import GRAPHS, MAX_TOKENS, SIDES, Dataset
from uwe_jax.data.packed_plan import PackedPlan, choose_lengths
from uwe_jax.data.plan import Plan
from uwe_jax.interaction import EXCHANGES, FORMS, Score
from uwe_jax.io.paths import in_bucket
from uwe_jax.loss import InfoNCE


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a field may be beyond its type: in words, and as a condition."""

    words: str
    holds: Callable[[Any], bool]


def one_of(names: Iterable[str]) -> Expected:
    """One of a few words."""
    return Expected(f'one of {", ".join(names)}', lambda value: value in names)


Count = Annotated[int, Expected('a whole number above 0', lambda value: value > 0)]
CountOrZero = Annotated[int, Expected('a whole number, 0 or above', lambda value: value >= 0)]
Positive = Annotated[float, Expected('a finite number above 0', lambda value: 0 < value < math.inf)]
PositiveOrZero = Annotated[float, Expected('a finite number, 0 or above', lambda value: 0 <= value < math.inf)]
Probability = Annotated[float, Expected('a number from 0 to 1', lambda value: 0 <= value <= 1)]
BelowOne = Annotated[float, Expected('a number from 0 to below 1', lambda value: 0 <= value < 1)]
Tokens = Annotated[int, Expected(f'0, or 3 to {MAX_TOKENS}', lambda value: value == 0 or 3 <= value <= MAX_TOKENS)]
Dtype = Literal['float32', 'bfloat16']


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The encoder."""

    dtype: Dtype
    dropout: BelowOne
    layers: Annotated[int | None, Expected('a whole number above 0, or none', lambda value: value is None or value > 0)]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The dataset and its batches."""

    dir: str | None
    batch_size: Count
    distractor_probability: Probability
    length: Annotated[Mapping[str, Tokens], SIDES]


@dataclasses.dataclass(frozen=True)
class InteractionConfig:
    """How late interaction is computed; what it computes is the `Score`."""

    dtype: Dtype
    form: Annotated[str, one_of(FORMS)]
    exchange: Annotated[str, one_of(EXCHANGES)]
    block_entries: CountOrZero


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig(InfoNCE):
    """The choices of InfoNCE, with a weight and a temperature for each graph."""

    weight: Annotated[Mapping[str, PositiveOrZero], GRAPHS] = dataclasses.field(hash=False)
    temperature: Annotated[Mapping[str, Positive], GRAPHS] = dataclasses.field(hash=False)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule."""

    peak_lr: Positive
    warmup: BelowOne
    decay: Literal['linear', 'cosine', 'constant']
    weight_decay: PositiveOrZero
    clip: Annotated[float, Expected('a number above 0, or inf: no clipping', lambda value: value > 0)]
    max_skips: CountOrZero
    b1: BelowOne
    b2: BelowOne


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices lie along each axis of the mesh."""

    data: Annotated[int, Expected('a whole number above 0, or -1', lambda value: value > 0 or value == -1)]
    fsdp: Count


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What is done how often, and what is kept."""

    log_every: Count
    evaluate_every: CountOrZero
    evaluate_queries: Count
    save_every: Count
    keep: Count
    stall_timeout: Count
    prefetch: CountOrZero
    rows_at_once: CountOrZero
    profile_first: CountOrZero
    profile_steps: Count


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment. `Config.of(get_config().to_dict())` makes it; `dataclasses.asdict` gives the fields back."""

    seed: CountOrZero
    steps: Count
    init: str
    model: ModelConfig
    data: DataConfig
    score: Score
    interaction: InteractionConfig
    loss: LossConfig
    optimizer: OptimizerConfig
    mesh: MeshConfig
    run: RunConfig

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> 'Config':
        """Makes the experiment of nested fields; a relative `data.dir` becomes absolute, and so does an
        `init` that is a directory.

        Raises:
          ValueError: a field is missing, unknown, or not as expected; the message names it and its value.
        """
        config = _typed(cls, fields, '')
        if pathlib.Path(config.init).is_dir():
            config = dataclasses.replace(config, init=str(pathlib.Path(config.init).absolute()))
        if config.data.dir is None or in_bucket(config.data.dir):
            return config
        directory = str(pathlib.Path(config.data.dir).absolute())
        return dataclasses.replace(config, data=dataclasses.replace(config.data, dir=directory))

    def packed_plan(self, dataset: Dataset, devices: int) -> PackedPlan:
        """The batches of this experiment and how they lie on so many devices.

        Raises:
          ValueError: the batch has more skills than the dataset, or `data.length` has a length that texts cannot have.
        """
        plan = Plan(
            dataset.graphs,
            batch_size=self.data.batch_size,
            seed=self.seed,
            distractor_probability=self.data.distractor_probability,
        )
        lengths = choose_lengths(dataset.manifest['lengths'], self.data.length)
        return PackedPlan(plan, dataset, lengths, devices, self.run.rows_at_once)


def _typed(kind: Any, value: Any, name: str, expected: Expected | None = None) -> Any:
    """The value of a field as its type says; raises ValueError, with the field's full name, where it is not."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return kind(**_parts({field.name: field.type for field in dataclasses.fields(kind)}, value, name))
    if get_origin(kind) is Annotated:
        kind, condition = get_args(kind)
        if get_origin(kind) is Mapping:
            return _parts(dict.fromkeys(condition, get_args(kind)[1]), value, name)
        return _typed(kind, value, name, condition)
    if get_origin(kind) is Literal:
        kind, expected = str, one_of(get_args(kind))
    if kind is float and type(value) is int:
        value = float(value)
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not fits or (expected and not expected.holds(value)):
        words = {int: 'a whole number', float: 'a number', bool: 'True or False'}.get(kind, 'a text')
        raise ValueError(f'{name}: {value!r}, expected {expected.words if expected else words}')
    return value


def _parts(kinds: Mapping[str, Any], value: Any, name: str) -> dict[str, Any]:
    """The fields of one level, of which each must be there and no other."""
    prefix = f'{name}.' if name else ''
    if not isinstance(value, Mapping):
        raise ValueError(f'{name}: {value!r}, expected the fields {", ".join(kinds)}')
    if missing := [part for part in kinds if part not in value]:
        raise ValueError(f'{prefix}{missing[0]}: missing, expected as in configs/uwe.py')
    if unknown := [part for part in value if part not in kinds]:
        raise ValueError(f'{prefix}{unknown[0]}: {value[unknown[0]]!r}, an unknown field; expected {", ".join(kinds)}')
    return {part: _typed(kind, value[part], prefix + part) for part, kind in kinds.items()}
