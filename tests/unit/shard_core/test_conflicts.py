"""Which undecided transactions conflict, compared with the rule spelled out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vector_db.shard.core.conflicts import Conflicts, Key, KeySource


def keys(*names: str, collection: int = 1) -> KeySource:
    return lambda: [(collection, name.encode()) for name in names]


@pytest.mark.parametrize(
    ("first_blind", "second_blind", "conflict"),
    [(True, True, False), (True, False, True), (False, True, True), (False, False, True)],
)
def test_only_blind_writes_of_the_same_row_coexist(
    first_blind: bool, second_blind: bool, conflict: bool
) -> None:
    known = Conflicts()
    known.add(b"t", keys("a", "b"), first_blind)
    assert known.any_with(keys("b", "c"), second_blind) is conflict
    assert not known.any_with(keys("c"), second_blind)


def test_the_same_id_in_another_collection_is_another_row() -> None:
    known = Conflicts()
    known.add(b"t", keys("a"), False)
    assert not known.any_with(keys("a", collection=2), False)


def test_a_decided_transaction_conflicts_with_nobody() -> None:
    known = Conflicts()
    known.add(b"t", keys("a"), False)
    known.add(b"u", keys("a"), True)
    assert known.any_with(keys("a"), False)
    known.remove(b"t")
    assert known.any_with(keys("a"), False), "the blind one is undecided still"
    known.remove(b"u")
    assert not known.any_with(keys("a"), False)


def test_adding_twice_or_removing_what_is_unknown_changes_nothing() -> None:
    known = Conflicts()
    known.remove(b"nobody")
    known.add(b"t", keys("a"), False)
    known.add(b"t", keys("a"), False)
    known.remove(b"t")
    known.remove(b"t")
    assert not known.any_with(keys("a"), False)


def test_blind_batches_among_themselves_never_look_at_a_row() -> None:
    def explode() -> Iterator[Key]:
        raise AssertionError("the keys of a blind batch were walked")

    known = Conflicts()
    for n in range(100):
        txn_id = b"%d" % n
        assert not known.any_with(explode, True)
        known.add(txn_id, explode, True)
    for n in range(100):
        known.remove(b"%d" % n)


@dataclass
class Rule:
    """Section 4, step 2, as it is written."""

    undecided: dict[bytes, tuple[set[str], bool]] = field(default_factory=dict)

    def any_with(self, names: set[str], blind: bool) -> bool:
        return any(
            bool(names & theirs) and not (blind and their_blind)
            for theirs, their_blind in self.undecided.values()
        )


steps = st.tuples(
    st.sampled_from(["add", "remove", "ask"]),
    st.integers(0, 9),
    st.sets(st.sampled_from("abcde"), min_size=1),
    st.booleans(),
)


@given(st.lists(steps, max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_sequence_of_transactions_follows_the_rule(
    sequence: list[tuple[str, int, set[str], bool]],
) -> None:
    known, rule = Conflicts(), Rule()
    for what, number, names, blind in sequence:
        txn_id = b"%d" % number
        source = keys(*sorted(names))
        if what == "add":
            known.add(txn_id, source, blind)
            rule.undecided.setdefault(txn_id, (names, blind))
        elif what == "remove":
            known.remove(txn_id)
            rule.undecided.pop(txn_id, None)
        else:
            assert known.any_with(source, blind) == rule.any_with(names, blind)
