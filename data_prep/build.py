"""The recipe: read, choose what is held out, look for leaks, tokenise, write shards, describe them."""

import dataclasses
import hashlib
import json
import logging
import pathlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import arg

from data_prep import check
from data_prep.lengths import choose_lengths, joined_with_distractors, summary
from data_prep.pairs import Nodes, Pairs, numbers
from data_prep.read import Read, read, skills_of
from data_prep.shards import node_parts, write_metadata, write_shards
from data_prep.split import HeldOut, hold_out
from data_prep.vacancies import Columns
from uwe_jax.data.graph import MANIFEST, MAX_TOKENS, NAME, BipartiteGraph
from uwe_jax.data.text import match_key
from uwe_jax.io.errors import DataError, writing
from uwe_jax.io.esco import ATTRIBUTION, Esco
from uwe_jax.io.files import checksums, sha256, whole_directory
from uwe_jax.io.repairs import Repairs
from uwe_jax.models import download
from uwe_jax.models.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


UNMATCHED = 'unmatched_skills.jsonl'  # skill names in the vacancies that are no skill's, or several skills'
TEXTS_PER_CALL = 10_000  # tokenised at a time: the tokenizer's own results are many times the size of the ids


@dataclasses.dataclass(frozen=True)
class Options:
    """ESCO, vacancies and synthetic titles to shards of pairs."""

    esco: pathlib.Path
    """The folder of an ESCO release's CSV files."""
    output: pathlib.Path
    """The directory to make."""
    vacancies: Annotated[tuple[str, ...], arg(metavar='GLOB')] = ()
    """CSV, JSONL or Parquet of vacancies, or of sentences, with skills. Without any sentences, those of the skills' own
    descriptions stand in for them."""
    columns: Columns = dataclasses.field(default_factory=Columns)
    synthetic: Annotated[tuple[str, ...], arg(metavar='GLOB')] = ()
    """JSONL of titles that enrich wrote."""
    evaluations: Annotated[tuple[str, ...], arg(name='eval', metavar=check.EVAL)] = ()
    """A set to look for among the pairs: CSV, JSONL or Parquet, with columns query and target (pairs), or query alone.
    FILE:QUERY or FILE:QUERY:TARGET names other columns."""
    drop_leaks: bool = False
    """Drop pairs that are in an --eval set, instead of refusing to make the dataset."""
    relations: Literal['all', 'essential'] = 'all'
    """Which of its skills an occupation is joined to."""
    held_out_occupations: float = 0.05
    """The share of occupations kept for evaluation, from 0 to below 1."""
    held_out_alternatives: float = 0.05
    """The share of the skills' alternative names kept for evaluation, from 0 to below 1."""
    seed: int = 0
    """Of the choice of what is held out."""
    tokenizer: str = download.BASE_MODEL
    """A directory or a Hub name."""

    def __post_init__(self):
        for name in ('held_out_occupations', 'held_out_alternatives'):
            if not 0 <= getattr(self, name) < 1:
                raise DataError(f'--{name}={getattr(self, name)}: expected a share, from 0 to below 1')
        if self.drop_leaks and not self.evaluations:
            raise DataError('--drop_leaks: expected an evaluation set, named by --eval')


def run(options: Options, command: str) -> None:
    """Makes a dataset; it appears under its name when it is complete.

    Args:
      options: what to read and to make.
      command: what the user typed, for the manifest.

    Raises:
      DataError: an input cannot be used, an evaluation set reaches training, or the output cannot be written; nothing
        is left behind.
    """
    start = time.perf_counter()
    if options.output.exists():
        raise DataError(f'{options.output}: already there; choose another --output or remove it')
    remedy = 'free some space or choose another --output'
    with writing(options.output, remedy), whole_directory(options.output) as directory:
        _build(options, command, directory, start)
    logger.info('%s is complete, %.0f s', options.output, _since(start))


