"""From one term to the next: promises, what a takeover undoes, applies and ends, entering."""

from __future__ import annotations

import msgspec

from tests.support.protocol import (
    COLLECTION,
    block,
    collection,
    prepare,
    stage,
    takeover,
    txn,
)
from tests.unit.shard_core.driver import (
    REPLICAS,
    SNAPSHOT,
    T,
    Worker,
    abort,
    commit,
    later,
)
from vector_db.common.core.messages.decisions import (
    AlterCollection,
    Commit,
    DecisionRecord,
    DropCollection,
    SetAliases,
)
from vector_db.common.core.messages.takeover import PromiseRequest

# --- promises -------------------------------------------------------------------------------------


def test_a_term_is_promised_upward_only_and_to_one_candidate() -> None:
    participant = Worker().participant
    request = PromiseRequest(3, "c3", "")
    assert participant.takeovers.promise(request)
    assert not participant.takeovers.promise(request), "nothing new to log"
    assert participant.takeovers.promise_message(request).granted
    for other in (PromiseRequest(3, "rival", ""), PromiseRequest(2, "c2", "")):
        assert not participant.takeovers.promise(other)
        answer = participant.takeovers.promise_message(other)
        assert (answer.granted, answer.promised) == (False, 3)
    assert participant.takeovers.promise(PromiseRequest(4, "rival", ""))


def test_a_candidate_of_another_cluster_is_promised_nothing() -> None:
    participant = Worker().participant
    foreign = PromiseRequest(9, "c9", "another")
    assert not participant.takeovers.promise(foreign)
    assert not participant.takeovers.promise_message(foreign).granted
    assert participant.promised == 1
    assert participant.takeovers.promise(PromiseRequest(9, "c9", "cluster"))


def test_a_promise_says_how_far_this_worker_is_and_what_it_remembers() -> None:
    worker = Worker()
    worker.decide(abort(3, "t"))
    request = PromiseRequest(2, "c2", "")
    worker.participant.takeovers.promise(request)
    answer = worker.participant.takeovers.promise_message(request)
    assert (answer.cursor, answer.cluster_id, answer.wall_ms) == (T(1, 3), "cluster", 1_000)
    assert answer.replicas == REPLICAS
    assert [c.id for c in answer.collections] == [COLLECTION]
    assert [r.last_ts for r in answer.tail] == [T(1, 2), T(1, 3)]


def test_a_promise_ends_what_was_held_of_the_older_term() -> None:
    worker = Worker()
    worker.offer(commit(3, "t"), prev=T(1, 2))
    worker.participant.takeovers.promise(PromiseRequest(2, "c2", ""))
    worker.participant.take(prepare("t", block("a"), mode="blind"), 1, 1)
    assert worker.participant.next_ready() is None
    assert worker.participant.term.positions == {}


# --- takeovers ------------------------------------------------------------------------------------


def test_what_lies_beyond_the_base_is_undone() -> None:
    worker = Worker()
    worker.put(3, "a", value=1.0)
    worker.put(4, "a", "b", value=2.0)
    worker.take_over(later(T(1, 3)))
    assert worker.store.alive() == {b"a": (T(1, 3), 1.0)}
    assert worker.participant.cursor == T(2, 0)
    assert worker.status("put4").state == "aborted"
    assert worker.status("put3").state == "committed"


def test_what_is_missing_below_the_base_is_applied() -> None:
    worker = Worker()
    worker.take(prepare("t", block("a"), mode="blind"))
    missed = DecisionRecord(1, T(1, 2), 1_000, (commit(3, "t"),))
    worker.take_over(later(T(1, 3), after=T(1, 2), decisions=(missed,)))
    assert worker.store.alive() == {b"a": (T(1, 3), 1.0)}
    assert worker.status("t").commit_ts == T(1, 3)


def test_what_was_undecided_in_an_older_term_is_void() -> None:
    worker = Worker()
    worker.take(prepare("t", block("a"), snapshot_ts=SNAPSHOT), stage("u", 0, block("b")))
    worker.take_over(later(T(1, 2)))
    assert worker.participant.counts()["undecided"] == 0
    assert worker.status("t").state == "aborted"
    again = prepare("v", block("a"), term=2, snapshot_ts=T(2, 0))
    assert worker.vote(again).yes, "the void one conflicts no more"


def test_a_worker_that_never_knew_anything_joins_at_the_takeover() -> None:
    worker = Worker(begun=False)
    others = takeover(2, T(1, 9), {0: ("w2",)}, collections=(collection((0,)),))
    worker.take_over(others)
    assert worker.participant.cursor == T(2, 0)
    assert [c.id for c in worker.participant.state.collections.values()] == [COLLECTION]


