"""The recipe: real titles, then rounds of asking and merging, until every skill has enough or the rounds are spent."""

import collections
import dataclasses
import hashlib
import json
import logging
import pathlib
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.enrich.estimate import Prices, estimate
from data_prep.enrich.merge import TOO_SIMILAR, Vectors, merge
from data_prep.enrich.outputs import BELOW, JOURNAL, write_outputs
from data_prep.enrich.prompt import Prompt
from data_prep.enrich.redact import Secrets
from data_prep.enrich.skills import choose, real_titles, titles_of_vacancies
from data_prep.enrich.state import ANSWER, MERGED, UNUSABLE, SkillTitles, count
from data_prep.journal import Journal, read_records
from data_prep.vacancies import Columns, check_tables
from uwe_jax.data.text import normalise
from uwe_jax.io.errors import DataError, writing
from uwe_jax.io.esco import ATTRIBUTION, read_esco
from uwe_jax.io.files import checksums, files_of, sha256
from uwe_jax.io.repairs import Repairs
from uwe_jax.models import download

logger = logging.getLogger(__name__)


SKILLS_PER_MERGE = 256  # whose titles are embedded together; what is done so far is kept after each block


@dataclasses.dataclass(frozen=True)
class Options:
    """What can be chosen.

    Attributes:
      esco: the folder of an ESCO release.
      output: the directory to make, or to go on with.
      vacancies: globs of vacancies whose titles skills have too, as `build` reads them.
      columns: what their columns are called.
      titles: how many a skill should have.
      rounds: how often a skill is asked for at most.
      base_url, model: of the endpoint; the URL's query may hold a token.
      key: of the endpoint; None where nothing is asked.
      concurrency, attempts, max_wait, seed: see `ask.Limits`.
      timeout: seconds for a call.
      limit: how many skills at most, those first in ESCO's file; None takes all.
      skills: a file of skills, one URI or preferred label a line; None takes all.
      dry_run: only says what would be asked.
      prices: for the costs; None leaves them out.
      encoder: a directory or a Hub name; its mean-pooled vectors say which titles are alike.
      command: what the user typed, for the manifest.
    """

    esco: pathlib.Path
    output: pathlib.Path
    vacancies: Sequence[str]
    columns: Columns
    titles: int
    rounds: int
    base_url: str
    model: str
    key: str | None = dataclasses.field(repr=False)
    concurrency: int
    attempts: int
    max_wait: float
    seed: int
    timeout: float
    limit: int | None
    skills: pathlib.Path | None
    dry_run: bool
    prices: Prices | None
    encoder: str
    command: str

    def __post_init__(self):
        for name in ('titles', 'rounds', 'concurrency', 'attempts', 'limit'):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f'--{name}={value}: expected at least 1')
        url = urllib.parse.urlsplit(self.base_url)
        if url.scheme not in ('http', 'https') or not url.hostname:
            raise DataError('--base_url: not the URL of an endpoint; expected http://HOST/v1 or https://HOST/v1')
        if url.username or url.password:  # which the client would send in the key's place
            raise DataError('--base_url: a user or password in it; expected none, the key alone lets in')
        if self.key and not (self.key.isascii() and self.key.isprintable() and ' ' not in self.key):
            raise DataError('the key: expected visible ASCII characters alone')
        for name in ('timeout', 'max_wait'):
            if not 0 < getattr(self, name) < float('inf'):
                raise DataError(f'--{name}={getattr(self, name)}: expected seconds, more than 0')


def enrich(options: Options) -> None:
    """Makes titles for the skills that have too few.

    Raises:
      DataError: an input cannot be used, the endpoint fails for good, or the output cannot be written. What was
        answered stays in the journal, and the same command goes on from it.
      FetchError: the encoder cannot be had.
    """
    repairs = Repairs()
    vacancies = sorted(files_of(options.vacancies, '--vacancies'))
    check_tables(vacancies, options.columns)
    esco = read_esco(options.esco, repairs, normalise)
    real = real_titles(esco, titles_of_vacancies(vacancies, options.columns, esco, repairs))
    skills = {uri: SkillTitles(skill, real[uri]) for uri, skill in esco.skills.items()}
    prompt = Prompt.load()
    secrets = Secrets(options.key or '', options.base_url)
    settings = {
        'format': 1,
        'prompt': prompt.version,
        'model': options.model,
        'titles': options.titles,
        'similarity': TOO_SIMILAR,
        'grounding': _fingerprint(skills.values()),
    }
    chosen = choose(skills, options.titles, options.limit, options.skills)
    if options.dry_run:
        _apply(read_records(options.output / JOURNAL, settings), skills)
        _log_estimate(options, prompt, chosen)
        return
    from data_prep.enrich.ask import Asker, Limits  # the client, which a dry run does not need
    from data_prep.enrich.endpoint import Endpoint

    encoder = download.fetch(options.encoder)
    settings['encoder'] = sha256(encoder / 'model.safetensors')
    records: list[Mapping[str, Any]] = []
    with writing(options.output):
        options.output.mkdir(parents=True, exist_ok=True)
    journal = Journal(options.output / JOURNAL, settings, lambda record, _: records.append(record))
    endpoint = Endpoint(options.base_url, options.key or '', options.model, options.timeout)
    try:
        _apply(records, skills)
        if records:
            logger.info('going on from %s, which holds %d answers', options.output / JOURNAL, count(records)['calls'])
        _log_estimate(options, prompt, chosen)
        vectors = Vectors(encoder)
        asker = Asker(
            endpoint,
            prompt,
            Limits(options.titles, options.concurrency, options.attempts, options.max_wait, options.seed),
            journal.append,
            any_accepted=any(record['kind'] == ANSWER for record in records),
        )
        while True:
            _merge([skill for skill in chosen if skill.to_merge], vectors, journal.append)
            still_open = [s for s in chosen if s.open(options.titles, options.rounds, options.attempts)]
            if not still_open:
                break
            logger.info('%d of %d skills have fewer than %d titles', len(still_open), len(chosen), options.titles)
            asker.ask(still_open)
        below = [_below(options, skill) for skill in chosen if len(skill.remaining) < options.titles]
        lines = [line for skill in chosen for line in skill.lines()]
        spent = count(records)
        manifest = {
            **settings,
            'encoder': {'name': options.encoder, 'sha256': settings['encoder']},
            'endpoint': secrets.endpoint,
            'rounds': options.rounds,
            'seed': options.seed,
            'counts': _counts(options, skills.values(), chosen, lines, len(below)),
            'spent': spent | {'dollars': _cost(options, spent)},
            'sources': {'esco': checksums(esco.files), 'vacancies': checksums(vacancies)},
            'attribution': ATTRIBUTION,
            'repairs': repairs.summary(),
            'command': secrets.redact(options.command),
        }
        write_outputs(options.output, lines, below, manifest)
    finally:
        endpoint.close()
        journal.close()
    _log_spent(options, spent)
    logger.info('%d of %d skills stayed below %d titles: %s', len(below), len(chosen), options.titles, BELOW)
    logger.info('%s is complete', options.output)


