"""Titles for skills that have few: what is asked, kept, merged and written, against a server that misbehaves."""

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.enrich import Options, run
from data_prep.enrich.answers import MOST_CHARACTERS, UnusableError, read_titles
from data_prep.enrich.ask import Asker
from data_prep.enrich.endpoint import Endpoint
from data_prep.enrich.estimate import estimate
from data_prep.enrich.merge import TOO_SIMILAR, Vectors, merge
from data_prep.enrich.prompt import ANSWER, IN_WORDS, Prompt, in_format
from data_prep.enrich.redact import Secrets
from data_prep.enrich.skills import real_titles, titles_of_vacancies
from data_prep.enrich.state import SkillTitles, spent
from data_prep.vacancies import Columns
from tests.conftest import ROOT, read_rows
from tests.data_prep import soak_enrich
from tests.data_prep.chat_server import DISGUISES, FAULTS, RETRY_AFTER, UNANSWERED, USELESS, ChatServer
from tests.data_prep.conftest import write_jsonl
from tests.data_prep.soak_enrich import KEY, VOCABULARY, few_skills, run_with_kills
from uwe_jax.data.text import match_key, normalise
from uwe_jax.io.claims import claim
from uwe_jax.io.errors import DataError
from uwe_jax.io.esco import Concept, read_esco
from uwe_jax.io.files import sha256
from uwe_jax.io.repairs import Repairs
from uwe_jax.ranking import Ranker

SQL = Concept('http://esco/skill/sql', 'SQL', (), '')
BREAD = Concept('http://esco/skill/bake', 'bake bread', ('make loaves',), 'Make dough and bake it.')


@pytest.fixture(scope='module')
def esco(tmp_path_factory):
    return few_skills(tmp_path_factory.mktemp('few'))


