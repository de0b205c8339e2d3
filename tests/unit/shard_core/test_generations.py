"""A collection that is spread over other shards: what a replica says to the parts of either
generation, and what it knows of them after the switch."""

from __future__ import annotations

import msgspec
import pytest

from tests.support.protocol import (
    COLLECTION,
    block,
    collection,
    prepare,
    read_all,
    read_keys,
    stage,
)
from tests.unit.shard_core.driver import T, Worker, abort, commit, later
from vector_db.common.core.messages.decisions import (
    CreateCollection,
    DropCollection,
    SetAliases,
    SwitchCollection,
)
from vector_db.common.core.messages.transactions import Vote
from vector_db.common.model.collection import Collection
from vector_db.common.model.rows import RowBlock

NEW = T(1, 3)
SWITCH = T(1, 5)
SECOND = msgspec.structs.replace(
    collection((0, 1), id=NEW), first_id=COLLECTION, replaces=COLLECTION
)
"""On a shard with the first generation."""


def filling(retention_s: float = 0.0) -> Worker:
    """The second generation is being filled; the cursor is at its creation."""
    worker = Worker(retention_s=retention_s)
    worker.decide(CreateCollection(NEW, SECOND))
    return worker


def switched() -> Worker:
    """The second generation took the first one's place at `SWITCH`; the cursor is there."""
    worker = filling()
    worker.decide(abort(4, "x"), SwitchCollection(SWITCH, NEW, 7_000))
    return worker


def mirrored(*keys: str, delete: bool = False) -> RowBlock:
    return block(*keys, collection_id=NEW, delete=delete, precondition="mirrored")


def copied(*keys: str, version: int = COLLECTION) -> RowBlock:
    versions = [version] * len(keys)
    return block(*keys, collection_id=NEW, precondition="copied", versions=versions)


def told(vote: Vote) -> str:
    """ "yes", or the reason why not."""
    return "yes" if vote.yes else vote.reason


# --- mirrored -------------------------------------------------------------------------------------


def test_a_mirrored_write_does_not_mind_what_was_committed() -> None:
    worker = filling()
    worker.put(4, "a")
    for name, rows in (("t", mirrored("a")), ("u", mirrored("b", "z", delete=True))):
        assert told(worker.vote(prepare(name, rows, snapshot_ts=NEW))) == "yes"


def test_a_mirrored_write_does_not_mind_the_retention_window() -> None:
    worker = filling(retention_s=1)
    worker.decide(abort(4, "x"), wall_ms=20_000)
    worker.decide(abort(5, "y"), wall_ms=40_000)
    assert worker.participant.retention_floor_ts > NEW
    assert told(worker.vote(prepare("t", mirrored("a"), snapshot_ts=NEW))) == "yes"
    assert told(worker.vote(prepare("u", block("b"), snapshot_ts=NEW))) == "conflict"


def test_mirrored_deletes_are_not_counted() -> None:
    worker = filling()
    worker.put(4, "a", "b", "c")
    both = [block("a", "b", delete=True), mirrored("a", "b", "c", delete=True)]
    vote = worker.vote(prepare("t", *both, snapshot_ts=T(1, 4)))
    assert (told(vote), vote.deleted) == ("yes", 2)
    assert vote.collections == (COLLECTION, NEW)


def test_the_other_part_is_judged_as_ever() -> None:
    worker = filling()
    worker.put(4, "a")
    late = prepare("t", block("a"), mirrored("a"), snapshot_ts=NEW)
    assert told(worker.vote(late)) == "conflict"
    worker.decide(abort(5, "t"))
    there = prepare("u", block("a", precondition="absent"), mirrored("a"), snapshot_ts=T(1, 4))
    assert told(worker.vote(there)) == "already_exists"


@pytest.mark.parametrize("mode", ["blind", "snapshot"])
def test_mirrored_upserts_coexist_with_each_other(mode: str) -> None:
    worker = filling()
    for name in ("t", "u"):
        assert told(worker.vote(prepare(name, mirrored("a"), snapshot_ts=NEW, mode=mode))) == "yes"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (mirrored("a", delete=True), mirrored("a")),
        (mirrored("a"), mirrored("a", delete=True)),
        (mirrored("a"), copied("a")),
        (copied("a"), mirrored("a")),
        (copied("a"), mirrored("a", delete=True)),
        (copied("a"), copied("a")),
    ],
)
@pytest.mark.parametrize("chunks", [False, True])
def test_whatever_else_meets_in_the_new_generation_conflicts(
    first: RowBlock, second: RowBlock, chunks: bool
) -> None:
    worker = filling()
    if chunks:
        first_chunk = stage("t", 0, first)
        worker.take(first_chunk)
        assert worker.vote(prepare("t", snapshot_ts=NEW, stages=[first_chunk])).yes
    else:
        assert worker.vote(prepare("t", first, snapshot_ts=NEW)).yes
    assert told(worker.vote(prepare("u", second, snapshot_ts=NEW))) == "conflict"
    worker.decide(abort(4, "t"), abort(5, "u"))
    assert told(worker.vote(prepare("v", second, snapshot_ts=NEW))) == "yes"


