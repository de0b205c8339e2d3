"""Writes a backup into a running cluster, through its REST edge.

Owns two invariants: nothing is written unless all of it may be (every byte of the backup was
checked, and no name is taken), and writing it again gives the same rows, so that a restore that
was cut off can be run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.model.collection import Collection
from vector_db.common.ports import Disk
from vector_db.shard.backup.arrow import encode
from vector_db.shard.backup.errors import BackupError
from vector_db.shard.backup.manifest import TIMELINE_FILE, Manifest
from vector_db.shard.backup.rows import Batch, batches, open_segments
from vector_db.shard.core.timeline import Timeline
from vector_db_client.calls import Request, collection_path
from vector_db_client.catalog import AsyncCatalog
from vector_db_client.transport import Transport

ARROW_TYPE = "application/vnd.apache.arrow.stream"
IN_FLIGHT_MAX = 4

Reporting = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""(what is done, rows in all): a function that hears of rows that are done."""


def commit_at(directory: Path, manifest: Manifest, at: int | None, at_ms: int | None) -> int:
    """The commit to read the backup at: `at`, or the newest at the time `at_ms`, or its own.

    :raises BackupError: the backup cannot be read there.
    """
    if at_ms is not None:
        if at_ms > manifest.taken_ms:
            raise BackupError(f"the backup {manifest.name} was taken before that time")
        timeline = Timeline(0.0, (directory / TIMELINE_FILE).read_bytes())
        at = timeline.as_of(at_ms)
    if at is None:
        return manifest.commit_ts
    if not manifest.oldest_ts <= at <= manifest.commit_ts:
        raise BackupError(
            f"the backup {manifest.name} can be read at commits {manifest.oldest_ts} to "
            f"{manifest.commit_ts}, not at {at}"
            + (" (that time lies before its retention window)" if at_ms is not None else "")
        )
    return at


def chosen(manifest: Manifest, at: int, names: Sequence[str]) -> list[Collection]:
    """The collections of these names, all without any, that existed at the commit `at`.

    :raises BackupError: one of the names is none of them.
    """
    there = {c.name: c for c in manifest.collections_at(at)}
    for name in names:
        if name not in there:
            known = ", ".join(sorted(there)) or "none"
            raise BackupError(
                f"the backup {manifest.name} has no collection {name!r} at commit {at}; it has: "
                f"{known}"
            )
    return [there[name] for name in sorted(set(names) or there)]


@dataclass(frozen=True, slots=True)
class Restored:
    """What was written."""

    rows: int
    size_bytes: int


class Restore:
    """One backup into one cluster, as of the commit `at`."""

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        at: int,
        collections: Sequence[Collection],
        transport: Transport,
        reporting: Reporting,
        *,
        shards: int | None = None,
        into_existing: bool = False,
    ) -> None:
        """`shards` None lets the cluster choose. `into_existing`: collections that exist with the
        same dimension and metric are written into, what else they hold stays."""
        self._disk: Disk = PosixDisk(directory)
        self._manifest = manifest
        self._at = at
        self._collections = list(collections)
        self._transport = transport
        self._client = AsyncCatalog(transport)
        self._reporting = reporting
        self._shards = shards
        self._into_existing = into_existing
        self._rows = self._bytes = 0

    async def run(self) -> Restored:
        """Make the collections, write their rows, set the aliases.

        :raises BackupError: a name is taken; nothing was written.
        :raises VectorDatabaseError: a write failed; run it again with `into_existing`.
        :raises StorageCorrupt: a file changed since it was checked.
        """
        existing = await self._check()
        for collection in self._collections:
            if collection.name not in existing:
                await self._create(collection)
        for collection in self._collections:
            await self._fill(collection)
        if aliases := self._aliases():
            await self._client.update_aliases(aliases)
        return Restored(self._rows, self._bytes)

    def _aliases(self) -> dict[str, str]:
        """Alias → collection. It is of the generation at the backup's commit, and may stand for
        another one of the same collection here."""
        names = {c.origin: c.name for c in self._collections}
        origins = {c.id: c.origin for c in self._manifest.collections}
        targets = {alias: origins.get(i) for alias, i in self._manifest.aliases.items()}
        return {alias: names[i] for alias, i in targets.items() if i in names}

    async def _check(self) -> set[str]:
        """The names of collections of the target, once nothing is in the way."""
        there = {c.name: c for c in await self._client.list_collections()}
        aliases = await self._client.aliases()
        for collection in self._collections:
            name = collection.name
            if name in aliases:
                raise BackupError(f"{name!r} is an alias in the cluster, of {aliases[name]!r}")
            if (other := there.get(name)) is None:
                continue
            if not self._into_existing:
                raise BackupError(
                    f"the collection {name!r} exists already: delete it, or write the rows into it "
                    "with --into-existing"
                )
            if (other.dimension, other.metric) != (collection.dimension, collection.metric.value):
                raise BackupError(
                    f"the collection {name!r} exists with dimension {other.dimension} and metric "
                    f"{other.metric}; that of the backup has {collection.dimension} and "
                    f"{collection.metric.value}"
                )
        for alias, name in self._aliases().items():
            if alias in there or aliases.get(alias, name) != name:
                of = "a collection" if alias in there else f"an alias of {aliases[alias]!r}"
                raise BackupError(f"the alias {alias!r} of {name!r} is {of} in the cluster")
        return set(there)

    async def _create(self, collection: Collection) -> None:
        metric: Any = collection.metric.value
        await self._client.create_collection(
            collection.name,
            collection.dimension,
            metric,
            shards=self._shards,
            index=msgspec.to_builtins(collection.index),
            recall_target=collection.recall_target,
            fields=collection.fields,
        )

    async def _fill(self, collection: Collection) -> None:
        """Write the rows, several batches in flight."""
        total = await asyncio.to_thread(self._count, collection)
        turns = asyncio.Semaphore(IN_FLIGHT_MAX)
        with self._reporting(f"restoring {collection.name}", total) as advance:
            try:
                async with asyncio.TaskGroup() as group:
                    for batch in self._batches(collection):
                        await turns.acquire()
                        sent = self._send(collection.name, batch, turns, advance)
                        group.create_task(sent)
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from failed

    def _count(self, collection: Collection) -> int:
        parts = self._parts(collection)
        return sum(
            s.count(self._at) for p in parts for s in open_segments(self._disk, p, collection)
        )

    def _parts(self, collection: Collection) -> list[Any]:
        shards = self._manifest.shards
        return [p for s in shards for p in s.slices if p.collection_id == collection.id]

    def _batches(self, collection: Collection) -> Iterator[Batch]:
        for part in self._parts(collection):
            for segment in open_segments(self._disk, part, collection):
                yield from batches(segment, self._at)

    async def _send(
        self, name: str, batch: Batch, turns: asyncio.Semaphore, advance: Callable[[int], None]
    ) -> None:
        try:
            body = await asyncio.to_thread(encode, batch)
            path = collection_path(name, "vectors") + "?mode=upsert"
            await self._transport.send(Request("POST", path, body, ARROW_TYPE))
        finally:
            turns.release()
        self._rows += len(batch)
        self._bytes += len(body)
        advance(len(batch))
