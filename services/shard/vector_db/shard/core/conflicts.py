"""What undecided transactions write and read at one shard, and whether a new one conflicts.

Owns the rule of architecture section 4, step 2: blind upserts coexist with each other, and reads
with reads; everything else conflicts with any undecided transaction that touches the same key,
however that one was voted on. Mirrored upserts are blind whatever else their transaction does
(docs/adr/0019). Keys are told apart by their 64-bit hashes: two that share one
conflict needlessly, which is one more NO that may be tried again, never a YES too many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from vector_db.common.model.rows import U64

Keys: TypeAlias = Sequence[tuple[int, U64]]
"""(collection id, hashes of row ids), a collection perhaps several times."""
KeySource: TypeAlias = Callable[[], Keys]

LARGE_KEYS = 4096
"""A transaction with more keys is kept as sorted arrays: 8 bytes a key instead of about 120."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a transaction touches at one shard.

    It writes keys in `collections`: `blind` those whose writes look at nothing, `checked` the
    others, None where there are none. `reads` are the keys and `whole` the collections that must
    not change until it is decided.
    """

    collections: tuple[int, ...] = ()
    checked: KeySource | None = None
    blind: KeySource | None = None
    reads: Keys = ()
    whole: tuple[int, ...] = ()

    def written(self) -> Keys:
        """All keys that it writes."""
        return [key for source in (self.checked, self.blind) if source for key in source()]


class _KeyIndex:
    """A multiset of keys, by transaction."""

    def __init__(self) -> None:
        self._counts: dict[int, Counter[int]] = {}
        self._small: dict[bytes, Keys] = {}
        self._large: dict[bytes, dict[int, U64]] = {}

    def __bool__(self) -> bool:
        return bool(self._small or self._large)

    def add(self, txn_id: bytes, keys: Keys) -> None:
        if sum(len(hashes) for _, hashes in keys) > LARGE_KEYS:
            collections = {collection_id for collection_id, _ in keys}
            self._large[txn_id] = {
                c: np.sort(np.concatenate([h for its, h in keys if its == c])) for c in collections
            }
            return
        # The same keys are taken out again, whatever the transaction has become by then.
        self._small[txn_id] = keys
        for collection_id, hashes in keys:
            self._counts.setdefault(collection_id, Counter()).update(hashes.tolist())

    def remove(self, txn_id: bytes) -> None:
        self._large.pop(txn_id, None)
        for collection_id, hashes in self._small.pop(txn_id, ()):
            counts = self._counts[collection_id]
            for key in hashes.tolist():
                counts[key] -= 1
                if not counts[key]:
                    del counts[key]
            if not counts:
                del self._counts[collection_id]

    def hits(self, keys: Keys) -> bool:
        return any(self._hit(collection_id, hashes) for collection_id, hashes in keys)

    def _hit(self, collection_id: int, hashes: U64) -> bool:
        counts = self._counts.get(collection_id)
        if counts and not counts.keys().isdisjoint(hashes.tolist()):
            return True
        for by_collection in self._large.values():
            known = by_collection.get(collection_id)
            if known is not None and len(known):
                at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
                if np.any(known[at] == hashes):
                    return True
        return False


@dataclass(slots=True)
class Conflicts:
    """What one shard's undecided transactions touch.

    Blind keys are indexed only once something comes that looks at them: a stream of blind batches
    costs nothing per row here.
    """

    _known: dict[bytes, Footprint] = field(default_factory=dict)
    _checked: _KeyIndex = field(default_factory=_KeyIndex)
    _blind: _KeyIndex = field(default_factory=_KeyIndex)
    _read: _KeyIndex = field(default_factory=_KeyIndex)
    _unindexed: dict[bytes, KeySource] = field(default_factory=dict)
    _writers: Counter[int] = field(default_factory=Counter)
    _readers: Counter[int] = field(default_factory=Counter)
    """Collection → undecided transactions that write it, that read it as a whole."""

    def add(self, txn_id: bytes, new: Footprint) -> None:
        """Remember an undecided transaction; adding it twice changes nothing."""
        if txn_id in self._known:
            return
        self._known[txn_id] = new
        self._writers.update(new.collections)
        self._readers.update(new.whole)
        if new.reads:
            self._read.add(txn_id, new.reads)
        if new.checked is not None:
            self._checked.add(txn_id, new.checked())
        if new.blind is not None:
            self._unindexed[txn_id] = new.blind

    def remove(self, txn_id: bytes) -> None:
        """Forget a decided transaction; an unknown one is no error."""
        known = self._known.pop(txn_id, None)
        if known is None:
            return
        for counter, collections in (
            (self._writers, known.collections),
            (self._readers, known.whole),
        ):
            for collection_id in collections:
                counter[collection_id] -= 1
                if not counter[collection_id]:
                    del counter[collection_id]
        self._read.remove(txn_id)
        self._checked.remove(txn_id)
        if self._unindexed.pop(txn_id, None) is None:
            self._blind.remove(txn_id)

    def any_with(self, new: Footprint) -> bool:
        """Whether another undecided transaction conflicts; ask before `add`."""
        if any(c in self._writers for c in new.whole):
            return True
        if any(c in self._readers for c in new.collections):
            return True
        guarded = [index for index in (self._checked, self._read) if index]
        if guarded and new.collections:
            keys = new.written()
            if any(index.hits(keys) for index in guarded):
                return True
        if not new.reads and new.checked is None:
            return False
        for txn_id, source in self._unindexed.items():
            self._blind.add(txn_id, source())
        self._unindexed.clear()
        if new.checked is not None and self._blind and self._blind.hits(new.checked()):
            return True
        return bool(new.reads) and (self._checked.hits(new.reads) or self._blind.hits(new.reads))