def test_a_mirrored_upsert_of_a_conditional_transaction_leaves_its_other_keys_guarded() -> None:
    worker = filling()
    worker.take(prepare("t", block("a"), mirrored("b"), snapshot_ts=NEW))
    assert told(worker.vote(prepare("u", mirrored("b"), snapshot_ts=NEW))) == "yes"
    blind = prepare("v", block("a"), snapshot_ts=NEW, mode="blind")
    assert told(worker.vote(blind)) == "conflict"


@pytest.mark.parametrize("rows", [mirrored("a"), mirrored("a", delete=True), copied("a")])
def test_a_generation_that_is_not_known_here_is_a_conflict(rows: RowBlock) -> None:
    worker = Worker()
    assert told(worker.vote(prepare("t", rows, snapshot_ts=T(1, 2)))) == "conflict"
    worker = filling()
    worker.decide(DropCollection(T(1, 4), NEW))
    assert told(worker.vote(prepare("t", rows, snapshot_ts=T(1, 4)))) == "conflict"


# --- copied ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["blind", "snapshot"])
def test_a_copied_row_must_not_be_there(mode: str) -> None:
    worker = filling()
    worker.put(4, "a")
    there = prepare("t", copied("a", "b"), snapshot_ts=T(1, 4), mode=mode)
    assert told(worker.vote(there)) == "conflict"
    assert told(worker.vote(prepare("u", copied("c"), snapshot_ts=T(1, 4), mode=mode))) == "yes"


def test_a_copied_row_must_not_have_been_deleted_since_its_snapshot() -> None:
    worker = filling()
    worker.put(4, "a")
    worker.take(prepare("d", mirrored("a", delete=True), snapshot_ts=T(1, 4)))
    worker.decide(commit(5, "d"))
    assert told(worker.vote(prepare("t", copied("a"), snapshot_ts=T(1, 4)))) == "conflict"
    assert told(worker.vote(prepare("u", copied("a"), snapshot_ts=T(1, 5)))) == "conflict", "t"
    worker.decide(abort(6, "t"), abort(7, "u"))
    assert told(worker.vote(prepare("v", copied("a"), snapshot_ts=T(1, 5)))) == "yes"


def test_a_copied_row_keeps_its_version() -> None:
    worker = filling()
    worker.take(prepare("t", copied("a", version=T(1, 2)), snapshot_ts=NEW))
    worker.decide(commit(4, "t"))
    assert worker.store.alive() == {b"a": (T(1, 2), 1.0)}
    worker.decide(SwitchCollection(SWITCH, NEW, 7_000))
    for n, version, says in ((6, T(1, 4), "precondition_failed"), (7, T(1, 2), "yes")):
        rows = block("a", collection_id=NEW, precondition="version", versions=[version])
        assert told(worker.vote(prepare(f"if{n}", rows, snapshot_ts=SWITCH))) == says
        worker.decide(abort(n, f"if{n}"))


def test_a_copy_before_the_retention_window_is_a_conflict() -> None:
    worker = filling(retention_s=1)
    worker.decide(abort(4, "x"), wall_ms=20_000)
    worker.decide(abort(5, "y"), wall_ms=40_000)
    late = prepare("t", copied("a"), snapshot_ts=NEW, mode="blind")
    assert told(worker.vote(late)) == "conflict"


def test_the_keys_that_a_copy_read_are_guarded_until_it_is_decided() -> None:
    worker = filling()
    reads = [read_keys("a")]
    assert worker.vote(prepare("t", copied("a"), snapshot_ts=NEW, reads=reads)).yes
    for name, mode in (("u", "blind"), ("v", "snapshot")):
        vote = worker.vote(prepare(name, block("a"), snapshot_ts=NEW, mode=mode))
        assert told(vote) == "conflict"


