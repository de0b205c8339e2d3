"""The harness itself: each thing that it must find is put there, and found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, cast

import numpy as np
import pytest

from tests.checkers.everything import check
from tests.checkers.history import Row, Scroll, Transaction, Write
from tests.mesh.contents import PAGE_ROWS, Content, contents, differences
from tests.mesh.faults import ANYONE, Fault, schedule
from tests.mesh.figures import Result
from tests.mesh.mesh import COUNTS
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.catalog import CatalogReply, CatalogRequest
from vector_db.common.core.messages.reads import RowsReply, ScrollRequest
from vector_db.common.core.subjects import sequencer, worker
from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.errors import Unavailable
from vector_db.common.model.rows import Blob
from vector_db.common.ports import Bus

WORKERS = ("w0", "w1", "w2")
SAME = {w: Content(3, "same") for w in WORKERS}


def sound() -> Result:
    """A run in which everything went well."""
    result = Result(seed=1, brokers=1, took_s=1.0, acknowledged=1, contents={0: SAME})
    for kind in ("read", "write"):
        for _ in range(2000):
            result.meter.note(cast(Any, kind), 0.01, True, "")
    return result


def test_a_run_within_all_bounds_passes() -> None:
    result = sound()
    assert result.violations == []
    assert result.last_line().endswith(" ok")
    assert result.last_line() == result.summary().splitlines()[-1]


def late(kind: str, took_s: float, answered: bool = True) -> Callable[[Result], None]:
    def spoil(result: Result) -> None:
        for _ in range(3):
            result.meter.note(cast(Any, kind), took_s, answered, "slow")

    return spoil


def nothing_written(result: Result) -> None:
    result.acknowledged = 0


def calls_held_back(result: Result) -> None:
    result.held_back["all"] = 1


def one_replica_differs(result: Result) -> None:
    result.contents = {0: SAME, 1: SAME | {"w1": Content(3, "other")}}


def nothing_compared(result: Result) -> None:
    result.contents = {}


def only_one_replica(result: Result) -> None:
    result.contents = {0: {"w0": Content(3, "same")}}


def a_lost_write(result: Result) -> None:
    result.report.add("lost write", "c/a at 7")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (late("read", 2.1), "99.8502% of reads within 2 s"),
        (late("read", 0.1, answered=False), "99.8502% of reads within 2 s"),
        (late("write", 15.1), "99.8502% of writes within 15 s"),
        (nothing_written, "no write was acknowledged"),
        (calls_held_back, "1 calls were not begun"),
        (one_replica_differs, "replicas differ: shard 1"),
        (nothing_compared, "no replicas to compare"),
        (only_one_replica, "no replicas to compare"),
        (a_lost_write, "lost write: c/a at 7"),
    ],
)
def test_each_broken_bound_fails_the_run_and_is_told(
    spoil: Callable[[Result], None], told: str
) -> None:
    result = sound()
    spoil(result)
    (violation,) = result.violations
    assert told in violation
    assert result.last_line().endswith(" FAILED")
    assert violation in result.summary()


def test_a_late_read_or_two_in_thousands_is_within_the_bound() -> None:
    result = sound()
    result.meter.note("read", 3.0, True, "slow")
    assert result.violations == []


def test_an_acknowledged_write_that_was_never_sent_is_lost() -> None:
    row = Row("a", (1.0,), {"tag": "a"})
    kept = Transaction("c0", 0, 1, "committed", (Write("marks/a", row),), commit_ts=5)
    lie = dataclasses.replace(
        kept, operations=(Write("marks/b", dataclasses.replace(row, tag="b")),), commit_ts=6
    )
    final = Transaction(
        "final", 2, 3, "committed", (Scroll("marks", None, (("a", row, 5),)),),
        snapshot_ts=9, strong=True, final=True,
    )  # fmt: skip
    result = sound()
    result.report = check([kept, final])
    assert result.violations == []
    result.report = check([kept, lie, final])
    assert (result.lost, result.anomalies) == (1, 0)
    assert "marks/b" in result.violations[0]


# --- what replicas hold ---------------------------------------------------------------------------


class Workers:
    """A bus with a sequencer and workers behind it; `flip` changes what one of them answers."""

    def __init__(self, rows: int = 3) -> None:
        self.collection = Collection(7, "c", 2, Metric.DOT, (0, 1))
        self.rows = rows
        self.flip: Callable[[str, ScrollRequest, RowsReply], RowsReply] = lambda w, q, page: page
        self.refusals = 1

    async def request(self, subject: str, message: AnyMessage, timeout_s: float) -> AnyMessage:
        if isinstance(message, CatalogRequest):
            assert subject == sequencer()
            return CatalogReply(1, 1, 1, 1, (self.collection,), {0: WORKERS, 1: WORKERS}, ())
        assert isinstance(message, ScrollRequest)
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("not there yet")
        (who,) = (w for w in WORKERS if subject == worker(w))
        ids = [b"%d-%05d" % (message.shards[0], n) for n in range(self.rows)]
        ids = [i for i in ids if i > message.after][: message.limit]
        numbers = np.array([int(i[2:]) for i in ids])
        page = RowsReply(
            ids=Blob.pack(ids),
            versions=(numbers + 10).astype("<i8").tobytes(),
            metadata=Blob.pack([b'{"n":%d}' % n for n in numbers]),
            vectors=np.stack([numbers, numbers + 1], axis=1).astype("<f4").tobytes(),
        )
        return self.flip(who, message, page)


async def held(workers: Workers) -> dict[int, dict[str, Content]]:
    return await contents(cast(Bus, workers), snapshot_ts=99, within_s=5)


@pytest.mark.parametrize("rows", [0, 3, PAGE_ROWS, 2 * PAGE_ROWS + 1])
async def test_equal_replicas_are_equal_over_all_pages(rows: int) -> None:
    found = await held(Workers(rows))
    assert {c.rows for of in found.values() for c in of.values()} == {rows}
    assert [len(of) for of in found.values()] == [3, 3]
    assert differences(found) == []


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


FLIPS: dict[str, Callable[[RowsReply], RowsReply]] = {
    "vector": lambda p: _with(p, vectors=flipped(bytes(p.vectors))),
    "version": lambda p: _with(p, versions=flipped(bytes(p.versions))),
    "metadata": lambda p: _with(p, metadata=_changed(p.metadata, b"{}")),
    "id": lambda p: _with(p, ids=_changed(p.ids, b"0")),
}


def _with(page: RowsReply, **changes: object) -> RowsReply:
    plain = {name: getattr(page, name) for name in ("ids", "versions", "metadata", "vectors")}
    return RowsReply(**(plain | changes))


def _changed(blob: Blob, first: bytes) -> Blob:
    return Blob.pack([first, *blob.unpack()[1:]])


@pytest.mark.parametrize("what", FLIPS)
async def test_a_row_flipped_on_one_replica_is_seen(what: str) -> None:
    workers = Workers(PAGE_ROWS + 3)

    def flip(who: str, request: ScrollRequest, page: RowsReply) -> RowsReply:
        hit = who == "w1" and request.shards == (1,) and request.after
        return FLIPS[what](page) if hit else page

    workers.flip = flip
    (told,) = differences(await held(workers))
    assert told.startswith("shard 1: w0")


async def test_a_row_missing_on_one_replica_is_seen() -> None:
    workers = Workers()

    def short(who: str, request: ScrollRequest, page: RowsReply) -> RowsReply:
        if who != "w2" or request.shards != (0,):
            return page
        return _with(
            page,
            ids=Blob.pack(page.ids.unpack()[:-1]),
            metadata=Blob.pack(page.metadata.unpack()[:-1]),
            versions=bytes(page.versions)[:-8],
            vectors=bytes(page.vectors)[:-8],
        )

    workers.flip = short
    (told,) = differences(await held(workers))
    assert told.startswith("shard 0: ") and "2 rows" in told


# --- faults ---------------------------------------------------------------------------------------


def names(faults: Sequence[Fault]) -> list[str]:
    return [fault.name.replace("leader", "coordinator") for fault in faults]


def test_the_faults_of_a_seed_are_the_same_and_none_comes_twice_before_all_came_once() -> None:
    a_deck = len(ANYONE) * len(COUNTS) + 3
    plan = list(islice(schedule(1, COUNTS, brokers=1), 2 * a_deck))
    assert plan == list(islice(schedule(1, COUNTS, brokers=1), 2 * a_deck))
    assert plan != list(islice(schedule(2, COUNTS, brokers=1), 2 * a_deck))
    first, second = names(plan[:a_deck]), names(plan[a_deck:])
    assert len(set(first)) == a_deck and set(first) == set(second)
    assert {"slow disk shard", "lose shard", "kill broker", "cut up gateway"} <= set(first)
    assert all(fault.lasts_s == 0 for fault in plan if fault.target == "broker0")


def test_of_several_brokers_one_may_be_away_for_long() -> None:
    plan = list(islice(schedule(1, COUNTS, brokers=3), 200))
    brokers = [fault for fault in plan if fault.target.startswith("broker")]
    assert {fault.target for fault in brokers} == {"broker0", "broker1", "broker2"}
    assert {fault.kind for fault in brokers} == set(ANYONE)
    assert any(fault.lasts_s > 1 for fault in brokers)
