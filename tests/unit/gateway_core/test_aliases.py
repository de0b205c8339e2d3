"""Aliases at the gateway: another name of a collection in all calls, switched at one moment."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from tests.support.virtual_time import turns
from tests.unit.gateway_core.played import Cluster, rows, with_cluster
from vector_db.common.core.messages.catalog import CatalogRequest
from vector_db.common.core.messages.reads import CountRequest
from vector_db.common.model.errors import InvalidArgument, NotFound, Unavailable
from vector_db.gateway.core.requests import Consistency, Delete, Query, Upsert
from vector_db.gateway.database import Database

NOW = Consistency()


async def names(database: Any, name: str, consistency: Consistency = NOW) -> list[str]:
    page = await database.scroll(name, 100, None, None, consistency)
    return [row_id.decode() for row_id in page.rows.ids]


async def two(cluster: Cluster) -> Database:
    """Collections ``c`` with row c1, c2 and ``d`` with d1, d2; the alias ``now`` is ``c``."""
    cluster.create("d")
    database = cluster.database
    cluster.alias("now", cluster.by_name("c"))
    written = [Upsert(name, rows(f"{name}1", f"{name}2")) for name in ("c", "d")]
    result = await database.write(written)
    await database._view.wait_stable(result.commit_ts)
    return database


def test_every_call_on_rows_takes_an_alias() -> None:
    async def test(cluster: Cluster) -> None:
        database = await two(cluster)
        result = await database.write([Upsert("now", rows("x", metadata='{"n":1}'))])
        at = Consistency(result.commit_ts)
        assert await names(database, "c", at) == await names(database, "now", at)
        vector = np.ones((1, 2), np.float32)
        found = await database.query(Query("now", vector, consistency=at, include_metadata=False))
        assert sorted(found.hits[0].ids) == [b"c1", b"c2", b"x"]
        assert (await database.fetch("now", [b"x"], at)).versions == [result.commit_ts]
        assert (await database.count("now", {"n": 1}, at))[0] == 1
        assert (await database.patch_metadata("now", b"x", {"n": 2})).count == 1
        deleted = await database.delete_where("now", {"n": 2})
        assert (deleted.count, await names(database, "d")) == (1, ["d1", "d2"])
        assert (await database.collection("now")).name == "c"
        assert database.aliases_of(cluster.by_name("c")) == ("now",)
        assert await database.aliases() == {"now": "c"}
        assert [one.name for one in await database.collections()] == ["c", "d"]

    with_cluster(test)


def test_two_names_of_one_collection_are_one_collection_in_a_write() -> None:
    async def test(cluster: Cluster) -> None:
        database = await two(cluster)
        with pytest.raises(InvalidArgument, match=r"operations\[1\] and those before it"):
            await database.write([Upsert("c", rows("x")), Delete("now", [b"x"])])
        done = await database.write([Upsert("c", rows("x")), Delete("now", [b"c1"])])
        assert await names(database, "now", Consistency(done.commit_ts)) == ["c2", "x"]

    with_cluster(test)


def test_two_names_of_one_collection_are_one_collection_in_a_transaction() -> None:
    async def test(cluster: Cluster) -> None:
        database = await two(cluster)
        inside = database.resume((await database.begin("serializable")).token)
        await inside.write([Upsert("now", rows("x"))])
        assert await names(inside, "c") == ["c1", "c2", "x"]
        with pytest.raises(InvalidArgument):
            await inside.write([Upsert("c", rows("y")), Upsert("now", rows("y"))])
        await inside.write([Delete("c", [b"c1"])])
        assert await names(inside, "now") == ["c2", "x"]
        await database.write([Upsert("now", rows("z"))])
        with pytest.raises(Exception, match="because"):
            await inside.commit()

    with_cluster(test)


def test_all_names_of_a_write_are_of_one_state_of_the_catalog() -> None:
    """A switch in the midst of a write must not send half of it elsewhere."""

    async def test(cluster: Cluster) -> None:
        database = await two(cluster)
        c, d = cluster.by_name("c"), cluster.by_name("d")
        cluster.alias("first", c)
        cluster.alias("second", c)
        await database._view.refresh()
        cluster.alias("first", d)
        cluster.alias("second", d)
        # Of this one the gateway has not heard: it asks, and hears of all.
        cluster.alias("late", d)
        done = await database.write([Upsert(n, rows(n)) for n in ("first", "late", "second")])
        at = Consistency(done.commit_ts)
        assert await names(database, "c", at) == ["c1", "c2"]
        assert await names(database, "d", at) == ["d1", "d2", "first", "late", "second"]

    with_cluster(test)


def test_a_read_that_knows_of_a_switch_sees_it_through_any_gateway() -> None:
    async def test(cluster: Cluster) -> None:
        await two(cluster)
        other = cluster.gateways[1].database
        assert await names(other, "now") == ["c1", "c2"]
        switched = cluster.alias("now", cluster.by_name("d"))
        # The other gateway has not heard of it yet.
        assert other._view.catalog_ts < switched
        assert await names(other, "now", Consistency(at_least=switched)) == ["d1", "d2"]

    with_cluster(test)


def test_what_an_alias_stands_for_is_told_only_once_nothing_can_undo_it() -> None:
    async def test(cluster: Cluster) -> None:
        database = await two(cluster)
        cluster.mute = True
        cluster.alias("now", cluster.by_name("d"))
        await database._view.refresh()
        read = asyncio.create_task(names(database, "now"))
        await turns()
        assert not read.done() and await names(database, "c") == ["c1", "c2"]
        cluster.mute = False
        assert await read == ["d1", "d2"]
        cluster.mute = True
        cluster.alias("now", cluster.by_name("c"))
        await database._view.refresh()
        with pytest.raises(Unavailable):
            await names(database, "now")

    with_cluster(test)


def test_a_switch_that_a_takeover_undid_is_not_followed() -> None:
    async def test(cluster: Cluster) -> None:
        database = await two(cluster)
        catalog_ts = cluster.catalog_ts
        cluster.mute = True
        cluster.alias("now", cluster.by_name("d"))
        await database._view.refresh()
        read = asyncio.create_task(names(database, "now"))
        await turns()
        cluster.aliases["now"] = cluster.by_name("c").id
        cluster.catalog_ts = catalog_ts
        cluster.mute = False
        await cluster.take_over()
        assert await read == ["c1", "c2"]

    with_cluster(test)


def test_a_call_whose_collection_was_dropped_after_a_switch_goes_to_the_new_one() -> None:
    async def test(cluster: Cluster) -> None:
        database = await two(cluster)
        old, new = cluster.by_name("c"), cluster.by_name("d")
        cluster.alias("now", new)
        cluster.drop(old)
        # No beat has told this gateway.
        assert (await database.count("now", None, NOW))[0] == 2
        assert (await database.collection("now")).name == "d"
        old, new = new, cluster.create("e")
        await database.write([Upsert("e", rows("e1"))])
        cluster.alias("now", new)
        cluster.drop(old)
        result = await database.write([Upsert("now", rows("e2"))])
        assert await names(database, "now", Consistency(result.commit_ts)) == ["e1", "e2"]
        before = len(cluster.asked)
        with pytest.raises(NotFound, match="id 'absent'"):
            await database.patch_metadata("now", b"absent", {})
        counted = sum(isinstance(m, CatalogRequest) for m in cluster.asked[before:])
        assert counted == 1, "what is not there is looked for once when nothing has changed"

    with_cluster(test)


def test_a_scroll_goes_on_in_the_collection_that_it_began_in() -> None:
    async def test(cluster: Cluster) -> None:
        database = await two(cluster)
        page = await database.scroll("now", 1, None, None, NOW)
        assert page.cursor is not None and page.rows.ids == [b"c1"]
        switched = cluster.alias("now", cluster.by_name("d"))
        assert await names(database, "now", Consistency(at_least=switched)) == ["d1", "d2"]
        for gateway in cluster.gateways:
            rest = await gateway.database.scroll("now", 9, None, page.cursor, NOW)
            assert (rest.rows.ids, rest.cursor) == ([b"c2"], None)
        with pytest.raises(InvalidArgument, match="another collection"):
            await database.scroll("d", 9, None, page.cursor, NOW)
        cluster.drop(cluster.by_name("c"))
        await asyncio.sleep(0.2)
        with pytest.raises(NotFound, match="was dropped"):
            await database.scroll("now", 9, None, page.cursor, NOW)

    with_cluster(test)


def test_a_name_that_is_no_alias_costs_no_question() -> None:
    async def test(cluster: Cluster) -> None:
        database = await two(cluster)
        before = len(cluster.asked)
        await database.count("c", None, NOW)
        await database.count("now", None, NOW)
        assert all(isinstance(m, CountRequest) for m in cluster.asked[before:])

    with_cluster(test)
