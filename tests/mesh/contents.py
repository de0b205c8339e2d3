"""What each replica of each shard holds at one snapshot, asked of the workers themselves.

Gateways ask one replica of a shard, so only this sees all of them. Owns the comparison: every row
with its version, metadata and the bits of its vector goes into the digest, hidden collections too.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.catalog import CatalogReply, CatalogRequest
from vector_db.common.core.messages.reads import RowsReply, ScrollRequest
from vector_db.common.core.subjects import sequencer, worker
from vector_db.common.model.errors import VectorDBError
from vector_db.common.ports import Bus, BusTimeout, BusUnavailable, NoResponders

PAGE_ROWS = 2000
_ASK_S = 8.0
_AGAIN_S = 0.1


@dataclass(frozen=True, slots=True)
class Content:
    """How many rows a replica of a shard holds, and a digest of them."""

    rows: int
    digest: str


class Digest:
    """A digest of pages of rows, in the order of ids, collection after collection."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._rows = 0

    def add(self, collection_id: int, page: RowsReply) -> None:
        """The next page."""
        ids = page.ids.unpack()
        self._rows += len(ids)
        for part in (*ids, *page.metadata.unpack(), page.versions, page.vectors):
            data = bytes(part)
            self._hash.update(b"%d %d " % (collection_id, len(data)))
            self._hash.update(data)

    def content(self) -> Content:
        """Of all pages so far."""
        return Content(self._rows, self._hash.hexdigest())


def differences(contents: Mapping[int, Mapping[str, Content]]) -> list[str]:
    """The shards whose replicas do not agree, each with what they hold."""
    return [
        f"shard {shard}: " + ", ".join(f"{w[:8]} {c.rows} rows {c.digest}" for w, c in of.items())
        for shard, of in sorted(contents.items())
        if len(set(of.values())) > 1
    ]


async def term_of(bus: Bus, within_s: float) -> int:
    """The term that is led now.

    :raises TimeoutError: nobody says so in time.
    """
    return (await _catalog(bus, time.monotonic() + within_s)).term


async def contents(bus: Bus, snapshot_ts: int, within_s: float) -> dict[int, dict[str, Content]]:
    """Per shard and worker what it holds at `snapshot_ts`, or when the generation was over.

    :raises TimeoutError: a worker does not answer in time.
    """
    until = time.monotonic() + within_s
    catalog = await _catalog(bus, until)
    found: dict[int, dict[str, Content]] = {}
    for shard, workers in catalog.replicas.items():
        for worker_id in workers:
            digest = Digest()
            for collection in catalog.collections:
                if shard not in collection.shards or collection.replaces:
                    continue
                ts = (
                    min(snapshot_ts, collection.until_ts - 1)
                    if collection.until_ts
                    else snapshot_ts
                )
                async for page in _pages(bus, worker_id, collection.id, shard, ts, until):
                    digest.add(collection.id, page)
            found.setdefault(shard, {})[worker_id] = digest.content()
    return found


async def _catalog(bus: Bus, until: float) -> CatalogReply:
    reply = await _insist(bus, sequencer(), CatalogRequest(), until)
    if not isinstance(reply, CatalogReply):
        raise TypeError(f"no catalog: {reply}")
    return reply


async def _pages(
    bus: Bus, worker_id: str, collection_id: int, shard: int, snapshot_ts: int, until: float
) -> AsyncIterator[RowsReply]:
    after = b""
    while True:
        request = ScrollRequest(collection_id, (shard,), snapshot_ts, PAGE_ROWS, after)
        page = await _insist(bus, worker(worker_id), request, until)
        if not isinstance(page, RowsReply):
            raise TypeError(f"no rows: {page}")
        yield page
        ids = page.ids.unpack()
        if len(ids) < PAGE_ROWS:
            return
        after = ids[-1]


async def _insist(bus: Bus, subject: str, request: AnyMessage, until: float) -> AnyMessage:
    """An answer: whoever is late or away is asked again."""
    told: Exception | None = None
    while time.monotonic() < until:
        try:
            return await bus.request(subject, request, _ASK_S)
        except (BusTimeout, BusUnavailable, NoResponders) as error:
            told = error
        except VectorDBError as error:
            if not error.retryable:
                raise
            told = error
        await asyncio.sleep(_AGAIN_S)
    raise TimeoutError(f"{subject}: {told}")
