"""What of a catalog change is refused, what it makes, and when it is answered."""

from __future__ import annotations

import msgspec
import pytest

from tests.support.protocol import Replicas, collection, durable, takeover, vote
from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages.catalog import (
    AlterCollectionRequest,
    CreateCollectionRequest,
    SpreadRequest,
)
from vector_db.common.core.messages.decisions import (
    AlterCollection,
    Commit,
    CreateCollection,
    DropCollection,
    SetAliases,
    SwitchCollection,
)
from vector_db.common.model.collection import IndexChange, IndexKind, IndexOptions
from vector_db.common.model.errors import AlreadyExists, InvalidArgument, NotFound, TooLarge
from vector_db.common.model.ids import make_ts
from vector_db.common.model.limits import ALIASES_MAX
from vector_db.coordinator.core.catalog import (
    Spreading,
    aliases_after,
    altered,
    check_create,
    to_drop,
    to_end,
    to_spread,
    to_switch,
)
from vector_db.coordinator.core.sequencer import Sequencer

T = make_ts
NOW_MS = 1_000
ONE_EACH: Replicas = {0: ("w1",), 1: ("w2",)}
ONE = collection((0, 1), T(1, 1), "one")
TWO = collection((0,), T(1, 2), "two")
HIDDEN = collection((0,), T(1, 3), "_hidden")
STATE = DomainState(
    T(1, 4), {c.id: c for c in (ONE, TWO, HIDDEN)}, ONE_EACH, aliases={"now": ONE.id}
)


def new(name: str, **options: object) -> CreateCollectionRequest:
    return CreateCollectionRequest(name, 1, "dot", 1, **options)  # type: ignore[arg-type]


# --- what is refused ------------------------------------------------------------------------------


def test_a_new_collection_needs_a_name_that_neither_a_collection_nor_an_alias_has() -> None:
    check_create(STATE, new("three"))
    with pytest.raises(AlreadyExists, match="collection 'one' exists already"):
        check_create(STATE, new("one"))
    with pytest.raises(AlreadyExists, match="'now' is an alias of collection 'one'"):
        check_create(STATE, new("now"))


def test_options_out_of_bounds_are_refused_of_new_and_of_altered_collections() -> None:
    with pytest.raises(InvalidArgument, match=r"index\.m"):
        check_create(STATE, new("three", index=IndexOptions(m=65)))
    for bad in (
        AlterCollectionRequest("one", index=IndexChange(m=3)),
        AlterCollectionRequest("one", recall_target=1.0),
        AlterCollectionRequest("one", fields=("a", "a")),
    ):
        with pytest.raises(InvalidArgument):
            altered(STATE, bad)


def test_an_altered_entry_differs_in_what_was_asked_for_alone() -> None:
    (first,) = altered(STATE, AlterCollectionRequest("one", IndexChange(m=32), fields=("a",)))
    assert first == msgspec.structs.replace(ONE, index=IndexOptions(m=32), fields=("a",))
    state = STATE.after(AlterCollection(T(1, 5), first))
    kind = IndexChange(kind=IndexKind.EXACT)
    (second,) = altered(state, AlterCollectionRequest("now", kind, 0.9))
    assert (second.id, second.fields, second.recall_target) == (ONE.id, ("a",), 0.9)
    assert second.index == IndexOptions(IndexKind.EXACT, m=32), "the change before it stays"
    for name in ("absent", "_hidden"):
        with pytest.raises(NotFound):
            altered(state, AlterCollectionRequest(name, recall_target=0.9))


def test_a_collection_is_dropped_by_its_own_name_only() -> None:
    assert to_drop(STATE, "one") == (ONE,)
    with pytest.raises(InvalidArgument, match="'now' is an alias of collection 'one'"):
        to_drop(STATE, "now")
    with pytest.raises(NotFound):
        to_drop(STATE, "absent")


