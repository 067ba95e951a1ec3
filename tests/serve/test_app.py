"""The service over HTTP: its answers are the ranker's, and every refusal names the field."""

import concurrent.futures
import json
import threading

import httpx2
import numpy as np
import pytest

from tests.serve.conftest import SKILLS, SPACES, TITLES, Cold, running
from uwe_jax.interaction import Score
from uwe_jax.serve.app import make_app
from uwe_jax.serve.schemas import BODY_BYTES, MOST_CHARACTERS


@pytest.fixture(scope='module')
def client(address):
    with httpx2.Client(base_url=address, timeout=60) as client:
        yield client


def hits(ranked):
    return [(hit['id'], hit['text'], pytest.approx(hit['score'], abs=1e-5)) for hit in ranked['targets']]


# Answers


def test_a_ranking_is_that_of_the_index(client, indexes):
    answer = client.post('/rank', json={'queries': TITLES, 'space': 'skills', 'k': 3}).json()
    assert (answer['model'], answer['space']) == ('soft', 'skills')
    assert [ranked['query'] for ranked in answer['results']] == TITLES
    assert [hits(ranked) for ranked in answer['results']] == [
        [tuple(hit) for hit in of_query] for of_query in indexes['skills'].rank(TITLES, 3)
    ]


def test_the_first_space_the_first_model_and_ten_targets_are_the_default(client, indexes):
    answer = client.post('/rank', json={'queries': ['baker']}).json()
    assert (answer['model'], answer['space']) == ('soft', 'skills')
    assert [hit['text'] for hit in answer['results'][0]['targets']] == [
        hit.text for hit in indexes['skills'].rank(['baker'])[0]
    ]


def test_another_model_and_another_space_can_be_asked(client, models):
    answer = client.post('/rank', json={'queries': ['SQL'], 'space': 'titles', 'model': 'mean', 'k': 2}).json()
    [expected] = models['mean'].spaces['titles'].rank(['SQL'], 2)
    assert hits(answer['results'][0]) == [tuple(hit) for hit in expected]


def test_a_shortlist_limits_what_is_scored(client, indexes):
    answer = client.post('/rank', json={'queries': ['baker'], 'shortlist': 2}).json()
    assert hits(answer['results'][0]) == [tuple(hit) for hit in indexes['skills'].rank(['baker'], shortlist=2)[0]]


def test_requests_that_arrive_together_are_answered_as_alone(client, indexes):
    asked = [
        {'queries': [title, f'{title} {n}'], 'space': space, 'k': k, 'shortlist': shortlist}
        for n, (k, shortlist) in enumerate([(1, None), (3, None), (7, 3)])
        for title in TITLES
        for space in indexes
    ]
    with concurrent.futures.ThreadPoolExecutor(len(asked)) as threads:
        answers = list(threads.map(lambda body: client.post('/rank', json=body).json(), asked))
    for body, answer in zip(asked, answers, strict=True):
        expected = indexes[body['space']].rank(body['queries'], body['k'], body['shortlist'])
        assert [hits(ranked) for ranked in answer['results']] == [[tuple(hit) for hit in one] for one in expected]


def test_pairs_are_scored_one_by_one(client, ranker):
    pairs = [{'query': title, 'target': skill} for title in TITLES for skill in SKILLS]
    scores = client.post('/score', json={'pairs': pairs}).json()['scores']
    np.testing.assert_allclose(scores, ranker.score(TITLES, SKILLS).ravel(), atol=1e-5)


def test_the_attention_of_a_pair_is_that_of_the_ranker(client, ranker):
    answer = client.post('/attention', json={'query': 'data engineer', 'target': 'data engineering'}).json()
    expected = ranker.attention('data engineer', 'data engineering')
    assert answer['query_tokens'] == expected.query_tokens
    assert answer['target_tokens'] == expected.target_tokens
    np.testing.assert_allclose(answer['a'], expected.a, atol=1e-6)
    np.testing.assert_allclose(answer['c'], expected.c, atol=1e-6)
    assert answer['score'] == pytest.approx(expected.score)


def test_the_service_says_what_it_serves(client):
    assert client.get('/spaces').json() == {
        'models': [{'name': 'soft', 'attention': True}, {'name': 'mean', 'attention': False}],
        'spaces': [
            {'name': 'skills', 'targets': 7, 'skills': 'target'},
            {'name': 'titles', 'targets': 4, 'skills': 'query'},
        ],
    }


