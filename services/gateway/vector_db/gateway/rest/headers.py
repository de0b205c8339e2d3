"""The request headers that change what a call means, and the answer headers that tell of it.

Owns the invariant that a header which a client could believe to protect its write is either obeyed
or refused: each route names the headers that it takes and, with a hint, those that it refuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
from aiohttp import web

from vector_db.common.model.errors import InvalidArgument
from vector_db.common.model.rows import I64
from vector_db.common.model.times import TS_MAX
from vector_db.gateway.core.request_hash import idempotency
from vector_db.gateway.core.requests import Idempotency

TRANSACTION: Final = "Transaction"
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
IF_MATCH: Final = "If-Match"
IF_NONE_MATCH: Final = "If-None-Match"
REPLAYED: Final = "Idempotency-Replayed"
ETAG: Final = "ETag"

MEANINGS: Final[dict[str, str]] = {
    TRANSACTION: "The token of an open transaction, in which this call then runs: that of the "
    "latest answer",
    IDEMPOTENCY_KEY: "1 to 255 visible ASCII characters; the same request with the same key is "
    "applied once, and answered the same again",
    IF_MATCH: 'The version that the row must have, in quotes (`"123"`), else 412',
    IF_NONE_MATCH: "`*`: the row must not exist, else 409",
}

TOLD: Final[dict[str, str]] = {
    TRANSACTION: "The token for the next call in the transaction",
    REPLAYED: "`true`: answered as before, applied not again",
    ETAG: "The row's version, in quotes: what `If-Match` takes",
}

_HINTS: Final[dict[str, str]] = {
    TRANSACTION: "only rows are read and written in transactions",
    IDEMPOTENCY_KEY: "a key goes with writes of rows and with commits",
    IF_MATCH: "it goes with PUT, PATCH and DELETE of one row; other writes of rows take "
    "if_version in their body",
    IF_NONE_MATCH: "it goes with PUT of one row; other writes of rows take the mode insert",
}
_ETAG = re.compile(r'"(\d{1,16})"', re.ASCII)
_VISIBLE = re.compile(r"[\x21-\x7e]+")


def refusals(taken: Iterable[str], **hints: str) -> Mapping[str, str]:
    """What a route that takes only `taken` says to the other headers; `hints` by lower name."""
    return {
        name: hints.get(name.lower(), hint)
        for name, hint in _HINTS.items()
        if name not in frozenset(taken)
    }


def check_refused(request: web.Request, refused: Mapping[str, str]) -> None:
    """:raises InvalidArgument: the request has a header of `refused`."""
    for name, hint in refused.items():
        if name in request.headers:
            raise InvalidArgument(f"header {name}: has no meaning here; {hint}")


def token_of(request: web.Request) -> str | None:
    """The token of the open transaction that the call is to run in.

    :raises InvalidArgument: it cannot be one.
    """
    token = _only(request, TRANSACTION)
    if token is not None and not _VISIBLE.fullmatch(token):
        raise InvalidArgument(f"header {TRANSACTION}: not a token of a transaction")
    return token


def idempotency_of(request: web.Request, body: bytes) -> Idempotency | None:
    """The key of the request and the hash of all that makes it what it is; None without a key.

    :raises InvalidArgument: the key is not one.
    """
    key = _only(request, IDEMPOTENCY_KEY)
    if key is None:
        return None
    headers = (request.headers.get(name, "") for name in ("Content-Type", IF_MATCH, IF_NONE_MATCH))
    parts = (request.method, request.rel_url.raw_path, request.rel_url.raw_query_string, *headers)
    return idempotency(
        key,
        f"header {IDEMPOTENCY_KEY}",
        *(part.encode(errors="surrogateescape") for part in parts),
        body,
    )


def if_match(request: web.Request) -> I64 | None:
    """int64[1], the version that the one row must have; None without the header.

    :raises InvalidArgument: anything but one strong entity tag that holds a version.
    """
    given = _only(request, IF_MATCH)
    if given is None:
        return None
    if given == "*":
        reason = "* is not understood; name one version, in quotes"
    elif given.startswith("W/"):
        reason = "a weak tag never matches; a version in quotes is a strong one"
    elif "," in given:
        reason = "only one version can hold"
    else:
        match = _ETAG.fullmatch(given)
        if match is not None and (version := int(match[1])) <= TS_MAX:
            return np.array([version], dtype=np.int64)
        reason = 'must be a version in quotes, like "123": what ETag of GET answers'
    raise InvalidArgument(f"header {IF_MATCH}: {reason}")


def if_none_match(request: web.Request) -> bool:
    """Whether the row must not exist.

    :raises InvalidArgument: anything but ``*``.
    """
    given = _only(request, IF_NONE_MATCH)
    if given not in (None, "*"):
        raise InvalidArgument(f"header {IF_NONE_MATCH}: only * is understood")
    return given is not None


def _only(request: web.Request, name: str) -> str | None:
    """:raises InvalidArgument: the header is given twice."""
    given = request.headers.get(name)
    if given is not None and len(request.headers.getall(name)) > 1:
        raise InvalidArgument(f"header {name}: given twice")
    return given
