"""The recipe of `build`: read, hold out, look for leaks, tokenise, write shards, describe them."""

import json
import logging
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.build.lengths import choose_lengths, joined_with_distractors, summary
from data_prep.build.manifest import describe_names, describe_sources, write_manifest
from data_prep.build.options import Options
from data_prep.build.shards import node_parts, write_metadata, write_shards
from data_prep.build.sources import Sources, read_sources, skills_of
from data_prep.build.split import HeldOut, hold_out
from data_prep.check import report
from data_prep.check.evaluations import Evaluation, held_out_evaluation, read_evaluation
from data_prep.check.leaks import Leaks, find_leaks, leaked_edges
from data_prep.pairs import Nodes, Pairs, numbers
from uwe_jax.data.graph import MANIFEST, MAX_TOKENS, NAME, BipartiteGraph
from uwe_jax.data.text import match_key
from uwe_jax.io.console import Progress
from uwe_jax.io.errors import DataError, writing
from uwe_jax.io.esco import ATTRIBUTION
from uwe_jax.io.files import check_absent, whole_directory
from uwe_jax.io.repairs import Repairs
from uwe_jax.models.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

UNMATCHED = 'unmatched_skills.jsonl'  # skill names in the vacancies that mean no skill, or several
TEXTS_PER_CALL = 10_000  # tokenised together: the tokenizer's results take many times the memory of the ids

Lines = list[dict[str, Any]]  # of a JSONL file


def build(options: Options, command: str) -> None:
    """Makes a dataset; arguments and errors as for `data_prep.build.run`."""
    check_absent(options.output, last=MANIFEST)
    remedy = 'free some space or choose another --output'
    with writing(options.output, remedy), whole_directory(options.output, last=MANIFEST) as directory:
        _fill(directory, options, command)
    logger.info('%s is complete', options.output)


def _fill(directory: pathlib.Path, options: Options, command: str) -> None:
    repairs = Repairs()
    outside = [read_evaluation(argument) for argument in options.evaluations]
    sources = read_sources(options, repairs)
    logger.info('read %d skills and %d occupations', len(sources.skills), len(sources.esco.occupations))

    held_out = _hold_out(sources, options)
    evaluations = {
        'job': _held_out_titles(sources, held_out, options.relations),
        'alternative': _held_out_alternatives(sources.pairs['alternative'], held_out),
    }
    graphs = {name: pairs.without(filter(held_out.forbids, pairs.targets)) for name, pairs in sources.pairs.items()}
    forbidden = {name: len(sources.pairs[name].skill) - len(pairs.skill) for name, pairs in graphs.items()}

    leaks = _find_leaks(sources.skills, graphs, evaluations, outside)
    dropped = {}
    if options.drop_leaks:
        leaked = {name: leaked_edges(sources.skills, pairs, leaks) for name, pairs in graphs.items()}
        dropped = {name: int(edges.sum()) for name, edges in leaked.items()}
        logger.info('dropped pairs of evaluation sets: %s', dropped)
        graphs = {name: pairs.with_edges(~leaked[name]) for name, pairs in graphs.items()}
        leaks = _find_leaks(sources.skills, graphs, evaluations, outside)
    for name in ('job', 'sentence'):
        if not len(graphs[name].skill):
            raise DataError(f'the {name} graph has no pair left; hold out less, or give more data')
    for line in report.text(leaks).splitlines():
        logger.info('%s', line)
    report.refuse_leaks(leaks)

    shards, tokens = _write_graphs(directory, sources.skills, graphs, sources.tokenizer)
    sides = {'skill': sources.skills} | {name: pairs.targets for name, pairs in graphs.items()}
    for side, nodes in sides.items():
        _write_lines(directory / 'nodes' / f'{side}.jsonl', ({'text': t, 'ids': i} for t, i in nodes.items()))
    for name, lines in evaluations.items():
        _write_lines(directory / 'eval' / f'{name}.jsonl', lines)
    if unmatched := sources.names.unmatched():
        _write_lines(directory / UNMATCHED, unmatched)

    lengths = choose_lengths(tokens)
    likelihood = {side: np.bincount(count, minlength=1) for side, count in tokens.items()}
    likelihood['sentence'] = joined_with_distractors(tokens['sentence'])
    manifest = {
        'format': 1,
        'name': NAME,
        'counts': {
            'skills': len(sources.skills),
            **{
                name: {
                    'pairs': len(pairs.skill),
                    'targets': len(pairs.targets),
                    'shards': len(shards[name]),
                    'repeated_pairs': sources.repeated[name],
                }
                for name, pairs in graphs.items()
            },
        },
        'lengths': lengths,
        'tokens': {side: summary(likelihood[side], length) for side, length in lengths.items() if len(sides[side])},
        'tokenizer': {'name': options.tokenizer, 'fingerprint': sources.tokenizer.fingerprint},
        'sources': describe_sources(options, sources),
        'attribution': ATTRIBUTION,
        'relations': options.relations,
        'held_out': {
            'seed': options.seed,
            'occupations': {'share': options.held_out_occupations, 'count': len(held_out.occupations)},
            'alternatives': {'share': options.held_out_alternatives, 'count': len(held_out.alternatives)},
            'queries': {name: len(lines) for name, lines in evaluations.items()},
            'pairs_dropped': forbidden,
        },
        'leaks': {'pairs_dropped': dropped, 'sets': report.summary(leaks)},
        'skill_names': describe_names(sources.names, unmatched),
        'repairs': repairs.summary(),
        'command': command,
    }
    write_manifest(directory, manifest)
    if counts := [repair['count'] for repair in manifest['repairs'].values()]:
        logger.info(
            'repaired or dropped: %d texts and pairs of %d kinds, counted in manifest.json', sum(counts), len(counts)
        )
    for kind in ('unknown', 'ambiguous'):
        if count := manifest['skill_names'][kind]['count']:
            logger.info('%s skill names: %d, see %s', kind, count, UNMATCHED)


