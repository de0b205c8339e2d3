"""The timestamps that clients are told: unique, in the order of time, kept by what reads ask for.

Owns the checks that need no knowledge of rows: a commit that was acknowledged before another began
has the smaller commit_ts; snapshots of a session never go back and hold its own writes; `at_least`,
`strong` and `as_of` are obeyed; an idempotency key is applied once. Lists are checked against the
timestamps as well: a read at a snapshot sees exactly the appends committed up to it.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Sequence

from tests.checkers.history import Append, ReadList, Report, Transaction


def check_timestamps(history: Sequence[Transaction]) -> Report:
    """All checks of this module but the lists'."""
    report = check_order(history)
    _check_idempotency(history, report)
    return report


def check_order(history: Sequence[Transaction]) -> Report:
    """What can be checked of any part of a history that is still going on."""
    report = Report()
    _check_unique(history, report)
    _check_real_time(history, report)
    _check_sessions(history, report)
    return report


def _wrote(t: Transaction) -> bool:
    """Whether its commit_ts is a place in the history of writes."""
    return t.outcome == "committed" and t.writes and t.commit_ts > 0


def _check_unique(history: Sequence[Transaction], report: Report) -> None:
    owner: dict[int, int] = {}
    for number, t in enumerate(history):
        if t.outcome == "committed" and t.writes and t.commit_ts <= 0:
            report.add("no commit_ts", f"committed without a timestamp: {t.note}", number)
        if not _wrote(t):
            continue
        report.tally("commit timestamps")
        if 0 < t.commit_ts <= t.snapshot_ts and not t.replayed:
            report.add("commit before snapshot", f"{t.commit_ts} <= {t.snapshot_ts}", number)
        other = owner.setdefault(t.commit_ts, number)
        key = t.idempotency_key
        if other != number and not (key and key == history[other].idempotency_key):
            report.add("duplicate commit_ts", f"{t.commit_ts} told twice", other, number)


def _check_real_time(history: Sequence[Transaction], report: Report) -> None:
    """Sweep over the beginnings with the greatest commit_ts acknowledged before each."""
    ends: list[tuple[float, int, int]] = []
    top, top_number = 0, -1
    for number in sorted(range(len(history)), key=lambda n: history[n].begin):
        t = history[number]
        while ends and ends[0][0] < t.begin:
            _, commit_ts, ended = heapq.heappop(ends)
            if commit_ts > top:
                top, top_number = commit_ts, ended
        if _wrote(t):
            if t.commit_ts < top and not t.replayed:
                report.add("commit_ts went back", f"{t.commit_ts} after {top}", top_number, number)
            heapq.heappush(ends, (t.end, t.commit_ts, number))
        if t.strong and t.snapshot_ts:
            report.tally("strong reads")
            if t.snapshot_ts < top:
                detail = f"snapshot {t.snapshot_ts}, {top} was acknowledged before"
                report.add("strong read is stale", detail, top_number, number)


def _check_sessions(history: Sequence[Transaction], report: Report) -> None:
    acknowledged: dict[str, tuple[int, int]] = {}
    snapshots: dict[str, tuple[int, int]] = {}
    last_end: dict[str, float] = {}
    for number in sorted(range(len(history)), key=lambda n: history[n].begin):
        t = history[number]
        snapshot = t.snapshot_ts
        if t.as_of:
            report.tally("as_of reads")
            if snapshot != t.as_of:
                report.add("as_of ignored", f"asked {t.as_of}, got {snapshot}", number)
            continue
        if snapshot and t.begin >= last_end.get(t.session, t.begin):
            report.tally("session snapshots")
            commit_ts, writer = acknowledged.get(t.session, (0, -1))
            seen, reader = snapshots.get(t.session, (0, -1))
            if snapshot < t.at_least:
                report.add("at_least ignored", f"asked {t.at_least}, got {snapshot}", number)
            elif snapshot < commit_ts:
                detail = f"snapshot {snapshot}, own write {commit_ts}"
                report.add("own write not seen", detail, writer, number)
            elif snapshot < seen:
                report.add("snapshot went back", f"{snapshot} after {seen}", reader, number)
        elif snapshot and snapshot < t.at_least:
            report.add("at_least ignored", f"asked {t.at_least}, got {snapshot}", number)
        last_end[t.session] = max(t.end, last_end.get(t.session, t.end))
        if snapshot > snapshots.get(t.session, (0, -1))[0]:
            snapshots[t.session] = (snapshot, number)
        if _wrote(t) and t.commit_ts > acknowledged.get(t.session, (0, -1))[0]:
            acknowledged[t.session] = (t.commit_ts, number)


