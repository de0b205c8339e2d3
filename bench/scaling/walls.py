"""Where the design stops scaling: for each part that there is only one of, when it is full.

Owns nothing but arithmetic; what comes then is said in docs/scaling.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.scaling import work
from bench.scaling.capacity import Load, most, use_of
from bench.scaling.constants import Constants
from bench.scaling.queueing import Station, hedged, quantile, slowest_of
from bench.scaling.work import Shape

MESSAGE_BYTES_MAX = 8 * 1024 * 1024
"""A takeover record is one message of the broker."""
TRIM_PERIOD_S = 2.0
TRIM_CALLS = 2
"""Of the broker for each shard and round, one after another."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Transactions a second at which the busiest process of a kind takes a whole core."""

    gateway: float
    worker: float
    coordinator: float
    broker: float


def write_rates(shape: Shape, constants: Constants, participants: float = 1.0) -> Rates:
    """Of small transactions with so many participants."""
    load = Load(writes_per_s=1.0, participants=participants)
    return Rates(*(most(shape, load, constants, one) for one in
                   ("gateway", "worker", "coordinator", "broker")))  # fmt: skip


def query_rates(shape: Shape, constants: Constants) -> Rates:
    """Of single queries with metadata, many clients."""
    load = Load(queries_per_s=1.0)
    return Rates(*(most(shape, load, constants, one) for one in
                   ("gateway", "worker", "coordinator", "broker")))  # fmt: skip


def takeover_s(shards: int, constants: Constants) -> float:
    """Without an acknowledged write: a new term makes one stream after another."""
    return constants.takeover_s + shards * constants.stream_s


def shards_at_takeover_s(seconds: float, constants: Constants) -> float:
    """How many shards make a takeover take so long."""
    return max(0.0, (seconds - constants.takeover_s) / constants.stream_s)


def record_bytes(
    shards: int, replicas: int, collections: int, spread: int, constants: Constants
) -> float:
    """Of a takeover record without decisions: the placement and the whole catalog."""
    entry = constants.catalog_bytes + spread * constants.catalog_shard_bytes
    return shards * replicas * constants.placement_bytes + collections * entry


def collections_max(shards: int, replicas: int, spread: int, constants: Constants) -> float:
    """How many collections fill a takeover record."""
    entry = record_bytes(0, 0, 1, spread, constants)
    left = MESSAGE_BYTES_MAX - record_bytes(shards, replicas, 0, 0, constants)
    return max(0.0, left / entry)


def idle_cores(shape: Shape, constants: Constants) -> float:
    """Cores that a mesh takes while nobody asks for anything."""
    return use_of(shape, Load(), constants).total


def busy_messages_per_s(shape: Shape) -> float:
    """Beats and heartbeats that the broker passes on while writes come all the time."""
    followers = shape.workers + shape.gateways + shape.coordinators
    idle = work.messages(work.idle_second(shape))
    return idle + (work.BEATS_PER_S_MAX - work.BEATS_PER_S) * (1 + followers)


def tail_bytes(writes_per_s: float, away_s: float, constants: Constants) -> float:
    """Decisions that every worker keeps for one that is away so long."""
    return writes_per_s * away_s * constants.tail_bytes


def trim_part(shards: int, constants: Constants) -> float:
    """The part of its period that a round of trims takes; past 1 rounds follow each other."""
    return shards * TRIM_CALLS * constants.hop_s / TRIM_PERIOD_S


def slowest_s(requests: int, constants: Constants, service_s: float, hedges: bool) -> float:
    """p99 of the slowest of so many requests to idle workers."""
    cdf = Station(0.0, service_s, 1, constants.pause_s, constants.pause_share).cdf()
    return quantile(slowest_of(hedged(cdf) if hedges else cdf, requests), 0.99)