def _hold_out(sources: Sources, options: Options) -> HeldOut:
    return hold_out(
        {uri: occupation.labels for uri, occupation in sources.esco.occupations.items()},
        [name for skill in sources.esco.skills.values() for name in skill.alternatives],
        sources.skills,
        options.held_out_occupations,
        options.held_out_alternatives,
        options.seed,
    )


def _held_out_titles(sources: Sources, held_out: HeldOut, relations: str) -> Lines:
    """The held-out occupations' preferred titles with their skills; equal titles are one query."""
    number = numbers(sources.skills)
    skills: dict[str, set[int]] = {}
    for uri, occupation in sources.esco.occupations.items():
        if uri in held_out.occupations:
            skills.setdefault(occupation.label, set()).update(skills_of(sources.esco, uri, number, relations))
    return [{'text': title, 'skills': sorted(nodes)} for title, nodes in skills.items() if nodes]


def _held_out_alternatives(pairs: Pairs, held_out: HeldOut) -> Lines:
    """The held-out alternative names with the skills that they name."""
    texts = list(pairs.targets)
    wanted = np.array([match_key(text) in held_out.alternatives for text in texts], bool)
    skills: dict[int, list[int]] = {}
    for edge in np.flatnonzero(wanted[pairs.target]):
        skills.setdefault(int(pairs.target[edge]), []).append(int(pairs.skill[edge]))
    return [{'text': texts[target], 'skills': nodes} for target, nodes in sorted(skills.items())]


def _find_leaks(
    skills: Nodes, graphs: Mapping[str, Pairs], held_out: Mapping[str, Lines], outside: Sequence[Evaluation]
) -> list[Leaks]:
    """Looks for what is held out, and for the outside sets, among the pairs."""
    sides = {'skill': skills} | {name: pairs.targets for name, pairs in graphs.items()}
    edges = {name: (pairs.skill, pairs.target) for name, pairs in graphs.items()}
    inside = [held_out_evaluation(name, lines, list(skills)) for name, lines in held_out.items() if lines]
    return find_leaks(sides, edges, [*inside, *outside])


def _write_graphs(
    directory: pathlib.Path, skills: Nodes, graphs: Mapping[str, Pairs], tokenizer: Tokenizer
) -> tuple[dict[str, list[int]], dict[str, np.ndarray]]:
    """Writes shards, their metadata and the CSR arrays, one graph after the other.

    Returns:
      By graph, the records of each shard; and by side, [texts] int32, the tokens of each text.
    """
    ids = _tokenised('skill', skills, tokenizer)
    skill_parts = node_parts('skill', list(skills), ids)
    tokens, shards = {'skill': _lengths(ids)}, {}
    for name, pairs in graphs.items():
        ids = _tokenised(name, pairs.targets, tokenizer)
        tokens[name] = _lengths(ids)
        target_parts = node_parts('target', list(pairs.targets), ids)
        del ids  # the parts contain them
        shards[name] = write_shards(directory, name, pairs, skill_parts, target_parts)
        graph = BipartiteGraph.from_edges(pairs.skill, pairs.target, len(skills), tokens[name])
        graph.save(directory / 'graph' / name)
        logger.info('wrote %d pairs of the %s graph, with %d texts', graph.edges, name, len(target_parts))
    (directory / 'graph' / 'skill').mkdir()
    np.save(directory / 'graph' / 'skill' / 'length.npy', tokens['skill'])
    write_metadata(directory, shards, f'Skills joined to job titles, sentences and other names. {ATTRIBUTION}')
    return shards, tokens


def _tokenised(side: str, nodes: Nodes, tokenizer: Tokenizer) -> list[np.ndarray]:
    """The token ids of each text."""
    texts, ids = list(nodes), []
    with Progress(f'tokenising {side}', len(texts), 'texts') as progress:
        for first in range(0, len(texts), TEXTS_PER_CALL):
            part = texts[first : first + TEXTS_PER_CALL]
            ids += tokenizer.encode(part, MAX_TOKENS)
            progress.advance(len(part))
    return ids


def _lengths(ids: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([len(text) for text in ids], np.int32)


def _write_lines(path: pathlib.Path, lines: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with open(path, 'w', encoding='utf-8') as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + '\n' for line in lines)
