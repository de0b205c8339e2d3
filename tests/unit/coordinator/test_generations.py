"""Generations of a collection at the sequencer: what is decided of them, and what they forbid."""

from __future__ import annotations

import msgspec
import pytest

from tests.support.protocol import Replicas, collection, durable, takeover, txn, vote
from vector_db.common.core.messages.decisions import (
    Abort,
    AlterCollection,
    Commit,
    CreateCollection,
    Decision,
    DropCollection,
    SetPlacement,
    SwitchCollection,
)
from vector_db.common.model.collection import Collection, IndexOptions
from vector_db.common.model.ids import make_ts
from vector_db.coordinator.core.effects import Effects
from vector_db.coordinator.core.sequencer import Sequencer

NOW_MS = 1_000
T = make_ts
PLACED: Replicas = {0: ("w1",), 1: ("w2",)}
C = msgspec.structs.replace(
    collection((0,), T(1, 2), "c"), index=IndexOptions(m=32), recall_target=0.9, fields=("a",)
)
OTHER = collection((0,), T(1, 3), "other")
SPREAD_TS = T(2, 1)


def begun(
    *collections: Collection, term: int = 2, bases: dict[int, int] | None = None
) -> Sequencer:
    """A term whose takeover is durable."""
    first = takeover(term, T(term - 1, 9), PLACED, bases=bases, collections=collections)
    sequencer = Sequencer(term, first, NOW_MS)
    confirm(sequencer, T(term, 0))
    sequencer.take_record(NOW_MS)
    return sequencer


def confirm(sequencer: Sequencer, ts: int) -> list[int]:
    """Every worker is durable up to `ts`; the tokens that are answered."""
    replies = []
    for worker in sorted(sequencer.state.workers()):
        replies += sequencer.durable(durable(worker, ts, term=sequencer.term)).replies
    return [reply.token for reply in replies]


def spreading() -> Sequencer:
    """`C` is being spread over both shards, since `SPREAD_TS`."""
    sequencer = begun(C, OTHER)
    sequencer.changes.spread_collection(C, (0, 1), PLACED, 7)
    assert decided(sequencer) == [CreateCollection(SPREAD_TS, second())]
    return sequencer


def second() -> Collection:
    return msgspec.structs.replace(C, id=SPREAD_TS, shards=(0, 1), first_id=C.id, replaces=C.id)


def decided(sequencer: Sequencer) -> list[Decision]:
    found: list[Decision] = []
    while sequencer.has_decisions():
        found += sequencer.take_record(NOW_MS).decisions
    return found


def half(
    sequencer: Sequencer, name: str, *collections: int, catalog_ts: int = SPREAD_TS, no: str = ""
) -> Effects:
    """The first of two votes that a transaction needs."""
    given = vote(
        name,
        participants=(0, 1),
        term=sequencer.term,
        collections=collections,
        catalog_ts=catalog_ts,
        no=no,
    )
    return sequencer.vote(given, NOW_MS)


def whole(
    sequencer: Sequencer, name: str, *collections: int, catalog_ts: int = SPREAD_TS
) -> Decision:
    """A transaction that every replica agrees to; what becomes of it."""
    half(sequencer, name, *collections, catalog_ts=catalog_ts)
    given = vote(
        name,
        "w2",
        shard=1,
        participants=(0, 1),
        term=sequencer.term,
        collections=collections,
        catalog_ts=catalog_ts,
    )
    sequencer.vote(given, NOW_MS)
    (decision,) = decided(sequencer)
    return decision


def reason_of(decision: Decision) -> str:
    assert isinstance(decision, Abort)
    return decision.reason


# --- the second generation ------------------------------------------------------------------------


def test_a_second_generation_is_an_entry_like_the_first_on_other_shards() -> None:
    sequencer = begun(C)
    assert not sequencer.changes.spread_collection(C, (0, 1), PLACED, 7).replies
    assert decided(sequencer) == [CreateCollection(SPREAD_TS, second())]
    assert sequencer.state.by_name("c") == C, "which stays in force"
    assert confirm(sequencer, SPREAD_TS) == [7]


def test_the_shards_that_a_second_generation_needs_are_placed_before_it() -> None:
    sequencer = begun(C)
    sequencer.changes.spread_collection(C, (0, 2), PLACED | {2: ("w3",)}, 7)
    assert [type(d) for d in decided(sequencer)] == [SetPlacement, CreateCollection]
    assert sequencer.durable(durable("w1", T(2, 2), term=2)).replies == []
    assert confirm(sequencer, T(2, 2)) == [7], "once the placement is in force"