def test_options_and_aliases_beyond_the_base_are_undone_and_those_below_it_stay() -> None:
    worker = Worker()
    first = msgspec.structs.replace(collection((0, 1, 2)), recall_target=0.9)
    second = msgspec.structs.replace(first, fields=("lang",))
    worker.decide(AlterCollection(T(1, 3), first), SetAliases(T(1, 4), {"now": COLLECTION}))
    assert worker.store.collections[COLLECTION] == first
    worker.decide(AlterCollection(T(1, 5), second), SetAliases(T(1, 6), {"late": COLLECTION}))
    assert worker.store.collections[COLLECTION] == second
    told = worker.participant.takeovers.promise_message(PromiseRequest(2, "c2", ""))
    assert (told.aliases, told.collections) == ({"late": COLLECTION}, (second,))
    base = msgspec.structs.replace(
        later(T(1, 4)), collections=(first,), aliases={"now": COLLECTION}, catalog_ts=T(1, 4)
    )
    worker.take_over(base)
    assert worker.participant.state.aliases == {"now": COLLECTION}
    assert worker.participant.state.collections[COLLECTION] == first
    assert worker.store.collections[COLLECTION] == first, "what was altered beyond is undone here"


def test_a_takeover_that_comes_twice_changes_nothing() -> None:
    worker = Worker()
    first = later(T(1, 2))
    worker.take_over(first)
    worker.take(prepare("t", block("a"), term=2, mode="blind"))
    worker.decide(Commit(T(2, 1), txn("t"), (0,)), term=2)
    record = DecisionRecord(2, T(1, 2), 1_000, (first,))
    worker.participant.apply(record, 1, worker.log(record, 1))
    assert worker.participant.cursor == T(2, 1)
    assert worker.alive == {b"a": 1.0}


def test_a_drop_that_a_takeover_undid_removes_no_files() -> None:
    worker = Worker()
    worker.decide(DropCollection(T(1, 3), COLLECTION))
    worker.take_over(later(T(1, 2)))
    assert worker.participant.stable(T(2, 0), 0) == []
    assert COLLECTION in worker.participant.state.collections


# --- entering -------------------------------------------------------------------------------------


def settled() -> Worker:
    """A replica with two commits, of which the first one is stable."""
    worker = Worker()
    worker.put(3, "a")
    worker.put(4, "b")
    worker.participant.stable(T(1, 3), 0)
    return worker


def test_a_worker_that_holds_nothing_enters_where_a_replica_stands() -> None:
    replica, worker = settled().participant, Worker(begun=False, name="w9")
    reply = replica.takeovers.enter_reply(1, "w9")
    assert reply is not None
    assert (reply.ts, [r.last_ts for r in reply.records]) == (T(1, 3), [T(1, 4)])
    assert not worker.participant.takeovers.can_enter(reply), "the term is not promised yet"
    worker.promise(1)
    assert worker.participant.takeovers.can_enter(reply)
    worker.participant.enter(reply, worker.log(reply, 0))
    assert (worker.participant.cursor, worker.participant.cluster_id) == (T(1, 4), "cluster")
    assert worker.participant.state.replicas == replica.state.replicas
    assert worker.participant.term.decision_seq == replica.term.decision_seq
    assert worker.alive == {}
    assert not worker.participant.takeovers.can_enter(reply), "it is there already"
    worker.decide(abort(5, "x"))
    assert worker.participant.cursor == T(1, 5), "the log goes on from there"


def test_entering_undoes_a_history_that_was_cut() -> None:
    replica = settled()
    replica.take_over(later(T(1, 3)))
    replica.participant.stable(T(2, 0), 0)
    worker = Worker(name="w9")
    worker.decide(commit(3, "put3"))
    worker.decide(commit(4, "put4"), SetAliases(T(1, 5), {"cut": COLLECTION}))
    worker.promise(2)
    reply = replica.participant.takeovers.enter_reply(2, "w9")
    assert reply is not None
    worker.participant.enter(reply, worker.log(reply, 0))
    assert worker.participant.state.aliases == {}
    assert worker.participant.cursor == T(2, 0)
    assert worker.status("put3").state == "committed"
    assert worker.status("put4").state == "aborted"


def test_a_worker_says_where_it_stands_only_once_that_is_stable_in_the_term() -> None:
    worker = Worker()
    assert worker.participant.takeovers.enter_reply(1, "w9") is None, "nothing is stable yet"
    worker.participant.stable(T(1, 2), 0)
    assert worker.participant.takeovers.enter_reply(1, "w9") is not None
    assert worker.participant.takeovers.enter_reply(2, "w9") is None, "another term"
    assert worker.participant.takeovers.enter_reply(1, "w2") is None, "it holds shards"