def _build(options: Options, command: str, directory: pathlib.Path, start: float) -> None:
    repairs = Repairs()
    outside = [check.read_evaluation(argument) for argument in options.evaluations]
    given = read(options.esco, options.vacancies, options.columns, options.synthetic, options.relations, repairs)
    logger.info(
        'read %d skills and %d occupations, %.0f s', len(given.skills), len(given.esco.occupations), _since(start)
    )
    held_out = hold_out(
        {uri: list(occupation.labels) for uri, occupation in given.esco.occupations.items()},
        [name for skill in given.esco.skills.values() for name in skill.alternatives],
        given.skills,
        options.held_out_occupations,
        options.held_out_alternatives,
        options.seed,
    )
    graphs = {name: pairs.without(filter(held_out.forbids, pairs.targets)) for name, pairs in given.pairs.items()}
    forbidden = {name: len(given.pairs[name].skill) - len(pairs.skill) for name, pairs in graphs.items()}
    evaluations = {
        'job': _held_out_jobs(given.esco, numbers(given.skills), options.relations, held_out),
        'alternative': _held_out_alternatives(given.pairs['alternative'], held_out),
    }
    leaks = _find_leaks(given.skills, graphs, evaluations, outside)
    dropped = {}
    if options.drop_leaks:
        leaked = {name: check.leaked_edges(given.skills, pairs, leaks) for name, pairs in graphs.items()}
        dropped = {name: int(edges.sum()) for name, edges in leaked.items()}
        logger.info('pairs of evaluation sets, dropped: %s', dropped)
        graphs = {name: pairs.with_edges(~leaked[name]) for name, pairs in graphs.items()}
        leaks = _find_leaks(given.skills, graphs, evaluations, outside)
    for name in ('job', 'sentence'):
        if not len(graphs[name].skill):
            raise DataError(f'the {name} graph has no pair left; hold less out, or give more data')
    for line in check.report_text(leaks).splitlines():
        logger.info('%s', line)
    check.refuse_leaks(leaks)

    tokenizer = Tokenizer.from_pretrained(download.fetch(options.tokenizer))
    shards, tokens = _write_graphs(directory, given.skills, graphs, tokenizer, start)
    sides = {'skill': given.skills} | {name: pairs.targets for name, pairs in graphs.items()}
    for side, nodes in sides.items():
        _write_lines(directory / 'nodes' / f'{side}.jsonl', ({'text': t, 'ids': i} for t, i in nodes.items()))
    for name, lines in evaluations.items():
        _write_lines(directory / 'eval' / f'{name}.jsonl', lines)
    if unmatched := given.names.unmatched():
        _write_lines(directory / UNMATCHED, unmatched)

    lengths = choose_lengths(tokens)
    likelihood = {side: np.bincount(count, minlength=1) for side, count in tokens.items()}
    likelihood['sentence'] = joined_with_distractors(tokens['sentence'])
    manifest = {
        'format': 1,
        'name': NAME,
        'counts': {
            'skills': len(given.skills),
            **{
                name: {
                    'pairs': len(pairs.skill),
                    'targets': len(pairs.targets),
                    'shards': len(shards[name]),
                    'repeated_pairs': given.repeated[name],
                }
                for name, pairs in graphs.items()
            },
        },
        'lengths': lengths,
        'tokens': {side: summary(likelihood[side], length) for side, length in lengths.items() if len(sides[side])},
        'tokenizer': {'name': options.tokenizer, 'fingerprint': tokenizer.fingerprint},
        'sources': _sources(options, given),
        'attribution': ATTRIBUTION,
        'relations': options.relations,
        'held_out': {
            'seed': options.seed,
            'occupations': {'share': options.held_out_occupations, 'count': len(held_out.occupations)},
            'alternatives': {'share': options.held_out_alternatives, 'count': len(held_out.alternatives)},
            'queries': {name: len(lines) for name, lines in evaluations.items()},
            'pairs_dropped': forbidden,
        },
        'leaks': {'pairs_dropped': dropped, 'sets': check.summary(leaks)},
        'skill_names': {
            'matched': given.names.matched,
            'unknown': _tally(unmatched, ambiguous=False),
            'ambiguous': _tally(unmatched, ambiguous=True),
        },
        'repairs': repairs.summary(),
        'command': command,
    }
    _write_manifest(directory, manifest)
    for kind, repair in manifest['repairs'].items():
        logger.info('%s: %d', kind, repair['count'])
    for kind in ('unknown', 'ambiguous'):
        if count := manifest['skill_names'][kind]['count']:
            logger.info('%s skill names: %d, see %s', kind, count, UNMATCHED)


def _find_leaks(
    skills: Nodes,
    graphs: Mapping[str, Pairs],
    held_out: Mapping[str, list[dict[str, Any]]],
    outside: Sequence[check.Evaluation],
) -> list[check.Leaks]:
    """Looks for what is held out, and for the outside sets, among the pairs."""
    sides = {'skill': skills} | {name: pairs.targets for name, pairs in graphs.items()}
    edges = {name: (pairs.skill, pairs.target) for name, pairs in graphs.items()}
    own = [check.held_out_evaluation(name, lines, list(skills)) for name, lines in held_out.items() if lines]
    return check.find_leaks(sides, edges, [*own, *outside])


