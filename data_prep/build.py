"""The recipe: read, choose what is held out, tokenise, write shards, describe them."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging

from data_prep.esco import Concept, Esco, read_esco, titles
from data_prep.lengths import choose_lengths, joined_with_distractors, summary
from data_prep.pairs import Nodes, Pairs, add_id, numbers
from data_prep.sentences import Row, read_sentences, sentences_of_descriptions
from data_prep.shards import node_parts, write_metadata, write_shards
from data_prep.split import HeldOut, hold_out
from data_prep.tables import DataError, Repairs
from uwe_jax import hub
from uwe_jax.data.graph import GRAPHS, MANIFEST, MAX_TOKENS, NAME, BipartiteGraph, sha256
from uwe_jax.data.text import match_key

ATTRIBUTION = 'This service uses the ESCO classification of the European Commission.'


@dataclasses.dataclass(frozen=True)
class Options:
    """What can be chosen.

    Attributes:
      esco: the folder of an ESCO release.
      output: the directory to make.
      sentences: a CSV or JSONL file of sentences with their skills; None takes the skills' descriptions.
      relations: `all`, or `essential` ones alone.
      held_out_occupations, held_out_alternatives: shares, from 0 to below 1.
      seed: of what is held out.
      tokenizer: a directory or a Hub name.
      command: what the user typed, for the manifest.
    """

    esco: pathlib.Path
    output: pathlib.Path
    sentences: pathlib.Path | None
    relations: str
    held_out_occupations: float
    held_out_alternatives: float
    seed: int
    tokenizer: str
    command: str

    def __post_init__(self):
        for name in ('held_out_occupations', 'held_out_alternatives'):
            if not 0 <= getattr(self, name) < 1:
                raise DataError(f'--{name}={getattr(self, name)}: expected a share, from 0 to below 1')


def build(options: Options) -> None:
    """Makes a dataset; it appears under its name when it is complete.

    Raises:
      DataError: an input cannot be used, or the output cannot be written; nothing is left behind.
    """
    start = time.perf_counter()
    if options.output.exists():
        raise DataError(f'{options.output}: already there; choose another --output or remove it')
    repairs = Repairs()
    esco = read_esco(options.esco, repairs)
    skills: Nodes = {}
    for skill in esco.skills.values():
        add_id(skills, skill.label, skill.uri)
    number = numbers(skills)
    everything = {
        'job': Pairs.from_rows(_job_rows(esco, number, options.relations)),
        'sentence': Pairs.from_rows(_sentence_rows(options, esco, number, repairs)),
        'alternative': Pairs.from_rows(_alternative_rows(esco.skills, number, repairs)),
    }
    held_out = hold_out(
        {uri: list(titles(occupation)) for uri, occupation in esco.occupations.items()},
        [name for skill in esco.skills.values() for name in skill.alternatives],
        skills,
        options.held_out_occupations,
        options.held_out_alternatives,
        options.seed,
    )
    graphs = {name: pairs.without(filter(held_out.forbids, pairs.targets)) for name, pairs in everything.items()}
    for name in ('job', 'sentence'):
        if not len(graphs[name].skill):
            raise DataError(f'the {name} graph has no pair left; hold less out, or give more data')
    evaluations = {
        'job': _held_out_jobs(esco, number, options.relations, held_out),
        'alternative': _held_out_alternatives(everything['alternative'], held_out),
    }
    sides = {'skill': skills} | {name: pairs.targets for name, pairs in graphs.items()}
    logging.info('read %d skills and %d occupations, %.0f s', len(skills), len(esco.occupations), _since(start))

    tokenizer = hub.Tokenizer.from_pretrained(hub.fetch(options.tokenizer))
    with _appearing_when_complete(options.output) as directory:
        ids = {side: tokenizer.encode(list(nodes), MAX_TOKENS) for side, nodes in sides.items()}
        tokens = {side: np.array([len(text) for text in own], np.int32) for side, own in ids.items()}
        logging.info('tokenised %d texts, %.0f s', sum(map(len, ids.values())), _since(start))

        skill_parts = node_parts('skill', list(skills), ids['skill'])
        shard_lengths = {}
        for name, pairs in graphs.items():
            target_parts = node_parts('target', list(pairs.targets), ids[name])
            shard_lengths[name] = write_shards(directory, name, pairs, skill_parts, target_parts)
            graph = BipartiteGraph.from_edges(pairs.skill, pairs.target, len(skills), tokens[name])
            graph.save(directory / 'graph' / name)
            logging.info('wrote %d pairs of the %s graph, %.0f s', graph.edges, name, _since(start))
        (directory / 'graph' / 'skill').mkdir()
        np.save(directory / 'graph' / 'skill' / 'length.npy', tokens['skill'])
        write_metadata(
            directory, shard_lengths, f'Skills joined to job titles, sentences and other names. {ATTRIBUTION}'
        )
        for side, nodes in sides.items():
            _write_lines(directory / 'nodes' / f'{side}.jsonl', ({'text': t, 'ids': i} for t, i in nodes.items()))
        for name, lines in evaluations.items():
            _write_lines(directory / 'eval' / f'{name}.jsonl', lines)

        lengths = choose_lengths(tokens)
        likelihood = {side: np.bincount(count, minlength=1) for side, count in tokens.items()}
        likelihood['sentence'] = joined_with_distractors(tokens['sentence'])
        manifest = {
            'format': 1,
            'name': NAME,
            'counts': {
                'skills': len(skills),
                **{
                    name: {'pairs': len(pairs.skill), 'targets': len(pairs.targets), 'shards': len(shard_lengths[name])}
                    for name, pairs in graphs.items()
                },
            },
            'lengths': lengths,
            'tokens': {side: summary(likelihood[side], length) for side, length in lengths.items() if len(sides[side])},
            'tokenizer': {'name': options.tokenizer, 'fingerprint': tokenizer.fingerprint},
            'sources': _sources(options, esco),
            'attribution': ATTRIBUTION,
            'relations': options.relations,
            'held_out': {
                'seed': options.seed,
                'occupations': {'share': options.held_out_occupations, 'count': len(held_out.occupations)},
                'alternatives': {'share': options.held_out_alternatives, 'count': len(held_out.alternatives)},
                'queries': {name: len(lines) for name, lines in evaluations.items()},
                'pairs_dropped': {name: len(everything[name].skill) - len(graphs[name].skill) for name in GRAPHS},
            },
            'repairs': repairs.summary(),
            'command': options.command,
        }
        _write_manifest(directory, manifest)
    for kind, repair in manifest['repairs'].items():
        logging.info('%s: %d', kind, repair['count'])
    logging.info('%s is complete, %.0f s', options.output, _since(start))


def _sentence_rows(options: Options, esco: Esco, number: Mapping[str, int], repairs: Repairs) -> list[Row]:
    """The given sentences, or what stands in for them."""
    if options.sentences:
        return list(read_sentences(options.sentences, esco.skills, number, repairs))
    logging.info("no --sentences: the sentences of the skills' own descriptions stand in")
    rows = list(sentences_of_descriptions(esco.skills, number))
    if not rows:
        raise DataError(
            'no sentences: skills_en.csv has no descriptions to stand in for them; give some by --sentences'
        )
    return rows


def _job_rows(esco: Esco, number: Mapping[str, int], relations: str) -> Iterator[Row]:
    """Each title of each occupation, with the occupation's skills."""
    for uri, occupation in esco.occupations.items():
        skills = _skills_of(esco, uri, number, relations)
        for title in titles(occupation):
            yield title, uri, skills


