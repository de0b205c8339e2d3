"""Read requests to a running shard worker: own staged rows, times, and the retention window.

The worker is whole, with its log and its files; the test is the sequencer, the gateway and the
broker.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import orjson
import pytest
from prometheus_client import CollectorRegistry

from tests.support.memory_bus import MemoryBus
from tests.support.protocol import (
    COLLECTION,
    block,
    collection,
    first_takeover,
    prepare,
    stage,
    txn,
)
from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.adapters.system_clock import SystemClock
from vector_db.common.core.codec import encode
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.decisions import (
    Abort,
    Commit,
    CreateCollection,
    Decision,
    DecisionRecord,
    SetPlacement,
    SwitchCollection,
)
from vector_db.common.core.messages.reads import (
    AsOfReply,
    AsOfRequest,
    CountReply,
    CountRequest,
    FetchRequest,
    Overlay,
    RowsReply,
    ScrollRequest,
    SearchReply,
    SearchRequest,
    StagedRequest,
)
from vector_db.common.core.messages.transactions import Beat
from vector_db.common.core.subjects import LogName, beats, decision_log, shard_log
from vector_db.common.core.subjects import worker as worker_subject
from vector_db.common.model.errors import Conflict, Moved, SnapshotTooOld, TooLarge, Unavailable
from vector_db.common.model.ids import make_ts
from vector_db.common.model.rows import Blob, RowBlock
from vector_db.common.ports import GapHandler, RecordHandler, Subscription
from vector_db.common.service.config import Config, StorageConfig, TransactionsConfig
from vector_db.common.service.runtime import Runtime
from vector_db.shard import handlers as handlers_module
from vector_db.shard.app import ShardService
from vector_db.shard.storage import overlays as overlays_module

RETENTION_S = 100.0
T = TypeVar("T", bound=AnyMessage)


class Broker(MemoryBus):
    """Logs that can be followed, too."""

    def __init__(self) -> None:
        super().__init__()
        self._followers: defaultdict[str, list[RecordHandler]] = defaultdict(list)

    async def append(self, log: LogName, message: AnyMessage) -> None:
        await super().append(log, message)
        for follower in self._followers[log.stream]:
            follower(len(self.logs[log.stream]), encode(message))

    async def tail(
        self, log: LogName, after_seq: int, on_record: RecordHandler, on_gap: GapHandler
    ) -> Subscription:
        followers = self._followers[log.stream]
        for seq, message in enumerate(self.logs[log.stream][after_seq:], after_seq + 1):
            on_record(seq, encode(message))
        followers.append(on_record)
        return _Following(lambda: followers.remove(on_record))


class _Following:
    def __init__(self, remove: Callable[[], None]) -> None:
        self._remove = remove

    async def close(self) -> None:
        self._remove()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (a worker has no event for each of its facts)
            await asyncio.sleep(0)


class Cluster:
    """One worker with one shard and one collection; the last decision so far is `ts`."""

    def __init__(self, folder: Path) -> None:
        self.bus = Broker()
        self._folder = folder
        self.ts = self.wall_ms = 0
        self._task: asyncio.Task[None] | None = None

    async def _run(self) -> None:
        config = Config(
            storage=StorageConfig(data_dir=self._folder),
            transactions=TransactionsConfig(retention_s=RETENTION_S),
        )
        disk, clock = PosixDisk(self._folder), SystemClock()
        self.shard = ShardService(Runtime(self.bus, clock, disk, CollectorRegistry(), True), config)
        await self.shard.start()
        self._task = asyncio.create_task(self.shard.run())
        self.worker = str(self.shard.health()["worker"])

    async def start(self) -> None:
        await self._run()
        await self.beat()
        await self.decide(first_takeover())
        await self.decide(SetPlacement(make_ts(1, 1), {0: (self.worker,)}))
        await self.decide(CreateCollection(COLLECTION, collection()))

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await self.shard.stop()

    async def restart(self) -> None:
        """What is not stable by then comes back from the log."""
        await self.stop()
        await self._run()
        await until(lambda: self.shard.health()["cursor"] >= self.ts)
        await self.beat()

    async def beat(self, wall_ms: int = 0, stable: bool = True) -> None:
        self.wall_ms = max(self.wall_ms, wall_ms)
        stable_ts = self.ts if stable else 0
        beat = Beat(1, "c", "cluster", stable_ts, COLLECTION, self.wall_ms, last_ts=self.ts)
        await self.bus.publish(beats(), beat)

    async def decide(self, decision: Decision, wall_ms: int = 0, stable: bool = True) -> int:
        self.wall_ms = max(self.wall_ms, wall_ms)
        record = DecisionRecord(1, self.ts, self.wall_ms, (decision,))
        self.ts = decision.ts
        await self.bus.append(decision_log(1), record)
        await until(lambda: self.shard.health()["cursor"] >= self.ts)
        await self.beat(stable=stable)
        return self.ts

    async def commit(
        self, name: str, *blocks: RowBlock, wall_ms: int = 0, stable: bool = True
    ) -> int:
        await self.bus.append(shard_log(1, 0), prepare(name, *blocks, mode="blind"))
        return await self.decide(Commit(self.ts + 1, txn(name), (0,)), wall_ms, stable)

    async def stage(self, name: str, index: int, *blocks: RowBlock) -> None:
        await self.bus.append(shard_log(1, 0), stage(name, index, *blocks))

    async def ask(self, request: AnyMessage, expected: type[T]) -> T:
        reply = await self.bus.request(worker_subject(self.worker), request, 20.0)
        assert isinstance(reply, expected)
        return reply

    async def rows(self, ts: int, overlay: Overlay | None = None, text: bytes = b"") -> list[bytes]:
        """Ids by a scroll; a search and a count must agree with it."""
        scroll = ScrollRequest(COLLECTION, (0,), ts, 100, filter=text, overlay=overlay)
        ids = (await self.ask(scroll, RowsReply)).ids.unpack()
        count = CountRequest(COLLECTION, (0,), ts, text, overlay)
        assert (await self.ask(count, CountReply)).count == len(ids)
        query = np.zeros(1, dtype=np.float32).tobytes()
        search = SearchRequest(COLLECTION, (0,), ts, query, 100, text, overlay=overlay)
        assert sorted((await self.ask(search, SearchReply)).ids.unpack()) == ids
        return ids


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path)
    await cluster.start()
    yield cluster
    await cluster.stop()


def own(name: str, count: int, term: int = 1) -> Overlay:
    return Overlay(txn(name), term, {0: count, 9: 5})  # shard 9 is another worker's


def tagged(key: str, tag: str) -> RowBlock:
    one = block(key, value=3.0)
    return RowBlock(
        one.collection_id,
        1,
        one.ids,
        one.hashes,
        one.vectors,
        Blob.pack([orjson.dumps({"tag": tag})]),
    )


async def test_all_reads_see_the_named_chunks_above_the_snapshot(cluster: Cluster) -> None:
    ts = await cluster.commit("before", block("a", "b"))
    await cluster.stage("t", 0, block("b", "c", value=2.0), tagged("d", "x"))
    await cluster.stage("t", 1, block("a", delete=True), tagged("c", "x"))
    await cluster.commit("after", block("z"))
    assert await cluster.rows(ts) == [b"a", b"b"]
    assert await cluster.rows(ts, own("t", 2)) == [b"b", b"c", b"d"]
    assert await cluster.rows(ts, own("t", 1)) == [b"a", b"b", b"c", b"d"]
    tag = b'{"tag":"x"}'
    assert await cluster.rows(ts, own("t", 2), tag) == [b"c", b"d"]
    assert await cluster.rows(ts, own("t", 1), tag) == [b"d"]
    assert await cluster.rows(cluster.ts, own("t", 2)) == [b"b", b"c", b"d", b"z"]
    fetch = FetchRequest(COLLECTION, (0,), ts, Blob.pack([b"a", b"b"]), overlay=own("t", 1))
    reply = await cluster.ask(fetch, RowsReply)
    assert np.frombuffer(reply.versions, dtype="<i8").tolist() == [ts, 0]
    assert np.frombuffer(reply.vectors, dtype="<f4").tolist() == [1.0, 2.0]


async def test_a_read_waits_for_its_chunks(cluster: Cluster) -> None:
    asked = asyncio.create_task(cluster.rows(cluster.ts, own("t", 1)))
    only_here = StagedRequest(Overlay(txn("t"), 1, {0: 1}))
    answered = asyncio.create_task(cluster.ask(only_here, StagedRequest))
    await asyncio.sleep(0.05)
    assert not asked.done() and not answered.done()
    await cluster.stage("t", 0, block("a"))
    assert await asked == [b"a"]
    assert await answered == only_here


async def test_chunks_that_do_not_come_are_a_conflict(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.stage("t", 0, block("a"))
    # Once it was synced, which takes the time that it takes.
    assert await cluster.rows(cluster.ts, own("t", 1)) == [b"a"]
    monkeypatch.setattr(handlers_module, "CHUNKS_TIMEOUT_S", 0.05)
    for request in (
        StagedRequest(Overlay(txn("t"), 1, {0: 2})),
        CountRequest(COLLECTION, (0,), cluster.ts, overlay=own("t", 2)),
    ):
        with pytest.raises(Conflict, match="begin again"):
            await cluster.ask(request, CountReply)


@pytest.mark.parametrize("how", ["abort", "commit", "term"])
async def test_what_is_staged_is_gone_with_the_decision_or_the_term(
    cluster: Cluster, how: str
) -> None:
    ts = cluster.ts
    await cluster.stage("t", 0, block("a"))
    assert await cluster.rows(ts, own("t", 1)) == [b"a"]
    overlays = cluster.shard._handlers._overlays
    assert len(overlays) == 1
    if how == "abort":
        await cluster.decide(Abort(ts + 1, txn("t"), (0,), "aborted", ""))
    elif how == "commit":
        chunk = stage("t", 0, block("a"))
        await cluster.bus.append(shard_log(1, 0), prepare("t", stages=[chunk]))
        await cluster.decide(Commit(ts + 1, txn("t"), (0,)))
        assert await cluster.rows(ts + 1) == [b"a"]
    if how != "term":
        await until(lambda: not len(overlays))
    with pytest.raises(Conflict, match="begin again"):
        await cluster.rows(ts, own("t", 1, term=2 if how == "term" else 1))
    assert await cluster.rows(ts) == []


async def test_too_much_for_a_search_is_named_and_does_not_stop_the_rest(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlays_module, "OVERLAY_BYTES_MAX", 9)
    await cluster.stage("t", 0, block("a", "b"))
    overlay, ts = own("t", 1), cluster.ts
    query = np.zeros(1, dtype=np.float32).tobytes()
    for request in (
        SearchRequest(COLLECTION, (0,), ts, query, 3, overlay=overlay),
        CountRequest(COLLECTION, (0,), ts, b'{"x":1}', overlay),
        ScrollRequest(COLLECTION, (0,), ts, 3, filter=b'{"x":1}', overlay=overlay),
    ):
        with pytest.raises(TooLarge, match="10 bytes staged"):
            await cluster.ask(request, CountReply)
    count = CountRequest(COLLECTION, (0,), ts, overlay=overlay)
    assert (await cluster.ask(count, CountReply)).count == 2
    scroll = ScrollRequest(COLLECTION, (0,), ts, 3, overlay=overlay)
    assert (await cluster.ask(scroll, RowsReply)).ids.unpack() == [b"a", b"b"]
    fetch = FetchRequest(COLLECTION, (0,), ts, Blob.pack([b"b"]), overlay=overlay)
    assert (await cluster.ask(fetch, RowsReply)).ids.unpack() == [b"b"]


async def as_of(cluster: Cluster, wall_ms: int) -> int:
    return (await cluster.ask(AsOfRequest(wall_ms), AsOfReply)).ts


async def test_a_time_is_the_last_snapshot_before_it(cluster: Cluster) -> None:
    first = await cluster.commit("1", block("a"), wall_ms=5_000)
    second = await cluster.commit("2", block("a", delete=True), wall_ms=9_000)
    await cluster.beat(20_000)
    assert await as_of(cluster, 8_000) == first
    assert await cluster.rows(first) == [b"a"]
    assert await as_of(cluster, 12_000) == second
    assert await cluster.rows(second) == []


async def test_a_time_that_the_worker_has_not_reached_is_waited_for(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.commit("1", block("a"), wall_ms=5_000)
    asked = asyncio.create_task(as_of(cluster, 8_000))
    await asyncio.sleep(0.05)
    assert not asked.done()
    # One more commit before the time: it counts, once it is stable.
    await cluster.bus.append(shard_log(1, 0), prepare("2", block("b"), mode="blind"))
    second = await cluster.decide(Commit(cluster.ts + 1, txn("2"), (0,)), 7_000, stable=False)
    await cluster.beat(9_000, stable=False)
    await asyncio.sleep(0.05)
    assert not asked.done()
    await cluster.beat(9_000)
    assert await asked == second
    monkeypatch.setattr(handlers_module, "SNAPSHOT_TIMEOUT_S", 0.05)
    with pytest.raises(Unavailable, match="9000 ms, asked for 30000"):
        await as_of(cluster, 30_000)


async def test_snapshots_before_the_window_are_too_old_for_every_read(cluster: Cluster) -> None:
    first = await cluster.commit("1", block("a"), wall_ms=5_000)
    second = await cluster.commit("2", block("b"), wall_ms=50_000)
    assert await cluster.rows(first) == [b"a"]
    await cluster.beat(50_000 + int(RETENTION_S * 1000) + 1_000)
    await until(lambda: cluster.shard._participant.retention_floor_ts >= second)
    assert await cluster.rows(second) == [b"a", b"b"]
    query = np.zeros(1, dtype=np.float32).tobytes()
    for request in (
        SearchRequest(COLLECTION, (0,), first, query, 3),
        CountRequest(COLLECTION, (0,), first),
        ScrollRequest(COLLECTION, (0,), first, 3),
        FetchRequest(COLLECTION, (0,), first, Blob.pack([b"a"])),
        AsOfRequest(8_000),
    ):
        with pytest.raises(SnapshotTooOld, match=f"oldest that can be read is {second}") as caught:
            await cluster.ask(request, CountReply)
        assert caught.value.details == {"oldest_ts": second}


async def test_a_generation_answers_the_snapshots_that_it_serves(cluster: Cluster) -> None:
    first = await cluster.commit("1", block("a"))
    new = first + 1
    entry = collection(id=new)
    filled = msgspec.structs.replace(entry, first_id=COLLECTION, replaces=COLLECTION)
    await cluster.decide(CreateCollection(new, filled))
    rows = block("a", collection_id=new, precondition="copied", versions=[first])
    before = await cluster.commit("2", rows)
    switch = await cluster.decide(SwitchCollection(before + 1, new, 1_000))
    query = np.zeros(1, dtype=np.float32).tobytes()

    async def found(collection_id: int, ts: int) -> list[bytes]:
        asked = FetchRequest(collection_id, (0,), ts, Blob.pack([b"a"]))
        reply = await cluster.ask(asked, RowsReply)
        assert np.frombuffer(reply.versions, dtype="<i8").tolist() == [first] * len(reply.ids)
        return reply.ids.unpack()

    assert await found(COLLECTION, before) == await found(new, switch) == [b"a"]
    for collection_id, ts in ((COLLECTION, switch), (COLLECTION, switch + 1), (new, before)):
        if ts > switch:
            await cluster.commit("3")
        for request in (
            SearchRequest(collection_id, (0,), ts, query, 3),
            CountRequest(collection_id, (0,), ts),
            ScrollRequest(collection_id, (0,), ts, 3),
            FetchRequest(collection_id, (0,), ts, Blob.pack([b"a"])),
        ):
            with pytest.raises(Moved, match="another generation"):
                await cluster.ask(request, CountReply)


async def test_a_generation_that_is_being_filled_is_read_by_who_fills_it(cluster: Cluster) -> None:
    first = await cluster.commit("1", block("a"))
    new = first + 1
    filled = msgspec.structs.replace(collection(id=new), first_id=COLLECTION, replaces=COLLECTION)
    await cluster.decide(CreateCollection(new, filled))
    ts = await cluster.commit("2", block("b", collection_id=new, precondition="mirrored"))
    for snapshot_ts, there in ((ts, [b"b"]), (new, [])):
        fetch = FetchRequest(new, (0,), snapshot_ts, Blob.pack([b"b"]), filling=True)
        assert (await cluster.ask(fetch, RowsReply)).ids.unpack() == there
        count = CountRequest(new, (0,), snapshot_ts, filling=True)
        assert (await cluster.ask(count, CountReply)).count == len(there)
    for request in (
        SearchRequest(new, (0,), ts, np.zeros(1, dtype=np.float32).tobytes(), 3),
        CountRequest(new, (0,), ts),
        ScrollRequest(new, (0,), ts, 3),
        FetchRequest(new, (0,), ts, Blob.pack([b"b"])),
    ):
        with pytest.raises(Moved, match="another generation"):
            await cluster.ask(request, CountReply)


async def test_copied_rows_keep_their_versions_when_a_worker_comes_back(cluster: Cluster) -> None:
    first = await cluster.commit("1", block("a"))
    new = first + 1
    filled = msgspec.structs.replace(collection(id=new), first_id=COLLECTION, replaces=COLLECTION)
    await cluster.decide(CreateCollection(new, filled))
    for name, stable in (("a", True), ("b", False)):
        rows = block(name, collection_id=new, precondition="copied", versions=[first])
        await cluster.commit(name, rows, stable=stable)
    assert cluster.shard.health()["stable_ts"] < cluster.ts
    await cluster.restart()
    fetch = FetchRequest(new, (0,), cluster.ts, Blob.pack([b"a", b"b"]), filling=True)
    reply = await cluster.ask(fetch, RowsReply)
    assert reply.ids.unpack() == [b"a", b"b"]
    assert np.frombuffer(reply.versions, dtype="<i8").tolist() == [first, first]
