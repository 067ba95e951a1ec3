"""What Prometheus is shown, and the middleware that counts."""

import time

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
TEXTS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counters of one service, in a registry of their own."""

    def __init__(self):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, CPU time, open files
        self.requests = Counter(
            'uwe_requests', 'Requests, by route and status.', ['route', 'status'], registry=self.registry
        )
        self.seconds = Histogram(
            'uwe_request_seconds', 'Until the answer.', ['route'], buckets=SECONDS, registry=self.registry
        )
        self.batch_texts = Histogram(
            'uwe_batch_texts', 'Texts that were worked on together.', buckets=TEXTS, registry=self.registry
        )


class Measured:
    """ASGI middleware: counts and times the requests."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope['type'] != 'http':
            return await self._app(scope, receive, send)
        start, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message['type'] == 'http.response.start':
                status = message['status']
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get('route'), 'path', 'other')
            self._metrics.requests.labels(route, status).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - start)