def test_changes_of_aliases_are_made_together() -> None:
    assert aliases_after(STATE, {"now": "two", "new": "one"}) == {"now": TWO.id, "new": ONE.id}
    assert aliases_after(STATE, {"now": None}) == {}
    assert aliases_after(STATE, {"now": "one"}) == {"now": ONE.id}
    assert STATE.aliases == {"now": ONE.id}, "and nothing is changed in place"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"new": "absent"}, NotFound, "collection 'absent'"),
        ({"new": "_hidden"}, NotFound, "collection '_hidden'"),
        ({"absent": None}, NotFound, "alias 'absent' does not exist"),
        ({"two": "one"}, AlreadyExists, "alias 'two': a collection has this name"),
        ({"one": "one"}, AlreadyExists, "alias 'one'"),
        ({"new": "now"}, InvalidArgument, "'now' is an alias itself"),
        ({"a": "one", "b": "a"}, InvalidArgument, "'a' is an alias itself"),
        ({"a": "a"}, InvalidArgument, "'a' is an alias itself"),
        ({"_a": "one"}, InvalidArgument, "alias: a collection name"),
        ({"a/b": "one"}, InvalidArgument, "alias: a collection name"),
        ({f"a{i}": "one" for i in range(ALIASES_MAX)}, TooLarge, "aliases_max is 1000"),
    ],
)
def test_an_alias_that_cannot_be_is_refused(
    changes: dict[str, str | None], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        aliases_after(STATE, changes)


# --- collections that are spread ------------------------------------------------------------------

FILLED = msgspec.structs.replace(
    ONE, id=T(1, 5), shards=(0, 1, 2, 3), first_id=ONE.id, replaces=ONE.id
)
ON_ITS_WAY = STATE.after(CreateCollection(T(1, 5), FILLED))
SPREAD = ON_ITS_WAY.after(SwitchCollection(T(1, 6), FILLED.id, 5_000))


def test_a_collection_is_spread_by_its_name_or_an_alias_over_as_many_shards_as_there_are() -> None:
    for name in ("one", "now"):
        assert to_spread(STATE, SpreadRequest(name, 4), 4) == Spreading(begin=ONE)
    for name in ("absent", "_hidden"):
        with pytest.raises(NotFound):
            to_spread(STATE, SpreadRequest(name, 4), 4)
    for shards in (-1, 0, 5):
        with pytest.raises(InvalidArgument, match="must be 1 to VECTOR_DB_SHARD_COUNT = 4"):
            to_spread(STATE, SpreadRequest("one", shards), 4)


def test_the_number_of_shards_that_is_there_or_on_its_way_changes_nothing() -> None:
    assert to_spread(STATE, SpreadRequest("one", 2), 4) == Spreading(until_ts=T(1, 4))
    assert to_spread(ON_ITS_WAY, SpreadRequest("now", 4), 4) == Spreading(until_ts=T(1, 5))
    assert to_spread(SPREAD, SpreadRequest("one", 4), 4) == Spreading(until_ts=T(1, 6))


def test_the_present_number_gives_up_what_is_on_its_way_and_another_one_has_to_wait() -> None:
    assert to_spread(ON_ITS_WAY, SpreadRequest("one", 2), 4) == Spreading(give_up=FILLED)
    message = "being spread over 4 shards; ask for its present 2 to give that up, or wait"
    with pytest.raises(AlreadyExists, match=message):
        to_spread(ON_ITS_WAY, SpreadRequest("one", 3), 4)
    in_force = SPREAD.collections[FILLED.id]
    assert to_spread(SPREAD, SpreadRequest("one", 2), 4) == Spreading(begin=in_force)


def test_what_is_filled_takes_its_place_once_and_not_after_it_was_given_up() -> None:
    assert to_switch(ON_ITS_WAY, FILLED.id) == FILLED
    assert to_switch(SPREAD, FILLED.id) is None
    assert to_switch(STATE, FILLED.id) is None


def test_a_generation_ends_when_no_snapshot_of_it_may_be_read_any_more() -> None:
    assert to_end(ON_ITS_WAY, 1 << 50, 1_000) is None
    assert to_end(SPREAD, 5_999, 1_000) is None
    assert to_end(SPREAD, 6_000, 1_000) == SPREAD.collections[ONE.id]


def test_a_change_of_options_is_one_of_all_generations_that_are_written_to() -> None:
    asked = AlterCollectionRequest("one", IndexChange(m=32), 0.9, ("a",))
    filled, in_force = altered(ON_ITS_WAY, asked)
    wanted = {"index": IndexOptions(m=32), "recall_target": 0.9, "fields": ("a",)}
    assert filled == msgspec.structs.replace(FILLED, **wanted)
    assert in_force == msgspec.structs.replace(ONE, **wanted)
    (alone,) = altered(SPREAD, asked)
    assert alone == msgspec.structs.replace(SPREAD.collections[FILLED.id], **wanted)


def test_a_drop_is_one_of_all_generations_and_of_the_one_in_force_last() -> None:
    assert to_drop(ON_ITS_WAY, "one") == (FILLED, ONE)
    again = msgspec.structs.replace(FILLED, id=T(1, 7), replaces=FILLED.id)
    state = SPREAD.after(CreateCollection(T(1, 7), again))
    over, in_force = state.collections[ONE.id], state.collections[FILLED.id]
    assert to_drop(state, "one") == (again, over, in_force)


def test_names_and_aliases_mean_the_generation_in_force() -> None:
    with pytest.raises(AlreadyExists):
        check_create(ON_ITS_WAY, new("one"))
    assert aliases_after(ON_ITS_WAY, {"new": "one"})["new"] == ONE.id
    assert aliases_after(SPREAD, {"new": "one"}) == {"now": FILLED.id, "new": FILLED.id}


# --- what is decided ------------------------------------------------------------------------------


def begun() -> Sequencer:
    """A term whose takeover is durable, with collections and an alias."""
    first = takeover(2, T(1, 9), ONE_EACH, collections=(ONE, TWO))
    first = msgspec.structs.replace(first, aliases={"now": ONE.id})
    sequencer = Sequencer(2, first, NOW_MS)
    for worker in ("w1", "w2"):
        sequencer.durable(durable(worker, T(2, 0), term=2))
    sequencer.take_record(NOW_MS)
    assert sequencer.state.by_name("now") == ONE, "the takeover has told the alias"
    return sequencer


def test_options_and_aliases_are_answered_once_durable_in_the_order_of_their_decisions() -> None:
    sequencer = begun()
    changed = msgspec.structs.replace(ONE, recall_target=0.9)
    assert not sequencer.changes.alter_collection((changed,), 7).replies
    assert not sequencer.changes.set_aliases({"now": TWO.id}, 8).replies
    record = sequencer.take_record(NOW_MS)
    assert record.decisions == (
        AlterCollection(T(2, 1), changed),
        SetAliases(T(2, 2), {"now": TWO.id}),
    )
    assert sequencer.stable_ts == T(2, 0)
    (reply,) = sequencer.durable(durable("w2", T(2, 1), term=2)).replies
    assert (reply.token, reply.ts, reply.collection) == (7, T(2, 1), changed)
    (reply,) = sequencer.durable(durable("w1", T(2, 2), term=2)).replies
    assert (reply.token, reply.ts, sequencer.stable_ts) == (8, T(2, 2), T(2, 2))
    assert sequencer.state.by_name("now") == TWO


def test_a_change_of_options_aborts_no_transaction() -> None:
    sequencer = begun()
    parts = (0, 1)
    first = vote("t", "w1", shard=0, participants=parts, term=2, collections=(ONE.id,))
    sequencer.vote(first, NOW_MS)
    sequencer.changes.alter_collection((msgspec.structs.replace(ONE, fields=("lang",)),), 7)
    second = vote("t", "w2", shard=1, participants=parts, term=2, collections=(ONE.id,))
    assert not sequencer.vote(second, NOW_MS).outcomes
    kinds = [type(d) for d in sequencer.take_record(NOW_MS).decisions]
    assert kinds == [AlterCollection, Commit]


def test_a_drop_ends_the_aliases_of_its_collection() -> None:
    sequencer = begun()
    sequencer.changes.set_aliases({"now": ONE.id, "other": TWO.id}, 7)
    sequencer.changes.drop_collection((ONE,), 8)
    assert sequencer.state.aliases == {"other": TWO.id}
    assert sequencer.state.by_name("now") is None
    assert isinstance(sequencer.take_record(NOW_MS).decisions[-1], DropCollection)
