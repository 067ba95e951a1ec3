"""A service in this process, on a port of its own."""

import contextlib
import threading
import time

import pytest
import uvicorn

from uwe_jax.interaction import Score
from uwe_jax.serve.app import make_app
from uwe_jax.serve.connections import ImpatientProtocol
from uwe_jax.serve.engine import Model

SKILLS = ['SQL', 'bake bread', 'care for patients', 'data engineering', 'drive a bus', 'manage a kitchen', 'mix dough']
TITLES = ['data engineer', 'baker', 'night nurse', 'bus driver']
SPACES = {'skills': 'target', 'titles': 'query'}


class Cold(Model):
    """A model without a warm-up, which would compile programs that most tests do not need."""

    def warm_up(self):
        return iter(())


@contextlib.contextmanager
def running(app):
    """Serves an app; yields its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, http=ImpatientProtocol, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f'http://{host}:{port}'
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope='session')
def indexes(ranker):
    return {'skills': ranker.index(SKILLS), 'titles': ranker.index(TITLES)}


@pytest.fixture(scope='session')
def models(ranker, indexes, make_ranker):
    """Two models: one with the paper's score, and one that compares means."""
    mean = make_ranker(Score(kind='mean'))
    return {
        'soft': Cold(ranker, indexes),
        'mean': Cold(mean, {'skills': mean.index(SKILLS), 'titles': mean.index(TITLES)}),
    }


@pytest.fixture(scope='session')
def app(models):
    return make_app(models, SPACES)


@pytest.fixture(scope='session')
def address(app):
    with running(app) as address:
        yield address
