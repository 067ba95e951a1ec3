"""The work of the service: batches of requests become encodings, rankings, scores and attention maps."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from uwe_jax.interaction import has_attention
from uwe_jax.ranking import AttentionMap, Hit, Ranker
from uwe_jax.serve.spaces import Space


@dataclasses.dataclass(frozen=True)
class Model:
    """A model and the target spaces, as it embeds them.

    Attributes:
      ranker: the model.
      spaces: by name.
    """

    ranker: Ranker
    spaces: Mapping[str, Space]

    def warm_up(self) -> Iterator[None]:
        """Compiles what exact ranking and looking at pairs need; yields after each program."""
        yield from self.ranker.warm_up()
        for space in self.spaces.values():
            yield from space.warm_up()
        if has_attention(self.ranker.pair_score):
            self.ranker.facing('target').attention('title', 'skill')
            yield


@dataclasses.dataclass(frozen=True)
class RankJob:
    """Queries for which the targets of a space are ranked; answered by hits for each."""

    model: Model
    space: str
    queries: Sequence[str]
    k: int
    shortlist: int | None


@dataclasses.dataclass(frozen=True)
class ScoreJob:
    """Pairs of texts to score, with the ranker that does; answered by a number for each."""

    ranker: Ranker
    queries: Sequence[str]
    targets: Sequence[str]


@dataclasses.dataclass(frozen=True)
class AttentionJob:
    """A pair of texts to look at; answered by its `AttentionMap`."""

    ranker: Ranker
    query: str
    target: str


Job: TypeAlias = RankJob | ScoreJob | AttentionJob
Answer: TypeAlias = Sequence[Sequence[Hit]] | Sequence[float] | AttentionMap


def answer(jobs: Sequence[Job]) -> list[Answer]:
    """Answers jobs, in order. The queries of all rankings by the same model are encoded together."""
    rankings: dict[int, list[RankJob]] = collections.defaultdict(list)
    for job in jobs:
        if isinstance(job, RankJob):
            rankings[id(job.model)].append(job)
    ranked = {id(job): hits for of_model in rankings.values() for job, hits in _rank(of_model)}
    return [ranked[id(job)] if isinstance(job, RankJob) else _answer(job) for job in jobs]


def _answer(job: ScoreJob | AttentionJob) -> Answer:
    if isinstance(job, ScoreJob):
        return job.ranker.score_pairs(job.queries, job.targets).tolist()
    return job.ranker.attention(job.query, job.target)


def _rank(jobs: Sequence[RankJob]) -> Iterator[tuple[RankJob, list[Sequence[Hit]]]]:
    """Yields the jobs, which are of one model, with their hits."""
    model = jobs[0].model
    place = {text: place for place, text in enumerate(dict.fromkeys(text for job in jobs for text in job.queries))}
    embedded = model.ranker.embed(list(place))
    alike: dict[tuple[str, int | None], list[RankJob]] = collections.defaultdict(list)
    for job in jobs:
        alike[job.space, job.shortlist].append(job)
    for (space, shortlist), of_space in alike.items():
        texts = list(dict.fromkeys(text for job in of_space for text in job.queries))
        queries = embedded[np.array([place[text] for text in texts])]
        hits = model.spaces[space].rank(queries, max(job.k for job in of_space), shortlist)
        of_text = dict(zip(texts, hits, strict=True))
        for job in of_space:
            yield job, [of_text[text][: job.k] for text in job.queries]
