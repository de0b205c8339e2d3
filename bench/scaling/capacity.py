"""What a mesh takes of memory, disk and cores, and how much it does at most.

Bytes are those of `vector_db.shard.core.footprint`, which the product predicts and accounts by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bench.scaling import work
from bench.scaling.constants import Constants
from bench.scaling.work import PROCESSES, Shape
from vector_db.common.model.collection import Encoding, IndexKind
from vector_db.shard.core.footprint import column_bytes, index_bytes

M = 16
GROWING_BYTES = 256e6
"""Rows that are not sealed yet, at most (architecture, section 7)."""
WAL_BYTES = 512e6
"""A worker's WAL between checkpoints, with what waits for its peers."""
MERGE_ROOM = 2.0
"""A merge of everything lies beside its sources until it is swapped in."""
KEY_BITMAP_BYTES = 3.0


@dataclass(frozen=True, slots=True)
class Load:
    """What clients ask for each second, all of them together."""

    queries_per_s: float = 0.0
    writes_per_s: float = 0.0
    participants: float = 1.0
    rows_per_s: float = 0.0
    """In batches of 1,000."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """Of one shard worker."""

    memory: float
    """Its own: what `hot_tier_size` bounds, and the empty process."""
    cache: float
    """Raw rows and columns that the page cache should hold for hits to be scored from memory."""
    disk: float
    disk_peak: float
    """While the largest merge runs."""


def bytes_of(
    shape: Shape,
    constants: Constants,
    payload_bytes: float = 60.0,
    kind: IndexKind = IndexKind.HNSW,
    encoding: Encoding = Encoding.AUTO,
) -> Bytes:
    """What each worker needs; `payload_bytes`: of a row's id and metadata."""
    rows = shape.rows_per_worker
    index = rows * index_bytes(kind, encoding, M, shape.dimension)
    columns = rows * column_bytes(shape.dimension, True, payload_bytes)
    memory = constants.process_bytes + index + rows * KEY_BITMAP_BYTES
    memory += min(GROWING_BYTES, rows * 4 * shape.dimension)
    disk = index + columns + (WAL_BYTES if rows else 0.0)
    return Bytes(memory, columns, disk, disk + (MERGE_ROOM - 1) * (index + columns))


@dataclass(frozen=True, slots=True)
class Use:
    """Cores that each kind of process takes, and how many processes (of the broker: cores) share
    that."""

    cores: Mapping[str, float]
    processes: Mapping[str, int]
    build_cores: float
    """Of all workers' builders."""

    def busiest(self, process: str) -> float:
        """The part of a core that one process of a kind takes. All work of an event loop is in one
        thread; a worker's batches of long searches are not, which is left out."""
        return self.cores[process] / self.processes[process]

    @property
    def total(self) -> float:
        """Cores of everything."""
        return sum(self.cores.values()) + self.build_cores


RECORDS_PER_S_MIN = 20.0
"""A sequencer that is busy puts more decisions into a record; so many are taken for the least that
still answers in time."""
_SEQUENCER_PART = 0.9


def records_per_s(shape: Shape, load: Load, constants: Constants) -> float:
    """Decision records: one for each transaction, as many as a sequencer writes when they wait for
    it, or as many as leave it time for the votes."""
    costs = constants.costs
    message = costs.get("coordinator.message", 0.0)
    a_record = costs.get("coordinator.record", 0.0) + shape.workers * message
    votes = load.participants * shape.replicas * message + costs.get("coordinator.commit", 0.0)
    left = _SEQUENCER_PART - load.writes_per_s * votes
    room = left / a_record if a_record else constants.records_per_s
    most_of_them = max(RECORDS_PER_S_MIN, min(constants.records_per_s, room))
    return min(load.writes_per_s, most_of_them)


def use_of(shape: Shape, load: Load, constants: Constants) -> Use:
    """What a load takes of a mesh, whether or not it is more than there is."""
    records = records_per_s(shape, load, constants)
    beats = work.beats_per_s(records) - work.BEATS_PER_S
    units = work.idle_second(shape)
    if load.queries_per_s:
        busy = load.queries_per_s * gateway_query_s(shape, constants) / shape.gateways
        together = constants.together if busy > 0.5 else 1.0
        asked = work.query(shape, together=together)
        units = work.plus(units, work.times(asked, load.queries_per_s))
    if load.writes_per_s:
        each = work.transaction(
            shape,
            load.participants,
            records / load.writes_per_s,
            beats / load.writes_per_s,
            4.0 * shape.dimension,
        )
        units = work.plus(units, work.times(each, load.writes_per_s))
    if load.rows_per_s:
        units = work.plus(units, work.times(work.bulk_row(shape, 60.0), load.rows_per_s))
    cores = {
        process: sum(
            n * constants.costs.get(u, 0.0) for u, n in units.items() if u.startswith(process + ".")
        )
        for process in PROCESSES
    }
    build = constants.build_row_s * shape.dimension / 128 * shape.replicas
    rows_per_s = load.rows_per_s + load.writes_per_s * load.participants
    processes = {
        "gateway": shape.gateways,
        "worker": shape.workers,
        "coordinator": 1,
        "broker": shape.broker_cores,
    }
    return Use(cores, processes, build * rows_per_s)


def gateway_query_s(shape: Shape, constants: Constants) -> float:
    """CPU of a gateway for one query that travels alone."""
    one = work.query(shape)
    return sum(
        constants.costs.get(u, 0.0) * one.get(u, 0.0) for u in ("gateway.query", "gateway.ask")
    )


def most(shape: Shape, load: Load, constants: Constants, process: str, part: float = 1.0) -> float:
    """By what factor `load` may grow until the busiest process of a kind takes that part of a core.

    0: idling alone takes more.
    """

    def taken(factor: float) -> float:
        grown = replace(
            load,
            queries_per_s=load.queries_per_s * factor,
            writes_per_s=load.writes_per_s * factor,
            rows_per_s=load.rows_per_s * factor,
        )
        return use_of(shape, grown, constants).busiest(process)

    if taken(0.0) >= part:
        return 0.0
    high = 1.0
    while taken(high) < part and high < 1e12:
        high *= 2
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if taken(middle) < part else (low, middle)
    return low