# --- which generation takes what ------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["blind", "snapshot"])
def test_a_generation_that_is_filled_takes_only_mirrored_and_copied_rows(mode: str) -> None:
    plain = prepare("t", block("a", collection_id=NEW), snapshot_ts=NEW, mode=mode)
    assert told(filling().vote(plain)) == "conflict"
    for read in (read_keys("a", collection_id=NEW), read_all(NEW)):
        assert told(filling().vote(prepare("t", snapshot_ts=NEW, reads=[read]))) == "conflict"


@pytest.mark.parametrize("mode", ["blind", "snapshot"])
def test_a_generation_that_is_over_takes_nothing(mode: str) -> None:
    for snapshot_ts in (T(1, 4), SWITCH):
        plain = prepare("t", block("a"), snapshot_ts=snapshot_ts, mode=mode)
        assert told(switched().vote(plain)) == "conflict"
        for read in (read_keys("a"), read_all()):
            reads = prepare("t", snapshot_ts=snapshot_ts, reads=[read])
            assert told(switched().vote(reads)) == "conflict"


def test_a_generation_that_is_in_force_takes_nothing_mirrored_or_copied() -> None:
    for rows in (mirrored("a"), copied("a"), mirrored("a", delete=True)):
        assert told(switched().vote(prepare("t", rows, snapshot_ts=SWITCH))) == "conflict"
    first = block("a", precondition="mirrored")
    assert told(filling().vote(prepare("t", first, snapshot_ts=NEW))) == "conflict"


@pytest.mark.parametrize("mode", ["blind", "snapshot"])
def test_a_new_generation_takes_nothing_of_an_older_snapshot(mode: str) -> None:
    """What was compared with, and read, was the other generation's."""
    for snapshot_ts, says in ((T(1, 4), "conflict"), (SWITCH, "yes")):
        plain = prepare("t", block("a", collection_id=NEW), snapshot_ts=snapshot_ts, mode=mode)
        assert told(switched().vote(plain)) == says
        for read in (read_keys("a", collection_id=NEW), read_all(NEW)):
            reads = prepare("t", snapshot_ts=snapshot_ts, reads=[read], mode=mode)
            assert told(switched().vote(reads)) == says


# --- decisions ------------------------------------------------------------------------------------


def entries(worker: Worker) -> tuple[dict[int, Collection], dict[int, Collection]]:
    """Of the catalog, and of the store."""
    return worker.participant.state.collections, worker.store.collections


def test_a_switch_changes_both_generations_in_the_catalog_and_in_the_store() -> None:
    catalog, stored = entries(switched())
    assert catalog == stored
    assert (catalog[COLLECTION].until_ts, catalog[COLLECTION].until_ms) == (SWITCH, 7_000)
    assert (catalog[NEW].in_force, catalog[NEW].since_ts) == (True, SWITCH)


def test_a_switch_beyond_the_base_of_a_takeover_is_undone() -> None:
    worker = filling()
    worker.decide(SetAliases(T(1, 4), {"now": COLLECTION}), SwitchCollection(SWITCH, NEW, 7_000))
    assert worker.participant.state.aliases == {"now": NEW}
    before = (collection((0, 1, 2)), SECOND)
    aliases = {"now": COLLECTION}
    base = msgspec.structs.replace(
        later(T(1, 4)), collections=before, aliases=aliases, catalog_ts=T(1, 4)
    )
    worker.take_over(base)
    catalog, stored = entries(worker)
    assert catalog == stored == {c.id: c for c in before}
    assert worker.participant.state.aliases == aliases


@pytest.mark.parametrize("cut", [False, True])
def test_generations_come_back_from_a_checkpoint_and_from_the_log(cut: bool) -> None:
    worker = switched()
    worker.participant.stable(SWITCH, 0)
    worker.take(prepare("t", block("a", collection_id=NEW), snapshot_ts=SWITCH))
    back = worker.replayed(cut)
    assert back.participant.state == worker.participant.state
    (vote,) = back.participant.revote().votes
    assert told(vote) == "yes"


def test_a_generation_that_is_over_is_dropped_by_itself() -> None:
    worker = switched()
    worker.decide(DropCollection(T(1, 6), COLLECTION))
    assert worker.participant.stable(T(1, 6), 0) == [COLLECTION]
    assert list(worker.participant.state.collections) == [NEW]
    rows = block("a", collection_id=NEW)
    assert told(worker.vote(prepare("t", rows, snapshot_ts=SWITCH))) == "yes"
