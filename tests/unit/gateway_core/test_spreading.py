"""A collection that is spread over other shards while it is written to and read: the gateway's side
(docs/adr/0019)."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from tests.unit.gateway_core.played import Cluster, insert, rows, upsert, with_cluster
from tests.unit.gateway_core.spread import (
    NOW,
    ONES,
    WIDER,
    during,
    filled,
    heard,
    ids,
    prepared,
    read_of,
    same,
    shown,
)
from vector_db.common.model.errors import (
    Conflict,
    InvalidArgument,
    NotFound,
    PreconditionFailed,
    SnapshotTooOld,
)
from vector_db.gateway.core.requests import (
    CollectionChange,
    Consistency,
    Delete,
    Idempotency,
    Query,
    Upsert,
)
from vector_db.gateway.core.token import decode_token
from vector_db.gateway.database import Database

# --- writes ---------------------------------------------------------------------------------------


def test_a_write_goes_to_both_generations_and_is_counted_once() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        first = await database.write([upsert("a", "b", "c", "d")])
        successor = await filled(cluster)
        await database.write([upsert("a", "e", metadata='{"n":1}')])
        assert (await database.write([Delete("c", [b"b", b"absent"])])).count == 1
        at = np.array([first.commit_ts])
        await database.write([Upsert("c", rows("c", metadata='{"n":2}'), if_version=at)])
        with pytest.raises(PreconditionFailed):
            await database.write([Upsert("c", rows("d", "c"), if_version=at.repeat(2))])
        assert (await database.patch_metadata("c", b"d", {"n": 2})).count == 1
        assert (await database.delete_where("c", {"n": 1})).count == 2
        assert shown(cluster, successor).keys() == {b"c", b"d"}
        same(cluster, successor)

    with_cluster(test)


def test_rows_that_were_given_to_shards_before_a_spread_began_are_given_to_them_again() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("a")])
        gateway = cluster.gateways[0]
        before_ts = gateway.view.catalog_ts

        async def spread() -> None:
            cluster.spread("c", WIDER)
            await heard(cluster)

        during(gateway.transactions, "check_reachable", spread)
        await database.write([upsert("b")])
        (successor,) = [c for c in cluster.collections.values() if c.replaces]
        assert shown(cluster, successor).keys() == {b"b"}
        named = [p.catalog_ts for p in prepared(cluster)][1:]
        assert named[0] == before_ts, "the catalog that its rows were given to shards by"
        assert set(named[1:]) == {successor.id}

    with_cluster(test)


@pytest.mark.parametrize("news", [True, False])
def test_a_write_that_meets_a_switch_is_done_in_the_new_generation(news: bool) -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("a", "b", "c", "d", metadata='{"n":1}')])
        first = (await database.fetch("c", [b"a"], NOW)).versions
        successor = await filled(cluster)

        async def switch() -> None:
            cluster.switch(successor)
            if news:
                await heard(cluster)

        works: list[Callable[[], Awaitable[Any]]] = [
            lambda: database.write([upsert("e")]),
            lambda: database.write([insert("f"), Delete("c", [b"b"])]),
            lambda: database.write([Upsert("c", rows("a"), if_version=np.array(first))]),
            lambda: database.patch_metadata("c", b"c", {"n": 2}),
            lambda: database.delete_where("c", {"n": 1}),
            lambda: database.write([upsert("g")], Idempotency(b"key", b"h" * 16)),
        ]
        for i, work in enumerate(works):
            if i == 0:
                during(cluster.gateways[0].transactions, "check_reachable", switch)
            await work()
        assert set(await ids(database)) == set("acefg")
        assert cluster.by_name("c").id == successor.id

    with_cluster(test)


@pytest.mark.parametrize("work", ["write", "if_version", "patch", "delete_where", "idempotent"])
def test_every_kind_of_write_gets_over_a_switch(work: str) -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        written = await database.write([upsert("a", metadata='{"n":1}')])
        successor = await filled(cluster)
        version = np.array([written.commit_ts])

        async def switch() -> None:
            cluster.switch(successor)

        during(cluster.gateways[0].transactions, "check_reachable", switch)
        match work:
            case "write":
                await database.write([upsert("a")])
            case "if_version":
                await database.write([Upsert("c", rows("a"), if_version=version)])
            case "patch":
                await database.patch_metadata("c", b"a", {"n": 2})
            case "delete_where":
                assert (await database.delete_where("c", {"n": 1})).count == 1
            case "idempotent":
                await database.write([insert("b")], Idempotency(b"key", b"h" * 16))
        assert cluster.by_name("c").id == successor.id
        new = shown(cluster, successor)
        if work == "idempotent":
            assert new.keys() == {b"a", b"b"}
        else:
            assert new.get(b"a", (0,))[0] != written.commit_ts

    with_cluster(test)


def test_a_write_that_reads_first_waits_until_the_switch_is_stable() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("a", "b", metadata='{"n":1}')])
        successor = await filled(cluster)
        cluster.stable_held = True
        cluster.switch(successor)
        await heard(cluster)
        task = asyncio.create_task(database.delete_where("c", {"n": 1}))
        await asyncio.sleep(0.5)
        assert not task.done()
        cluster.stable_held = False
        assert (await task).count == 2

    with_cluster(test)


def test_a_write_that_reads_first_waits_for_the_catalog_that_was_announced() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("a", metadata='{"n":1}')])
        successor = await filled(cluster)

        async def switch() -> None:
            cluster.switch(successor)
            cluster.catalog_s = 0.3

        during(cluster.gateways[0].transactions, "check_reachable", switch)
        assert (await database.delete_where("c", {"n": 1})).count == 1

    with_cluster(test)


def test_a_write_is_done_without_a_generation_that_was_given_up() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("a")])
        successor = await filled(cluster)
        cluster.drop(successor)
        await database.write([upsert("b")])
        assert set(await ids(database)) == {"a", "b"}
        cluster.drop(cluster.by_name("c"))
        with pytest.raises(NotFound):
            await database.write([upsert("b")])

    with_cluster(test)


def test_a_collection_says_over_how_many_shards_it_is_being_spread() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        found = await database.collection("c")
        assert database.spreading(found) is None
        with pytest.raises(InvalidArgument, match="at least 1"):
            await database.alter_collection("c", CollectionChange(shards=0))
        assert await database.alter_collection("c", CollectionChange(shards=5)) == found
        assert database.spreading(found) == 5
        assert [c.id for c in await database.collections()] == [found.id]
        cluster.switch(next(c for c in cluster.collections.values() if c.replaces))
        await heard(cluster)
        assert database.spreading(found) is None
        assert (await database.collection("c")).shards == (0, 1, 2, 3, 4)

    with_cluster(test)


# --- reads ----------------------------------------------------------------------------------------


async def everything(database: Database, consistency: Consistency) -> list[Any]:
    """One answer of each kind of read."""
    page = await database.scroll("c", 100, None, None, consistency)
    found = await database.fetch("c", [b"b", b"a"], consistency)
    query = Query("c", ONES, k=10, consistency=consistency)
    hits = (await database.query(query)).hits[0]
    counted = await database.count("c", {"n": 1}, consistency)
    return [page.rows.ids, page.rows.versions, found.ids, found.versions, hits.ids, counted[0]]


def test_reads_of_every_snapshot_show_what_they_showed() -> None:
    async def test(cluster: Cluster) -> None:
        database, other = (g.database for g in cluster.gateways)
        await database.write([upsert("a", "b", "c", metadata='{"n":1}')])
        old = await database.write([Delete("c", [b"b"]), upsert("d")])
        before = await everything(database, Consistency(as_of=old.commit_ts))
        successor = await filled(cluster)
        last = await database.write([upsert("e")])
        newest = await everything(database, Consistency(as_of=last.commit_ts))
        # What other gateways hold, and what callers hold, is of before the switch.
        since = cluster.switch(successor)
        await asyncio.sleep(0.2)
        for one in (database, other):
            assert await everything(one, Consistency(as_of=old.commit_ts)) == before
            assert await everything(one, Consistency(as_of=last.commit_ts)) == newest
            assert await everything(one, Consistency(as_of=since)) == newest
            assert await everything(one, NOW) == newest
        cluster.asked.clear()
        await everything(database, NOW)
        assert read_of(cluster) == {successor.id}

    with_cluster(test)


def test_a_read_that_looked_its_collection_up_before_a_switch_reads_the_new_generation() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("a", "b", metadata='{"n":1}')])
        successor = await filled(cluster)
        expected = await everything(database, NOW)
        reader = cluster.gateways[0].database._reader
        held = cluster.by_name("c")
        since = cluster.switch(successor)
        await cluster.gateways[0].view.wait_stable(since)
        cluster.asked.clear()
        assert (await reader.fetch(held, [b"a"], since, False)).ids.unpack() == [b"a"]
        assert await reader.count(held, since, b"") == 2
        assert len((await reader.scroll(held, since, 5, b"", b"", False)).ids) == 2
        assert await everything(database, NOW) == expected
        assert read_of(cluster) == {successor.id}

    with_cluster(test)


def test_a_switch_that_a_takeover_undid_is_not_read_by() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("a", "b")])
        successor = cluster.spread("c", WIDER)
        await heard(cluster)
        before = dict(cluster.collections), cluster.catalog_ts
        cluster.mute = True
        cluster.switch(successor)
        await heard(cluster)
        held = cluster.by_name("c")
        assert held.id == successor.id
        cluster.mute = False
        cluster.collections, cluster.catalog_ts = dict(before[0]), before[1]
        await cluster.take_over()
        view = cluster.gateways[0].view
        await view.wait_stable(cluster.last_ts)
        assert await cluster.gateways[0].database._reader.count(held, view.stable_ts, b"") == 2

    with_cluster(test)


def test_cursors_from_before_a_switch_go_on_after_it() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        cluster.alias("now", cluster.by_name("c"))
        await database.write([upsert(*"abcdef")])
        successor = await filled(cluster)
        pages = {name: await database.scroll(name, 2, None, None, NOW) for name in ("c", "now")}
        query = Query("c", ONES, k=2, page=True)
        first = await database.query(query)
        await database.write([Delete("c", [b"f"])])
        cluster.switch(successor)
        await heard(cluster)
        await database.write([Delete("c", [b"e"])])
        for name, page in pages.items():
            seen = list(page.rows.ids)
            while page.cursor is not None:
                page = await database.scroll(name, 2, None, page.cursor, NOW)
                seen += page.rows.ids
            assert seen == [b"a", b"b", b"c", b"d", b"e", b"f"]
        hits = list(first.hits[0].ids)
        after = first.cursor
        while after is not None:
            more = await database.query(dataclasses.replace(query, after=after))
            hits += more.hits[0].ids
            after = more.cursor
        assert sorted(hits) == [b"a", b"b", b"c", b"d", b"e", b"f"]

    with_cluster(test)


def test_a_snapshot_of_a_generation_that_is_gone_is_too_old() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        old = await database.write([upsert("a", "b")])
        before = cluster.by_name("c")
        cluster.alias("now", before)
        cursor = (await database.scroll("now", 1, None, None, NOW)).cursor
        since = cluster.switch(await filled(cluster))
        await heard(cluster)
        assert await ids(database, Consistency(as_of=old.commit_ts)) == ["a", "b"]
        cluster.drop(cluster.collections[before.id])
        for _ in range(2):
            with pytest.raises(SnapshotTooOld):
                await database.scroll("now", 1, None, cursor, NOW)
            with pytest.raises(SnapshotTooOld):
                await ids(database, Consistency(as_of=old.commit_ts))
            await heard(cluster)
        assert await ids(database, Consistency(as_of=since)) == ["a", "b"]
        with pytest.raises(NotFound, match="did not exist"):
            await ids(database, Consistency(as_of=before.id - 1))

    with_cluster(test)


# --- open transactions ----------------------------------------------------------------------------


async def begun(cluster: Cluster, serializable: bool = False) -> str:
    opened = await cluster.database.begin("serializable" if serializable else "snapshot")
    return opened.token


async def wrote(database: Database, token: str, *operations: Upsert | Delete) -> str:
    """The token after a statement."""
    inside = database.resume(token)
    await inside.write(operations)
    return inside.token


def test_a_transaction_that_began_while_it_is_filled_writes_to_both() -> None:
    async def test(cluster: Cluster) -> None:
        one, two = (g.database for g in cluster.gateways)
        await one.write([upsert("a", "b")])
        successor = await filled(cluster)
        token = await wrote(one, await begun(cluster), upsert("c"), Delete("c", [b"a"]))
        inside = two.resume(token)
        await inside.write([upsert("d")])
        assert await ids(inside) == ["b", "c", "d"]
        done = await inside.commit()
        assert done.count == 3
        assert await ids(one, Consistency(done.commit_ts)) == ["b", "c", "d"]
        same(cluster, successor)

    with_cluster(test)


def test_rows_that_were_staged_before_a_spread_began_are_not_committed() -> None:
    async def test(cluster: Cluster) -> None:
        one, two = (g.database for g in cluster.gateways)
        token = await wrote(one, await begun(cluster), upsert("a"))
        successor = cluster.spread("c", WIDER)
        await heard(cluster)
        token = await wrote(two, token, upsert("b"))
        with pytest.raises(Conflict):
            await one.resume(token).commit()
        assert shown(cluster, successor) == {}

    with_cluster(test)


def test_rows_that_a_gateway_staged_by_an_older_catalog_are_not_committed() -> None:
    async def test(cluster: Cluster) -> None:
        one, two = cluster.gateways
        token = await begun(cluster)
        successor = cluster.spread("c", WIDER)
        await one.view.refresh()
        token = await wrote(one.database, token, upsert("a"))
        # The other gateway did not hear of it yet.
        assert two.view.catalog_ts < one.view.catalog_ts == successor.id
        token = await wrote(two.database, token, upsert("b"))
        assert two.view.catalog_ts < successor.id
        with pytest.raises(Conflict):
            await one.database.resume(token).commit()
        assert shown(cluster, successor) == {}

    with_cluster(test)


def test_a_transaction_that_began_before_a_switch_reads_on_and_writes_no_more() -> None:
    async def test(cluster: Cluster) -> None:
        one, two = (g.database for g in cluster.gateways)
        await one.write([upsert("a", "b")])
        reading = await begun(cluster, True)
        successor = await filled(cluster)
        token = await begun(cluster)
        token = await wrote(one, token, upsert("c"))
        await one.write([Delete("c", [b"b"])])
        cluster.switch(successor)
        await heard(cluster)
        inside = two.resume(token)
        assert await ids(inside) == ["a", "b", "c"]
        with pytest.raises(Conflict, match=r"spread over other shards .* begin it again"):
            await inside.write([upsert("d")])
        with pytest.raises(Conflict):
            await inside.commit()
        reader = two.resume(reading)
        assert await ids(reader) == ["a", "b"]
        assert (await reader.fetch("c", [b"b"], NOW)).ids == [b"b"]
        assert (await reader.commit()).count == 0
        assert await ids(one) == ["a"]

    with_cluster(test)


@pytest.mark.parametrize("switched", [False, True])
def test_what_was_read_is_of_the_generation_of_the_snapshot(switched: bool) -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        cluster.create("d")
        await database.write([upsert("a", "b")])
        before = cluster.by_name("c")
        successor = await filled(cluster)
        if not switched:
            token = await begun(cluster, True)
        await cluster.gateways[0].view.wait_stable(cluster.switch(successor))
        if switched:
            token = await begun(cluster, True)
        inside = database.resume(token)
        await inside.fetch("c", [b"a"], NOW)
        await inside.write([Upsert("d", rows("x"))])
        reads = decode_token(inside.token, database._signing_key()).reads
        assert reads == {(successor if switched else before).id: (b"a",)}
        if switched:
            assert (await inside.commit()).count == 1
        else:
            with pytest.raises(Conflict):
                await inside.commit()

    with_cluster(test)