def _write_graphs(
    directory: pathlib.Path, skills: Nodes, graphs: Mapping[str, Pairs], tokenizer: Tokenizer, start: float
) -> tuple[dict[str, list[int]], dict[str, np.ndarray]]:
    """Writes shards, their metadata and the CSR arrays, one graph after the other.

    Returns:
      The records of each shard by graph, and the tokens of each text by side.
    """
    ids = _encoded(tokenizer, list(skills))
    skill_parts = node_parts('skill', list(skills), ids)
    tokens, shards = {'skill': _lengths(ids)}, {}
    for name, pairs in graphs.items():
        ids = _encoded(tokenizer, list(pairs.targets))
        tokens[name] = _lengths(ids)
        target_parts = node_parts('target', list(pairs.targets), ids)
        del ids  # which are in the parts too
        logger.info('tokenised %d texts of the %s graph, %.0f s', len(target_parts), name, _since(start))
        shards[name] = write_shards(directory, name, pairs, skill_parts, target_parts)
        graph = BipartiteGraph.from_edges(pairs.skill, pairs.target, len(skills), tokens[name])
        graph.save(directory / 'graph' / name)
        logger.info('wrote %d pairs of the %s graph, %.0f s', graph.edges, name, _since(start))
    (directory / 'graph' / 'skill').mkdir()
    np.save(directory / 'graph' / 'skill' / 'length.npy', tokens['skill'])
    write_metadata(directory, shards, f'Skills joined to job titles, sentences and other names. {ATTRIBUTION}')
    return shards, tokens


def _encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """Token ids of each text, a part of them at a time."""
    parts = (texts[first : first + TEXTS_PER_CALL] for first in range(0, len(texts), TEXTS_PER_CALL))
    return [ids for part in parts for ids in tokenizer.encode(part, MAX_TOKENS)]


def _lengths(ids: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([len(text) for text in ids], np.int32)


def _tally(unmatched: Sequence[Mapping[str, Any]], ambiguous: bool) -> dict[str, Any]:
    """How often names without a skill, or with several, were met; with the most frequent ones."""
    own = [miss for miss in unmatched if bool(miss['could_mean']) == ambiguous]
    return {
        'count': sum(miss['count'] for miss in own),
        'distinct': len(own),
        'examples': [miss['name'] for miss in own[: check.EXAMPLES]],
    }


def _held_out_jobs(esco: Esco, number: Mapping[str, int], relations: str, held_out: HeldOut) -> list[dict[str, Any]]:
    """The held-out occupations' preferred titles with their own skills; equal titles are one query."""
    skills: dict[str, set[int]] = {}
    for uri, occupation in esco.occupations.items():
        if uri in held_out.occupations:
            skills.setdefault(occupation.label, set()).update(skills_of(esco, uri, number, relations))
    return [{'text': title, 'skills': sorted(own)} for title, own in skills.items() if own]


def _held_out_alternatives(pairs: Pairs, held_out: HeldOut) -> list[dict[str, Any]]:
    """The held-out alternative names with the skills that they name."""
    texts = list(pairs.targets)
    wanted = np.array([match_key(text) in held_out.alternatives for text in texts], bool)
    skills: dict[int, list[int]] = {}
    for edge in np.flatnonzero(wanted[pairs.target]):
        skills.setdefault(int(pairs.target[edge]), []).append(int(pairs.skill[edge]))
    return [{'text': texts[target], 'skills': own} for target, own in sorted(skills.items())]


def _sources(options: Options, given: Read) -> list[dict[str, Any]]:
    version = re.search(r'\d+\.\d+(\.\d+)?', options.esco.name)  # the portal's files do not say it
    sources: list[dict[str, Any]] = [
        {
            'name': 'ESCO',
            'version': version[0] if version else 'unknown',
            'language': 'en',
            'files': checksums(given.esco.files),
        }
    ]
    if given.stand_in:
        sources.append({'name': 'sentences', 'from': "the skills' own descriptions, for want of vacancy sentences"})
    if given.vacancies:
        sources.append({'name': 'vacancies', 'columns': options.columns.names(), 'files': checksums(given.vacancies)})
    if given.synthetic:
        sources.append({'name': 'synthetic titles', 'files': checksums(given.synthetic)})
    return sources


def _write_lines(path: pathlib.Path, lines) -> None:
    path.parent.mkdir(exist_ok=True)
    with open(path, 'w', encoding='utf-8') as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + '\n' for line in lines)


def _write_manifest(directory: pathlib.Path, manifest: dict[str, Any]) -> None:
    """Adds every file's size and checksum, and the fingerprint of them all."""
    paths = sorted(path for path in directory.rglob('*') if path.is_file())
    files = {str(p.relative_to(directory)): {'bytes': p.stat().st_size, 'sha256': sha256(p)} for p in paths}
    fingerprint = fingerprint_of(files, manifest['lengths'])
    content = {'fingerprint': fingerprint, **manifest, 'files': files}
    (directory / MANIFEST).write_text(json.dumps(content, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')


def fingerprint_of(files: Mapping[str, Mapping[str, Any]], lengths: Mapping[str, int]) -> str:
    """Identifies a dataset's contents by its files' checksums and its padded lengths."""
    named = {name: file['sha256'] for name, file in files.items()}
    return hashlib.sha256(json.dumps([named, lengths], sort_keys=True).encode()).hexdigest()


def _since(start: float) -> float:
    return time.perf_counter() - start
