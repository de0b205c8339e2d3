"""Which keys undecided transactions write at one shard, and whether a new one conflicts.

Owns the rule of architecture section 4, step 2: blind upserts coexist with each other; everything
else conflicts with any undecided transaction that writes the same key, however that one was voted
on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeAlias

Key: TypeAlias = tuple[int, bytes]
"""(collection id, row id)."""
KeySource: TypeAlias = Callable[[], Iterable[Key]]


class Conflicts:
    """The keys of one shard's undecided transactions.

    Blind keys are indexed only once a checked transaction comes: a stream of blind batches costs
    nothing per row here.
    """

    def __init__(self) -> None:
        self._checked: Counter[Key] = Counter()
        self._blind: Counter[Key] = Counter()
        self._unindexed: dict[bytes, KeySource] = {}
        self._known: dict[bytes, tuple[bool, KeySource]] = {}

    def add(self, txn_id: bytes, keys: KeySource, blind: bool) -> None:
        """Remember an undecided transaction; adding it twice changes nothing."""
        if txn_id in self._known:
            return
        self._known[txn_id] = (blind, keys)
        if blind:
            self._unindexed[txn_id] = keys
        else:
            self._checked.update(keys())

    def remove(self, txn_id: bytes) -> None:
        """Forget a decided transaction; an unknown one is no error."""
        known = self._known.pop(txn_id, None)
        if known is None:
            return
        blind, keys = known
        if self._unindexed.pop(txn_id, None) is not None:
            return
        index = self._blind if blind else self._checked
        for key in keys():
            index[key] -= 1
            if not index[key]:
                del index[key]

    def any_with(self, keys: KeySource, blind: bool) -> bool:
        """Whether another undecided transaction conflicts; ask before `add`."""
        if blind:
            return bool(self._checked) and any(k in self._checked for k in keys())
        if self._unindexed:
            for source in self._unindexed.values():
                self._blind.update(source())
            self._unindexed.clear()
        if not self._checked and not self._blind:
            return False
        return any(k in self._checked or k in self._blind for k in keys())
