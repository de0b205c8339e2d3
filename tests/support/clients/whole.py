"""What a run does with the whole database: make the collections, insist on a write, read it all.

Owns the last word on a run: every row of every collection at one snapshot that holds every
acknowledged write, as one transaction of the history.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from tests.checkers.history import ReadList, Row, Scroll, Transaction, Write
from tests.support.clients.client import COLLECTIONS, METRICS, Shared
from tests.support.clients.edge import Answer, Edge, NeverSent
from tests.support.clients.wire import lists_of, operations_of, row_of

PAGE = 5000
_AGAIN_S = 0.05
_PROBE_ROWS = 8


async def prepare(edge: Edge) -> None:
    """Make the collections.

    :raises RuntimeError: one is refused.
    """
    for name, dimension in COLLECTIONS.items():
        body = {"name": name, "dimension": dimension, "metric": METRICS.get(name, "dot")}
        answer = await edge.ask("/v1/collections", body)
        if not answer.ok:
            raise RuntimeError(f"cannot create {name}: {answer}")


async def new_epoch(edge: Edge, shared: Shared, epoch: int, within_s: float) -> None:
    """Lists that are still empty: those of before stay as they are.

    :raises RuntimeError: they cannot be written.
    """
    rows = [
        {"id": f"e{epoch}-{n}", "dimensions": [1.0, 1.0], "metadata": {"l": {}}}
        for n in range(shared.lists)
    ]
    await insist(edge, "/v1/collections/lists/vectors", {"vectors": rows}, within_s)
    shared.epoch = epoch


def probe(number: int) -> dict[str, Any]:
    """The body of a write over all shards."""
    rows = [f"probe-{number}-{n}" for n in range(_PROBE_ROWS)]
    writes = [Write(f"marks/{i}", Row(i, (1.0, 1.0), {"tag": i, "probe": 1})) for i in rows]
    return {"operations": operations_of(writes)}


async def insist(edge: Edge, path: str, body: Any, within_s: float) -> Answer:
    """A blind write until it is applied.

    :raises RuntimeError: it is refused, or not applied in that time.
    """
    until = time.monotonic() + within_s
    told: object = None
    while time.monotonic() < until:
        try:
            answer = await edge.ask(path, body)
        except NeverSent as error:
            told = error
        else:
            if answer.ok:
                return answer
            told = answer
            if answer.outcome == "aborted" and not answer.retryable:
                break
        await asyncio.sleep(_AGAIN_S)
    raise RuntimeError(f"{path} cannot be written: {told}")


async def read_everything(edge: Edge, shared: Shared) -> int:
    """Add the last transaction to the history: all rows of all collections; its snapshot.

    :raises RuntimeError: something cannot be read.
    """
    operations: list[Scroll | ReadList] = []
    begin = time.monotonic()
    strong = await edge.ask("/v1/collections/marks/count", {"consistency": {"strong": True}})
    if not strong.ok:
        raise RuntimeError(f"no strong read: {strong}")
    snapshot_ts = int(strong.body["snapshot_ts"])
    for name in COLLECTIONS:
        rows, at = await _scroll(edge, name, snapshot_ts)
        if at != snapshot_ts:
            shared.broken.append(f"{name} was read at {at}, everything else {snapshot_ts}")
        if name == "lists":
            operations += lists_of(Answer(200, {"vectors": rows}), [row["id"] for row in rows])
        else:
            operations.append(Scroll(name, None, _seen(rows)))
    shared.history.append(
        Transaction(
            "final",
            begin,
            time.monotonic(),
            "committed",
            tuple(operations),
            snapshot_ts=snapshot_ts,
            strong=True,
            final=True,
        )
    )
    return snapshot_ts


def _seen(rows: Sequence[dict[str, Any]]) -> tuple[tuple[str, Row, int], ...]:
    return tuple((r["id"], row_of(r), r["version"]) for r in rows if "probe" not in r["metadata"])


async def _scroll(edge: Edge, name: str, as_of: int) -> tuple[list[dict[str, Any]], int]:
    """All rows of a collection at a snapshot, and the snapshot that was told: writes that nobody
    waits for any more may still come after it."""
    rows: list[dict[str, Any]] = []
    body: dict[str, Any] = {"limit": PAGE, "consistency": {"as_of": as_of}}
    while True:
        answer = await edge.ask(f"/v1/collections/{name}/scroll", body)
        if not answer.ok:
            raise RuntimeError(f"{name} cannot be read: {answer}")
        rows += answer.body["vectors"]
        if answer.body["cursor"] is None:
            return rows, int(answer.body["snapshot_ts"])
        body = {"limit": PAGE, "cursor": answer.body["cursor"]}