def test_a_later_generation_names_the_first_one() -> None:
    now = msgspec.structs.replace(second(), replaces=0, since_ts=T(1, 8), id=T(1, 7))
    sequencer = begun(now)
    sequencer.changes.spread_collection(now, (0,), PLACED, 7)
    (created,) = decided(sequencer)
    assert isinstance(created, CreateCollection)
    assert (created.collection.first_id, created.collection.replaces) == (C.id, now.id)
    assert created.collection.since_ts == 0


def test_what_is_undecided_when_a_second_generation_begins_is_aborted_as_a_conflict() -> None:
    sequencer = begun(C, OTHER)
    half(sequencer, "t", C.id)
    half(sequencer, "u", OTHER.id)
    effects = sequencer.changes.spread_collection(C, (0, 1), PLACED, 7)
    assert [(o.txn_id, o.reason) for _, o in effects.outcomes] == [(txn("t"), "conflict")]
    assert [type(d) for d in decided(sequencer)] == [CreateCollection, Abort]
    assert sequencer.status(txn("u")).state == "pending"


# --- while it is being filled ---------------------------------------------------------------------


def test_nothing_is_committed_that_was_given_to_shards_by_a_catalog_before_it() -> None:
    sequencer = begun(C, OTHER)
    assert isinstance(whole(sequencer, "s", C.id, catalog_ts=C.id), Commit)
    sequencer.changes.spread_collection(C, (0, 1), PLACED, 7)
    (created,) = decided(sequencer)
    spread_ts = created.ts
    early = whole(sequencer, "t", C.id, catalog_ts=spread_ts - 1)
    assert isinstance(early, Abort)
    assert (early.reason, early.detail) == (
        "conflict", "the collection is being spread, try again"
    )  # fmt: skip
    assert isinstance(whole(sequencer, "u", C.id, spread_ts, catalog_ts=spread_ts), Commit)
    later = whole(sequencer, "v", C.id, spread_ts, catalog_ts=spread_ts + 1)
    assert isinstance(later, Commit)
    assert isinstance(whole(sequencer, "w", OTHER.id, catalog_ts=C.id), Commit), "another one's"


def test_the_oldest_catalog_of_its_parts_counts() -> None:
    sequencer = spreading()
    half(sequencer, "t", C.id, catalog_ts=SPREAD_TS - 1)
    assert reason_of(whole(sequencer, "t", C.id)) == "conflict"
    half(sequencer, "u", C.id)
    assert reason_of(whole(sequencer, "u", C.id, catalog_ts=SPREAD_TS - 1)) == "conflict"


def test_a_catalog_that_a_takeover_has_undone_is_none_to_go_by() -> None:
    """Later than the creation, it may say that the spreading was given up, which was undone."""
    old = msgspec.structs.replace(second(), id=T(2, 1))
    sequencer = begun(C, old, term=3, bases={2: T(1, 9)})
    base = T(2, 9)
    assert isinstance(whole(sequencer, "t", C.id, old.id, catalog_ts=base), Commit)
    assert reason_of(whole(sequencer, "u", C.id, catalog_ts=base + 1)) == "conflict"
    assert isinstance(whole(sequencer, "v", C.id, old.id, catalog_ts=T(3, 0)), Commit)


def test_a_collection_that_was_dropped_is_told_rather_than_a_conflict() -> None:
    sequencer = spreading()
    gone = whole(sequencer, "t", C.id, T(1, 8), catalog_ts=C.id)
    assert reason_of(gone) == "not_found"


# --- the switch -----------------------------------------------------------------------------------


def test_a_switch_puts_the_second_generation_in_force_at_the_time_of_its_record() -> None:
    sequencer = spreading()
    sequencer.changes.set_aliases({"now": C.id}, 8)
    decided(sequencer)
    sequencer.changes.switch_collection(second(), 5_000, 9)
    record = sequencer.take_record(NOW_MS)
    assert record.decisions == (SwitchCollection(T(2, 3), SPREAD_TS, 5_000),)
    assert record.wall_ms == 5_000
    found = sequencer.state.by_name("c")
    assert found == msgspec.structs.replace(second(), replaces=0, since_ts=T(2, 3))
    assert sequencer.state.by_name("now") == found
    before = sequencer.state.collections[C.id]
    assert (before.until_ts, before.until_ms) == (T(2, 3), 5_000)
    assert confirm(sequencer, T(2, 3)) == [7, 8, 9]