@pytest.fixture(scope='module', autouse=True)
def key():
    """The key, in the environment."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv('OPENAI_API_KEY', KEY)
        yield


def enrich(esco, output, url, encoder, **changes):
    """Runs the command with little patience."""
    options = {
        'vacancies': (),
        'titles': 6,
        'base_url': url,
        'model': 'tiny',
        'concurrency': 3,
        'timeout': 5.0,
        'encoder': str(encoder),
    }
    run(Options(esco, output, **(options | changes)), f'python -m data_prep enrich --base_url={url}')


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def asker(server, attempts=6, timeout=5.0, any_accepted=True, on_keep=lambda: None):
    """An asker, and the list of the records that it keeps."""
    records = []
    endpoint = Endpoint(server.url, KEY, 'tiny', timeout, attempts)

    def keep(record):
        on_keep()
        records.append(record)

    return Asker(endpoint, Prompt.load(), keep, any_accepted, wanted=6, concurrency=2, attempts=attempts), records


def spoiled(*kinds):
    """A schedule: these faults, then good answers."""
    return lambda _, before: kinds[before] if before < len(kinds) else 'good'


# Titles that are alike.


units = st.lists(st.floats(0.1, 1), min_size=3, max_size=3).map(lambda v: np.array(v) * [1, -1, 1] / np.linalg.norm(v))
some_titles = st.dictionaries(st.text('abc', min_size=1, max_size=4), st.tuples(st.booleans(), units), max_size=12)


@settings(max_examples=200, deadline=None)
@given(some_titles, st.randoms())
def test_of_titles_that_are_alike_the_shortest_real_one_stays_in_whatever_order_they_come(titles, rng):
    real = {title for title, (is_real, _) in titles.items() if is_real}
    vectors = {title: vector for title, (_, vector) in titles.items()}

    def kept_of(order):
        return merge(order, real, np.array([vectors[title] for title in order]).reshape(-1, 3))

    def rank(title):
        return title not in real, len(title), title

    kept = kept_of(list(titles))
    shuffled = list(titles)
    rng.shuffle(shuffled)
    assert kept_of(shuffled) == kept == sorted(kept, key=rank)
    assert all(vectors[a] @ vectors[b] <= TOO_SIMILAR for a in kept for b in kept if a != b)
    for title in titles.keys() - set(kept):
        assert any(vectors[title] @ vectors[other] > TOO_SIMILAR and rank(other) < rank(title) for other in kept)


def test_two_names_of_one_job_are_merged_and_two_jobs_are_not(base_model):
    titles = ['baker', 'bakery worker', 'bread baker', 'civil engineer', 'nurse']
    kept = merge(titles, {'bread baker', 'nurse'}, Vectors(base_model)(titles))
    assert kept == ['nurse', 'bread baker', 'civil engineer']


def test_vectors_are_those_of_the_mean_pooled_ranker_and_do_not_depend_on_their_neighbours(cut_model):
    titles = ['baker', 'head of the regional fire safety department', 'nurse', 'chef']
    embedded = Vectors(cut_model)
    vectors = embedded(titles)
    scores = Ranker.from_pretrained(cut_model, pooling='mean').score(titles, titles)
    np.testing.assert_allclose(vectors @ vectors.T, scores, atol=1e-5)
    again = Vectors(cut_model)(['one more', *titles[::-1], 'and another'])[4:0:-1]
    np.testing.assert_array_equal(vectors, again)


# The prompt.


def test_the_prompt_holds_all_that_is_known_of_the_skill_whatever_the_order_of_its_titles():
    prompt = Prompt.load()
    system, user = prompt.messages(BREAD, ['pastry cook', 'baker'], 7)
    assert system['role'] == 'system'
    for text in ('bake bread', 'make loaves', 'Make dough and bake it.', '- baker\n- pastry cook', 'Propose 7 '):
        assert text in user['content']
    assert prompt.messages(BREAD, ['baker', 'pastry cook'], 7) == [system, user]
    assert '$' not in user['content']


def test_the_prompts_version_is_the_checksum_of_its_file():
    path = ROOT / 'data_prep' / 'enrich' / 'prompts' / 'titles-v1.md'
    assert Prompt.load().version == {'name': 'titles-v1', 'sha256': sha256(path)}


# What is kept of an answer.


def test_of_an_answer_the_new_titles_are_kept_and_the_others_counted():
    titles = [' Pastry  cook', 'PASTRY COOK', 'baker', 'Bake Bread', 'make loaves', '', '看護師', 'baкer', '--- 1']
    titles += ['x' * (MOST_CHARACTERS + 1), 'a ' * 40, 'b\ud800', 'maître d’hôtel', 'y' * 10**6, None, ['nurse']]
    read = read_titles(json.dumps({'titles': titles}), BREAD, ['Baker'])
    assert read.usable == ['Pastry cook', 'maître d’hôtel', 'nurse']
    assert read.dropped == {
        'blank': 1,
        'invisible characters': 1,
        'not in Latin letters': 3,
        'not text': 1,
        'repeated': 2,
        "the skill's own name": 2,
        'too long': 3,
    }


@pytest.mark.parametrize(
    ('written', 'title'),
    [
        ('1. Data engineer', 'Data engineer'),
        ('12)Data engineer', 'Data engineer'),
        ('(3) "Data engineer"', 'Data engineer'),
        ('**4. Data engineer**', 'Data engineer'),
        ('•\tData engineer', 'Data engineer'),
        ('— ‘Data engineer’,', 'Data engineer'),
        ('«Data engineer»', 'Data engineer'),
        ('`Data engineer`', 'Data engineer'),
        ('✅ Data engineer', 'Data engineer'),
        ('🔹Data engineer,', 'Data engineer'),
        ('1️⃣ Data engineer', 'Data engineer'),
        ('→ ✔️ Data engineer', 'Data engineer'),
        ('# Data engineer', 'Data engineer'),
        ('Data\u200bengineer', 'Data engineer'),
        ('\u2060Da\u00adta engin\u200deer\ufeff', 'Data engineer'),
        ('3D artist', '3D artist'),
        ('2.5D animator', '2.5D animator'),
        ('1:1 tutor', '1:1 tutor'),
        ('24/7 hotline agent', '24/7 hotline agent'),
        ('.NET developer', '.NET developer'),
        ('C++ developer', 'C++ developer'),
        ('"Green" energy consultant', '"Green" energy consultant'),
        ('Sailors’', 'Sailors’'),
    ],
)
def test_list_marks_quotes_and_what_has_no_width_are_taken_off_a_title_and_nothing_else(written, title):
    assert read_titles(json.dumps({'titles': [written]}), BREAD, []).usable == [title]


@pytest.mark.parametrize('kind', DISGUISES)
def test_titles_are_read_however_a_model_writes_them_down(kind):
    answers = []
    for kinds in ((), (kind,)):
        skill = SkillTitles(BREAD, ['baker'])
        with ChatServer(VOCABULARY, spoil=spoiled(*kinds)) as server:
            asker(server)[0].ask([skill])
        assert len(server.log) == 1
        answers.append(skill.answers)
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ('content', 'titles'),
    [
        ('{"titles": ["Baker", "Chef de par', ['Baker']),
        ('{"titles": ["Baker", "Chef"', ['Baker', 'Chef']),
        ('{"titles": [\n  "Baker",' + ' \n' * 5000, ['Baker']),
        ('{"titles": [{"title": "Baker"}, {"tit', ['Baker']),
        ('1. Baker\n2. Che', ['Baker']),
    ],
)
def test_the_whole_titles_of_an_answer_that_was_cut_off_are_kept(content, titles):
    assert read_titles(content, SQL, [], cut_off=True).usable == titles


def test_titles_may_be_grouped():
    content = '{"titles": {"IT": ["Data engineer"], "Retail": ["Buyer"]}, "notes": {"skills": ["SQL"]}}'
    assert read_titles(content, BREAD, []).usable == ['Data engineer', 'Buyer']


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        ('', 'empty'),
        ('<think>Perhaps {"titles": ["baker"]}', 'empty'),
        ('{"titles": [', 'no usable title'),
        ('[' * 100_000, 'no usable title'),
        ('{' * 2_000, 'no usable title'),
        ('I cannot [help] with "that".', 'no usable title'),
        ('{"error": "no baker"}', 'no usable title'),
        ('{"titles": []}', 'no usable title'),
        ('{"titles": ["..."]}', 'no usable title'),
        ('{"error": {"name": "Baker error"}}', 'no usable title'),
        ('{"titles": ["Bake Bread", "пекарь"]}', 'no usable title'),
    ],
)
def test_an_answer_without_a_title_is_unusable(content, reason):
    with pytest.raises(UnusableError, match=f'^{reason}$'):
        read_titles(content, BREAD, [])


@settings(max_examples=50, deadline=None)
@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_any_answer_is_either_unusable_or_new_short_titles(value):
    for answer in (json.dumps(value), json.dumps({'titles': value}), str(value), f'["{value}'):
        try:
            read = read_titles(answer, BREAD, ['baker'])
        except UnusableError:
            continue
        keys = [match_key(title) for title in read.usable]
        assert keys
        assert len(set(keys)) == len(keys)
        assert not {'baker', 'bake bread', 'make loaves'} & set(keys)
        assert all(0 < len(title) <= MOST_CHARACTERS for title in read.usable)
        ''.join(read.usable).encode()


# One call after another.


@pytest.mark.parametrize('kind', FAULTS)
def test_after_any_fault_the_same_titles_come_and_the_fault_is_counted(kind):
    with ChatServer(VOCABULARY) as faultless, ChatServer(VOCABULARY, spoil=spoiled(kind)) as server:
        expected, skill = SkillTitles(BREAD, ['baker']), SkillTitles(BREAD, ['baker'])
        asker(faultless)[0].ask([expected])
        client, records = asker(server, timeout=0.15 if kind == 'slow' else 5.0)
        client.ask([skill])
    assert skill.answers == expected.answers
    assert len(skill.answers[1]) == len(set(skill.answers[1])) >= 5
    assert [asked.kind for asked in server.log] == [kind, 'good']
    assert len({asked.request for asked in server.log}) == 1
    totals = spent(records)
    assert totals['accepted'] == 1
    assert totals['retries'] == (kind in UNANSWERED)
    assert sum(totals['unusable'].values()) == (kind in USELESS)
    assert totals['refusals'] == (kind == 'refusal')
    without_usage = kind == '10 MB'
    answers = totals['calls'] - without_usage
    assert totals['tokens'] == {'input': 100 * answers, 'output': 10 * answers, 'answers_without_usage': without_usage}
    assert len(json.dumps(records)) < 3000


NO_SCHEMA = {
    'as DeepSeek': (400, {'error': {'message': 'This response_format type is unavailable now'}}),
    'as Mistral': (422, {'detail': [{'loc': ['body', 'response_format', 'type'], 'msg': 'Input should be ...'}]}),
    'as llama.cpp': (500, {'error': {'code': 500, 'message': 'failed to parse grammar', 'type': 'server_error'}}),
    'as a gateway': (200, {'error': {'code': 400, 'message': 'json_schema is not supported by this model'}}),
}


@pytest.mark.parametrize('refusal', NO_SCHEMA.values(), ids=NO_SCHEMA)
@pytest.mark.parametrize('refused', [['json_schema'], ['json_schema', 'json_object']], ids=' and '.join)
def test_one_call_finds_out_which_form_of_answers_an_endpoint_accepts(refused, refusal):
    skills = [SkillTitles(Concept(f'u{n}', f'skill {n}', (), ''), []) for n in range(5)]
    with ChatServer(VOCABULARY, refused=dict.fromkeys(refused, refusal)) as server:
        client, records = asker(server)
        client.ask(skills)
    accepted = ['json_schema', 'json_object', None][len(refused)]
    assert [asked.format for asked in server.log] == [*refused, *[accepted] * 5]
    assert len(records) == spent(records)['accepted'] == 5


def test_what_is_no_schema_is_asked_for_in_words_too():
    messages = Prompt.load().messages(BREAD, [], 5)
    assert in_format(messages, ANSWER) == {'messages': messages, 'response_format': ANSWER}
    for answer in ({'type': 'json_object'}, None):
        system, user = in_format(messages, answer)['messages']
        assert system['content'] == f'{messages[0]["content"]}\n\n{IN_WORDS}'
        assert user == messages[1]


def test_waits_are_those_that_the_server_asks_for():
    with ChatServer(VOCABULARY, spoil=spoiled(*['429 with Retry-After'] * 3)) as server:
        asker(server)[0].ask([SkillTitles(BREAD, [])])
    waits = np.diff([asked.time for asked in server.log])
    assert (waits >= RETRY_AFTER).all()
    assert (waits < 0.3).all()  # the client would wait longer


@pytest.mark.parametrize(
    ('kind', 'message', 'calls'),
    [
        ('401', r'status 401 Incorrect API key provided: \[secret\]', 1),
        ('404', 'status 404 The model does not exist', 1),
        ('429 for an hour', 'status 429 Rate limit reached.; Retry-After: 3600; the answers are kept', 1),
        ('500', 'status 500 .*; 2 calls in a row failed; the answers are kept', 2),
        ('endless 500', 'status 500 x+; 2 calls in a row failed', 2),
        ('no JSON', 'the answer is not a chat completion: <html>Welcome</html>; 2 calls in a row failed', 2),
        ('429 with status 200', 'status 429 Rate limit reached.; 2 calls in a row failed', 2),
        ('cut', '2 calls in a row failed', 2),
        ('the key', 'the answer holds the key; 2 calls in a row failed', 2),
    ],
)
def test_an_endpoint_that_fails_for_good_ends_the_run_and_never_shows_the_key(kind, message, calls):
    with ChatServer(VOCABULARY, spoil=lambda *_: kind) as server:
        client, records = asker(server, attempts=2)
        with pytest.raises(DataError, match=message) as caught:
            client.ask([SkillTitles(BREAD, [])])
    assert len(server.log) == calls
    assert server.log[0].authorization == f'Bearer {KEY}'
    assert KEY not in f'{caught.value!r} {records}'
    assert '\n' not in str(caught.value)


def test_where_nobody_listens_the_error_says_so():
    with ChatServer(VOCABULARY) as server:
        pass
    with pytest.raises(DataError, match=r'refused; 2 calls in a row failed'):
        asker(server, attempts=2)[0].ask([SkillTitles(BREAD, [])])


def test_a_skill_about_which_the_model_says_nothing_is_given_up():
    refused = SkillTitles(BREAD, ['baker'])
    with ChatServer(VOCABULARY, spoil=lambda *_: 'refusal') as server:
        client, records = asker(server, attempts=3)
        client.ask([refused])
    assert len(server.log) == spent(records)['refusals'] == 3
    assert refused.given_up(3)
    assert not refused.open(wanted=6, rounds=3, attempts=3)


def test_a_model_that_never_says_anything_usable_ends_the_run():
    with ChatServer(VOCABULARY, spoil=lambda *_: 'refusal') as server:
        client, _ = asker(server, attempts=3, any_accepted=False)
        with pytest.raises(DataError, match=r"3 answers about 'bake bread' were unusable \(refusal\), and none before"):
            client.ask([SkillTitles(BREAD, ['baker'])])


def test_a_refused_request_counts_as_an_unusable_answer():
    with ChatServer(VOCABULARY, spoil=lambda *_: '400') as server:
        client, records = asker(server, attempts=2)
        client.ask([SkillTitles(BREAD, ['baker'])])
    assert spent(records)['unusable'] == {'status 400': 2}


def test_a_worker_asks_nothing_further_before_its_answer_is_kept():
    skills = [SkillTitles(Concept(f'u{n}', f'skill {n}', (), ''), []) for n in range(8)]
    asked = []

    def on_keep():
        asked.append(len(server.log))
        time.sleep(0.01)

    with ChatServer(VOCABULARY, delay=0.05) as server:
        client, records = asker(server, on_keep=on_keep)
        client.ask(skills)
    assert len(records) == len(server.log) == 8
    # When the n-th answer is being kept, each of the two workers is at most one call ahead.
    assert all(count <= n + 2 for n, count in enumerate(asked))


# The whole command.


@pytest.fixture(scope='module')
def faultless(tmp_path_factory, esco, cut_model):
    """What a server without faults leads to."""
    output = tmp_path_factory.mktemp('faultless') / 'out'
    with ChatServer(VOCABULARY) as server:
        enrich(esco, output, server.url, cut_model, input_price=0.5, output_price=2)
    return output, server.log


def test_every_skill_gets_its_titles_and_what_stayed_below_is_listed(faultless, esco):
    output, _ = faultless
    manifest = json.loads((output / 'manifest.json').read_text())
    real = real_titles(read_esco(esco, Repairs(), normalise), {})
    titles = {}
    for line in lines(output / 'titles.jsonl'):
        titles.setdefault(line['skill'], []).append(line)
    below = {line['skill']: line for line in lines(output / 'below.jsonl')}
    assert set(titles) == {uri for uri, known in real.items() if len(known) < 6}
    assert 0 < manifest['counts']['skills_below'] == len(below) < len(titles)
    for uri, of_skill in titles.items():
        assert len({match_key(line['title']) for line in of_skill}) == len(of_skill)
        assert (len(of_skill) < 6) == (uri in below)
        for line in of_skill:
            assert (line['source'] == 'real') == (line['title'] in real[uri])
            assert (line['round'], line['model']) == (0, None) if line['source'] == 'real' else line['round'] > 0
            assert line['model'] in (None, 'tiny-2026')
    for line in below.values():
        assert line['titles'] == len(titles[line['skill']])
        assert (line['rounds'], line['reason']) == (3, 'rounds spent')


def test_the_manifest_says_what_was_asked_and_what_it_cost(faultless):
    output, log = faultless
    manifest = json.loads((output / 'manifest.json').read_text())
    assert manifest['prompt'] == Prompt.load().version
    assert manifest['model'] == 'tiny'
    assert manifest['endpoint'].startswith('http://127.0.0.1:')
    totals = manifest['spent']
    assert totals['calls'] == totals['accepted'] == len(log)
    assert totals['tokens'] == {'input': 100 * len(log), 'output': 10 * len(log), 'answers_without_usage': 0}
    assert totals['dollars'] == pytest.approx((100 * 0.5 + 10 * 2) * len(log) / 1e6, abs=1e-5)
    counts = manifest['counts']
    assert sum(counts['titles'].values()) == len(lines(output / 'titles.jsonl'))
    for name, file in manifest['files'].items():
        assert file == {'bytes': (output / name).stat().st_size, 'sha256': sha256(output / name)}
    assert sorted(path.name for path in output.iterdir()) == sorted(
        [*manifest['files'], 'journal.jsonl', 'manifest.json']
    )


def test_a_first_look_at_a_few_skills_is_part_of_the_whole_and_no_answer_is_asked_for_twice(
    faultless, esco, cut_model, tmp_path
):
    output, log = faultless
    named = tmp_path / 'skills.txt'
    rows = read_rows(esco / 'skills_en.csv')
    named.write_text(f'{rows[3]["preferredLabel"]}\n\n{rows[1]["conceptUri"]}\n')
    again = tmp_path / 'out'
    with ChatServer(VOCABULARY) as server:
        enrich(esco, again, server.url, cut_model, skills=named)
        assert {line['skill'] for line in lines(again / 'titles.jsonl')} == {rows[n]['conceptUri'] for n in (1, 3)}
        enrich(esco, again, server.url, cut_model)
        asked = [asked.request for asked in server.log]
        enrich(esco, again, server.url, cut_model)
    assert len(set(asked)) == len(asked) == len(server.log)
    assert sorted(asked) == sorted(asked.request for asked in log)
    for name in ('titles.jsonl', 'below.jsonl'):
        assert (again / name).read_bytes() == (output / name).read_bytes()


def test_skills_about_which_an_endpoint_said_nothing_of_use_are_asked_about_again_once_it_does(
    faultless, esco, cut_model, tmp_path
):
    output, again = faultless[0], tmp_path / 'out'
    with ChatServer(VOCABULARY, spoil=lambda *_: '400') as server, pytest.raises(DataError, match='none before'):
        enrich(esco, again, server.url, cut_model)
    with ChatServer(VOCABULARY) as server:
        enrich(esco, again, server.url, cut_model)
    assert (again / 'titles.jsonl').read_bytes() == (output / 'titles.jsonl').read_bytes()


def test_the_titles_of_vacancies_count_as_real(esco, tmp_path):
    release = read_esco(esco, Repairs(), normalise)
    uri, skill = next(iter(release.skills.items()))
    without = real_titles(release, {})[uri]
    rows = [
        {'role': 'Quality  inspector', 'needs': [skill.label]},
        {'role': 'quality inspector', 'needs': [uri, 'fly']},
        {'role': without[0].upper(), 'needs': [skill.label.upper()]},
        {'role': '', 'needs': [uri]},
        {'role': 'pilot', 'needs': ['fly']},
    ]
    write_jsonl(tmp_path / 'v.jsonl', rows)
    also = titles_of_vacancies([tmp_path / 'v.jsonl'], Columns(title='role', skills='needs'), release, Repairs())
    assert also == {uri: ['Quality inspector', 'quality inspector', without[0].upper()]}
    assert real_titles(release, also) == real_titles(release, {}) | {uri: sorted([*without, 'Quality inspector'])}


def test_a_dry_run_asks_nothing_needs_no_key_and_tells_the_cost_by_its_rule(esco, tmp_path, caplog):
    caplog.set_level('INFO', 'data_prep')
    once = {'limit': 1, 'rounds': 1, 'input_price': 1000, 'output_price': 10000}
    url = 'http://127.0.0.1:9/v1?token=hidden'
    enrich(esco, tmp_path / 'out', url, 'none', key_variable='NO_KEY', dry_run=True, **once)
    release = read_esco(esco, Repairs(), normalise)
    real = real_titles(release, {})
    uri = next(uri for uri, known in real.items() if len(known) < 6)
    asked = max(5, -(-3 * (6 - len(real[uri])) // 2))
    messages = Prompt.load().messages(release.skills[uri], real[uri], asked)
    sent = -(-(sum(len(m['content'].encode()) for m in messages) + len(str(ANSWER))) // 4)
    dollars = sent / 1000 + asked * 10 / 100
    assert f'one round: 1 calls, {sent} tokens in, {asked * 10} out, ${dollars:.2f}' in caplog.text
    assert 'hidden' not in caplog.text
    assert not (tmp_path / 'out').exists()


def test_an_estimate_counts_later_rounds_with_the_answers_before_them():
    skill = SkillTitles(BREAD, ['baker'])
    one, two = (estimate([skill], Prompt.load(), wanted=5, rounds=rounds, attempts=3) for rounds in (1, 2))
    assert two.calls == 2 * one.calls == 2
    assert two.input_tokens == 2 * one.input_tokens + 6 * 40 / 4
    skill.apply({'kind': 'answer', 'round': 1, 'titles': list('abcd'), 'model': None})
    assert estimate([skill], Prompt.load(), wanted=5, rounds=2, attempts=3).calls == 0


NAMED = 'named.txt'
REFUSED = {
    'no skill with few titles': ({'titles': 1}, 'fewer than 1 titles: nothing to do'),
    'a number below one': ({'limit': 0}, r'--limit=0: expected at least 1'),
    'no time': ({'timeout': 0.0}, r'--timeout=0\.0: expected seconds'),
    'one price of two': ({'input_price': 1}, '--input_price and --output_price: expected both or neither'),
    'a user in the URL': ({'base_url': 'http://me:secret@host/v1'}, '--base_url: a user or password in it'),
    'a URL without a host': ({'base_url': 'user:secret@host'}, r'--base_url: not the URL of an endpoint'),
    'no key': ({'key_variable': 'NO_KEY'}, 'no key: the environment variable NO_KEY is empty'),
    'a key with a line break': ({'key_variable': 'BAD_KEY'}, 'the key in BAD_KEY: expected visible ASCII'),
    'the key itself': ({'key_variable': 'sk-secret'}, 'expected the name of an environment variable$'),
    'vacancies that are not there': ({'vacancies': ('no/*.csv',)}, r'--vacancies=no/\*\.csv: matches no file'),
    'an output below a file': ({'output': 'a file/out'}, 'cannot be written'),
    'a skill that is unknown': ({'skills': NAMED}, r"named\.txt, line 1: 'juggle' is unknown"),
    'a file of skills that is missing': ({'skills': 'none.txt'}, r'none\.txt: cannot be read'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_refused_before_anything_is_asked(name, esco, cut_model, tmp_path, monkeypatch):
    changes, message = REFUSED[name]
    monkeypatch.setenv('BAD_KEY', 'sk-1\nsecret')
    (tmp_path / 'a file').touch()
    (tmp_path / NAMED).write_text('juggle\n')
    changes = {k: tmp_path / v if k in ('output', 'skills') else v for k, v in changes.items()}
    with ChatServer(VOCABULARY) as server:
        arguments = {'output': tmp_path / 'out', 'url': changes.pop('base_url', server.url)} | changes
        with pytest.raises(DataError, match=message) as caught:
            enrich(esco, encoder=cut_model, **arguments)
    assert server.log == []
    assert 'secret' not in str(caught.value)


def test_a_second_process_is_refused(esco, cut_model, tmp_path):
    output = tmp_path / 'out'
    output.mkdir()
    with claim(output), pytest.raises(DataError, match='out: another process is at work on it'):
        enrich(esco, output, 'http://127.0.0.1:9/v1', cut_model)


def test_tokens_in_a_url_and_beginnings_of_the_key_are_not_shown():
    secrets = Secrets(KEY, 'https://host:8/v1?token=abcdef1234#x')
    assert secrets.endpoint == 'https://host:8/v1'
    shown = secrets.redact(f'--base_url=https://host:8/v1?token=abcdef1234#x {KEY} {KEY[:12]}***1 abcdef123')
    assert shown == '--base_url=https://host:8/v1 [secret] [secret] [secret]'


@pytest.mark.slow
def test_killed_again_and_again_it_ends_as_without_faults_and_repeats_no_answer_that_was_kept(
    faultless, esco, cut_model, tmp_path
):
    report = run_with_kills(esco, tmp_path / 'out', cut_model, kills=3, seed=1)
    assert report.kills == 3
    assert report.asked_again_though_kept == 0
    assert report.asked_again <= 3 * soak_enrich.CONCURRENCY
    assert len({asked.kind for asked in report.log} - {*FAULTS}) >= 2  # usable answers come in several forms
    assert sum(asked.kind in FAULTS for asked in report.log) > 5
    for name in ('titles.jsonl', 'below.jsonl'):
        assert (tmp_path / 'out' / name).read_bytes() == (faultless[0] / name).read_bytes()
    totals = json.loads((tmp_path / 'out' / 'manifest.json').read_text())['spent']
    assert totals['accepted'] == len(faultless[1])
    # The key went to the server, and nowhere else.
    assert {asked.authorization for asked in report.log} == {f'Bearer {KEY}'}
    written = [path.read_text() for path in tmp_path.rglob('*') if path.is_file()]
    assert len(written) == 4
    assert all(secret not in text for text in (*written, report.output) for secret in (KEY, KEY[:12], 'hidden'))
