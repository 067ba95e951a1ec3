"""Serves models and target spaces over HTTP: python -m uwe_jax.serve --model=DIR --space=skills=skills.csv:label."""

import contextlib
import dataclasses
import logging
import pathlib
import signal
import socket
import sys
from typing import Literal

import uvicorn

from uwe_jax.interaction import Score, Side, check_says_who_attends
from uwe_jax.io import console
from uwe_jax.io.paths import cache_root
from uwe_jax.ranking import Ranker
from uwe_jax.serve.app import make_app
from uwe_jax.serve.connections import ImpatientProtocol
from uwe_jax.serve.engine import Model
from uwe_jax.serve.spaces import SpaceFile, SpaceInLance, read_spaces

logger = logging.getLogger(__name__)

CONNECTIONS = 512  # more requests at a time are answered with status 503 before they are read
GRACE_S = 30  # for what is under way at SIGTERM


@dataclasses.dataclass(frozen=True)
class Options:
    """Serves models and target spaces over HTTP, with a page at / to look at them."""

    model: tuple[str, ...]
    """NAME=SOURCE or SOURCE: an export, a training workdir, or a plain MPNet model: a directory,
    gs://BUCKET/NAME or a Hub name. Several models are shown side by side."""
    space: tuple[str, ...]
    """NAME=FILE for each target space, here or gs://BUCKET/NAME: one text per line; or NAME=FILE:COLUMN for CSV, TSV,
    JSON or Parquet; or NAME=lance:PATH for an index in LanceDB, which uwe_jax.update_index makes."""
    skills: tuple[str, ...] = ()
    """The name of a space that holds skills. Models of score.attend=from_skill need it: skills attend, and the queries
    of the other spaces are taken for skills."""
    attend: Literal['target', 'query', 'both'] | None = None
    """Whose tokens are attended to in every space, as in uwe_jax.rank; by default as the model was trained."""
    pooling: Literal['tokens', 'mean'] = 'tokens'
    """Late interaction, or the cosine of mean-pooled vectors."""
    dtype: Literal['float32', 'bfloat16', 'int8'] = 'float32'
    """Of the stored vectors."""
    cache: pathlib.Path | None = None
    """Where embedded spaces are kept for the next start; by default spaces/ in the cache of models."""
    host: str = '127.0.0.1'
    """The address to listen on. There is no authentication: read uwe_jax/serve/README.md before changing it."""
    port: int = 8000
    """The port to listen on; 0 takes a free one."""
    queue: int = 256
    """Texts that may wait; beyond, requests are answered with status 503."""
    wait_ms: float = 5.0
    """How long a request waits for others to be encoded with it."""

    def check(self) -> None:
        """Raises ValueError if an option does not fit."""
        for name in ('model', 'space'):
            if not getattr(self, name):
                raise ValueError(f'--{name}: expected at least one')
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f'--port={self.port}: expected 0 to 65535')
        if self.queue < 1:
            raise ValueError(f'--queue={self.queue}: expected a number above 0')
        if not self.wait_ms >= 0:
            raise ValueError(f'--wait_ms={self.wait_ms}: expected 0 or more')


def serve(options: Options) -> None:
    """Opens everything, then serves until SIGTERM or Ctrl-C; what is under way then is finished.

    Raises:
      ValueError, OSError: an option, a model or a file does not fit, or the port is taken.
    """
    options.check()
    spaces = read_spaces(options.space, options.skills)
    sources = named(options.model)
    for space in spaces:
        space.check()
    with bind(options.host, options.port) as bound:  # before the minutes that embedding takes
        models = {name: open_model(source, spaces, options) for name, source in sources.items()}
        skills: dict[str, Side | None] = {space.name: space.skills for space in spaces}
        app = make_app(models, skills, queue=options.queue, wait_s=options.wait_ms / 1000)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=ImpatientProtocol,
                ws='none',
                limit_concurrency=CONNECTIONS,
                timeout_graceful_shutdown=GRACE_S,
                log_config=None,
                access_log=False,
                server_header=False,
            )
        )
        signal.signal(signal.SIGTERM, server.handle_exit)
        console.hide_progress()  # of every request
        bound.listen()  # from now on, connections wait for uvicorn
        host, port = bound.getsockname()[:2]
        logger.info('listening on http://%s:%d', f'[{host}]' if ':' in host else host, port)
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[bound])
    logger.info('finished what was under way')


def bind(host: str, port: int) -> socket.socket:
    """A socket at the address, on which nothing listens yet: connections are refused.

    Raises:
      OSError: the address is taken, or not this machine's.
    """
    bound = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise OSError(f'--host={host} --port={port}: {error.strerror or error}; choose others') from error
    return bound


def named(words: tuple[str, ...]) -> dict[str, str]:
    """The sources of the models, by name: a source without one has that of its directory.

    Raises:
      ValueError: a name comes twice.
    """
    sources = {}
    for one in words:
        name, equals, source = one.partition('=')
        if not equals or pathlib.Path(one).exists():
            name, source = pathlib.Path(one).resolve().name, one
        if name in sources:
            raise ValueError(f'--model={one}: a second model {name!r}; expected NAME=SOURCE with another name')
        sources[name] = source
    return sources


def open_model(source: str, spaces: list[SpaceFile | SpaceInLance], options: Options) -> Model:
    """Loads a model, and embeds every space that it has not embedded before.

    Raises:
      ValueError: no source has the model, it is damaged or has to be told which spaces hold skills, or a space does not
        fit.
      OSError: the cache cannot be written.
    """

    def check(score: Score) -> None:
        try:
            check_says_who_attends(score if not options.skills else score.facing('target'))
        except ValueError as error:
            raise ValueError(
                f'--model={source}: {error}; or name the spaces that hold skills: --skills=NAME'
            ) from error

    ranker = Ranker.from_pretrained(source, options.pooling, attend=options.attend, check=check)
    cache = options.cache or cache_root() / 'spaces'
    return Model(ranker, {space.name: space.open(ranker, cache, options.dtype) for space in spaces})


if __name__ == '__main__':
    sys.exit(console.command(Options, serve))