def test_a_model_whose_skills_attend_is_told_which_text_is_the_skill(make_ranker):
    model = Cold(make_ranker(Score(attend='from_skill')), {})
    pair = {'query': 'baker', 'target': 'bake bread'}
    with running(make_app({'skills attend': model}, SPACES)) as address:
        refused = httpx2.post(f'{address}/attention', json=pair)
        answer = httpx2.post(f'{address}/score', json={'pairs': [pair], 'skills': 'target'}, timeout=60).json()
    assert refused.json()['errors'][0]['pointer'] == '#/skills'
    expected = make_ranker(Score(attend='query')).score(['baker'], ['bake bread'])
    np.testing.assert_allclose(answer['scores'], expected[0], atol=1e-5)


# Refusals

PAIR = {'query': 'baker', 'target': 'bake bread'}


@pytest.mark.parametrize(
    ('path', 'body', 'pointer', 'detail'),
    [
        ('rank', {}, '#/queries', 'Field required'),
        ('rank', {'queries': []}, '#/queries', 'at least 1 item'),
        ('rank', {'queries': ['x'] * 10_000}, '#/queries', 'at most 64 items'),
        ('rank', {'queries': ['x', ' \n']}, '#/queries/1', 'expected a text that is not blank'),
        ('rank', {'queries': ['x', '\x1c']}, '#/queries/1', 'expected a text that is not blank'),
        ('rank', {'queries': ['x' * (MOST_CHARACTERS + 1)]}, '#/queries/0', 'at most 2000 characters'),
        ('rank', {'queries': [7]}, '#/queries/0', 'valid string'),
        ('rank', {'queries': ['x'], 'k': 0}, '#/k', 'greater than or equal to 1'),
        ('rank', {'queries': ['x'], 'k': 201}, '#/k', 'less than or equal to 200'),
        ('rank', {'queries': ['x'], 'k': '3'}, '#/k', 'valid integer'),
        ('rank', {'queries': ['x'], 'shortlist': 0}, '#/shortlist', 'greater than or equal to 1'),
        ('rank', {'queries': ['x'], 'space': 'cities'}, '#/space', "'cities', expected one of skills, titles"),
        ('rank', {'queries': ['x'], 'model': 'bert'}, '#/model', "'bert', expected one of soft, mean"),
        ('rank', {'queries': ['x'], 'top/k': 3}, '#/top~1k', 'Extra inputs are not permitted'),
        ('score', {'pairs': [PAIR, {'query': 'x'}]}, '#/pairs/1/target', 'Field required'),
        ('score', {'pairs': [PAIR], 'skills': 'both'}, '#/skills', "'query' or 'target'"),
        ('attention', PAIR | {'model': 'mean'}, '#/model', "'mean' has no attention between tokens"),
    ],
)
def test_a_field_that_does_not_fit_is_named(client, path, body, pointer, detail):
    answer = client.post(f'/{path}', json=body)
    assert answer.status_code == 422
    assert answer.headers['Content-Type'] == 'application/problem+json'
    [error] = answer.json()['errors']
    assert error['pointer'] == pointer
    assert detail in error['detail']


@pytest.mark.parametrize(
    ('body', 'status', 'detail'),
    [
        (b'{"queries": ["baker"', 422, 'not JSON'),
        (b'{"queries": ["\xff\xfe"]}', 400, 'parsing the body'),
        (b'[' * 100_000, 400, 'parsing the body'),
        (b'{"queries": ["\\ud800"]}', 422, '#/queries/0'),
        (b'{"queries": ["x"], "\\ud800": 1}', 422, 'unicode'),
        (b'{"queries": ["x"], "k": NaN}', 422, '#/k'),
        (b'{"queries": ["x"], "k": 1e999}', 422, '#/k'),
        (b'{"queries": ["x"], "k": ' + b'9' * 5000 + b'}', 400, 'parsing the body'),
        (b' ' * (BODY_BYTES + 1), 413, 'too large'),
        (b'', 422, 'Field required'),
    ],
    ids=lambda body: repr(body)[:40],
)
def test_a_body_that_is_not_a_request_is_refused(client, body, status, detail):
    answer = client.post('/rank', content=body, headers={'Content-Type': 'application/json'})
    assert answer.status_code == answer.json()['status'] == status
    assert answer.headers['Content-Type'] == 'application/problem+json'
    assert detail.lower() in answer.json()['detail'].lower()


