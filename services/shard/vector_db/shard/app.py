"""The shard service: recovers, follows the logs, answers reads, keeps house."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from prometheus_client import Gauge

from vector_db.common.core.messages.catalog import Member
from vector_db.common.core.subjects import beats, members, promises
from vector_db.common.core.subjects import worker as worker_subject
from vector_db.common.ports import BusUnavailable, DiskFull, Subscription
from vector_db.common.service.config import Config
from vector_db.common.service.runtime import Runtime, Service
from vector_db.common.service.telemetry import ReadCounter
from vector_db.shard.copying import Copier
from vector_db.shard.handlers import Handlers
from vector_db.shard.index.opening import use_one_faiss_thread
from vector_db.shard.index.simd import check_simd, simd_level
from vector_db.shard.maintenance import Maintenance
from vector_db.shard.native import native_level
from vector_db.shard.snapshots import Snapshots
from vector_db.shard.storage.outgoing import remove_outgoing
from vector_db.shard.storage.recovery import recover
from vector_db.shard.storage.store import StoreOptions
from vector_db.shard.worker import Worker

HEARTBEAT_S = 0.5
STOP_CHECKPOINT_S = 10.0


class ShardService:
    """One shard worker."""

    name = "shard"

    def __init__(self, runtime: Runtime, config: Config) -> None:
        self._runtime = runtime
        self._config = config
        self._bus = runtime.bus
        self._log = structlog.get_logger("vector_db.shard")
        self._pool = runtime.pool(config.performance.worker_threads, "shard", use_one_faiss_thread)
        self._subscriptions: list[Subscription] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._worker: Worker | None = None

    async def start(self) -> None:
        """Recover, then take part; ready once everything acknowledged is back in memory."""
        use_one_faiss_thread()
        self._log.info("searches with", simd=simd_level(), native=native_level())
        loop = asyncio.get_running_loop()
        disk, clock, bus = self._runtime.disk, self._runtime.clock, self._bus
        started = clock.monotonic_s()
        await loop.run_in_executor(self._pool, remove_outgoing, disk)
        found = await loop.run_in_executor(
            self._pool,
            recover,
            disk,
            StoreOptions.within(int(self._config.storage.hot_tier_size)),
            self._runtime.random,
            self._config.transactions.retention_s,
        )
        self._participant, self._store, self._wal = found.participant, found.store, found.wal
        self._log = self._log.bind(worker=found.worker)
        self._log.info(
            "recovered",
            replayed=found.replayed,
            torn_bytes=found.torn_bytes,
            cursor=self._participant.cursor,
            seconds=round(clock.monotonic_s() - started, 3),
        )
        worker = Worker(
            bus,
            self._participant,
            self._wal,
            self._pool,
            on_applied=self._noted,
            on_dropped=self._store.drop_collection,
            on_removed=self._removed,
            checkpoint=found.checkpoint,
        )
        self._maintenance = Maintenance(
            worker,
            self._participant,
            self._store,
            self._wal,
            disk,
            clock,
            self._pool,
            self._config.storage.checkpoint_wal_bytes,
            self._config.performance.worker_threads,
        )
        limits = self._config.limits_value()
        self._snapshots = Snapshots(self._participant, self._store, disk, clock, self._pool)
        self._handlers = Handlers(
            worker,
            self._participant,
            self._store,
            self._pool,
            limits,
            self._snapshots,
            self._maintenance.noted_read,
        )
        self._copier = Copier(
            bus,
            worker,
            self._participant,
            self._store,
            self._wal,
            disk,
            clock,
            self._pool,
            self._maintenance.checkpoint,
            self._maintenance.open_indexes,
            int(self._config.sharding.copy_bytes_per_s_max),
        )
        self._subscriptions = [
            await bus.serve(worker_subject(found.worker), self._handlers.handle),
            await bus.subscribe(promises(), worker.on_control),
            await bus.subscribe(beats(), worker.on_control),
        ]
        self._worker = worker
        self._register_metrics()
        self._tasks = [
            asyncio.create_task(worker.run(), name="shard.worker"),
            asyncio.create_task(worker.follower.run(), name="shard.follower"),
            asyncio.create_task(worker.fetcher.run(), name="shard.fetcher"),
            asyncio.create_task(self._maintenance.run(), name="shard.maintenance"),
            asyncio.create_task(self._copier.run(), name="shard.copier"),
            asyncio.create_task(self._heartbeats(), name="shard.heartbeats"),
        ]

    async def run(self) -> None:
        """Until cancelled; raises what the worker cannot survive."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def stop(self) -> None:
        """Checkpoint, so that the next start is quick, and release everything."""
        if self._worker is not None and not any(task.done() for task in self._tasks):
            try:
                async with asyncio.timeout(STOP_CHECKPOINT_S):
                    await self._maintenance.checkpoint()
            except TimeoutError:
                self._log.warning("no checkpoint at the end, the WAL has everything")
            except (DiskFull, OSError) as error:
                self._log.warning("no checkpoint at the end", error=str(error))
        for subscription in self._subscriptions:
            await subscription.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._worker is not None:
            self._snapshots.close()
            self._wal.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def health(self) -> dict[str, Any]:
        """Ready once recovered and running."""
        if self._worker is None:
            return {"ready": False, "waits_for": "recovery"}
        participant = self._participant
        alive = not any(task.done() for task in self._tasks)
        return {
            "ready": alive,
            "worker": participant.worker,
            "term": participant.promised,
            "cursor": participant.cursor,
            "stable_ts": participant.stable_ts,
            **participant.counts(),
            **({"full": participant.full} if participant.full else {}),
        }

    def _register_metrics(self) -> None:
        registry = self._runtime.metrics
        participant, wal, store = self._participant, self._wal, self._store
        copier, snapshots = self._copier, self._snapshots
        Gauge(
            "vector_db_shard_undecided", "Undecided parts of transactions", registry=registry
        ).set_function(lambda: participant.counts()["undecided"])
        Gauge("vector_db_shard_wal_bytes", "Size of the WAL", registry=registry).set_function(
            lambda: wal.size_bytes
        )
        Gauge(
            "vector_db_shard_held_bytes", "Bytes of rows in memory and files", registry=registry
        ).set_function(store.bytes_held)
        Gauge(
            "vector_db_shard_shards_held", "Shards of which it is a replica", registry=registry
        ).set_function(lambda: len(participant.state.shards_of(participant.worker)))
        Gauge(
            "vector_db_shard_snapshots", "Snapshots kept for others to copy", registry=registry
        ).set_function(lambda: len(snapshots))
        Gauge(
            "vector_db_shard_copy_bytes_done", "Bytes here of copies under way", registry=registry
        ).set_function(lambda: sum(done for done, _ in copier.progress().values()))
        Gauge(
            "vector_db_shard_copy_bytes_all", "Bytes in all of copies under way", registry=registry
        ).set_function(lambda: sum(whole for _, whole in copier.progress().values()))
        ReadCounter(
            "vector_db_shard_copied_bytes",
            "Bytes copied from other workers",
            registry,
            lambda: copier.copied_bytes,
        )

    def _noted(self) -> None:
        self._maintenance.noted()
        self._handlers.noted()
        self._copier.noted()
        self._snapshots.sweep()

    def _removed(self, shard: int) -> None:
        """The placement has the shard elsewhere, and nobody needs what is here."""
        self._log.info("gives up a shard", shard=shard)
        self._store.drop_shard(shard)
        self._maintenance.want_checkpoint()

    async def _heartbeats(self) -> None:
        participant = self._participant
        while True:
            member = Member(
                worker=participant.worker,
                cluster_id=participant.cluster_id,
                term=participant.promised,
                ready=True,
                zone=self._config.sharding.zone,
                shards=participant.state.shards_of(participant.worker),
                cursor=participant.cursor,
                simd=simd_level(),
                native=native_level(),
                joined=self._worker.joined() if self._worker is not None else (),
                copying=self._copier.progress(),
            )
            try:
                await self._bus.publish(members(), member)
            except BusUnavailable:
                self._log.debug("the broker is away, no heartbeat")
            await asyncio.sleep(HEARTBEAT_S)


def build(runtime: Runtime, config: Config) -> Service:
    """The shard service.

    :raises StartupError: FAISS was loaded with instructions that the configuration forbids.
    """
    check_simd(config.performance.simd_enabled)
    return ShardService(runtime, config)
