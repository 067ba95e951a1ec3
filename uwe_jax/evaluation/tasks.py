"""Ranking tasks: queries, a target space, and which targets are right for which query."""

import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence

import numpy as np

from uwe_jax.data.graph import Dataset
from uwe_jax.interaction import Side


@dataclasses.dataclass(frozen=True)
class RankingTask:
    """One task.

    Attributes:
      name: its name in reports.
      queries: the queries' texts.
      targets: the target space.
      positives: for each query, the indices of its right targets; never empty.
      title: one line that says what is ranked.
      expected: the published numbers of queries and targets; None if there are none.
      note: what else a report should say.
      skills: the side whose texts are skills, which a score with `attend='from_skill'` has to know. Where neither side
        or both are, it is `target`: the texts to choose from, such as canonical names.

    Raises:
      ValueError: there is no query, a text is blank or not a string, a target is repeated, a query has no positive, or
        a positive lies outside the target space.
    """

    name: str
    queries: Sequence[str]
    targets: Sequence[str]
    positives: Sequence[Sequence[int]]
    title: str = ''
    expected: tuple[int, int] | None = None
    note: str = ''
    skills: Side = 'target'

    def __post_init__(self):
        if not self.queries or len(self.queries) != len(self.positives):
            raise ValueError(
                f'task {self.name}: {len(self.queries)} queries and {len(self.positives)} lists of positives, '
                'expected equal numbers, at least one'
            )
        for kind, texts in (('query', self.queries), ('target', self.targets)):
            for number, text in enumerate(texts):
                if not isinstance(text, str) or not text.strip():
                    raise ValueError(f'task {self.name}: {kind} {number} is {text!r}, expected a text')
        if len(set(self.targets)) < len(self.targets):
            [(twice, count)] = collections.Counter(self.targets).most_common(1)
            raise ValueError(f'task {self.name}: target {twice!r} appears {count} times in the target space')
        for query, positives in zip(self.queries, self.positives, strict=True):
            if not positives:
                raise ValueError(f'task {self.name}: query {query!r} has no right target')
            if not all(0 <= target < len(self.targets) for target in positives):
                raise ValueError(
                    f'task {self.name}: query {query!r} has a right target outside the {len(self.targets)} targets'
                )

    @property
    def fingerprint(self) -> str:
        """Identifies the queries, the targets, and which are right."""
        content = [list(self.queries), list(self.targets), [sorted(map(int, right)) for right in self.positives]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def joined(name: str, pairs: Iterable[tuple[str, str]], targets: Sequence[str], skills: Side = 'target') -> RankingTask:
    """A task from (query, target) pairs. Pairs with equal queries are merged; those with unknown targets are dropped.

    Raises:
      ValueError: no pair is left.
    """
    number = {target: n for n, target in enumerate(targets)}
    positives: dict[str, dict[int, None]] = {}
    for query, target in pairs:
        if target in number:
            positives.setdefault(query, {})[number[target]] = None
    return RankingTask(name, list(positives), targets, [list(right) for right in positives.values()], skills=skills)


def held_out_tasks(dataset: Dataset) -> list[RankingTask]:
    """The dataset's held-out texts as tasks, in both directions.

    All skills of the dataset are ranked for a held-out title or alternative. For a skill, only the held-out texts of
    one kind are ranked: a smaller target space, and so an easier task, than WorkBench's.
    """
    skills = [node['text'] for node in dataset.nodes('skill')]
    forward, backward = [], []
    for graph in ('job', 'alternative'):
        held_out = dataset.held_out(graph)
        if not held_out:
            continue
        texts = [line['text'] for line in held_out]
        forward.append(RankingTask(f'{graph}_to_skill', texts, skills, [line['skills'] for line in held_out]))
        texts_of_skill: dict[int, list[int]] = {}
        for text, line in enumerate(held_out):
            for skill in line['skills']:
                texts_of_skill.setdefault(skill, []).append(text)
        queries = sorted(texts_of_skill)
        positives = [texts_of_skill[skill] for skill in queries]
        names = [skills[skill] for skill in queries]
        backward.append(RankingTask(f'skill_to_{graph}', names, texts, positives, skills='query'))
    return forward + backward


def sampled(task: RankingTask, queries: int, seed: int) -> RankingTask:
    """The task with at most `queries` of its queries, drawn at random and kept in order, and all of its targets."""
    if queries >= len(task.queries):
        return task
    chosen = sorted(np.random.default_rng(seed).choice(len(task.queries), queries, replace=False).tolist())
    return dataclasses.replace(
        task, queries=[task.queries[n] for n in chosen], positives=[task.positives[n] for n in chosen]
    )
