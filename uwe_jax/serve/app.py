"""The routes of the service."""

import asyncio
import contextlib
import functools
import importlib.metadata
import itertools
import pathlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse
from prometheus_client import Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from uwe_jax.interaction import Side, check_says_who_attends, has_attention
from uwe_jax.ranking import Ranker
from uwe_jax.serve import engine, schemas
from uwe_jax.serve.batcher import Batcher
from uwe_jax.serve.engine import AttentionJob, Model, RankJob, ScoreJob
from uwe_jax.serve.metrics import Measured, Metrics
from uwe_jax.serve.problems import RETRY_AFTER_S, RefusedError, describe_problems, documented, handle_errors, problem

BATCH_TEXTS = 32
PAGE = pathlib.Path(__file__).with_name('page')
# The page gets everything from this server, and nothing inline.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b'content-security-policy', POLICY.encode()),
    (b'x-content-type-options', b'nosniff'),
    (b'referrer-policy', b'no-referrer'),
]


def make_app(
    models: Mapping[str, Model], spaces: Mapping[str, Side | None], *, queue: int = 256, wait_s: float = 0.005
) -> FastAPI:
    """The service as an ASGI application.

    Args:
      models: by name; the first is the default.
      spaces: those that every model has, and where the skills are when each is ranked, None if nothing says so. The
        first is the default.
      queue: texts that may wait; beyond, requests are answered with status 503.
      wait_s: how long a request waits for others to be encoded with, in seconds.
    """
    metrics = Metrics()
    batcher: Batcher[engine.Job, Any] = Batcher(
        engine.answer,
        itertools.chain.from_iterable(model.warm_up() for model in models.values()),
        batch=BATCH_TEXTS,
        most=queue,
        wait_s=wait_s,
        seen=metrics.batch_texts.observe,
    )
    waiting = Gauge('uwe_waiting_texts', 'Texts in the queue.', registry=metrics.registry)
    waiting.set_function(lambda: batcher.waiting)

    @contextlib.asynccontextmanager
    async def working(_: FastAPI) -> AsyncIterator[None]:
        work = asyncio.create_task(batcher.run())
        yield
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)

    app = FastAPI(
        title='Unified Work Embeddings',
        summary='Ranks the targets of a space for texts, scores pairs, and shows which tokens met.',
        version=importlib.metadata.version('uwe_jax'),
        lifespan=working,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
    )
    app.add_middleware(Guarded)
    app.add_middleware(Measured, metrics=metrics)
    handle_errors(app)
    names = list(spaces)
    problems = documented(400, 413, 422, 503)

    def chosen(name: str | None) -> tuple[str, Model]:
        name = next(iter(models)) if name is None else name
        if name not in models:
            raise RefusedError('model', f'{name!r}, expected one of {", ".join(models)}')
        return name, models[name]

    @app.post('/rank', responses=problems, summary='The best targets of each query')
    async def rank(request: schemas.RankRequest) -> schemas.RankAnswer:
        name, model = chosen(request.model)
        space = names[0] if request.space is None else request.space
        if space not in names:
            raise RefusedError('space', f'{space!r}, expected one of {", ".join(names)}')
        job = RankJob(model, space, request.queries, request.k, request.shortlist)
        ranked = await batcher.ask(job, len(request.queries))
        results = [
            schemas.Ranked(query=query, targets=[schemas.Hit(**hit._asdict()) for hit in hits])
            for query, hits in zip(request.queries, ranked, strict=True)
        ]
        return schemas.RankAnswer(model=name, space=space, results=results)

    @app.post('/score', responses=problems, summary='The score of each pair of texts')
    async def score(request: schemas.ScoreRequest) -> schemas.ScoreAnswer:
        name, model = chosen(request.model)
        ranker = facing(model.ranker, request.skills)
        queries, targets = zip(*((pair.query, pair.target) for pair in request.pairs), strict=True)
        scores = await batcher.ask(ScoreJob(ranker, queries, targets), 2 * len(queries))
        return schemas.ScoreAnswer(model=name, scores=scores)

    @app.post('/attention', responses=problems, summary='Which tokens of two texts met')
    async def attention(request: schemas.AttentionRequest) -> schemas.AttentionAnswer:
        name, model = chosen(request.model)
        ranker = facing(model.ranker, request.skills)
        if not has_attention(ranker.pair_score):
            raise RefusedError('model', f'{name!r} has no attention between tokens; GET /spaces says which models have')
        found = await batcher.ask(AttentionJob(ranker, request.query, request.target), 2)
        return schemas.AttentionAnswer(model=name, **found._asdict() | {'a': found.a.tolist(), 'c': found.c.tolist()})

    @app.get('/spaces', summary='The models and the target spaces')
    async def all_spaces() -> schemas.Spaces:
        infos = [
            schemas.ModelInfo(name=name, attention=has_attention(model.ranker.pair_score))
            for name, model in models.items()
        ]
        opened = next(iter(models.values())).spaces
        counted = [
            schemas.SpaceInfo(name=name, targets=await asyncio.to_thread(len, opened[name]), skills=skills)
            for name, skills in spaces.items()
        ]
        return schemas.Spaces(models=infos, spaces=counted)

    @app.get('/healthz', summary='Whether the process answers')
    async def health() -> dict[str, bool]:
        return {'healthy': True}

    @app.get('/readyz', responses=documented(503), summary='Whether all programs are compiled')
    async def readiness() -> Any:
        if batcher.ready:
            return {'ready': True}
        return problem(503, detail='programs are being compiled', headers={'Retry-After': str(RETRY_AFTER_S)})

    @app.get('/metrics', include_in_schema=False)
    async def exposed() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    for file in PAGE.iterdir():
        path = '/' if file.name == 'index.html' else f'/{file.name}'
        app.add_route(path, functools.partial(send_file, file))
    describe_problems(app)
    return app


async def send_file(file: pathlib.Path, _: Request) -> Response:
    """A file of the page."""
    return FileResponse(file)


def facing(ranker: Ranker, skills: Side | None) -> Ranker:
    """The model for a pair of which this text is the skill.

    Raises:
      RefusedError: the model needs to know which is, and nothing says so.
    """
    ranker = ranker if skills is None else ranker.facing(skills)
    try:
        check_says_who_attends(ranker.pair_score)
    except ValueError as error:
        raise RefusedError('skills', 'this model needs to know which text is the skill: query or target') from error
    return ranker


class Guarded:
    """ASGI middleware: bounds the body of a request, and adds what browsers should heed to the answer."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get('body', b''))
            if size > schemas.BODY_BYTES:
                raise HTTPException(413, f'the body is too large: at most {schemas.BODY_BYTES:,} bytes')
            return message

        async def with_headers(message: Message) -> None:
            if message['type'] == 'http.response.start':
                message = {**message, 'headers': [*message['headers'], *HEADERS]}
            await send(message)

        await self._app(scope, bounded, with_headers)
