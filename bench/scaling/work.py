"""How much work of each kind the processes of a mesh do for one operation: the counts of the model.

Owns the invariant that measuring and predicting count alike: what a unit costs is fitted to these
counts on small meshes, and the same counts say what a larger one takes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

BEATS_PER_S = 10
"""The sequencer's, when nothing is written (`coordinator/term.py`)."""
BEATS_PER_S_MAX = 200
HEARTBEATS_PER_S = 2
"""Of each worker (`shard/app.py`)."""
IDLE_TAILS_PER_S = 1.0
"""The broker's heartbeats to each follower of a log."""

PROCESSES = ("gateway", "worker", "coordinator", "broker")


@dataclass(frozen=True, slots=True)
class Shape:
    """A mesh and one collection in it; `shards` 0: one a worker, as by default."""

    workers: int = 1
    replicas: int = 1
    rows: int = 0
    dimension: int = 128
    shards: int = 0
    gateways: int = 1
    coordinators: int = 1
    broker_cores: int = 4
    """The broker is no event loop: it uses what it has."""
    graphs: bool = True
    """False: rows are scanned, as few ones are and those of collections that ask for it."""

    def __post_init__(self) -> None:
        """:raises ValueError: there are fewer workers than replicas."""
        if self.workers < self.replicas or min(self.workers, self.replicas) < 1:
            raise ValueError(f"{self.replicas} replicas on {self.workers} workers")

    @property
    def spread(self) -> int:
        """Shards of the collection."""
        return self.shards or self.workers

    @property
    def rows_per_shard(self) -> float:
        """Of one replica."""
        return self.rows / self.spread

    @property
    def rows_per_worker(self) -> float:
        """With all replicas."""
        return self.rows * self.replicas / self.workers

    @property
    def routes(self) -> float:
        """Different sets of replicas that hold the collection's shards: requests of a query.

        Shards are spread evenly; sets of more than one worker meet by chance.
        """
        if self.replicas == 1:
            return min(self.spread, self.workers)
        sets = math.comb(self.workers, self.replicas)
        return sets * -math.expm1(self.spread * math.log1p(-1 / sets)) if sets > 1 else 1.0


Units = dict[str, float]
"""``process.unit`` → how many of them."""


def plus(*parts: Units) -> Units:
    """The sum."""
    total: Units = {}
    for part in parts:
        for name, count in part.items():
            total[name] = total.get(name, 0.0) + count
    return total


def times(units: Units, factor: float) -> Units:
    """So many times."""
    return {name: factor * count for name, count in units.items()}


def rounds(shape: Shape, payload: bool = True) -> int:
    """Round trips of a query: payloads of hits from several sets are fetched afterwards."""
    return 2 if payload and shape.routes > 1 else 1


def query(shape: Shape, payload: bool = True, together: float = 1, alone: bool = False) -> Units:
    """One single query, without hedges.

    `together`: searches that share a request (payloads of several sets of replicas are fetched for
    each query by itself). `alone`: every message of it wakes a process that slept.
    """
    routes = shape.routes
    asks = routes / together + routes * (rounds(shape, payload) - 1)
    if shape.graphs:
        steps = shape.spread * math.log2(max(2.0, shape.rows_per_shard))
        search = {"worker.step": steps, "worker.step_component": steps * shape.dimension}
    else:
        search = {"worker.scanned_component": float(shape.rows * shape.dimension)}
    return {
        "gateway.query": 1,
        "gateway.ask": asks,
        "worker.ask": asks,
        "broker.message": 4 * asks,
        "broker.byte": 2 * routes * 4 * shape.dimension,
        "gateway.wake": asks * alone,
        "worker.wake": asks * alone,
        "broker.wake": asks * alone,
        **search,
    }


def transaction(
    shape: Shape,
    participants: float = 1,
    records: float = 1,
    beats: float = 1,
    bytes_a_part: float = 0,
    alone: bool = False,
) -> Units:
    """One transaction of a few rows; `records`, `beats`: of the sequencer, for each transaction
    (below 1: several share one). `alone`: its messages wake a gateway that slept."""
    parts, votes = participants, participants * shape.replicas
    durables = records * shape.workers
    followers = shape.workers + shape.gateways + shape.coordinators
    core_in = votes + durables + records + beats
    core_out = (votes + durables) * shape.coordinators + records + beats * followers
    log_out = votes + records * shape.workers + records
    return {
        "gateway.txn": 1,
        "gateway.prepare": parts,
        "gateway.wake": 2 * alone,
        "worker.prepare": votes,
        "worker.commit": shape.workers,
        "worker.record": records * shape.workers,
        "coordinator.message": votes + durables,
        "coordinator.commit": 1,
        "coordinator.record": records,
        "broker.message": core_in + core_out + log_out,
        "broker.stored": parts + records,
        "broker.byte": (parts + votes) * bytes_a_part,
    }


def beats_per_s(records_per_s: float) -> float:
    """A beat tells of each advance of `stable_ts`, but not at once of two within 5 ms."""
    return max(BEATS_PER_S, min(records_per_s, BEATS_PER_S_MAX))


def bulk_row(shape: Shape, payload_bytes: float) -> Units:
    """One row of a large batch; the transaction around it is shared by thousands."""
    size = 4 * shape.dimension + payload_bytes
    return {
        "gateway.row": 1,
        "gateway.row_byte": size,
        "worker.row": shape.replicas,
        "worker.row_byte": shape.replicas * size,
        "broker.byte": (1 + shape.replicas) * size,
    }


def idle_second(shape: Shape, placed_shards: int = 0) -> Units:
    """A second in which nobody asks for anything."""
    shards = placed_shards or shape.spread
    followers = shape.workers + shape.gateways + shape.coordinators
    hears_members = shape.gateways + shape.coordinators
    heartbeats = HEARTBEATS_PER_S * shape.workers
    tails = shards * shape.replicas + shape.workers
    return {
        "gateway.second": shape.gateways,
        "worker.second": shape.workers,
        "coordinator.second": shape.coordinators,
        "coordinator.message": shape.coordinators * heartbeats,
        "broker.second": 1,
        "broker.message": BEATS_PER_S * (1 + followers)
        + heartbeats * (1 + hears_members)
        + IDLE_TAILS_PER_S * tails,
    }


def messages(units: Units) -> float:
    """What passes the broker, in and out."""
    return units.get("broker.message", 0.0) + units.get("broker.stored", 0.0)
