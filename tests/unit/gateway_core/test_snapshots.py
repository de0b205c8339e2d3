"""Reads of the past, and versions as preconditions of plain writes."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tests.unit.gateway_core.played import WALL_MS, Cluster, rows, upsert, with_cluster
from vector_db.common.core.messages.transactions import Prepare
from vector_db.common.model.errors import InvalidArgument, NotFound, PreconditionFailed
from vector_db.gateway.core.cursor import Cursor, encode_cursor, filter_hash
from vector_db.gateway.core.requests import Consistency, Delete, Upsert
from vector_db.gateway.snapshots import FUTURE_TIMEOUT_S


def test_a_commit_ts_or_a_time_of_the_past_is_read_as_it_was() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        first = await database.write([upsert("a")])
        wall_ms = cluster.wall_ms()
        await asyncio.sleep(1)
        await database.write([upsert("b")])
        for consistency, count in (
            (Consistency(as_of=first.commit_ts), 1),
            (Consistency(as_of=first.commit_ts, at_least=first.commit_ts + 1), 1),
            (Consistency(as_of_ms=wall_ms), 1),
            (Consistency(as_of_ms=cluster.wall_ms()), 2),
            (Consistency(), 2),
        ):
            counted, snapshot_ts = await database.count("c", None, consistency)
            assert counted == count
            assert (snapshot_ts == first.commit_ts) == (count == 1)

    with_cluster(test)


def test_what_lies_in_the_future_is_refused_soon() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        ahead = (await database.write([upsert("a")])).commit_ts + 1000
        collection = await database.collection("c")
        forged = encode_cursor(Cursor(1, collection.id, ahead, b"", filter_hash(b"")))
        now = asyncio.get_running_loop().time
        for call in (
            database.count("c", None, Consistency(as_of=ahead)),
            database.count("c", None, Consistency(as_of_ms=WALL_MS + 10**9)),
            database.scroll("c", 5, None, forged, Consistency()),
        ):
            started = now()
            with pytest.raises(InvalidArgument, match="in the future"):
                await call
            assert now() - started <= FUTURE_TIMEOUT_S + 0.1

    with_cluster(test)


def test_a_snapshot_that_is_just_being_reached_is_awaited() -> None:
    async def test(cluster: Cluster) -> None:
        database, other = (g.database for g in cluster.gateways)
        done = await database.write([upsert("a")])
        count, snapshot_ts = await other.count("c", None, Consistency(as_of=done.commit_ts))
        assert (count, snapshot_ts) == (1, done.commit_ts)

    with_cluster(test)


def test_a_collection_did_not_exist_before_it_was_made() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        before = await database.write([upsert("a")])
        wall_ms = cluster.wall_ms()
        await asyncio.sleep(1)
        await database.create_collection("later", 2, "dot")
        for consistency in (Consistency(as_of=before.commit_ts), Consistency(as_of_ms=wall_ms)):
            with pytest.raises(NotFound, match="did not exist"):
                await database.count("later", None, consistency)

    with_cluster(test)


def test_two_ways_to_name_the_past_at_once_are_refused() -> None:
    async def test(cluster: Cluster) -> None:
        for consistency in (Consistency(as_of=5, as_of_ms=5), Consistency(as_of=5, strong=True)):
            with pytest.raises(InvalidArgument, match="as_of"):
                await cluster.database.count("c", None, consistency)

    with_cluster(test)


def test_a_delete_can_ask_for_a_version() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        version = (await database.write([upsert("a")])).commit_ts
        with pytest.raises(PreconditionFailed):
            await database.write([Delete("c", [b"a"], np.array([version - 1], dtype=np.int64))])
        with pytest.raises(InvalidArgument, match="2 if_version for 1 rows"):
            await database.write([Delete("c", [b"a"], np.array([1, 2], dtype=np.int64))])
        with pytest.raises(InvalidArgument, match="0 if_version for 1 rows"):
            await database.write([Upsert("c", rows("a"), if_version=np.array([], dtype=np.int64))])
        right = np.array([version], dtype=np.int64)
        assert (await database.write([Delete("c", [b"a"], right)])).count == 1

    with_cluster(test)


def test_a_patch_of_another_version_is_refused_without_a_try() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        version = (await database.write([upsert("a", metadata='{"n":1}')])).commit_ts
        sent = len([r for log in cluster.broker.logs.values() for r in log])
        with pytest.raises(PreconditionFailed):
            await database.patch_metadata("c", b"a", {"n": 2}, version - 1)
        logs = cluster.broker.logs.values()
        assert len([r for log in logs for r in log if isinstance(r, Prepare)]) == sent
        await database.patch_metadata("c", b"a", {"n": 2}, version)
        assert (await database.fetch("c", [b"a"], Consistency())).metadata == [b'{"n":2}']

    with_cluster(test)