@pytest.mark.parametrize(('method', 'path', 'status'), [('GET', '/nothing', 404), ('GET', '/rank', 405)])
def test_other_paths_and_methods_are_refused(client, method, path, status):
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers['Content-Type']) == (status, 'application/problem+json')


class Slow:
    """A space that answers, and warms up, when it is told to."""

    def __init__(self):
        self.ranks, self.answers, self.warm = threading.Semaphore(0), threading.Event(), threading.Event()

    def rank(self, queries, k, shortlist):
        self.ranks.release()
        self.answers.wait(30)
        return [[] for _ in range(len(queries))]

    def warm_up(self):
        self.warm.wait(30)
        yield


class Warm(Cold):
    """A model that only warms up its spaces."""

    def warm_up(self):
        for space in self.spaces.values():
            yield from space.warm_up()


SLOW = {'slow': None}


def test_beyond_the_queue_requests_are_asked_to_come_again(ranker):
    slow = Slow()
    with (
        running(make_app({'model': Cold(ranker, {'slow': slow})}, SLOW, queue=2)) as address,
        concurrent.futures.ThreadPoolExecutor() as threads,
    ):
        first = threads.submit(httpx2.post, f'{address}/rank', json={'queries': ['a']}, timeout=60)
        slow.ranks.acquire()  # the first is worked on, and its place in the queue is free
        waiting = threads.submit(httpx2.post, f'{address}/rank', json={'queries': ['b', 'c']}, timeout=60)
        while 'uwe_waiting_texts 2.0' not in httpx2.get(f'{address}/metrics').text:
            pass
        refused = httpx2.post(f'{address}/rank', json={'queries': ['d']})
        slow.answers.set()
        assert [first.result().status_code, waiting.result().status_code] == [200, 200]
    assert (refused.status_code, refused.headers['Retry-After']) == (503, '1')
    assert refused.json()['detail'] == '2 texts are waiting, at most 2 may'


def test_the_service_is_ready_once_it_is_warm(ranker):
    slow = Slow()
    with running(make_app({'model': Warm(ranker, {'slow': slow})}, SLOW)) as address:
        assert httpx2.get(f'{address}/healthz').status_code == 200
        assert httpx2.get(f'{address}/readyz').status_code == 503
        slow.warm.set()
        while (answer := httpx2.get(f'{address}/readyz')).status_code == 503:
            pass
        assert answer.json() == {'ready': True}


def test_an_error_in_the_service_is_a_problem_and_not_the_end(ranker, indexes):
    class Broken(Slow):
        def rank(self, queries, k, shortlist):
            raise RuntimeError('out of memory')

    spaces = {'skills': Broken(), 'titles': indexes['titles']}
    with running(make_app({'model': Cold(ranker, spaces)}, SPACES)) as address:
        broken = httpx2.post(f'{address}/rank', json={'queries': ['a']}, timeout=60)
        fine = httpx2.post(f'{address}/rank', json={'queries': ['a'], 'space': 'titles'}, timeout=60)
    assert (broken.status_code, broken.json()['status'], fine.status_code) == (500, 500, 200)
    assert 'memory' not in broken.text


# What surrounds them


def test_the_metrics_count_requests_by_route_and_status(client):
    client.post('/rank', json={'queries': []})
    lines = client.get('/metrics').text.splitlines()
    assert any(line.startswith('uwe_requests_total{route="/rank",status="422"}') for line in lines)
    assert any(line.startswith('process_resident_memory_bytes') for line in lines)


def test_the_page_may_load_nothing_from_elsewhere_and_nothing_inline(client):
    page = client.get('/')
    assert page.headers['Content-Type'].startswith('text/html')
    policy = page.headers['Content-Security-Policy']
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
    assert 'unsafe' not in policy
    assert 'style=' not in page.text


def test_every_reference_in_the_description_leads_somewhere(client):
    description = client.get('/openapi.json').json()
    schemas = {f'#/components/schemas/{name}' for name in description['components']['schemas']}
    references = {part.split('"')[0] for part in json.dumps(description).split('"$ref": "')[1:]}
    assert references == schemas
