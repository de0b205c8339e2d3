"""What the sequencer gives the shell to do: every event of the machine returns one of these."""

from __future__ import annotations

from dataclasses import dataclass, field

from vector_db.common.core.messages.transactions import Outcome
from vector_db.common.model.collection import Collection


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to the catalog request that `token` stands for."""

    token: int
    ts: int
    collection: Collection | None


@dataclass(slots=True)
class Effects:
    """What the shell has to do: tell outcomes to gateways, answer catalog requests."""

    outcomes: list[tuple[str, Outcome]] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    stable_advanced: bool = False
