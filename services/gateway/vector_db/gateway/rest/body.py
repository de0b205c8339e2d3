"""Reading request bodies within their limit.

Owns the invariant that no more than `body_bytes_max` of a body is ever held: a larger
`Content-Length` is refused before a byte is read, an unannounced one as soon as it passes it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web
from aiohttp.client_exceptions import ClientError
from aiohttp.http_exceptions import HttpProcessingError

from vector_db.common.model.errors import InvalidArgument, TooLarge, UnsupportedMediaType
from vector_db.common.model.limits import Limits

ARROW_TYPE: Final = "application/vnd.apache.arrow.stream"
BODY_IDLE_S: Final = 30.0
"""Longest pause between two pieces of a body."""

_JSON_TYPES = frozenset(("application/json", "text/json"))
_ACCEPTED_AS_JSON = _JSON_TYPES | {
    "application/octet-stream",
    "application/x-www-form-urlencoded",  # what `curl -d` says when it is told nothing
    "text/plain",
}


async def read_body(request: web.Request, limits: Limits) -> bytes:
    """The whole body.

    :raises TooLarge: over `body_bytes_max`, also once decompressed.
    :raises InvalidArgument: the transfer is malformed, broke off or stalled.
    """
    limit = limits.body_bytes_max
    check_length(request, limits)
    content = request.content
    if content.is_eof() and content.exception() is None:
        # A small body came with its head: no await, no timer.
        whole = content.read_nowait()
        if len(whole) > limit:
            raise _too_large(limit)
        return whole
    pieces: list[bytes] = []
    size = 0
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(BODY_IDLE_S) as idle:
            while piece := await content.readany():
                size += len(piece)
                if size > limit:
                    raise _too_large(limit)
                pieces.append(piece)
                idle.reschedule(loop.time() + BODY_IDLE_S)
    except TimeoutError:
        raise InvalidArgument(f"body: nothing came for {BODY_IDLE_S:.0f} s") from None
    except (HttpProcessingError, ClientError, web.RequestPayloadError) as error:
        text = str(getattr(error, "message", "") or error).split("\n", 1)[0]
        raise InvalidArgument(f"body: malformed transfer ({text})") from None
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def check_length(request: web.BaseRequest, limits: Limits) -> None:
    """:raises TooLarge: the announced length is over `body_bytes_max`."""
    length = request.content_length
    if length is not None and length > limits.body_bytes_max:
        raise _too_large(limits.body_bytes_max)


def is_arrow(request: web.Request) -> bool:
    """Whether the body is an Arrow IPC stream; False when it is JSON.

    A browser sends ``text/plain`` and forms to any site without asking first, so a request that
    names an origin must say that it is JSON (which needs the permission that is never given).

    :raises UnsupportedMediaType: neither.
    """
    kind = request.content_type
    if kind == ARROW_TYPE:
        return True
    accepted = _JSON_TYPES if "Origin" in request.headers else _ACCEPTED_AS_JSON
    if kind in accepted or (kind.startswith("application/") and kind.endswith("+json")):
        return False
    raise UnsupportedMediaType(
        f"content type {kind!r} is not understood; send application/json or {ARROW_TYPE}"
    )


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is over {limit} bytes (the limit body_bytes_max)")
