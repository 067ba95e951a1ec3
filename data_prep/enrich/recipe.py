"""The recipe: real titles, then rounds of asking and merging, until each skill has enough or all rounds are done."""

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.enrich.estimate import estimate
from data_prep.enrich.merge import TOO_SIMILAR, Vectors, merge
from data_prep.enrich.options import Options
from data_prep.enrich.outputs import BELOW, JOURNAL, write_outputs
from data_prep.enrich.prompt import Prompt
from data_prep.enrich.redact import Secrets
from data_prep.enrich.skills import choose, real_titles, titles_of_vacancies
from data_prep.enrich.state import ANSWER, MERGED, UNUSABLE, SkillTitles, count_titles, spent
from data_prep.journal import Record, open_journal, read_records
from data_prep.vacancies import check_tables
from uwe_jax.data.text import normalise
from uwe_jax.io.claims import claim
from uwe_jax.io.console import Progress
from uwe_jax.io.errors import writing
from uwe_jax.io.esco import ATTRIBUTION, read_esco
from uwe_jax.io.files import checksums, files_of, sha256
from uwe_jax.io.repairs import Repairs
from uwe_jax.models import download

logger = logging.getLogger(__name__)

SKILLS_PER_MERGE = 256  # their titles are embedded together, and the result is kept before the next ones


def enrich(options: Options, command: str) -> None:
    """See `data_prep.enrich.run`."""
    repairs = Repairs()
    vacancies = sorted(files_of(options.vacancies, '--vacancies'))
    check_tables(vacancies, options.columns)
    esco = read_esco(options.esco, repairs, normalise)
    real = real_titles(esco, titles_of_vacancies(vacancies, options.columns, esco, repairs))
    skills = {uri: SkillTitles(skill, real[uri]) for uri, skill in esco.skills.items()}
    prompt = Prompt.load()
    settings = {
        'format': 1,
        'prompt': prompt.version,
        'model': options.model_name,
        'titles': options.titles,
        'similarity': TOO_SIMILAR,
        'grounding': _fingerprint(skills.values()),
    }
    chosen = choose(skills, options.titles, options.limit, options.skills)
    path = options.output / JOURNAL
    if options.dry_run:
        _apply([record for record, _ in read_records(path, settings)], skills)
        _log_estimate(options, prompt, chosen)
        return
    encoder = download.fetch(options.encoder)
    settings['encoder'] = ' '.join(sha256(encoder / name) for name in download.weight_files(encoder))
    with writing(options.output):
        options.output.mkdir(parents=True, exist_ok=True)
    with claim(options.output):
        records = _ask_and_merge(options, prompt, skills, chosen, Vectors(encoder), settings)
        below = [_below(options, skill) for skill in chosen if len(skill.remaining) < options.titles]
        secrets = Secrets(options.key, options.endpoint)
        totals = spent(records)
        manifest = {
            **settings,
            'encoder': {'name': options.encoder, 'sha256': settings['encoder']},
            'endpoint': secrets.endpoint,
            'rounds': options.rounds,
            'counts': {
                'skills_with_too_few': sum(len(skill.real) < options.titles for skill in skills.values()),
                'skills_chosen': len(chosen),
                'skills_below': len(below),
                **count_titles(chosen),
            },
            'spent': totals | {'dollars': _dollars(options, totals)},
            'sources': {'esco': checksums(esco.files), 'vacancies': checksums(vacancies)},
            'attribution': ATTRIBUTION,
            'repairs': repairs.summary(),
            'command': secrets.redact(command),
        }
        write_outputs(options.output, [line for skill in chosen for line in skill.lines()], below, manifest)
    _log_spent(options, totals)
    logger.info('%d of %d skills stayed below %d titles: %s', len(below), len(chosen), options.titles, BELOW)
    logger.info('%s is complete', options.output)


