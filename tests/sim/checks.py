"""Checkers over a finished run: they judge what clients were told against what the workers hold."""

from __future__ import annotations

from tests.sim.world import Report, World


def check(world: World) -> Report:
    """Durability, atomicity, one history, first committer wins, preconditions."""
    report = Report(violations=list(world.violations))
    history = list(world.commits())
    decided = {t.txn_id: ts for ts, t in history}
    for transaction in world.transactions.values():
        told = transaction.told
        if told is None:
            report.unknown += 1
            continue
        if told.commit_ts:
            report.committed += 1
            if decided.get(transaction.txn_id) != told.commit_ts:
                report.violations.append(
                    f"told committed at {told.commit_ts}, workers say "
                    f"{decided.get(transaction.txn_id)}: {transaction}"
                )
        else:
            report.aborted += 1
            if transaction.txn_id in decided:
                report.violations.append(f"told aborted, but committed: {transaction}")
    _check_rows(world, report)
    _check_conflicts(world, report)
    cursors = {w.participant.cursor for w in world.workers.values()}
    if len(cursors) != 1:
        report.violations.append(f"workers ended at different cursors: {sorted(cursors)}")
    return report


def _check_rows(world: World, report: Report) -> None:
    """Every replica holds exactly what the committed history gives: nothing lost, nothing torn."""
    expected: dict[bytes, tuple[int, float]] = {}
    for ts, transaction in world.commits():
        for key, value in transaction.writes.items():
            if value is None:
                expected.pop(key, None)
            else:
                expected[key] = (ts, value)
    for name, worker in world.workers.items():
        mine = set(worker.participant.state.shards_of(name))
        want = {k: v for k, v in expected.items() if world.shards[k[1] % len(world.shards)] in mine}
        have = worker.store.alive()
        if have != want:
            report.violations.append(f"{name} holds {have}, the history gives {want}")


def _check_conflicts(world: World, report: Report) -> None:
    """First committer wins, and preconditions held at the place in the history that was taken."""
    changed: dict[bytes, int] = {}
    alive: set[bytes] = set()
    for ts, transaction in world.commits():
        for key, value in transaction.writes.items():
            if transaction.mode == "snapshot" and changed.get(key, 0) > transaction.snapshot_ts:
                report.violations.append(
                    f"lost update on {key!r}: written at {changed[key]}, based on "
                    f"{transaction.snapshot_ts}, committed at {ts}"
                )
            if transaction.precondition == "absent" and key in alive:
                report.violations.append(f"insert over an existing {key!r} at {ts}")
            if transaction.precondition == "present" and key not in alive:
                report.violations.append(f"update of an absent {key!r} at {ts}")
            if value is not None:
                alive.add(key)
            elif key in alive:
                alive.discard(key)
            else:
                continue  # deleting what is not there changes nothing
            changed[key] = ts
