"""How a candidate becomes the sequencer of a new term: it asks the workers for promises."""

from __future__ import annotations

import msgspec

from vector_db.common.core.messages.base import Message
from vector_db.common.core.messages.decisions import DecisionRecord, Moves
from vector_db.common.model.collection import Collection


class NeedTakeover(Message, frozen=True):
    """A worker or gateway cannot follow `term` any further (a log is damaged, lost or has a
    gap)."""

    sender: str
    term: int
    reason: str


class PromiseRequest(Message, frozen=True):
    """`cluster_id` "" when the candidate does not know it yet."""

    term: int
    coordinator: str
    cluster_id: str


class Promise(Message, frozen=True):
    """A worker's fsynced promise, and what it knows. `granted` false: it promised `promised`
    already."""

    worker: str
    granted: bool
    promised: int
    cluster_id: str
    cursor: int
    bases: dict[int, int]
    collections: tuple[Collection, ...]
    catalog_ts: int
    replicas: dict[int, tuple[str, ...]]
    wall_ms: int
    tail: tuple[DecisionRecord, ...]
    tail_from: int = 0
    founders: tuple[str, ...] = ()
    aliases: dict[str, int] = msgspec.field(default_factory=dict)
    moves: Moves = Moves()
