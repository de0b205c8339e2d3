"""Pages of rows that a gateway copies from the generation in force to the one that is filled."""

from __future__ import annotations

import dataclasses

import pytest

from tests.unit.gateway_core.played import Cluster, upsert, with_cluster
from tests.unit.gateway_core.spread import WIDER, copied, during, filled, heard, same, shown
from vector_db.common.core.messages.catalog import CopyReply, CopyRequest
from vector_db.common.core.messages.reads import RowsReply
from vector_db.common.core.subjects import gateways
from vector_db.common.model.errors import Conflict, Internal
from vector_db.gateway import copying
from vector_db.gateway.core.requests import Delete


def test_pages_are_copied_with_the_versions_that_the_rows_have() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        for name in "abcdefg":
            await database.write([upsert(name, metadata='{"n":1}')])
        successor = cluster.spread("c", WIDER)
        await database.write([upsert("b"), Delete("c", [b"g"])])
        replies = await copied(cluster, successor, 2)
        assert [(r.last, r.done, r.read, r.copied) for r in replies] == [
            (b"b", False, 2, 1), (b"d", False, 2, 2), (b"f", False, 2, 2), (b"f", True, 0, 0),
        ]  # fmt: skip
        same(cluster, successor)
        assert len({version for version, _ in shown(cluster, successor).values()}) == 6
        again = await copied(cluster, successor, 10)
        assert again == [CopyReply(b"f", True, 6, 0)]

    with_cluster(test)


def test_any_gateway_answers_for_a_page() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.database.write([upsert("a")])
        successor = cluster.spread("c", WIDER)
        copier = cluster.gateways[1].copier
        await copier.start()
        request = CopyRequest(successor.replaces, successor.id, b"", 10)
        assert await cluster.bus.request(gateways(), request, 5.0) == CopyReply(b"a", True, 1, 1)
        await copier.stop()

    with_cluster(test)


def test_a_page_ends_before_it_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(cluster: Cluster) -> None:
        text = f'{{"n":"{"x" * 92}"}}'
        assert len(text) == 100
        await cluster.database.write([upsert(*"abcde", metadata=text)])
        monkeypatch.setattr(copying, "PAGE_BYTES_MAX", 250)
        successor = cluster.spread("c", WIDER)
        await heard(cluster)
        await cluster.database.write([upsert("b")])
        replies = await copied(cluster, successor)
        assert [(r.last, r.copied) for r in replies] == [(b"c", 2), (b"e", 2)]
        assert replies[-1].done
        monkeypatch.setattr(copying, "PAGE_BYTES_MAX", 1)
        cluster.drop(successor)
        third = cluster.spread("c", WIDER)
        await heard(cluster)
        assert [r.copied for r in await copied(cluster, third)] == [1, 1, 1, 1, 1]

    with_cluster(test)


def test_a_row_that_is_written_while_it_is_copied_is_copied_no_more() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert(*"abcd")])
        successor = cluster.spread("c", WIDER)
        await heard(cluster)

        async def delete() -> None:
            await database.write([Delete("c", [b"b"]), upsert("c", metadata='{"n":1}')])

        during(cluster.gateways[0].copier, "_write", delete)
        request = CopyRequest(successor.replaces, successor.id, b"", 4)
        first = await cluster.gateways[0].copier.copy(request)
        assert (first.read, first.done) == (2, False), "fewer rows at a time after a conflict"
        await copied(cluster, successor)
        assert shown(cluster, successor).keys() == {b"a", b"c", b"d"}
        same(cluster, successor)

    with_cluster(test)


def test_a_page_whose_rows_are_written_all_the_time_is_given_up() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("a")])
        successor = cluster.spread("c", WIDER)
        await heard(cluster)
        copier = cluster.gateways[0].copier
        write, tries = copier._write, 0

        async def overtaken(asked: CopyRequest, rows: RowsReply, snapshot_ts: int) -> None:
            nonlocal tries
            tries += 1
            before = cluster.by_name("c").id
            cluster.last_ts += 1
            cluster.history[before, b"a"].append(
                dataclasses.replace(cluster.history[before, b"a"][-1], ts=cluster.last_ts)
            )
            await write(asked, rows, snapshot_ts)

        copier._write = overtaken  # type: ignore[method-assign]
        with pytest.raises(Conflict):
            await copied(cluster, successor)
        assert tries == copying.RETRIES_MAX + 1

    with_cluster(test)


def test_the_end_of_a_pass_is_said_only_of_equal_numbers_of_rows() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.database.write([upsert(*"abc")])
        successor = await filled(cluster)
        cluster.history[successor.id, b"zz"] = cluster.history[successor.id, b"a"]
        with pytest.raises(Internal, match=r"has 3 rows, and .*, 4"):
            await copied(cluster, successor)

    with_cluster(test)


def test_a_page_of_a_spread_that_is_over_is_refused() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("a")])
        successor = cluster.spread("c", WIDER)
        await heard(cluster)
        copier = cluster.gateways[0].copier

        async def switch() -> None:
            cluster.switch(successor)

        during(copier, "_write", switch)
        with pytest.raises(Conflict):
            await copied(cluster, successor)
        with pytest.raises(Conflict, match="is not being filled"):
            await copier.copy(CopyRequest(1, successor.id, b"", 10))
        assert shown(cluster, successor) == {}

    with_cluster(test)