def _fingerprint(skills: Iterable[SkillTitles]) -> str:
    """Of all that answers are grounded in: names, descriptions and real titles of every skill."""
    grounds = [
        [own.skill.uri, own.skill.label, own.skill.alternatives, own.skill.description, own.real] for own in skills
    ]
    return hashlib.sha256(json.dumps(grounds).encode()).hexdigest()


def _apply(records: Sequence[Mapping[str, Any]], skills: Mapping[str, SkillTitles]) -> None:
    """Takes in the journal. Where no answer was ever of use, the endpoint is to blame, and no skill is given up."""
    of_use = any(record['kind'] == ANSWER for record in records)
    for record in records:
        if of_use or record['kind'] != UNUSABLE:
            skills[record['skill']].apply(record)


def _log_estimate(options: Options, prompt: Prompt, skills: Sequence[SkillTitles]) -> None:
    for name, rounds in (('one round', 1), (f'all {options.rounds} rounds, at most', options.rounds)):
        rest = estimate(skills, prompt, options.titles, rounds, options.attempts)
        logger.info('estimate for %s: %s', name, rest.line(options.prices))


def _cost(options: Options, spent: Mapping[str, Any]) -> float | None:
    """US dollars, to a thousandth of a cent; None without prices."""
    tokens = spent['tokens']
    return options.prices and round(options.prices.cost(tokens['input'], tokens['output']), 5)


def _log_spent(options: Options, spent: Mapping[str, Any]) -> None:
    cost = _cost(options, spent)
    logger.info(
        'in all %d answers: %d of use, %d refusals, %d otherwise without use; %d calls without an answer; '
        '%d tokens in, %d out%s',
        spent['calls'],
        spent['accepted'],
        spent['refusals'],
        spent['calls'] - spent['accepted'] - spent['refusals'],
        sum(spent['retries'].values()),
        spent['tokens']['input'],
        spent['tokens']['output'],
        '' if cost is None else f', ${cost:.2f}',
    )


def _merge(skills: Sequence[SkillTitles], vectors: Vectors, keep: Callable[..., None]) -> None:
    """Merges the titles of skills to which some have come, and keeps what remains."""
    for start in range(0, len(skills), SKILLS_PER_MERGE):
        block = skills[start : start + SKILLS_PER_MERGE]
        texts = sorted({title for skill in block for title in skill.titles})
        place = {text: number for number, text in enumerate(texts)}
        embedded = vectors(texts)
        records = []
        for skill in block:
            own = np.array([place[title] for title in skill.titles], int)
            kept = merge(skill.titles, skill.real, embedded[own])
            records.append({'kind': MERGED, 'skill': skill.skill.uri, 'round': skill.round, 'kept': kept})
        keep(*records)
        for skill, record in zip(block, records, strict=True):
            skill.apply(record)
        logger.info('merged the titles of %d of %d skills', start + len(block), len(skills))


def _below(options: Options, skill: SkillTitles) -> dict[str, Any]:
    """A skill that stayed below, as a line of below.jsonl."""
    given_up = skill.given_up(options.attempts) and skill.round < options.rounds
    return {
        'skill': skill.skill.uri,
        'label': skill.skill.label,
        'titles': len(skill.remaining),
        'rounds': skill.round,
        'reason': f'given up after {options.attempts} unusable answers: {skill.reason}' if given_up else 'rounds spent',
    }


def _counts(
    options: Options,
    skills: Iterable[SkillTitles],
    chosen: Sequence[SkillTitles],
    lines: Sequence[Mapping[str, Any]],
    below: int,
) -> dict[str, Any]:
    kept = collections.Counter(line['source'] for line in lines)
    real = sum(len(skill.real) for skill in chosen)
    synthetic = sum(len(skill.titles) for skill in chosen) - real
    return {
        'skills_with_too_few': sum(len(skill.real) < options.titles for skill in skills),
        'skills_chosen': len(chosen),
        'skills_below': below,
        'titles': {'real': kept['real'], 'synthetic': kept['synthetic']},
        'merged': {'real': real - kept['real'], 'synthetic': synthetic - kept['synthetic']},
    }
