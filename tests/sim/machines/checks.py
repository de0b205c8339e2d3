"""Checkers over a finished run: what clients were told and saw, against what the workers hold."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

from tests.sim.machines.clients import Transaction, home
from tests.sim.machines.world import World

Seen = tuple[int, float]


@dataclass(slots=True)
class Report:
    """What a run amounted to."""

    seed: int = 0
    digest: str = ""
    committed: int = 0
    aborted: int = 0
    unknown: int = 0
    reads: int = 0
    violations: list[str] = field(default_factory=list)


class History:
    """The committed transactions in order, and what each key was when."""

    def __init__(self, world: World) -> None:
        self.commits = list(world.commits())
        self._versions: dict[bytes, list[tuple[int, Seen | None]]] = {}
        for ts, transaction in self.commits:
            for key, value in transaction.writes.items():
                if value is None and self.at(key, ts) is None:
                    continue  # deleting what is not there changes nothing
                now = None if value is None else (ts, value)
                self._versions.setdefault(key, []).append((ts, now))

    def at(self, key: bytes, ts: int) -> Seen | None:
        """(version, value) of a key at a snapshot."""
        versions = self._versions.get(key, [])
        place = bisect.bisect_right([t for t, _ in versions], ts)
        return versions[place - 1][1] if place else None

    def changed_between(self, key: bytes, after: int, before: int) -> int:
        """A commit in (after, before) that changed the key; 0: none."""
        return next((t for t, _ in self._versions.get(key, []) if after < t < before), 0)

    def seen(self) -> list[bytes]:
        """Every key that was ever there."""
        return list(self._versions)


def check(world: World, probes: list[Transaction]) -> Report:
    """Durability, atomicity, one history, isolation, preconditions, liveness."""
    report = Report(violations=list(world.violations), reads=len(world.reads))
    history = History(world)
    _check_told(world, history, report)
    _check_rows(world, history, report)
    _check_isolation(history, report)
    _check_reads(world, history, report)
    _check_ended(world, probes, report)
    return report


def _check_told(world: World, history: History, report: Report) -> None:
    decided = {t.txn_id: ts for ts, t in history.commits}
    for transaction in world.transactions.values():
        told, ts = transaction.told, decided.get(transaction.txn_id)
        if told is None:
            report.unknown += 1
        elif told.commit_ts:
            report.committed += 1
            if ts != told.commit_ts:
                report.violations.append(
                    f"told committed at {told.commit_ts}, workers say {ts}: {transaction}"
                )
        else:
            report.aborted += 1
            if ts is not None:
                report.violations.append(f"told aborted, but committed: {transaction}")


def _check_rows(world: World, history: History, report: Report) -> None:
    """Every replica holds exactly what the committed history gives: nothing lost, nothing torn."""
    end = world.leader.sequencer.last_ts
    for name, worker in world.workers.items():
        mine = set(worker.participant.state.shards_of(name))
        want = {
            key: now
            for key in history.seen()
            if home(key, world.shards) in mine and (now := history.at(key, end)) is not None
        }
        if (have := worker.store.alive()) != want:
            report.violations.append(f"{name} holds {have}, the history gives {want}")


def _check_isolation(history: History, report: Report) -> None:
    """First committer wins, reads hold until the commit, and so do preconditions."""
    for ts, transaction in history.commits:
        guarded = [] if transaction.mode == "blind" else [*transaction.writes]
        for key in [*guarded, *transaction.reads]:
            if between := history.changed_between(key, transaction.snapshot_ts, ts):
                report.violations.append(
                    f"{key!r} changed at {between}, between the snapshot "
                    f"{transaction.snapshot_ts} and the commit {ts} of {transaction}"
                )
        for key in transaction.writes:
            before = history.at(key, ts - 1)
            if transaction.precondition == "absent" and before is not None:
                report.violations.append(f"insert over an existing {key!r} at {ts}")
            if transaction.precondition == "present" and before is None:
                report.violations.append(f"update of an absent {key!r} at {ts}")


def _check_reads(world: World, history: History, report: Report) -> None:
    """What was read is what the history had at that snapshot."""
    inside = [(t.snapshot_ts, t.reads) for t in world.transactions.values()]
    for snapshot_ts, seen in [*((r.snapshot_ts, r.seen) for r in world.reads), *inside]:
        for key, what in seen.items():
            if (want := history.at(key, snapshot_ts)) != what:
                report.violations.append(
                    f"read {what} of {key!r} at {snapshot_ts}, the history has {want}"
                )


def _check_ended(world: World, probes: list[Transaction], report: Report) -> None:
    """Nothing hangs: all workers are at one place, nothing is undecided, writes go on."""
    cursors = {name: w.participant.cursor for name, w in world.workers.items()}
    if len(set(cursors.values())) != 1:
        report.violations.append(f"workers ended at different cursors: {cursors}")
    for name, worker in world.workers.items():
        if worker.participant.counts()["undecided"]:
            report.violations.append(f"{name} still holds undecided parts")
    for probe in probes:
        if probe.told is None or not probe.told.commit_ts:
            report.violations.append(f"a write after the faults did not commit: {probe}")
    if not probes:
        report.violations.append("no collection came to be")
