"""Times and snapshots, the window of the past, and what is remembered over a restart."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.protocol import txn
from tests.unit.shard_core.driver import T, Worker, abort, later
from vector_db.shard.core import decided
from vector_db.shard.core.decided import Decided
from vector_db.shard.core.parts import Checkpoint
from vector_db.shard.core.timeline import STEP_MS, Timeline


def test_a_time_is_the_newest_snapshot_whose_decisions_all_lie_before_it() -> None:
    worker = Worker()
    for n, wall_ms in ((3, 2_000), (4, 2_050), (5, 3_000)):
        worker.decide(abort(n, f"x{n}"), wall_ms=wall_ms)
    as_of = worker.participant.as_of
    worker.participant.stable(T(1, 5), 0)
    assert as_of(999) == 0
    assert as_of(1_999) == T(1, 2)
    assert as_of(2_099) == as_of(2_998) == T(1, 4)
    assert as_of(3_099) == as_of(99_999) == T(1, 5)


def test_a_snapshot_that_could_be_undone_is_not_told() -> None:
    worker = Worker()
    worker.decide(abort(3, "x"), wall_ms=2_000)
    worker.participant.stable(T(1, 2), 0)
    assert worker.participant.as_of(9_000) == T(1, 2)


@settings(max_examples=200)
@given(st.lists(st.integers(0, 250), max_size=40), st.integers(0, 5_000), st.integers(0, 40))
def test_the_timeline_follows_its_rule(pauses: list[int], asked_ms: int, undone: int) -> None:
    timeline, history, now = Timeline(0.0), [], 0
    for ts, pause in enumerate(pauses, start=1):
        now += pause
        history.append((now, ts))
        timeline.note(now, ts)
    rule = [ts for ms, ts in history if ms // STEP_MS < (asked_ms + 1) // STEP_MS]
    assert timeline.as_of(asked_ms) == max(rule, default=0)
    packed = Timeline(0.0, timeline.pack(undone))
    timeline.undo_above(undone)
    kept = max((ts for ts in rule if ts <= undone), default=0)
    for one in (timeline, packed):
        assert one.as_of(asked_ms) == kept


def test_a_step_that_is_undone_half_way_keeps_its_first_half() -> None:
    timeline = Timeline(0.0)
    timeline.note(10, 1)
    timeline.note(20, 2)
    assert Timeline(0.0, timeline.pack(1)).as_of(99) == 1
    timeline.undo_above(1)
    assert timeline.as_of(99) == 1


def test_snapshots_before_the_window_are_too_old_and_stay_so() -> None:
    worker = Worker(retention_s=10.0)
    worker.decide(abort(3, "x"), wall_ms=5_000)
    worker.participant.stable(T(1, 3), 0)
    assert worker.participant.retention_floor_ts == 0
    worker.participant.hear(11_100, T(1, 3))
    assert worker.participant.retention_floor_ts == T(1, 2), "what was there as the window began"
    assert worker.participant.as_of(1_200) == T(1, 2)
    worker.participant.hear(30_000, T(1, 3))
    assert worker.participant.retention_floor_ts == T(1, 3)
    assert worker.participant.as_of(1_200) == 0
    back = worker.replayed(cut=True)
    assert back.participant.retention_floor_ts == T(1, 3)
    assert back.participant.as_of(30_000) == T(1, 3)


def test_without_a_window_nothing_is_too_old() -> None:
    worker = Worker()
    worker.decide(abort(3, "x"), wall_ms=10**12)
    worker.participant.stable(T(1, 3), 0)
    assert worker.participant.retention_floor_ts == 0
    assert worker.participant.as_of(1_200) == T(1, 2)


def test_times_survive_a_checkpoint_and_the_log_goes_on_from_there() -> None:
    worker = Worker()
    worker.decide(abort(3, "x"), wall_ms=2_000)
    worker.participant.stable(T(1, 3), 0)
    worker.decide(abort(4, "y"), wall_ms=2_010)
    back = worker.replayed(cut=True)
    for it in (worker, back):
        it.participant.stable(T(1, 4), 0)
        assert it.participant.as_of(1_999) == T(1, 2)
        assert it.participant.as_of(2_099) == T(1, 4)


def test_what_a_takeover_undid_is_no_snapshot_of_any_time() -> None:
    worker = Worker()
    worker.decide(abort(3, "x"), wall_ms=2_000)
    worker.decide(abort(4, "y"), wall_ms=2_010)
    worker.take_over(later(T(1, 3)))
    worker.participant.stable(T(2, 0), 0)
    assert worker.participant.as_of(2_099) in (T(1, 3), T(2, 0))


# --- decided transactions ------------------------------------------------------------------------


def test_decided_transactions_are_remembered_over_a_restart() -> None:
    worker = Worker()
    worker.put(3, "a")
    worker.decide(abort(4, "x"))
    worker.participant.stable(T(1, 4), T(1, 4))
    back = worker.replayed(cut=True)
    assert back.status("put3").commit_ts == T(1, 3)
    assert back.status("x").state == "aborted"
    assert back.status("y").state == "unknown"


def test_a_commit_above_the_checkpoint_is_applied_again_from_the_log() -> None:
    """Remembering it must not make its rows look decided and done."""
    worker = Worker()
    worker.participant.stable(T(1, 2), 0)
    worker.put(3, "a")
    back = worker.replayed(cut=True)
    assert back.alive == {b"a": 1.0}
    assert back.status("put3").commit_ts == T(1, 3)


def test_only_the_newest_are_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decided, "SAVED_MAX", 3)
    known = Decided()
    for n in range(1, 6):
        known.note(txn(f"t{n}"), 1_000 * n, n)
    back = Decided(known.pack(4))
    assert [back.fate(txn(f"t{n}")) for n in range(1, 6)] == [None, 2, 3, 4, None]
    back.expire(2_000 + decided.DECIDED_MEMORY_MS)
    assert back.fate(txn("t2")) is None
    assert back.fate(txn("t3")) == 3


def test_a_transaction_that_a_later_term_found_committed_is_committed() -> None:
    known = Decided()
    known.note(txn("t"), 1_000, 0)
    known.note(txn("t"), 1_000, 7)
    known.note(txn("t"), 1_000, 0)
    assert known.fate(txn("t")) == 7


def test_a_checkpoint_of_an_older_version_is_read() -> None:
    import msgspec

    worker = Worker()
    worker.participant.stable(T(1, 2), 0)
    saved = worker.participant.checkpoint(worker.lsn + 1)
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(saved))
    for name in ("decided", "timeline", "prompt"):
        del fields[name]
    old = msgspec.convert(fields, Checkpoint, strict=False)
    assert (old.decided, old.timeline, old.prompt) == (b"", b"", ())
