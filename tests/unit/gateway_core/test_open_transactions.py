"""Open transactions at the gateway, against a cluster that is played in virtual time."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tests.support.virtual_time import turns
from tests.unit.gateway_core.played import Cluster, insert, rows, upsert, with_cluster
from vector_db.common.core.messages.reads import SearchRequest
from vector_db.common.core.messages.transactions import AbortRequest, Prepare, Stage
from vector_db.common.model.errors import (
    Aborted,
    AlreadyCommitted,
    AlreadyExists,
    Conflict,
    InvalidArgument,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    TransactionExpired,
    Unavailable,
)
from vector_db.common.service.config import TransactionsConfig
from vector_db.gateway.core.requests import Consistency, Delete, Query, Upsert
from vector_db.gateway.core.token import decode_token, encode_token, signing_key
from vector_db.gateway.database import Database
from vector_db.gateway.open_transaction import ResumedTransaction
from vector_db.gateway.settlement import REMEMBERED_MS, TOLD_TIMEOUT_S
from vector_db.gateway.transactions import TXN_TIMEOUT_S

NOW = Consistency()


async def begun(database: Database, isolation: str = "snapshot", **given: float) -> str:
    assert isolation in ("snapshot", "serializable")
    opened = await database.begin(
        "serializable" if isolation == "serializable" else "snapshot", **given
    )
    return opened.token


async def wrote(database: Database, token: str, *operations: Upsert | Delete) -> str:
    """The token after a statement."""
    transaction = database.resume(token)
    result = await transaction.write(operations)
    assert result.commit_ts == 0
    return transaction.token


async def ids(database: Database | ResumedTransaction, at_least: int = 0) -> list[str]:
    page = await database.scroll("c", 100, None, None, Consistency(at_least))
    return [row_id.decode() for row_id in page.rows.ids]


def staged(cluster: Cluster) -> list[Stage]:
    return [r for log in cluster.broker.logs.values() for r in log if isinstance(r, Stage)]


def prepared(cluster: Cluster) -> list[Prepare]:
    return [r for log in cluster.broker.logs.values() for r in log if isinstance(r, Prepare)]


# --- statements and reads -------------------------------------------------------------------------


def test_what_is_staged_is_seen_inside_only_until_it_is_committed() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("a", "b")])
        token = await wrote(database, await begun(database), upsert("n1", "n2", "n3", "n4"))
        token = await wrote(database, token, Delete("c", [b"a", b"absent"]))
        inside = cluster.gateways[1].database.resume(token)
        assert await ids(inside) == ["b", "n1", "n2", "n3", "n4"]
        assert (await inside.count("c", None, NOW))[0] == 5
        fetched = await inside.fetch("c", [b"n1", b"a", b"b"], NOW)
        assert fetched.ids == [b"n1", b"b"]
        assert fetched.versions[0] == 0 < fetched.versions[1]
        assert await ids(database) == ["a", "b"]
        done = await inside.commit()
        assert done.count == 5
        assert await ids(database, done.commit_ts) == ["b", "n1", "n2", "n3", "n4"]
        versions = (await database.fetch("c", [b"n1", b"n4"], NOW)).versions
        assert set(versions) == {done.commit_ts}

    with_cluster(test)


def test_reads_stay_at_the_snapshot_whatever_others_commit() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("a")])
        token = await begun(database)
        await database.write([upsert("later"), Delete("c", [b"a"])])
        assert await ids(database.resume(token)) == ["a"]

    with_cluster(test)


def test_a_query_inside_finds_own_rows_and_never_travels_with_others() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("far", value=9.0)])
        token = await wrote(database, await begun(database), upsert("near", value=1.0))
        other = await wrote(database, await begun(database), upsert("other", value=1.1))
        query = Query("c", np.ones((1, 2), dtype=np.float32), include_metadata=False)
        answers = await asyncio.gather(
            database.query(query),
            database.resume(token).query(query),
            database.resume(other).query(query),
        )
        found = [[i.decode() for i in a.hits[0].ids] for a in answers]
        assert found == [["far"], ["near", "far"], ["other", "far"]]
        overlays = [m.overlay for m in cluster.asked if isinstance(m, SearchRequest)]
        assert sum(overlay is not None for overlay in overlays) == 2

    with_cluster(test)


def test_a_scroll_goes_on_inside_after_a_write_and_is_refused_outside() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("a", "c", "e")])
        token = await begun(database)
        first = await database.resume(token).scroll("c", 1, None, None, NOW)
        assert first.cursor is not None
        token = await wrote(database, token, upsert("b"), Delete("c", [b"c"]))
        rest = await database.resume(token).scroll("c", 9, None, first.cursor, NOW)
        assert rest.rows.ids == [b"b", b"e"]
        with pytest.raises(InvalidArgument, match="in a transaction"):
            await database.scroll("c", 9, None, first.cursor, NOW)
        outside = await database.scroll("c", 1, None, None, NOW)
        with pytest.raises(InvalidArgument, match="outside"):
            await database.resume(token).scroll("c", 9, None, outside.cursor, NOW)

    with_cluster(test)


def test_preconditions_are_judged_against_the_snapshot_under_the_own_rows() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        version = (await database.write([upsert("a", "b")])).commit_ts
        token = await begun(database)
        with pytest.raises(AlreadyExists, match="'a' exists already"):
            await wrote(database, token, insert("x", "a"))
        with pytest.raises(NotFound, match="'x' does not exist"):
            await wrote(database, token, Upsert("c", rows("a", "x"), "update"))
        wrong = np.array([version + 1], dtype=np.int64)
        with pytest.raises(PreconditionFailed):
            await wrote(database, token, Delete("c", [b"a"], wrong))
        assert staged(cluster) == []
        right = np.array([version], dtype=np.int64)
        token = await wrote(database, token, Delete("c", [b"a"], right))
        token = await wrote(database, token, insert("a", value=5.0))
        with pytest.raises(AlreadyExists):
            await wrote(database, token, insert("a"))
        with pytest.raises(PreconditionFailed):
            await wrote(database, token, Upsert("c", rows("a"), if_version=right))
        assert {b.precondition for s in staged(cluster) for b in s.blocks} == {"none"}
        await database.resume(token).commit()
        fetched = await database.fetch("c", [b"a"], NOW)
        assert fetched.vectors is not None and fetched.vectors.tolist() == [[5.0, 5.0]]

    with_cluster(test)


def test_delete_where_and_patch_see_the_own_rows() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("a", metadata='{"k":1}'), upsert("b", metadata='{"k":2}')])
        token = await wrote(database, await begun(database), upsert("n", metadata='{"k":1}'))
        transaction = database.resume(token)
        assert (await transaction.patch_metadata("c", b"b", {"k": 1, "z": None})).count == 1
        assert (await transaction.delete_where("c", {"k": 1})).count == 3
        assert (await transaction.delete_where("c", {"k": 1})).count == 0
        with pytest.raises(NotFound):
            await transaction.patch_metadata("c", b"b", {})
        assert (await transaction.commit()).count == 5
        assert await ids(database) == []

    with_cluster(test)


def test_a_collection_made_later_is_not_known_and_a_consistency_is_refused() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        token = await begun(database)
        await database.create_collection("later", 2, "dot")
        transaction = database.resume(token)
        with pytest.raises(NotFound, match="after the transaction began"):
            await transaction.write([Upsert("later", rows("a"))])
        with pytest.raises(NotFound, match="after the transaction began"):
            await transaction.count("later", None, NOW)
        with pytest.raises(InvalidArgument, match="consistency"):
            await transaction.count("c", None, Consistency(strong=True))

    with_cluster(test)


# --- lost on the way ------------------------------------------------------------------------------


def test_a_statement_that_is_sent_again_with_the_old_token_has_one_effect() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        old = await begun(database)
        first = await wrote(database, old, insert("a", "b"))
        again = await wrote(cluster.gateways[1].database, old, insert("a", "b"))
        assert first == again
        done = await database.resume(again).commit()
        assert done.count == 2
        assert await ids(database) == ["a", "b"]

    with_cluster(test)


def test_lost_confirmations_are_asked_for_again() -> None:
    async def test(cluster: Cluster) -> None:
        cluster.lost_confirmations = 2
        database = cluster.database
        token = await wrote(database, await begun(database), upsert("a"))
        assert len(staged(cluster)) == 1, "only the answer was lost"
        assert (await database.resume(token).commit()).count == 1

    with_cluster(test)


@pytest.mark.parametrize("leaves", [False, True])
def test_a_commit_that_was_lost_is_sent_again_though_its_client_may_have_left(leaves: bool) -> None:
    """A log without a leader keeps nothing. Undecided, the transaction is in the way of others."""

    async def test(cluster: Cluster) -> None:
        database = cluster.database
        token = await wrote(database, await begun(database), upsert("a", "b", "c", "d"))
        cluster.lost_prepares = 3
        began = asyncio.get_running_loop().time()
        commit = asyncio.create_task(database.resume(token).commit())
        if leaves:
            await asyncio.sleep(1.0)
            commit.cancel()
            await asyncio.sleep(2 * TOLD_TIMEOUT_S)
        else:
            assert (await commit).count == 4
            assert asyncio.get_running_loop().time() - began < 3 * TOLD_TIMEOUT_S
        assert await ids(database) == ["a", "b", "c", "d"]

    with_cluster(test)


def test_a_commit_that_was_sent_is_not_said_to_be_none_when_it_cannot_be_sent_again() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        token = await wrote(database, await begun(database), upsert("a"))
        cluster.votes_held = True
        commit = asyncio.create_task(database.resume(token).commit())
        await turns()
        cluster.broker.appends_left = 0
        await asyncio.sleep(1.5 * TOLD_TIMEOUT_S)
        assert not commit.done()
        cluster.broker.appends_left = None
        cluster.votes_held = False
        assert (await commit).count == 1

    with_cluster(test)


def test_lost_chunks_are_sent_again() -> None:
    async def test(cluster: Cluster) -> None:
        cluster.lost_stages = 1
        database = cluster.database
        token = await wrote(database, await begun(database), upsert("a"))
        assert (await database.resume(token).commit()).count == 1
        assert await ids(database) == ["a"]

    with_cluster(test)


def test_a_statement_that_is_never_confirmed_fails_and_can_be_sent_again() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        token = await begun(database)
        cluster.lost_stages = 10_000
        with pytest.raises(Unavailable, match="send it again"):
            await wrote(database, token, upsert("a"))
        cluster.lost_stages = 0
        token = await wrote(database, token, upsert("a"))
        await database.resume(token).commit()
        assert await ids(database) == ["a"]

    with_cluster(test)


def test_another_statement_in_the_place_of_one_that_failed_is_never_mixed_with_it() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        token = await begun(database)
        cluster.lost_confirmations = 10_000
        with pytest.raises(Unavailable, match="send it again"):
            await wrote(database, token, upsert("a"))
        cluster.lost_confirmations = 0
        instead = await wrote(database, token, upsert("a", value=2.0))
        with pytest.raises(Conflict):
            await database.resume(instead).commit()
        assert await ids(database) == []

    with_cluster(test)


def test_a_token_older_than_the_last_statement_commits_what_it_names() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        token = await wrote(database, await begun(database), upsert("a"))
        await wrote(database, token, upsert("a", "b", value=2.0))
        inside = database.resume(token)
        assert await ids(inside) == ["a"]
        assert (await inside.commit()).count == 1
        fetched = await database.fetch("c", [b"a", b"b"], NOW)
        assert fetched.vectors is not None and fetched.vectors.tolist() == [[1.0, 1.0]]

    with_cluster(test)


def test_a_large_statement_is_sent_in_bounded_amounts() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.create_collection("wide", 2, "dot")
        text = '{"t":"' + "x" * 60_000 + '"}'
        token = await begun(database)
        most = 0

        def watch() -> None:
            nonlocal most
            taken = cluster.gateways[0].transactions.bounds._unacked
            most = max(most, *taken.values(), 0)

        cluster.on_stage = watch
        names = [f"r{i:04d}" for i in range(400)]
        token = await wrote(database, token, upsert(*names, metadata=text))
        assert 2_000_000 < most <= 4 * 1024 * 1024
        assert (await database.resume(token).commit()).count == 400
        assert (await database.count("c", None, NOW))[0] == 400

    with_cluster(test)


# --- the end --------------------------------------------------------------------------------------


def test_committed_twice_the_answer_is_the_same_at_another_gateway_too() -> None:
    async def test(cluster: Cluster) -> None:
        database, other = (g.database for g in cluster.gateways)
        token = await wrote(database, await begun(database), upsert("a"))
        first = await database.resume(token).commit()
        sent = len(prepared(cluster))
        assert await database.resume(token).commit() == first
        assert await other.resume(token).commit() == first
        cluster.forgotten_by_sequencer = True
        assert await other.resume(token).commit() == first
        assert len(prepared(cluster)) == sent

    with_cluster(test)


def test_two_commits_at_once_are_one() -> None:
    async def test(cluster: Cluster) -> None:
        database, other = (g.database for g in cluster.gateways)
        token = await wrote(database, await begun(database), upsert("a"))
        answers = await asyncio.gather(
            database.resume(token).commit(),
            database.resume(token).commit(),
            other.resume(token).commit(),
        )
        assert len(set(answers)) == 1
        assert len(cluster.history) == 1

    with_cluster(test)


def test_an_outcome_that_is_not_told_is_found_out_and_told_once_stable() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        token = await wrote(database, await begun(database), upsert("a"))
        cluster.mute = True
        commit = asyncio.create_task(database.resume(token).commit())
        await asyncio.sleep(TOLD_TIMEOUT_S + 3)
        assert not commit.done(), "it is committed, but a failure may undo it"
        cluster.mute = False
        assert (await commit).commit_ts == cluster.last_ts

    with_cluster(test)


def test_a_commit_that_nobody_decides_is_given_up_past_its_deadline() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        token = await wrote(database, await begun(database), upsert("a"))
        cluster.votes_held = True
        started = asyncio.get_running_loop().time()
        with pytest.raises(Aborted):
            await database.resume(token).commit()
        assert asyncio.get_running_loop().time() - started >= TXN_TIMEOUT_S
        (txn_id,) = cluster.prepares
        cluster.decide(txn_id)
        assert await ids(database) == []

    with_cluster(test)


def test_first_committer_wins() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        token = await wrote(database, await begun(database), upsert("a"))
        await database.write([upsert("a", value=7.0)])
        with pytest.raises(Conflict):
            await database.resume(token).commit()
        with pytest.raises(Conflict):
            await database.resume(token).commit()

    with_cluster(test)


def test_what_is_aborted_is_gone_and_says_so() -> None:
    async def test(cluster: Cluster) -> None:
        database, other = (g.database for g in cluster.gateways)
        old = await begun(database)
        token = await wrote(database, old, upsert("a"))
        await database.resume(token).abort()
        await other.resume(token).abort()
        started = asyncio.get_running_loop().time()
        for stale in (old, token):
            with pytest.raises(Aborted):
                await wrote(other, stale, upsert("b"))
        assert asyncio.get_running_loop().time() - started < 1.0, "told at once"
        with pytest.raises(Aborted):
            await other.resume(token).count("c", None, NOW)
        with pytest.raises(Aborted):
            await database.resume(token).commit()
        assert await ids(database) == []

    with_cluster(test)


def test_what_is_committed_can_neither_be_aborted_nor_added_to() -> None:
    async def test(cluster: Cluster) -> None:
        database, other = (g.database for g in cluster.gateways)
        token = await wrote(database, await begun(database), upsert("a"))
        await database.resume(token).commit()
        for forgotten in (False, True):
            cluster.forgotten_by_sequencer = forgotten
            with pytest.raises(AlreadyCommitted):
                await other.resume(token).abort()
            with pytest.raises(AlreadyCommitted, match="nothing can be added"):
                await wrote(other, token, upsert("b"))
        assert not [m for m in cluster.asked if isinstance(m, AbortRequest)]
        assert await ids(database) == ["a"]

    with_cluster(test)


def test_only_reads_need_no_commit_protocol() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("a")])
        before = len(prepared(cluster))
        opened = await database.begin("serializable")
        transaction = database.resume(opened.token)
        await ids(transaction)
        await database.write([upsert("a", value=3.0)])
        done = await database.resume(transaction.token).commit()
        assert (done.count, done.commit_ts) == (0, opened.snapshot_ts)
        await database.resume(transaction.token).abort()
        assert len(prepared(cluster)) == before + 1

    with_cluster(test)


# --- too late -------------------------------------------------------------------------------------


def test_an_expired_transaction_takes_nothing_more() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        empty = await begun(database, timeout_s=5.0)
        token = await wrote(database, empty, upsert("a"))
        await asyncio.sleep(5.1)
        for stale in (empty, token):
            transaction = database.resume(stale)
            with pytest.raises(TransactionExpired):
                await transaction.write([upsert("b")])
            with pytest.raises(TransactionExpired):
                await transaction.count("c", None, NOW)
            with pytest.raises(TransactionExpired):
                await transaction.commit()
        assert prepared(cluster) == []

    with_cluster(test)


def test_past_the_expiry_only_who_knows_may_say_that_nothing_was_applied() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        token = await wrote(database, await begun(database, timeout_s=5.0), upsert("a"))
        done = await database.resume(token).commit()
        await asyncio.sleep(6.0)
        cluster.forgotten_by_sequencer = cluster.workers_silent = True
        with pytest.raises(Unavailable):
            await database.resume(token).commit()
        cluster.workers_silent = False
        assert await database.resume(token).commit() == done

    with_cluster(test)


def test_a_commit_is_remembered_past_the_expiry() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        token = await wrote(database, await begun(database, timeout_s=5.0), upsert("a"))
        done = await database.resume(token).commit()
        await asyncio.sleep(60)
        assert await database.resume(token).commit() == done
        with pytest.raises(AlreadyCommitted):
            await database.resume(token).count("c", None, NOW)

    with_cluster(test)


def test_what_ended_too_long_ago_is_said_to_be_unknown() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        token = await wrote(database, await begun(database, timeout_s=5.0), upsert("a"))
        await asyncio.sleep(6.0)
        with pytest.raises(TransactionExpired):
            await database.resume(token).commit()
        await asyncio.sleep(REMEMBERED_MS / 1000)
        with pytest.raises(OutcomeUnknown):
            await database.resume(token).commit()

    with_cluster(test)


def test_no_deadline_lies_past_the_expiry() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        opened = await database.begin("snapshot", 5.0)
        token = await wrote(database, opened.token, upsert("a"))
        assert {s.deadline_ms for s in staged(cluster)} == {opened.expires_ms}
        await database.resume(token).commit()
        assert {p.deadline_ms for p in prepared(cluster)} == {opened.expires_ms}
        longer = await wrote(database, await begun(database, timeout_s=600.0), upsert("b"))
        now_ms = cluster.wall_ms()
        await database.resume(longer).commit()
        assert prepared(cluster)[-1].deadline_ms <= now_ms + TXN_TIMEOUT_S * 1000 + 100

    with_cluster(test)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, 101.0, float("nan"), float("inf")])
def test_a_timeout_beyond_its_limits_is_refused(timeout_s: float) -> None:
    async def test(cluster: Cluster) -> None:
        with pytest.raises(InvalidArgument, match="retention_s = 100"):
            await cluster.database.begin("snapshot", timeout_s)

    with_cluster(test, TransactionsConfig(retention_s=100.0))


def test_a_takeover_voids_what_is_open() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        empty = await begun(database)
        token = await wrote(database, empty, upsert("a"))
        committed = await wrote(database, await begun(database), upsert("b"))
        done = await database.resume(committed).commit()
        await cluster.take_over()
        for stale in (empty, token):
            with pytest.raises(Conflict, match="begin the transaction again") as told:
                await wrote(database, stale, upsert("c"))
            assert told.value.retryable
            with pytest.raises(Conflict, match="begin the transaction again"):
                await database.resume(stale).count("c", None, NOW)
        with pytest.raises(Conflict, match="begin the transaction again"):
            await database.resume(token).commit()
        await database.resume(token).abort()
        assert await database.resume(committed).commit() == done
        with pytest.raises(AlreadyCommitted):
            await database.resume(committed).abort()

    with_cluster(test)


def test_a_takeover_during_the_commit_is_a_conflict() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        token = await wrote(database, await begun(database), upsert("a"))
        cluster.votes_held = True
        commit = asyncio.create_task(database.resume(token).commit())
        await turns(100)
        assert len(prepared(cluster)) == 1
        await cluster.take_over()
        with pytest.raises(Conflict, match="begin the transaction again"):
            await commit

    with_cluster(test)


# --- tokens ---------------------------------------------------------------------------------------


def test_a_token_of_another_cluster_is_refused() -> None:
    for secret in (None, "a secret of sixteen"):
        config = TransactionsConfig.model_validate({"token_secret": secret})

        async def test(cluster: Cluster, secret: str | None = secret) -> None:
            key = signing_key(secret, cluster.cluster_id)
            ours = decode_token(await begun(cluster.database), key)
            theirs = encode_token(ours, signing_key(secret, "another"))
            with pytest.raises(InvalidArgument, match="not a token of this cluster"):
                cluster.database.resume(theirs)

        with_cluster(test, config)


# --- serializable ---------------------------------------------------------------------------------


def test_a_serializable_commit_fails_when_what_it_read_changed() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("a", "b")])
        for isolation in ("snapshot", "serializable"):
            transaction = database.resume(await begun(database, isolation))
            await transaction.fetch("c", [b"a"], NOW)
            await transaction.write([upsert("x")])
            await database.write([upsert("a", value=4.0)])
            if isolation == "snapshot":
                await transaction.commit()
                continue
            with pytest.raises(Conflict):
                await database.resume(transaction.token).commit()

    with_cluster(test)


def test_point_reads_do_not_mind_other_keys_and_scans_mind_all() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        await database.write([upsert("a", "b")])
        point = database.resume(await begun(database, "serializable"))
        await point.fetch("c", [b"a", b"absent"], NOW)
        await point.write([upsert("x")])
        scan = database.resume(await begun(database, "serializable"))
        await scan.count("c", None, NOW)
        await scan.write([upsert("y")])
        await database.write([upsert("b", value=4.0)])
        await point.commit()
        with pytest.raises(Conflict):
            await scan.commit()

    with_cluster(test)


def test_a_delete_by_filter_reads_what_it_did_not_find() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        transaction = database.resume(await begun(database, "serializable"))
        assert (await transaction.delete_where("c", {"k": 1})).count == 0
        await transaction.write([upsert("none-was-found")])
        await database.write([upsert("a", metadata='{"k":1}')])
        with pytest.raises(Conflict):
            await transaction.commit()

    with_cluster(test)


def test_shards_that_were_only_read_are_participants_without_rows() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        transaction = database.resume(await begun(database, "serializable"))
        await transaction.count("c", None, NOW)
        await transaction.write([upsert("x")])
        await transaction.commit()
        first, second = sorted(prepared(cluster), key=lambda p: p.shard)
        assert first.participants == second.participants == (0, 1)
        assert sorted(p.stages for p in (first, second)) == [0, 1]
        assert all(p.reads[0].whole and not p.blocks for p in (first, second))

    with_cluster(test)


def test_a_collection_that_was_read_and_is_dropped_is_a_conflict() -> None:
    async def test(cluster: Cluster) -> None:
        database, other = (g.database for g in cluster.gateways)
        for dropped in (False, True):
            made = await database.create_collection("more", 2, "dot")
            transaction = database.resume(await begun(database, "serializable"))
            await transaction.count("more", None, NOW)
            await transaction.write([upsert(f"x-{dropped}")])
            if not dropped:
                assert (await other.resume(transaction.token).commit()).count == 1
                continue
            del cluster.collections[made.id]
            cluster.catalog_ts += 1
            await other.collections()
            with pytest.raises(Conflict, match="was dropped"):
                await other.resume(transaction.token).commit()

    with_cluster(test)


def test_the_token_carries_reads_only_where_they_count() -> None:
    async def test(cluster: Cluster) -> None:
        key = signing_key(None, cluster.cluster_id)
        for isolation in ("snapshot", "serializable"):
            transaction = cluster.database.resume(await begun(cluster.database, isolation))
            await transaction.fetch("c", [b"k"], NOW)
            reads = decode_token(transaction.token, key).reads
            assert list(reads.values()) == ([(b"k",)] if isolation == "serializable" else [])

    with_cluster(test)


# --- status ---------------------------------------------------------------------------------------


def test_the_status_follows_a_transaction() -> None:
    async def test(cluster: Cluster) -> None:
        database = cluster.database
        opened = await database.begin("snapshot")

        async def state() -> str:
            status = await cluster.gateways[1].database.transaction_status(opened.txn_id)
            return str(status["state"])

        assert await state() == "unknown"
        token = await wrote(database, opened.token, upsert("a"))
        assert await state() == "pending"
        await database.resume(token).commit()
        assert await state() == "committed"
        cluster.forgotten_by_sequencer = True
        assert await state() == "committed"

    with_cluster(test)
