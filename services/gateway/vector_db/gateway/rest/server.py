"""Serves the REST application on one address, and drains it.

Owns the invariant that bytes which are no HTTP request get a JSON error too, and that stopping lets
requests under way finish, within a bound.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import Any

from aiohttp import web

from vector_db.common.model.errors import StartupError
from vector_db.gateway.rest.errors import RequestIds, protocol_error

_BACKLOG = 512
_KEEPALIVE_S = 75.0
_LINGER_S = 1.0
"""How long the rest of a refused body is read, so that its sender gets to read the answer."""

HEADER_BYTES_MAX = 16 * 1024
"""Of one header: a transaction's token with room to spare."""

_ACCESS_LOG = logging.Logger("off", level=logging.CRITICAL + 1)
_log = logging.getLogger(__name__)


class _Protocol(web.RequestHandler):
    """One connection."""

    __slots__ = ("_request_ids",)

    def __init__(self, server: web.Server, request_ids: RequestIds) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=_ACCESS_LOG,
            keepalive_timeout=_KEEPALIVE_S,
            lingering_time=_LINGER_S,
            max_field_size=HEADER_BYTES_MAX,
        )
        self._request_ids = request_ids

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Logs what escaped; a transfer that broke was answered already and is no defect."""
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is not HTTP, or what no handler could answer."""
        request_id = self._request_ids.of(request)
        if status >= 500:
            _log.error("request %s failed outside its handler", request_id, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was begun already")
        return protocol_error(status, message, request_id)


class RestServer:
    """One listening HTTP server."""

    def __init__(self, app: web.Application) -> None:
        self._runner = web.AppRunner(
            app, handle_signals=False, shutdown_timeout=1.0, handler_cancellation=True
        )
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; 0 picks a free port.

        :returns: the port.
        :raises StartupError: the address is in use, or cannot be listened on.
        """
        await self._runner.setup()
        served = self._runner.server
        if served is None:
            raise StartupError("HTTP: the application did not start")
        request_ids = RequestIds()
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: _Protocol(served, request_ids), host, port, backlog=_BACKLOG
            )
        except OSError as error:
            await self._runner.cleanup()
            reason = "is in use" if error.errno == errno.EADDRINUSE else f"({error.strerror})"
            raise StartupError(f"HTTP: cannot listen on {host}:{port}: {reason}") from None
        actual: int = self._server.sockets[0].getsockname()[1]
        return actual

    async def stop(self, drain_s: float = 10.0) -> None:
        """Take no more connections, let requests finish for up to `drain_s`, then cut them."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        if (served := self._runner.server) is not None:
            served.pre_shutdown()
            await served.shutdown(drain_s)
        await self._runner.cleanup()