def _check_idempotency(history: Sequence[Transaction], report: Report) -> None:
    """Of all tries with one key one at most applies; the others get its answer."""
    tries: dict[str, list[int]] = {}
    for number, t in enumerate(history):
        if t.idempotency_key:
            tries.setdefault(t.idempotency_key, []).append(number)
    for key, numbers in tries.items():
        report.tally("idempotency keys")
        answered = [n for n in numbers if history[n].outcome == "committed"]
        applied = [n for n in answered if not history[n].replayed]
        if len(applied) > 1:
            report.add("applied twice", f"idempotency key {key}", *applied)
        elif len({(history[n].commit_ts, history[n].count) for n in answered}) > 1:
            report.add("two answers", f"idempotency key {key}", *answered)
        elif answered and not applied:
            first = min(history[n].begin for n in answered)
            if not any(
                history[n].outcome == "unknown" and history[n].begin < first for n in numbers
            ):
                report.add("replay of nothing", f"idempotency key {key}", *answered)


def check_lists_at_snapshots(history: Sequence[Transaction]) -> Report:
    """Each list read at a told snapshot holds exactly what was committed up to it, in the order of
    commit_ts; nothing acknowledged is missing.

    An append of unknown outcome that was seen has an unknown commit_ts: it must fit between its
    neighbours. A transaction's own appends are left out: `check_lists` judges them.
    """
    report = Report()
    commit_ts: dict[tuple[str, str], int] = {}
    aborted: set[tuple[str, str]] = set()
    acknowledged: dict[str, list[tuple[int, str]]] = {}
    for t in history:
        for operation in t.operations:
            if not isinstance(operation, Append):
                continue
            place = (operation.key, operation.value)
            if t.outcome == "aborted":
                aborted.add(place)
            elif t.outcome == "committed":
                commit_ts[place] = t.commit_ts
                acknowledged.setdefault(operation.key, []).append((t.commit_ts, operation.value))
    times: dict[str, list[int]] = {}
    for key, appends in acknowledged.items():
        appends.sort(key=lambda append: append[0])
        times[key] = [ts for ts, _ in appends]
    for number, t in enumerate(history):
        if not t.snapshot_ts:
            continue
        own = {(o.key, o.value) for o in t.operations if isinstance(o, Append)}
        for operation in t.operations:
            if isinstance(operation, ReadList):
                report.tally("lists at snapshots")
                key = operation.key
                seen = [v for v in operation.seen if (key, v) not in own]
                told = [commit_ts[key, v] for v in seen if (key, v) in commit_ts]
                due = bisect_right(times.get(key, []), t.snapshot_ts)
                if any(ts > t.snapshot_ts for ts in told):
                    detail = f"{key} at {t.snapshot_ts} holds an append of {max(told)}"
                    report.add("read from the future", detail, number)
                elif told != sorted(told):
                    report.add("order is not of commit_ts", f"{key}: {told}", number)
                elif any((key, v) in aborted for v in seen):
                    report.add("aborted read", f"{key} at {t.snapshot_ts}: {seen}", number)
                elif len(told) < due:
                    there = set(seen)
                    missing = [a for a in acknowledged[key][:due] if a[1] not in there]
                    name = "lost write" if t.final else "stale read"
                    report.add(name, f"{key} at {t.snapshot_ts} lacks {missing[:5]}", number)
    return report