def test_a_clock_that_steps_back_does_not_shorten_how_long_the_first_is_kept() -> None:
    sequencer = spreading()
    sequencer.tick(9_000)
    sequencer.changes.switch_collection(second(), 5_000, 9)
    assert sequencer.state.collections[C.id].until_ms == 9_000


def test_what_is_undecided_at_the_switch_is_aborted_as_a_conflict() -> None:
    sequencer = spreading()
    half(sequencer, "t", C.id, SPREAD_TS)
    half(sequencer, "u", OTHER.id)
    effects = sequencer.changes.switch_collection(second(), NOW_MS, 9)
    assert [(o.txn_id, o.reason) for _, o in effects.outcomes] == [(txn("t"), "conflict")]
    assert sequencer.status(txn("u")).state == "pending"


def test_after_the_switch_nothing_that_touches_the_first_generation_is_committed() -> None:
    sequencer = spreading()
    sequencer.changes.switch_collection(second(), NOW_MS, 9)
    decided(sequencer)
    assert reason_of(whole(sequencer, "t", C.id, SPREAD_TS)) == "conflict"
    assert reason_of(whole(sequencer, "u", C.id, catalog_ts=T(2, 9))) == "conflict"
    assert isinstance(whole(sequencer, "v", SPREAD_TS), Commit)


# --- generations that end -------------------------------------------------------------------------


def test_to_give_up_ends_the_second_generation_and_what_is_undecided_there() -> None:
    sequencer = spreading()
    half(sequencer, "t", C.id, SPREAD_TS)
    half(sequencer, "u", C.id)
    effects = sequencer.changes.drop_generation(second(), 9)
    assert [(o.txn_id, o.reason) for _, o in effects.outcomes] == [(txn("t"), "conflict")]
    assert [type(d) for d in decided(sequencer)] == [DropCollection, Abort]
    assert sequencer.state.by_name("c") == C
    assert confirm(sequencer, T(2, 2)) == [7, 9]
    later = whole(sequencer, "v", C.id, SPREAD_TS)
    assert reason_of(later) == "conflict", "its votes came only now"
    assert isinstance(whole(sequencer, "w", C.id, catalog_ts=C.id), Commit)


def test_replicas_that_do_not_find_a_generation_given_up_mean_no_collection() -> None:
    sequencer = spreading()
    sequencer.changes.drop_generation(second(), 9)
    decided(sequencer)
    effects = half(sequencer, "t", C.id, SPREAD_TS, no="not_found")
    assert [o.reason for _, o in effects.outcomes] == ["conflict"]
    effects = half(sequencer, "u", T(1, 8), no="not_found")
    assert [o.reason for _, o in effects.outcomes] == ["not_found"]


@pytest.mark.parametrize("touched", [C.id, SPREAD_TS])
def test_a_drop_ends_all_generations_the_one_in_force_last(touched: int) -> None:
    sequencer = spreading()
    half(sequencer, "t", touched)
    effects = sequencer.changes.drop_collection((second(), C), 9)
    assert [o.reason for _, o in effects.outcomes] == ["not_found"]
    drops = [d for d in decided(sequencer) if isinstance(d, DropCollection)]
    assert drops == [DropCollection(T(2, 2), SPREAD_TS), DropCollection(T(2, 3), C.id)]
    assert sequencer.state.generations("c") == ()
    assert confirm(sequencer, T(2, 2)) == [7]
    assert confirm(sequencer, T(2, 3)) == [9], "answered once, after the last"
    assert reason_of(whole(sequencer, "u", touched)) == "not_found"


def test_all_entries_that_are_altered_are_answered_for_at_once() -> None:
    sequencer = spreading()
    entries = tuple(msgspec.structs.replace(c, fields=("b",)) for c in (second(), C))
    sequencer.changes.alter_collection(entries, 9)
    assert decided(sequencer) == [
        AlterCollection(T(2, 2), entries[0]),
        AlterCollection(T(2, 3), entries[1]),
    ]
    assert confirm(sequencer, T(2, 2)) == [7]
    assert confirm(sequencer, T(2, 3)) == [9]
