"""Takes a backup of running workers, over the bus.

Owns the invariant that all of a backup can be read at one commit, which has all that was
acknowledged before it began, and that its catalog is exactly the one of that commit, but for
generations that are being filled: those have nothing that the ones in force lack. Every shard is
set aside at a snapshot past it, while the retention window still holds it.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Callable, Iterable
from typing import TypeVar

import google_crc32c
import msgspec
import structlog

from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.catalog import CatalogReply, CatalogRequest
from vector_db.common.core.messages.reads import StrongReply, StrongRequest
from vector_db.common.core.subjects import sequencer
from vector_db.common.model.collection import Collection
from vector_db.common.model.errors import StorageCorrupt, Unavailable
from vector_db.common.model.ids import HIDDEN_PREFIX
from vector_db.common.ports import Bus, Clock, Disk
from vector_db.shard.backup.errors import BackupError
from vector_db.shard.backup.manifest import (
    TIMELINE_FILE,
    FileEntry,
    Manifest,
    ShardEntry,
    write_manifest,
)
from vector_db.shard.backup.transfer import NOT_GIVEN, Transfer, Transferred
from vector_db.shard.core.timeline import Timeline
from vector_db.shard.pieces import REQUEST_TIMEOUT_S, Pace

RETRY_S = 0.5
SHARDS_AT_ONCE = 2

R = TypeVar("R", CatalogReply, StrongReply)


class Creation:
    """One backup on its way. `disk` is rooted at its directory, which holds nothing yet."""

    def __init__(
        self,
        bus: Bus,
        disk: Disk,
        clock: Clock,
        *,
        bytes_per_s_max: int = 0,
        patience_s: float = 60.0,
        expect: Callable[[int], None] = lambda size: None,
        advance: Callable[[int], None] = lambda size: None,
    ) -> None:
        """`bytes_per_s_max` 0: as fast as it goes. What does not answer is asked again, another
        replica where there is one, for `patience_s`. For `expect` and `advance` see `Transfer`."""
        self._bus = bus
        self._disk = disk
        self._clock = clock
        self._pace = Pace(clock, bytes_per_s_max)
        self._patience_s = patience_s
        self._expect = expect
        self._advance = advance
        self._log = structlog.get_logger("vector_db.backup")
        self._placement: dict[int, tuple[str, ...]] = {}
        self._done: list[Transferred] = []

    async def run(self, name: str, program: str) -> Manifest:
        """Copy everything, then write the manifest.

        :param program: the version of this program, for people.
        :raises BackupError: it cannot be had now, and is none.
        :raises DiskFull: likewise.
        """
        catalog = await self._settled_catalog()
        commit_ts = catalog.stable_ts
        collections = {c.id: c for c in catalog.collections if _is_copied(c)}
        shards = sorted({shard for c in collections.values() for shard in c.shards})
        turns = asyncio.Semaphore(SHARDS_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                for shard in shards:
                    group.create_task(self._shard(shard, commit_ts, collections, turns))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        # A drop that left rows out of a snapshot is not newer than the snapshot.
        reached = max((done.entry.ts for done in self._done), default=commit_ts)
        now = (await self._catalog_at(reached)).collections
        left = {c.id for c in now}
        _refuse_if_replaced((c for i, c in collections.items() if i not in left), now)
        manifest = self._manifest(
            name, program, catalog, {i: c for i, c in collections.items() if i in left}
        )
        # Not in a thread, which would go on when this is cancelled.
        write_manifest(self._disk, manifest)
        return manifest

    def _manifest(
        self, name: str, program: str, catalog: CatalogReply, collections: dict[int, Collection]
    ) -> Manifest:
        """The manifest of what was copied, without collections that were dropped meanwhile."""
        commit_ts = catalog.stable_ts
        self._done.sort(key=lambda done: done.entry.shard)
        # They agree where they reach; the longest one reaches back furthest.
        longest = max((done.timeline for done in self._done), key=len, default=b"")
        timeline = Timeline(0.0, longest).pack(commit_ts)
        self._disk.write_atomic(TIMELINE_FILE, [timeline])
        files = [FileEntry(TIMELINE_FILE, len(timeline), google_crc32c.value(timeline))]
        shards: list[ShardEntry] = []
        for done in self._done:
            dropped = [p for p in done.entry.slices if p.collection_id not in collections]
            for part in dropped:
                shutil.rmtree(self._disk.root / done.directory / str(part.collection_id))
            gone = tuple(f"{done.directory}/{part.collection_id}/" for part in dropped)
            files += [file for file in done.files if not file.name.startswith(gone)]
            kept = tuple(p for p in done.entry.slices if p.collection_id in collections)
            shards.append(msgspec.structs.replace(done.entry, slices=kept))
        return Manifest(
            name=name,
            cluster_id=next((w.cluster_id for w in catalog.workers if w.cluster_id), ""),
            program=program,
            taken_ms=catalog.wall_ms,
            commit_ts=commit_ts,
            oldest_ts=max((shard.floor_ts for shard in shards), default=commit_ts),
            collections=tuple(collections.values()),
            aliases={a: i for a, i in catalog.aliases.items() if i in collections},
            shards=tuple(shards),
            files=tuple(files),
        )

    async def _shard(
        self,
        shard: int,
        commit_ts: int,
        collections: dict[int, Collection],
        turns: asyncio.Semaphore,
    ) -> None:
        """Copy one shard from any replica that gives it."""
        until_s: float | None = None
        for attempt in itertools.count():
            async with turns:
                try:
                    transfer = self._transfer(shard, attempt, commit_ts, collections)
                    self._done.append(await transfer.run())
                    return
                except (*NOT_GIVEN, StorageCorrupt) as error:
                    why = str(error) or type(error).__name__
                    self._log.warning("a shard is not copied yet", shard=shard, error=why)
                    now_s = self._clock.monotonic_s()
                    until_s = now_s + self._patience_s if until_s is None else until_s
                    if now_s >= until_s:
                        raise BackupError(f"no replica gives shard {shard}: {why}") from error
                finally:
                    failed = self._disk.root / _directory(shard, attempt)
                    if not any(done.directory == _directory(shard, attempt) for done in self._done):
                        await asyncio.to_thread(shutil.rmtree, failed, ignore_errors=True)
            await asyncio.sleep(RETRY_S)
            await self._catalog()

    def _transfer(
        self, shard: int, attempt: int, commit_ts: int, collections: dict[int, Collection]
    ) -> Transfer:
        replicas = self._placement.get(shard, ())
        if not replicas:
            raise Unavailable(f"shard {shard} has no replica")
        return Transfer(
            bus=self._bus,
            disk=self._disk,
            pace=self._pace,
            shard=shard,
            # Shards begin with different workers, which share the work.
            replica=replicas[(shard + attempt) % len(replicas)],
            commit_ts=commit_ts,
            collections=collections,
            directory=_directory(shard, attempt),
            expect=self._expect,
            advance=self._advance,
        )

    async def _settled_catalog(self) -> CatalogReply:
        """A catalog that is the one of its own stable commit: none of it can be undone, and nothing
        was decided of it since. The commit has all that was acknowledged before."""
        strong = await self._ask(StrongRequest(), StrongReply)
        until_s = self._clock.monotonic_s() + self._patience_s
        while not _is_settled(catalog := await self._catalog_at(strong.stable_ts)):
            if self._clock.monotonic_s() >= until_s:
                raise BackupError("the catalog keeps changing")
            await asyncio.sleep(RETRY_S / 10)
        return catalog

    async def _catalog_at(self, ts: int) -> CatalogReply:
        """The catalog with everything up to `ts`: a sequencer that was deposed may still answer."""
        until_s = self._clock.monotonic_s() + self._patience_s
        while (catalog := await self._catalog()).stable_ts < ts:
            if self._clock.monotonic_s() >= until_s:
                raise BackupError(f"no coordinator is stable up to commit {ts}")
            await asyncio.sleep(RETRY_S / 10)
        return catalog

    async def _catalog(self) -> CatalogReply:
        """The catalog now; its placement is used from here on."""
        catalog = await self._ask(CatalogRequest(), CatalogReply)
        self._placement = catalog.replicas
        return catalog

    async def _ask(self, request: AnyMessage, kind: type[R]) -> R:
        """What the sequencer answers.

        :raises BackupError: nothing, for long.
        """
        until_s = self._clock.monotonic_s() + self._patience_s
        while True:
            try:
                reply = await self._bus.request(sequencer(), request, REQUEST_TIMEOUT_S)
                if isinstance(reply, kind):
                    return reply
                why = f"a {type(reply).__name__} came"
            except NOT_GIVEN as error:
                why = str(error) or type(error).__name__
            if self._clock.monotonic_s() >= until_s:
                raise BackupError(f"no coordinator answers: {why}")
            await asyncio.sleep(RETRY_S)


def _is_settled(catalog: CatalogReply) -> bool:
    """Whether all of it is stable. A term has no stable commit before its takeover is one."""
    return 0 < catalog.stable_ts >= catalog.catalog_ts


def _is_copied(collection: Collection) -> bool:
    """Whether a backup holds it."""
    return not collection.replaces and not collection.name.startswith(HIDDEN_PREFIX)


def _refuse_if_replaced(gone: Iterable[Collection], now: Iterable[Collection]) -> None:
    """What was dropped while the backup was taken is left out, but not rows that another generation
    goes on with.

    :raises BackupError: names the collection.
    """
    alive = {c.origin for c in now}
    for collection in gone:
        if collection.in_force and collection.origin in alive:
            raise BackupError(
                f"the collection {collection.name!r} was spread over other shards, and old ones "
                "were given up, while the backup was taken: take it again"
            )


def _directory(shard: int, attempt: int) -> str:
    """Each attempt has its own, so that none finds what another left."""
    return f"shards/{shard}-{attempt}"
