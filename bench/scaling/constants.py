"""What the model is fed: costs of units of work, and what a machine and its broker take for a few
things that happen once.

`MEASURED` is what `python -m bench.scaling` found on the machine that docs/scaling.md names; a run
prints what it finds beside it, and `--own` predicts by that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

US = 1e-6


@dataclass(frozen=True, slots=True)
class Constants:
    """Seconds are CPU seconds in `costs`, and seconds of an idle machine elsewhere."""

    costs: Mapping[str, float]
    """``process.unit`` (see `work`) → CPU seconds."""
    hop_s: float
    """A request over the broker and back, without the work of gateway and worker."""
    write_s: float
    """An acknowledged write of one row when nothing else happens, two fsyncs in series."""
    records_per_s: float
    """Decision records that a sequencer writes when transactions wait for one."""
    pause_s: float = 0.02
    pause_share: float = 0.01
    """Of a worker's answers, so many come so much later: builds, fsyncs, page faults, collection
    of garbage. To be measured where it matters: it decides what fan-out does to p99."""
    turn_s: float = 0.0005
    """A turn of a busy event loop: what a message waits for when one is under way."""
    build_row_s: float = 0.0006
    """Of the builders of one replica, for a row of 128 dimensions, merges included."""
    together: float = 4.0
    """Searches that share a request when many clients ask."""
    stream_s: float = 0.001
    """To make one stream at a takeover; they are made one after another."""
    stream_bytes: float = 60_000.0
    """Of the broker's memory, for each stream that somebody follows."""
    takeover_s: float = 3.0
    """Without an acknowledged write after the leading coordinator was killed, few shards."""
    copy_s_per_byte: float = 1 / 50e6
    """Of a replica that moves to another worker."""
    process_bytes: float = 110e6
    """Memory of an empty shard worker."""
    placement_bytes: float = 38.0
    """For each replica in a placement record; and of a collection's catalog entry, without and
    for each of its shards."""
    catalog_bytes: float = 150.0
    catalog_shard_bytes: float = 2.0
    tail_bytes: float = 70.0
    """For each commit that a worker remembers for one that is away."""


MEASURED = Constants(
    costs=MappingProxyType(
        {
            "broker.byte": 0.002102 * US,
            "broker.message": 20.93 * US,
            "broker.second": 7200 * US,
            "broker.stored": 18.47 * US,
            "broker.wake": 92.06 * US,
            "coordinator.commit": 1.43 * US,
            "coordinator.message": 10.75 * US,
            "coordinator.record": 699.1 * US,
            "coordinator.second": 1.05e04 * US,
            "gateway.ask": 86.89 * US,
            "gateway.prepare": 0 * US,
            "gateway.query": 237.2 * US,
            "gateway.row": 4.045 * US,
            "gateway.row_byte": 0.003063 * US,
            "gateway.second": 3390 * US,
            "gateway.txn": 396.7 * US,
            "gateway.wake": 242.8 * US,
            "worker.ask": 79.67 * US,
            "worker.commit": 0 * US,
            "worker.prepare": 109.2 * US,
            "worker.record": 800.6 * US,
            "worker.row": 2.712 * US,
            "worker.row_byte": 0.002436 * US,
            "worker.scanned_component": 0.0008122 * US,
            "worker.second": 7532 * US,
            "worker.step": 1.729 * US,
            "worker.step_component": 0.04812 * US,
            "worker.wake": 188.5 * US,
        }
    ),
    # The architecture's figure of a request and its reply; a lone write in a quiet moment.
    hop_s=0.00043,
    write_s=0.0027,
    records_per_s=300.0,
    build_row_s=0.00055,
    together=6.0,
    stream_s=0.0025,
    stream_bytes=127_000.0,
    takeover_s=2.2,
    copy_s_per_byte=1.4e-8,
    placement_bytes=39.3,
    catalog_bytes=166.0,
    catalog_shard_bytes=1.02,
    tail_bytes=75.0,
)
