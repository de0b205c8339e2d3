"""What happens once and not with each operation: streams, a takeover, a replica that moves, records
that hold everything, and the sequencer alone.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from bench.common import OUT, BenchError, HttpConnection, call_json, encode_request
from bench.memory import memory_of
from bench.scaling import fit
from bench.scaling.mesh import counted_mesh
from bench.scaling.observe import CLIENTS, Observer, drawn, first_rows
from bench.scaling.work import Shape
from vector_db.common.adapters.nats_bus import NatsBus
from vector_db.common.adapters.nats_server import NatsServer
from vector_db.common.core.codec import encode
from vector_db.common.core.messages.decisions import Commit, DecisionRecord, SetPlacement, Takeover
from vector_db.common.core.messages.transactions import Durable, Vote
from vector_db.common.core.subjects import shard_log, votes
from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.ids import make_ts, make_txn_id
from vector_db.coordinator.core.sequencer import Sequencer

STREAMS = 200
MOVED_ROWS = (2_000, 40_000)
MOVED_S_MAX = 120.0
MESSAGES = 30_000
MESSAGES_AT_ONCE = 100
IDLE_CORES = 0.01
"""Of a coordinator, as `runs` finds it: small beside what it does here."""
WALL_MS = 1_750_000_000_000


async def streams() -> dict[str, float]:
    """Seconds to make a stream and the broker's memory for one that is followed."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=OUT) as folder:
        server = NatsServer(Path(folder))
        await server.start()
        bus = await NatsBus.connect(server.url, "bench")
        try:
            before = memory_of(server.pid or 0).resident
            started = time.perf_counter()
            for shard in range(STREAMS):
                await bus.create_log(shard_log(1, shard))
            took_s = time.perf_counter() - started
            for shard in range(STREAMS):
                await bus.tail(shard_log(1, shard), 0, lambda seq, data: None, lambda why: None)
            await asyncio.sleep(2.0)
            grown = memory_of(server.pid or 0).resident - before
        finally:
            await bus.close()
            await server.stop()
    return {"stream_s": took_s / STREAMS, "stream_bytes": grown / STREAMS}


async def takeover() -> dict[str, float]:
    """Seconds without an acknowledged write after the leading coordinator was killed."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=OUT) as folder:
        async with counted_mesh(Path(folder), 1, 1, coordinators=2) as mesh:
            connection = await HttpConnection.open(mesh.http_port)
            body = {"name": "once", "dimension": 2, "metric": "cosine"}
            await call_json(connection, "POST", "/v1/collections", body)
            row = b'{"vectors":[{"id":"a","dimensions":[1,0]}]}'
            write = encode_request("POST", "/v1/collections/once/vectors", row)
            before = mesh.read().records
            for _ in range(20):
                await connection.request(write)
            spent = [
                (one, one.health().get("details", one.health())) for one in mesh.mesh.coordinators
            ]
            leader = next((one for one, facts in spent if "undecided" in str(facts)), None)
            if leader is None or mesh.read().records == before:
                raise BenchError(f"nobody leads: {[facts for _, facts in spent]}")
            leader.kill()
            started = time.monotonic()
            while time.monotonic() < started + 30:
                status, _ = await connection.request(write)
                if 200 <= status < 300:
                    return {"takeover_s": time.monotonic() - started}
    raise BenchError("no write after a takeover")


async def move() -> dict[str, float]:
    """Seconds for a small and a larger shard that leaves a drained worker, and the difference for
    each byte."""
    taken = [await _move(rows) for rows in MOVED_ROWS]
    (small_s, small), (large_s, large) = taken
    rate = max(0.0, large_s - small_s) / (large - small)
    return {"move_s": small_s, "copy_s_per_byte": rate}


async def _move(rows: int) -> tuple[float, int]:
    """(seconds, bytes on the disk that is emptied)."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=OUT) as folder:
        async with counted_mesh(Path(folder), 2, 1) as mesh:
            one = Observer(mesh, Shape(2, 1, rows, 768, graphs=False), "moved")
            await one.create()
            await one.bulk(first_rows(drawn(768, 1), rows))
            connection = await HttpConnection.open(mesh.http_port)
            worker = _holders(await call_json(connection, "GET", "/v1/cluster"))[0]
            size = min(size for _, size in mesh.worker_bytes())
            started = time.monotonic()
            path = f"/v1/cluster/workers/{worker}"
            await call_json(connection, "PUT", path, {"draining": True})
            while time.monotonic() < started + MOVED_S_MAX:
                if worker not in _holders(await call_json(connection, "GET", "/v1/cluster")):
                    return time.monotonic() - started, size
                await asyncio.sleep(0.1)
    raise BenchError("a drained worker still holds a shard")