def _ask_and_merge(
    options: Options,
    prompt: Prompt,
    skills: Mapping[str, SkillTitles],
    chosen: Sequence[SkillTitles],
    vectors: Vectors,
    settings: Record,
) -> list[Record]:
    """Asks about the chosen skills until each has enough titles or is given up; returns the journal's records."""
    from data_prep.enrich.ask import Asker  # the client, which a dry run does not need
    from data_prep.enrich.endpoint import Endpoint

    path = options.output / JOURNAL
    records = [record for record, _ in read_records(path, settings)]
    _apply(records, skills)
    if records:
        logger.info('going on from %s, which holds %d answers', path, spent(records)['calls'])
    _log_estimate(options, prompt, chosen)
    endpoint = Endpoint(options.endpoint, options.key, options.model_name, options.timeout, options.attempts)
    with contextlib.closing(endpoint), open_journal(path, settings) as journal:

        def keep(*new: Record) -> None:
            journal.append(*new)
            records.extend(new)

        any_accepted = any(record['kind'] == ANSWER for record in records)
        asker = Asker(endpoint, prompt, keep, any_accepted, options.titles, options.concurrency, options.attempts)
        while True:
            _merge([skill for skill in chosen if skill.to_merge], vectors, keep)
            still_open = [s for s in chosen if s.open(options.titles, options.rounds, options.attempts)]
            if not still_open:
                return records
            logger.info('%d of %d skills have fewer than %d titles', len(still_open), len(chosen), options.titles)
            asker.ask(still_open)


def _fingerprint(skills: Iterable[SkillTitles]) -> str:
    """Identifies what answers are grounded in: names, descriptions and real titles of every skill."""
    grounds = [
        [titles.skill.uri, titles.skill.label, titles.skill.alternatives, titles.skill.description, titles.real]
        for titles in skills
    ]
    return hashlib.sha256(json.dumps(grounds).encode()).hexdigest()


def _apply(records: Sequence[Record], skills: Mapping[str, SkillTitles]) -> None:
    """Applies the journal. If no answer was ever usable, the endpoint is to blame, and no skill is given up."""
    any_usable = any(record['kind'] == ANSWER for record in records)
    for record in records:
        if any_usable or record['kind'] != UNUSABLE:
            skills[record['skill']].apply(record)


def _merge(skills: Sequence[SkillTitles], vectors: Vectors, keep: Callable[..., None]) -> None:
    """Merges the titles of skills that have new ones, and keeps what remains."""
    if not skills:
        return
    with Progress('merging titles', len(skills), 'skills') as progress:
        for start in range(0, len(skills), SKILLS_PER_MERGE):
            block = skills[start : start + SKILLS_PER_MERGE]
            texts = sorted({title for skill in block for title in skill.titles})
            row = {text: number for number, text in enumerate(texts)}
            embedded = vectors(texts)
            records = []
            for skill in block:
                rows = np.array([row[title] for title in skill.titles], int)
                kept = merge(skill.titles, skill.real, embedded[rows])
                records.append({'kind': MERGED, 'skill': skill.skill.uri, 'round': skill.round, 'kept': kept})
            keep(*records)
            for skill, record in zip(block, records, strict=True):
                skill.apply(record)
            progress.advance(len(block))


def _below(options: Options, skill: SkillTitles) -> dict[str, Any]:
    """A skill that stayed below the wanted number of titles, as a line of below.jsonl."""
    given_up = skill.given_up(options.attempts) and skill.round < options.rounds
    return {
        'skill': skill.skill.uri,
        'label': skill.skill.label,
        'titles': len(skill.remaining),
        'rounds': skill.round,
        'reason': f'given up after {options.attempts} unusable answers: {skill.reason}' if given_up else 'rounds spent',
    }


def _log_estimate(options: Options, prompt: Prompt, skills: Sequence[SkillTitles]) -> None:
    for name, rounds in (('one round', 1), (f'all {options.rounds} rounds, at most', options.rounds)):
        rest = estimate(skills, prompt, options.titles, rounds, options.attempts)
        logger.info('estimate for %s: %s', name, rest.line(options.prices))


def _dollars(options: Options, totals: Mapping[str, Any]) -> float | None:
    """The cost in US dollars, to a thousandth of a cent; None without prices."""
    tokens = totals['tokens']
    return options.prices and round(options.prices.cost(tokens['input'], tokens['output']), 5)


def _log_spent(options: Options, totals: Mapping[str, Any]) -> None:
    dollars = _dollars(options, totals)
    logger.info(
        'in all %d answers: %d usable, %d refusals, %d otherwise unusable; %d calls without an answer; '
        '%d tokens in, %d out%s',
        totals['calls'],
        totals['accepted'],
        totals['refusals'],
        totals['calls'] - totals['accepted'] - totals['refusals'],
        totals['retries'],
        totals['tokens']['input'],
        totals['tokens']['output'],
        '' if dollars is None else f', ${dollars:.2f}',
    )
