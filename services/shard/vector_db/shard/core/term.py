"""The term that a worker follows: to whom it is promised, and how far its logs were read.

Owns the invariants that a term is promised to one candidate and only upward, and that positions are
in the logs of the promised term alone.
"""

from __future__ import annotations

from collections.abc import Mapping


class Term:
    """Of one worker; the caller syncs what `adopt` changes before it tells of it."""

    def __init__(
        self, promised: int, promised_to: str, positions: Mapping[int, int], decision_seq: int
    ) -> None:
        self.promised = promised
        self.promised_to = promised_to
        self.positions: dict[int, int] = dict(positions)
        """Shard → newest sequence of its log that was taken or passed over."""
        self.decision_seq = decision_seq
        """Newest sequence of the decision log that was read with nothing before it missing."""

    def adopt(self, term: int, coordinator: str) -> bool:
        """Follow a newer term, whose logs nothing was read of; false: it is none."""
        if term <= self.promised:
            return False
        self.promised = term
        self.promised_to = coordinator
        self.positions = {}
        self.decision_seq = 0
        return True

    def read(self, shard: int, seq: int) -> None:
        """The log of `shard` was read up to `seq`."""
        self.positions[shard] = max(self.positions.get(shard, 0), seq)

    def read_decisions(self, seq: int) -> None:
        """The decision log was read up to `seq`."""
        self.decision_seq = max(self.decision_seq, seq)