async def flood() -> dict[str, float]:
    """CPU seconds of a coordinator for a message that it only has to receive: cursors of a term
    that is over, many at a time as under load."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=OUT) as folder:
        async with counted_mesh(Path(folder), 1, 1) as mesh:
            bus = await NatsBus.connect(mesh.broker_url, "bench")
            cursor = Durable(str(UUID(int=1)), 0, 1, dict.fromkeys(range(3), 1), 1)
            before = mesh.read()
            for _ in range(MESSAGES // MESSAGES_AT_ONCE):
                for _ in range(MESSAGES_AT_ONCE):
                    await bus.publish(votes(), cursor)
                await asyncio.sleep(0.02)
            await bus.close()
            await asyncio.sleep(1.0)
            spent = mesh.read().since(before)
    idle_s = IDLE_CORES * spent.at_s
    return {"message_s": (spent.cpu_s["coordinator"] - idle_s) / MESSAGES}


async def follower() -> dict[str, float]:
    """CPU seconds of a worker that only follows: for each commit, and for each record of them."""
    lines = []
    with tempfile.TemporaryDirectory(prefix="run-", dir=OUT) as folder:
        async with counted_mesh(Path(folder), 2, 1) as mesh:
            whole = Observer(mesh, Shape(2, 1, 0, graphs=False), "whole")
            await whole.create()
            placed = list(whole.shards)
            before = mesh.each_worker_s()
            started = time.monotonic()
            await asyncio.sleep(4.0)
            idle = [b - a for a, b in zip(before, mesh.each_worker_s(), strict=True)]
            idle_s = sum(idle) / 2 / (time.monotonic() - started)
            whole.shards = placed[:1]
            for clients, count in ((1, 400), (CLIENTS, 3_000), (1, 400), (CLIENTS, 3_000)):
                before = mesh.each_worker_s()
                seen = await whole.transactions(count, clients)
                after = mesh.each_worker_s()
                # The one that does not hold the shard does less.
                spent = min(b - a for a, b in zip(before, after, strict=True))
                units = {"commit": float(count), "record": float(seen.records)}
                lines.append(fit.Line(units, spent - idle_s * seen.wall_s))
    costs = fit.solve(lines)
    return {"follow_commit_s": costs["commit"], "follow_record_s": costs["record"]}


def _holders(cluster: dict[str, Any]) -> list[str]:
    """Workers that hold a shard."""
    found: list[str] = []
    for entry in cluster["shards"].values():
        replicas = entry if isinstance(entry, list) else entry.get("replicas", [])
        found += [one if isinstance(one, str) else one["worker"] for one in replicas]
    return found


def sequencer_alone(workers: int, replicas: int, count: int = 3_000) -> dict[str, float]:
    """CPU seconds of the machine itself, without messages: a vote, a decision, a durable cursor."""
    names = [str(UUID(int=n)) for n in range(workers)]
    placement = {
        s: tuple(names[(s + r) % workers] for r in range(replicas)) for s in range(workers)
    }
    base = Takeover(make_ts(1, 0), 0, {}, "c", (), placement, 0, 0, ())
    machine = Sequencer(1, base, WALL_MS)
    machine.take_record(WALL_MS)
    for name in names:
        machine.durable(Durable(name, 1, make_ts(1, 0), {}, 1))
    ids = [make_txn_id(1, WALL_MS + 10_000, n.to_bytes(7, "big")) for n in range(count)]
    started = time.process_time()
    for n, txn_id in enumerate(ids):
        shard = n % workers
        for name in placement[shard]:
            machine.vote(
                Vote(txn_id, 1, shard, name, True, (shard,), 0, (), "g", WALL_MS + 10_000,
                     at_ts=make_ts(1, 0)), WALL_MS)  # fmt: skip
    voted_s = time.process_time() - started
    started = time.process_time()
    records = 0
    while machine.has_decisions():
        machine.take_record(WALL_MS)
        records += 1
    for name in names:
        machine.durable(Durable(name, 1, machine.last_ts, {}, 2))
    return {
        "transaction_s": voted_s / count,
        "release_s": (time.process_time() - started) / count,
    }


def record_sizes() -> dict[str, float]:
    """Bytes of a placement for each replica, and of a catalog entry."""
    workers = [str(UUID(int=n << 64)) for n in range(100)]
    placement: dict[int, tuple[str, ...]] = {s: (workers[s % 100],) * 3 for s in range(1000)}
    placed = len(encode(DecisionRecord(1, 0, WALL_MS, (SetPlacement(1, placement),))))

    def entry(shards: int) -> int:
        one = Collection(
            make_ts(5, 1), "a-name-of-20-letters", 768, Metric.COSINE, tuple(range(shards))
        )
        many = tuple(one for _ in range(100))
        taken = Takeover(1, 0, {}, "c", many, {}, 0, 0, ())
        return len(encode(DecisionRecord(1, 0, WALL_MS, (taken,)))) // 100

    a_commit = len(encode(DecisionRecord(1, 0, WALL_MS, tuple(
        Commit(make_ts(1, n), bytes(16), (3,)) for n in range(100)))))  # fmt: skip
    per_shard = (entry(100) - entry(10)) / 90
    return {
        "placement_bytes": placed / 3000,
        "catalog_bytes": entry(10) - 10 * per_shard,
        "catalog_shard_bytes": per_shard,
        "tail_bytes": a_commit / 100,
    }
