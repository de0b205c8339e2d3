"""Pages, radii and explanations of queries at the gateway, against a cluster that is played."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.gateway_core.played import Cluster, rows, upsert, with_cluster
from vector_db.common.core.messages.reads import SearchRequest
from vector_db.common.model.errors import InvalidArgument
from vector_db.gateway.core.cursor import Cursor, encode_cursor, filter_hash
from vector_db.gateway.core.query_cursor import CURSOR_VERSION, QueryCursor, decode_query_cursor
from vector_db.gateway.core.requests import Consistency, Delete, Effort, Query, QueryResult, Upsert
from vector_db.gateway.database import Database
from vector_db.gateway.open_transaction import ResumedTransaction

ORIGIN = np.zeros((1, 2), dtype=np.float32)
QUERY = Query("c", ORIGIN, k=2, include_metadata=False, page=True)
Api = Database | ResumedTransaction


async def load(database: Database, count: int = 7) -> None:
    """Row ``r<i>`` at the distance i // 2 from the origin: every distance twice."""
    vectors = np.array([[i // 2, 0] for i in range(count)], dtype=np.float32)
    ids = [f"r{i}".encode() for i in range(count)]
    await database.write([Upsert("c", replace(rows(), ids=ids, vectors=vectors))])


def found(result: QueryResult) -> list[str]:
    return [row_id.decode() for row_id in result.hits[0].ids]


async def all_pages(api: Api, query: Query) -> list[list[str]]:
    pages = []
    while True:
        result = await api.query(query)
        pages.append(found(result))
        if result.cursor is None:
            return pages
        query = replace(query, after=result.cursor, page=False)


def searches(cluster: Cluster) -> list[SearchRequest]:
    return [m for m in cluster.asked if isinstance(m, SearchRequest)]


@pytest.mark.parametrize("k", [1, 2, 3, 7, 8])
def test_pages_together_are_the_whole_answer_and_only_the_last_has_no_cursor(k: int) -> None:
    async def test(cluster: Cluster) -> None:
        await load(cluster.database)
        pages = await all_pages(cluster.database, replace(QUERY, k=k))
        assert [row_id for page in pages for row_id in page] == [f"r{i}" for i in range(7)]
        assert [len(page) for page in pages[:-1]] == [k] * (len(pages) - 1)
        assert len(pages) == -(-7 // k)
        skips = [s.skip for s in searches(cluster)]  # of two workers
        assert skips == [k * i for i in range(len(pages)) for _ in range(2)]

    with_cluster(test)


def test_a_query_by_id_pages_without_its_row_wherever_it_stands() -> None:
    async def test(cluster: Cluster) -> None:
        await load(cluster.database)
        query = replace(QUERY, vectors=None, id=b"r1")  # r0 is as near to it as itself
        assert await all_pages(cluster.database, query) == [
            ["r0", "r2"],
            ["r3", "r4"],
            ["r5", "r6"],
        ]

    with_cluster(test)


def test_pages_keep_their_snapshot_and_may_change_what_orders_nothing() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await load(database)
        first = await database.query(QUERY)
        await database.write([Delete("c", [b"r2"]), upsert("new", value=0.1)])
        query = replace(QUERY, after=first.cursor, k=3, radius=2.0, effort=Effort(exact=True))
        second = await database.query(query)
        assert (found(second), second.snapshot_ts) == (["r2", "r3", "r4"], first.snapshot_ts)
        assert second.paged and second.cursor is not None
        assert searches(cluster)[-1].exact

    with_cluster(test)


def test_a_radius_is_answered_whole_or_with_a_cursor_to_the_rest() -> None:
    async def test(cluster: Cluster) -> None:
        await load(cluster.database)
        query = replace(QUERY, page=False, radius=1.0, k=4)
        whole = await cluster.database.query(query)
        assert (found(whole), whole.cursor) == (["r0", "r1", "r2", "r3"], None)
        assert await all_pages(cluster.database, replace(query, k=3)) == [
            ["r0", "r1", "r2"],
            ["r3"],
        ]
        plain = await cluster.database.query(replace(query, radius=None))
        assert not plain.paged and plain.cursor is None
        both = np.concatenate([ORIGIN, ORIGIN])
        batch = await cluster.database.query(replace(query, vectors=both))
        assert not batch.paged and [len(hits.ids) for hits in batch.hits] == [4, 4]
        with pytest.raises(InvalidArgument, match="radius: must be at least 0"):
            await cluster.database.query(replace(query, radius=-1.0))

    with_cluster(test)


def test_a_cursor_of_something_else_is_refused_and_the_message_says_of_what() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await load(database)
        cluster.create("other")
        where: dict[str, Any] = {"n": 1}
        await database.write([upsert("f1", "f2", "f3", metadata='{"n":1}')])
        filtered = (await database.query(replace(QUERY, filter=where, k=1))).cursor
        cursor = (await database.query(QUERY)).cursor
        assert cursor is not None and filtered is not None
        again = replace(QUERY, after=cursor)
        transaction = database.resume((await database.begin("snapshot")).token)
        own = (await transaction.query(QUERY)).cursor
        for query, message in (
            (replace(again, collection="other"), "another collection"),
            (replace(again, vectors=ORIGIN + 1), "another vector"),
            (replace(again, vectors=None, id=b"r0"), "another vector or id"),
            (replace(again, filter=where), "another filter"),
            (replace(again, after=filtered), "another filter"),
            (replace(again, after=own), "in a transaction"),
            (replace(again, after=cursor[:-3]), "not a cursor of a query"),
            (replace(again, after="é"), "not a cursor of a query"),
            (
                replace(again, after=encode_cursor(Cursor(1, 1, 1, b"a", 1))),
                "not a cursor of a query",
            ),
            (replace(again, k=100_000), "hit 100002, the limit query_depth_max is 100000"),
        ):
            with pytest.raises(InvalidArgument, match=f"after: .*{message}"):
                await database.query(query)
        for query, message in (
            (again, "outside of this transaction"),
            (replace(again, after="zz"), "not a cursor"),
        ):
            with pytest.raises(InvalidArgument, match=f"after: .*{message}"):
                await transaction.query(query)

    with_cluster(test)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "newer version"),
        ({"snapshot_ts": -1}, "snapshot that does not exist"),
        ({"snapshot_ts": 1 << 52}, "lies in the future"),
        ({"similarity": float("nan")}, "hit that does not exist"),
        ({"skip": -1}, "hit that does not exist"),
        ({"skip": 100_000}, "query_depth_max"),
    ],
)
def test_a_cursor_that_was_made_up_is_refused(change: dict[str, Any], message: str) -> None:
    async def test(cluster: Cluster) -> None:
        await load(cluster.database)
        cursor = (await cluster.database.query(QUERY)).cursor
        assert cursor is not None
        collection = await cluster.database.collection("c")
        given_out = decode_query_cursor(cursor, collection.id, b"", b"", 1)
        forged = msgspec.structs.replace(given_out, **change).encode()
        with pytest.raises(InvalidArgument, match=message):
            await cluster.database.query(replace(QUERY, after=forged))

    with_cluster(test)


@given(st.text())
def test_any_other_text_is_no_cursor(text: str) -> None:
    with pytest.raises(InvalidArgument, match="after: not a cursor of a query"):
        decode_query_cursor(text, 1, b"", b"", 1)


@given(st.floats(allow_nan=False, allow_infinity=False), st.binary(max_size=512))
def test_a_cursor_keeps_its_place_bit_for_bit(similarity: float, row_id: bytes) -> None:
    none = filter_hash(b"")
    cursor = QueryCursor(CURSOR_VERSION, 5, 9, similarity, row_id, 3, 4, none, b"t" * 16, {1: 2})
    assert decode_query_cursor(cursor.encode(), 5, b"", b"t" * 16, 10) == cursor
    assert cursor.place == (similarity, row_id)


def test_pages_in_a_transaction_show_what_was_staged_at_the_first() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await load(database, 4)
        transaction = database.resume((await database.begin("snapshot")).token)
        await transaction.write([upsert("own", value=0.1), Delete("c", [b"r1"])])
        first = await transaction.query(QUERY)
        assert found(first) == ["r0", "own"]
        await transaction.write([upsert("r0", "more", value=0.5), Delete("c", [b"r3"])])
        rest = await transaction.query(replace(QUERY, after=first.cursor))
        assert (found(rest), rest.cursor) == (["r2", "r3"], None)
        assert found(await transaction.query(replace(QUERY, k=9))) == ["own", "more", "r0", "r2"]
        collection = await database.collection("c")
        assert first.cursor is not None
        txn_id = bytes.fromhex(transaction.txn_id)
        given_out = decode_query_cursor(first.cursor, collection.id, b"", txn_id, 2)
        later = {shard: count + 9 for shard, count in given_out.chunks.items()}
        forged = msgspec.structs.replace(given_out, chunks=later).encode()
        with pytest.raises(InvalidArgument, match="after: of a later statement"):
            await transaction.query(replace(QUERY, after=forged))

    with_cluster(test)


def test_options_reach_the_workers_and_only_equal_ones_travel_together() -> None:
    async def test(cluster: Cluster) -> None:
        await load(cluster.database)
        efforts = [Effort(), Effort(0.9), Effort(0.0, 50), Effort(0.0, 0, 7), Effort(exact=True)]
        plain = replace(QUERY, page=False)
        asked = [replace(plain, effort=effort) for effort in efforts for _ in range(6)]
        await asyncio.gather(*(cluster.database.query(query) for query in asked))
        sent = searches(cluster)
        assert len(sent) < len(asked), "nothing was coalesced: the test shows nothing"
        told = [(len(s.queries) // 8, Effort(s.recall, s.ef, s.nprobe, s.exact)) for s in sent]
        for effort in efforts:
            per_worker = sum(count for count, its in told if its == effort)
            assert per_worker % 6 == 0 and per_worker

    with_cluster(test)


def test_an_explained_query_travels_alone_and_tells_of_its_workers() -> None:
    async def test(cluster: Cluster) -> None:
        await load(cluster.database)
        asked = replace(QUERY, explain=True)
        results = await asyncio.gather(*(cluster.database.query(asked) for _ in range(5)))
        assert all(len(s.queries) == 8 and s.explain for s in searches(cluster))
        for result in results:
            told = result.explain
            assert told is not None and found(result) == ["r0", "r1"]
            assert told["coalesced"] is False and told["scatter_gather_us"] > 0
            assert told["snapshot_wait_us"] > 0 and told["payload_us"] >= 0
            shards = [shard for worker in told["workers"] for shard in worker["shards"]]
            assert sorted(shards) == sorted((await cluster.database.collection("c")).shards)
            assert all(w["segments"] == [] and w["round_trip_us"] > 0 for w in told["workers"])
        assert (await cluster.database.query(QUERY)).explain is None
        past = replace(asked, consistency=Consistency(as_of=results[0].snapshot_ts))
        assert found(await cluster.database.query(past)) == ["r0", "r1"]

    with_cluster(test)
