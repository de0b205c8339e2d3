"""Faults planted in the product on purpose, to prove that a run would see them.

Each is a mistake that somebody could make in earnest, made by replacing one method. Owns the
invariant that a plant breaks the product only, and only while its context lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import msgspec

import vector_db.shard.core.judge as judge
from tests.sim.services.forms import Form
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.catalog import SetAliasesRequest
from vector_db.common.core.messages.decisions import Takeover
from vector_db.common.core.messages.transactions import Beat, Outcome, Vote
from vector_db.common.core.subjects import votes
from vector_db.common.model.collection import Collection
from vector_db.common.ports import DiskFull
from vector_db.coordinator.core.durability import Durability
from vector_db.coordinator.core.sequencer import Sequencer
from vector_db.coordinator.core.takeover import Survey
from vector_db.coordinator.core.two_phase_commit import TwoPhaseCommit
from vector_db.coordinator.requests import Requests
from vector_db.gateway.cluster import ClusterView
from vector_db.gateway.core.entries import Entries
from vector_db.gateway.idempotency import IdempotentWrites
from vector_db.gateway.transactions import Transactions
from vector_db.shard.core.applied import Applied
from vector_db.shard.core.holdings import Holdings
from vector_db.shard.core.participant import Participant
from vector_db.shard.core.staging import Part
from vector_db.shard.core.takeover import Takeovers
from vector_db.shard.group_commit import GroupCommit
from vector_db.shard.storage.growing import GrowingSegment
from vector_db.shard.storage.wal import Wal
from vector_db.shard.worker import Worker


@dataclass(frozen=True, slots=True)
class Planted:
    """`apply` makes the mistake while its context lasts; `seed` is one that shows it."""

    apply: Callable[[], AbstractContextManager[object]]
    seed: int
    form: Form = Form.SINGLE


PLANTED: dict[str, Planted] = {}


def _plant(
    name: str, seed: int, form: Form = Form.SINGLE
) -> Callable[[Callable[[], Iterator[None]]], Callable[[], Iterator[None]]]:
    def register(make: Callable[[], Iterator[None]]) -> Callable[[], Iterator[None]]:
        PLANTED[name] = Planted(contextmanager(make), seed, form)
        return make

    return register


@_plant("vote before fsync", 17)
def _vote_before_fsync() -> Iterator[None]:
    calls = 0
    real = GroupCommit.advance

    async def advance(self: GroupCommit) -> None:
        nonlocal calls
        calls += 1
        if calls % 8 == 0:
            await real(self)
            return
        for _, messages in self._owed:
            for message in messages:
                await self._bus.publish(votes(), message)
        self._owed.clear()

    with patch.multiple(GroupCommit, advance=advance, settle=advance):
        yield


@_plant("promise to two candidates", 1000)
def _promise_to_two() -> Iterator[None]:
    real = Takeovers.promise_message

    def message(self: Takeovers, request: Any) -> Any:
        granted = request.term == self._term.promised
        return msgspec.structs.replace(real(self, request), granted=granted)

    with patch.object(Takeovers, "promise_message", message):
        yield


@_plant("votes of other terms counted", 426)
def _votes_of_other_terms() -> Iterator[None]:
    real = Sequencer.vote

    def vote(self: Sequencer, vote: Vote, now_ms: int) -> Any:
        taken = msgspec.structs.replace(vote, term=self.term, at_ts=self.last_ts)
        return real(self, taken, now_ms)

    with patch.object(Sequencer, "vote", vote):
        yield


@_plant("acknowledged before durable", 84)
def _acknowledged_early() -> Iterator[None]:
    with patch.object(Durability, "is_on", lambda self, state, shard, ts: True):
        yield


@_plant("committed with one shard's vote", 1003)
def _one_vote() -> Iterator[None]:
    real = TwoPhaseCommit._maybe_decide

    def decide(self: TwoPhaseCommit, txn: Any, now_ms: int, effects: Any) -> None:
        if txn.yes:
            for shard in txn.participants:
                voters = self._placements._in_force.get(shard, ())
                txn.yes.setdefault(shard, dict.fromkeys(voters, self._order.last_ts))
            txn.no.clear()
        real(self, txn, now_ms, effects)

    with patch.object(TwoPhaseCommit, "_maybe_decide", decide):
        yield


@_plant("abort told early", 21)
def _abort_told_early() -> Iterator[None]:
    async def find_out(self: Transactions, txn_id: bytes, *_: Any) -> Outcome:
        return Outcome(txn_id, 0, 0, "invalid_argument", "nobody answered")

    with patch.object(Transactions, "_find_out", find_out):
        yield


@_plant("no conflicts at all", 14)
def _no_conflicts() -> Iterator[None]:
    with patch("vector_db.shard.core.conflicts.Conflicts.any_with", lambda self, new: False):
        yield


@_plant("versions not checked", 1001)
def _versions_not_checked() -> Iterator[None]:
    def check(part: Any, snapshot_ts: int, store: Any) -> Any:
        return judge.Verdict()
        yield 0

    with patch.object(judge, "_check_versions", check):
        yield


@_plant("serializable reads not validated", 27)
def _reads_not_validated() -> Iterator[None]:
    with patch.object(judge, "_changed", lambda *_: False):
        yield


@_plant("reads above stable", 1029)
def _reads_above_stable() -> Iterator[None]:
    real = ClusterView.on_beat

    def on_beat(self: ClusterView, message: Any) -> None:
        if isinstance(message, Beat):
            newest = max(message.stable_ts, message.last_ts)
            message = msgspec.structs.replace(message, stable_ts=newest)
        real(self, message)

    with patch.object(ClusterView, "on_beat", on_beat):
        yield


@_plant("visibility off by one", 3)
def _visibility() -> Iterator[None]:
    real = GrowingSegment.row_at

    def row_at(self: GrowingSegment, row_id: bytes, snapshot_ts: int) -> int:
        return real(self, row_id, snapshot_ts + 1)

    with patch.object(GrowingSegment, "row_at", row_at):
        yield


@_plant("missing chunk accepted", 185)
def _missing_chunk() -> Iterator[None]:
    def whole(self: Part) -> bool:
        return self.prepare is not None

    def check_rows(self: Applied, commit: Any) -> None:
        pass

    def named(self: Part) -> Any:
        return sorted(self._chunks)

    with (
        patch.object(Part, "whole", property(whole)),
        patch.object(Part, "_named", named),
        patch.object(Applied, "_check_rows", check_rows),
    ):
        yield


@_plant("idempotency row not in the transaction", 1001)
def _idempotency_forgotten() -> Iterator[None]:
    real = IdempotentWrites.row

    def row(self: IdempotentWrites, known: Any, *rest: Any) -> Any:
        other = self._random.randbytes(8).hex().encode()
        return real(self, replace(known, row_id=other), *rest)

    with patch.object(IdempotentWrites, "row", row):
        yield


@_plant("WAL cut too far", 1004)
def _wal_cut_too_far() -> Iterator[None]:
    real = Wal.truncate_before

    with patch.object(Wal, "truncate_before", lambda self, lsn: real(self, self.next_lsn)):
        yield


@_plant("failed fsync tried again", 1002)
def _fsync_again() -> Iterator[None]:
    real = Wal._write

    def write(self: Wal, group: Any) -> None:
        try:
            real(self, group)
        except DiskFull:
            raise
        except OSError:
            self._segments[-1].size = self._active.file.size()

    with patch.object(Wal, "_write", write):
        yield


@_plant("aliases not told by a takeover", 1022)
def _aliases_forgotten() -> Iterator[None]:
    real = Survey.takeover

    def takeover(self: Survey, stable_ts: int = 0) -> Takeover:
        return msgspec.structs.replace(real(self, stable_ts), aliases={})

    with patch.object(Survey, "takeover", takeover):
        yield


@_plant("aliases changed one by one", 1010)
def _aliases_apart() -> Iterator[None]:
    real = Requests.handle

    async def handle(self: Requests, message: AnyMessage) -> AnyMessage:
        if not isinstance(message, SetAliasesRequest):
            return await real(self, message)
        for alias, target in message.changes.items():
            answer = await real(self, SetAliasesRequest({alias: target}))
        return answer

    with patch.object(Requests, "handle", handle):
        yield


# --- shards that move -----------------------------------------------------------------------------


@_plant("peers forget what a copy needs", 61, Form.MOVING)
def _needs_forgotten() -> Iterator[None]:
    with patch.object(Holdings, "needs_ts", lambda self, cursor: cursor):
        yield


@_plant("commits since the snapshot forgotten", 21, Form.MOVING)
def _commits_forgotten() -> Iterator[None]:
    with patch.object(Participant, "committed_since", lambda self, shard, ts: []):
        yield


@_plant("joined before it is durable", 2, Form.MOVING)
def _joined_early() -> Iterator[None]:
    def joined(self: Worker) -> tuple[int, ...]:
        return tuple(sorted(self._participant.holdings.joined))

    with patch.object(Worker, "joined", joined):
        yield


# --- collections that are spread over other shards ------------------------------------------------


@_plant("copied rows lose their versions", 20)
def _versions_lost() -> Iterator[None]:
    real = GrowingSegment.append

    def append(self: GrowingSegment, *args: Any) -> None:
        real(self, *args[:7])

    with patch.object(GrowingSegment, "append", append):
        yield


@_plant("reads by the newest generation", 40)
def _newest_generation() -> Iterator[None]:
    async def generation(self: ClusterView, collection: Collection, snapshot_ts: int) -> Collection:
        return self.entries.current(collection) or collection

    with (
        patch.object(ClusterView, "generation", generation),
        patch.object(Collection, "serves", lambda self, snapshot_ts: True),
    ):
        yield


@_plant("writes are not mirrored", 126)
def _not_mirrored() -> Iterator[None]:
    real = Entries.__init__

    def init(self: Entries, *args: Any) -> None:
        real(self, *args)
        self._successors = {}

    with patch.object(Entries, "__init__", init):
        yield