def _skills_of(esco: Esco, occupation: str, number: Mapping[str, int], relations: str) -> list[int]:
    related = esco.relations.get(occupation, {})
    return sorted({number[esco.skills[skill].label] for skill, kind in related.items() if relations in ('all', kind)})


def _alternative_rows(skills: Mapping[str, Concept], number: Mapping[str, int], repairs: Repairs) -> Iterator[Row]:
    """Each alternative name with its skill.

    One that is also another skill's label is joined to that skill too: in a batch with both, it would else be a
    negative of the skill whose name it is.
    """
    for uri, skill in skills.items():
        for name in skill.alternatives:
            yield name, uri, [number[skill.label]]
            if name in number:
                repairs.add("alternative that is another skill's label, joined to both", f'{skill.label}: {name}')
                yield name, uri, [number[name]]


def _held_out_jobs(esco: Esco, number: Mapping[str, int], relations: str, held_out: HeldOut) -> list[dict[str, Any]]:
    """The held-out occupations' preferred titles with their own skills; equal titles are one query."""
    skills: dict[str, set[int]] = {}
    for uri, occupation in esco.occupations.items():
        if uri in held_out.occupations:
            skills.setdefault(occupation.label, set()).update(_skills_of(esco, uri, number, relations))
    return [{'text': title, 'skills': sorted(own)} for title, own in skills.items() if own]


def _held_out_alternatives(pairs: Pairs, held_out: HeldOut) -> list[dict[str, Any]]:
    """The held-out alternative names with the skills that they name."""
    texts = list(pairs.targets)
    wanted = np.array([match_key(text) in held_out.alternatives for text in texts], bool)
    skills: dict[int, list[int]] = {}
    for edge in np.flatnonzero(wanted[pairs.target]):
        skills.setdefault(int(pairs.target[edge]), []).append(int(pairs.skill[edge]))
    return [{'text': texts[target], 'skills': own} for target, own in sorted(skills.items())]


def _sources(options: Options, esco: Esco) -> list[dict[str, Any]]:
    files = {path.name: sha256(path) for path in esco.files}
    version = re.search(r'\d+\.\d+(\.\d+)?', options.esco.name)  # the portal's files do not say it
    sources: list[dict[str, Any]] = [
        {'name': 'ESCO', 'version': version[0] if version else 'unknown', 'language': 'en', 'files': files}
    ]
    if options.sentences:
        path = options.sentences
        sources.append({'name': 'sentences', 'file': path.name, 'files': {path.name: sha256(path)}})
    else:
        sources.append({'name': 'sentences', 'from': "the skills' own descriptions, for want of vacancy sentences"})
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


@contextlib.contextmanager
def _appearing_when_complete(output: pathlib.Path) -> Iterator[pathlib.Path]:
    """A directory beside `output` to write into; it becomes `output`, or vanishes if anything goes wrong."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix='.build-') as scratch:
            partial = pathlib.Path(scratch) / output.name
            partial.mkdir()
            yield partial
            partial.rename(output)
    except OSError as error:
        raise DataError(f'{output}: cannot be written ({error.strerror}); choose another --output') from error


def _since(start: float) -> float:
    return time.perf_counter() - start
