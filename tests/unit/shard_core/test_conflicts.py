"""Which undecided transactions conflict, compared with the rule spelled out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vector_db.common.model.rows import hash_ids
from vector_db.shard.core import conflicts
from vector_db.shard.core.conflicts import Conflicts, Footprint, Keys, KeySource


def keys(*names: str, collection: int = 1) -> Keys:
    return [(collection, hash_ids([name.encode() for name in names]))]


def writes(*names: str, blind: bool = False, collection: int = 1) -> Footprint:
    return writer(lambda: keys(*names, collection=collection), blind, collection)


def writer(source: KeySource, blind: bool = False, collection: int = 1) -> Footprint:
    return Footprint((collection,), None if blind else source, source if blind else None)


def reads(*names: str, collection: int = 1) -> Footprint:
    return Footprint(reads=keys(*names, collection=collection))


def scan(collection: int = 1) -> Footprint:
    return Footprint(whole=(collection,))


@pytest.mark.parametrize(
    ("first_blind", "second_blind", "conflict"),
    [(True, True, False), (True, False, True), (False, True, True), (False, False, True)],
)
def test_only_blind_writes_of_the_same_row_coexist(
    first_blind: bool, second_blind: bool, conflict: bool
) -> None:
    known = Conflicts()
    known.add(b"t", writes("a", "b", blind=first_blind))
    assert known.any_with(writes("b", "c", blind=second_blind)) is conflict
    assert not known.any_with(writes("c", blind=second_blind))


@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("reader", [reads("a"), scan()], ids=["key", "whole"])
def test_reads_and_writes_of_the_same_row_conflict_either_way(
    blind: bool, reader: Footprint
) -> None:
    known = Conflicts()
    known.add(b"r", reader)
    assert known.any_with(writes("a", blind=blind))
    known.remove(b"r")
    assert not known.any_with(writes("a", blind=blind))
    known.add(b"w", writes("a", blind=blind))
    assert known.any_with(reader)
    known.remove(b"w")
    assert not known.any_with(reader)


def test_reads_coexist() -> None:
    known = Conflicts()
    known.add(b"r", reads("a"))
    known.add(b"s", scan())
    assert not known.any_with(reads("a"))
    assert not known.any_with(scan())


def test_a_whole_read_meets_every_write_in_its_collection_and_none_in_another() -> None:
    known = Conflicts()
    known.add(b"s", scan())
    assert known.any_with(writes("anything", blind=True))
    assert not known.any_with(writes("anything", collection=2))
    assert not known.any_with(writes("a", blind=True, collection=2))


def test_the_same_id_in_another_collection_is_another_row() -> None:
    known = Conflicts()
    known.add(b"t", writes("a"))
    assert not known.any_with(writes("a", collection=2))


def test_a_decided_transaction_conflicts_with_nobody() -> None:
    known = Conflicts()
    known.add(b"t", writes("a"))
    known.add(b"u", writes("a", blind=True))
    assert known.any_with(writes("a"))
    known.remove(b"t")
    assert known.any_with(writes("a")), "the blind one is undecided still"
    known.remove(b"u")
    assert not known.any_with(writes("a"))


def test_adding_twice_or_removing_what_is_unknown_changes_nothing() -> None:
    known = Conflicts()
    known.remove(b"nobody")
    known.add(b"t", writes("a"))
    known.add(b"t", writes("a"))
    known.remove(b"t")
    known.remove(b"t")
    assert not known.any_with(writes("a"))


def test_keys_that_come_later_are_not_taken_out_with_the_transaction() -> None:
    known, names = Conflicts(), ["a"]
    known.add(b"t", writer(lambda: keys(*names)))
    known.add(b"u", writes("b"))
    names.append("b")
    known.remove(b"t")
    assert known.any_with(writes("b"))


def test_blind_batches_among_themselves_never_look_at_a_row() -> None:
    def explode() -> Keys:
        raise AssertionError("the keys of a blind batch were walked")

    batch = writer(explode, blind=True)
    known = Conflicts()
    for n in range(100):
        assert not known.any_with(batch)
        known.add(b"%d" % n, batch)
    for n in range(100):
        known.remove(b"%d" % n)


@pytest.mark.parametrize("large", [False, True])
def test_many_keys_conflict_like_few(monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    monkeypatch.setattr(conflicts, "LARGE_KEYS", 10 if large else 10_000)
    known = Conflicts()
    some = [f"k{i}" for i in range(1000)]
    known.add(b"t", writes(*some))
    assert all(known.any_with(writes(name)) for name in some[::50])
    assert known.any_with(reads("x", some[-1]))
    assert not known.any_with(writes(*(f"x{i}" for i in range(1000))))
    assert not known.any_with(writer(lambda: [(1, np.empty(0, dtype=np.uint64))]))
    known.remove(b"t")
    assert not known.any_with(writes(*some))


@dataclass
class Rule:
    """Section 4, step 2, as it is written: (writes, blind writes, reads, reads everything)."""

    undecided: dict[bytes, tuple[set[str], set[str], set[str], bool]] = field(default_factory=dict)

    def any_with(self, c: set[str], b: set[str], r: set[str], whole: bool) -> bool:
        return any(
            bool(c & (c2 | b2))
            or bool(b & c2)
            or bool((c | b) & r2)
            or bool(r & (c2 | b2))
            or (whole and bool(c2 | b2))
            or (whole2 and bool(c | b))
            for c2, b2, r2, whole2 in self.undecided.values()
        )


def source_of(names: set[str]) -> KeySource | None:
    return (lambda: keys(*sorted(names))) if names else None


names = st.sets(st.sampled_from("abcde"), max_size=3)
steps = st.tuples(
    st.sampled_from(["add", "add", "remove", "ask"]),
    st.integers(0, 9),
    names,
    names,
    names,
    st.sampled_from([False, False, True]),
)


@pytest.mark.parametrize("large_keys", [1, 4096])
@given(st.lists(steps, max_size=60))
@settings(max_examples=200)
def test_any_sequence_of_transactions_follows_the_rule(
    large_keys: int, sequence: list[tuple[str, int, set[str], set[str], set[str], bool]]
) -> None:
    known, rule = Conflicts(), Rule()
    before, conflicts.LARGE_KEYS = conflicts.LARGE_KEYS, large_keys
    try:
        for what, number, checked, blind, read, whole in sequence:
            txn_id = b"%d" % number
            new = Footprint(
                (1,) if checked or blind else (),
                source_of(checked),
                source_of(blind),
                keys(*sorted(read)) if read else (),
                (1,) if whole else (),
            )
            if what == "add":
                known.add(txn_id, new)
                rule.undecided.setdefault(txn_id, (checked, blind, read, whole))
            elif what == "remove":
                known.remove(txn_id)
                rule.undecided.pop(txn_id, None)
            else:
                assert known.any_with(new) == rule.any_with(checked, blind, read, whole)
    finally:
        conflicts.LARGE_KEYS = before
