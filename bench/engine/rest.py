"""Queries over REST in bodies like the SDK's, one after another or from many clients."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.common import (
    F32,
    BenchError,
    HttpConnection,
    call_json,
    encode_request,
    percentile,
    send_all,
)
from bench.dataset import ID_PREFIX
from bench.engine.raw import K


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds."""

    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Of the seconds of single queries."""
        return cls(1000 * percentile(seconds, 50), 1000 * percentile(seconds, 99))


def request(collection: str, query: F32, **fields: Any) -> bytes:
    """One query, ready to be sent; `fields` go into the body."""
    vector = base64.b64encode(query.astype("<f4").tobytes()).decode()
    body = {"k": K, "include": ["metadata"], "vector": vector, **fields}
    path = f"/v1/collections/{collection}/query"
    return encode_request("POST", path, json.dumps(body).encode())


async def singles(
    connection: HttpConnection, collection: str, queries: F32, **fields: Any
) -> tuple[list[float], NDArray[np.int64]]:
    """Queries one after another: seconds of each, and the rows found, int64[n, K]."""
    requests = [request(collection, query, **fields) for query in queries]
    _, seconds, bodies = await send_all([connection], requests)
    return seconds, rows_of(bodies)


async def rate(connections: Sequence[HttpConnection], collection: str, queries: F32) -> float:
    """Queries a second with one in flight per connection."""
    wall_s, _, _ = await send_all(connections, [request(collection, q) for q in queries])
    return len(queries) / wall_s


async def accepts(
    connection: HttpConnection, collection: str, query: F32, field: str, value: Any
) -> bool:
    """Whether this version of the product knows a field of queries.

    :raises BenchError: neither yes nor no.
    """
    encoded = request(collection, query, **{field: value})
    status, body = await connection.request(encoded)
    if status not in (200, 400):
        raise BenchError(f"a query with {field}: {status} {body[:300]!r}")
    return status == 200


async def delete_percents(
    connection: HttpConnection, collection: str, percents: Iterable[int]
) -> int:
    """Delete the rows of these values of `percent`, one after another; how many rows they were.

    A hundredth of the rows at a time, so that each fits into a transaction's time.
    """
    path, count = f"/v1/collections/{collection}/vectors/delete", 0
    for percent in percents:
        body = {"filter": {"percent": percent}}
        count += int((await call_json(connection, "POST", path, body))["count"])
    return count


def rows_of(bodies: Sequence[bytes]) -> NDArray[np.int64]:
    """The rows that answers name, int64[n, K]; -1 where there are fewer than K."""
    found = np.full((len(bodies), K), -1, dtype=np.int64)
    for i, body in enumerate(bodies):
        ids = [int(hit["id"].removeprefix(ID_PREFIX)) for hit in json.loads(body)["vectors"]]
        found[i, : len(ids)] = ids
    return found
