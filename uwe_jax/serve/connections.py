"""Connections that do not wait for ever: uvicorn's, with a limit on how long a request may take to arrive."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S = 15.0


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 that hangs up on a client whose request has not arrived whole after `REQUEST_S`, counted from its start.

    uvicorn itself only limits the time between requests; a client that connects and sends nothing, or half a request,
    would hold its connection for ever.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore
        """Expects a request."""
        super().connection_made(transport)
        self._expect(True)

    def data_received(self, data: bytes) -> None:
        """Expects the rest, unless the request is whole."""
        super().data_received(data)
        self._expect(self.conn.their_state in (h11.IDLE, h11.SEND_BODY))

    def connection_lost(self, exc: Exception | None) -> None:
        """Expects nothing more."""
        self._expect(False)
        super().connection_lost(exc)

    def _expect(self, more: bool) -> None:
        """Says whether the rest of a request is expected."""
        if not more and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        elif more and self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_S, self.transport.close)
