"""Rows into a collection over Arrow, several requests in flight, and the wait for their indexes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench import dataset, generate
from bench.common import (
    F32,
    BenchError,
    HttpConnection,
    ServerProcess,
    call_json,
    encode_request,
    send_all,
)
from bench.memory import children_of, command_of

ARROW = "application/vnd.apache.arrow.stream"
BATCH_ROWS = 1_000
IN_FLIGHT = 8
CHUNK_BATCHES = 64
"""Requests encoded at a time: while they are sent, nothing else is done here."""

POLL_S = 0.5
QUIET_S = 5.0
"""Statistics that stand still so long, with nothing under way, are final."""
PROGRESS_S = 15.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """`sending_s` without the time in which the client encoded, `wall_s` with it."""

    rows: int
    sending_s: float
    wall_s: float


@dataclass(frozen=True, slots=True)
class Settled:
    """The last statistics; `reason` why not everything is indexed, "" when it is."""

    stats: dict[str, Any]
    seconds: float
    reason: str


async def create(
    connection: HttpConnection, collection: str, dimension: int, fields: Sequence[str] = ()
) -> None:
    """A cosine collection with the defaults of the product, and an index on some fields."""
    body = {"name": collection, "dimension": dimension, "metric": "cosine", "fields": [*fields]}
    await call_json(connection, "POST", "/v1/collections", body)


async def drop(connection: HttpConnection, collection: str) -> None:
    """Delete it with all its rows.

    :raises BenchError: it was refused.
    """
    status, _ = await connection.request(
        encode_request("DELETE", f"/v1/collections/{collection}", b"")
    )
    if not 200 <= status < 300:
        raise BenchError(f"DELETE {collection}: {status}")


async def rebuild(connection: HttpConnection, collection: str, m: int) -> None:
    """Ask for graphs of other degree: every index is built again, the old ones serve meanwhile."""
    path = f"/v1/collections/{collection}"
    await call_json(connection, "PATCH", path, {"index": {"m": m}})


async def load(
    connections: Sequence[HttpConnection],
    collection: str,
    rows: F32,
    first: int = 0,
    in_flight: int = IN_FLIGHT,
) -> Loaded:
    """Insert `rows`, numbered from `first` on, with the metadata of the generator."""
    started = time.monotonic()
    sending_s = 0.0
    for chunk in range(0, len(rows), CHUNK_BATCHES * BATCH_ROWS):
        part = rows[chunk : chunk + CHUNK_BATCHES * BATCH_ROWS]
        requests = [
            insert_request(collection, first + chunk + at, part[at : at + BATCH_ROWS])
            for at in range(0, len(part), BATCH_ROWS)
        ]
        wall_s, _, _ = await send_all(connections[:in_flight], requests)
        sending_s += wall_s
    return Loaded(len(rows), sending_s, time.monotonic() - started)


def insert_request(collection: str, first: int, rows: F32) -> bytes:
    """One insert of `rows` as Arrow, ready to be sent."""
    body = dataset.arrow_stream(first, rows, generate.metadata(first, len(rows)))
    return encode_request("POST", f"/v1/collections/{collection}/vectors", body, ARROW)


async def statistics(connection: HttpConnection, collection: str) -> dict[str, Any]:
    """What `GET …/stats` says."""
    return await call_json(connection, "GET", f"/v1/collections/{collection}/stats")


def rows_in_builds(stats: dict[str, Any]) -> int:
    """Rows in builds under way; 0 where the product does not say."""
    building = stats.get("building", 0)
    if isinstance(building, dict):
        building = building.get("rows", 0)
    elif isinstance(building, list):
        building = building[0]
    return int(building)


def is_building(server: ServerProcess, stats: dict[str, Any]) -> bool:
    """Whether background work is under way: as the statistics say, or a process of its own."""
    if rows_in_builds(stats) > 0:
        return True
    return any("vector_db.shard" in command_of(child) for child in children_of(server.pid))


async def settle(
    server: ServerProcess, connection: HttpConnection, collection: str, timeout_s: float
) -> Settled:
    """Wait until all rows are indexed and nothing changes any more, at most `timeout_s`."""
    started = told = changed = time.monotonic()
    last: tuple[Any, ...] = ()
    while True:
        stats = await statistics(connection, collection)
        now = time.monotonic()
        busy = is_building(server, stats)
        seen = (stats["rows"], stats["rows_indexed"], stats["segments"], stats["bytes_disk"])
        if busy or seen != last:
            last, changed = seen, now
        waiting = stats["rows"] - stats["rows_indexed"]
        if now - changed >= QUIET_S:
            reason = f"{waiting:,} rows have no index, and none is being built" if waiting else ""
            return Settled(stats, changed - started, reason)
        if now - started > timeout_s:
            reason = f"{waiting:,} rows wait for an index after {timeout_s:.0f} s"
            return Settled(stats, now - started, reason)
        if now - told >= PROGRESS_S:
            told = now
            print(
                f"  {collection}: {stats['rows_indexed']:,} of {stats['rows']:,} rows indexed, "
                f"{stats['segments']} segments, {now - started:.0f} s",
                flush=True,
            )
        await asyncio.sleep(POLL_S)
