"""How long a query or a transaction takes in a mesh of a size that nobody has here.

Owns the assumptions, each said at the line where it is made. A quantile of a chain is the sum of
the quantiles of its parts: too much for p99, never too little.
"""

from __future__ import annotations

from bench.scaling import work
from bench.scaling.capacity import Load, gateway_query_s, records_per_s, use_of
from bench.scaling.constants import Constants
from bench.scaling.queueing import Station, hedged, quantile, slowest_of
from bench.scaling.work import Shape


def search_s(shape: Shape, constants: Constants) -> float:
    """CPU of a worker for the shards of one request, without the request's own."""
    one, costs = work.query(shape), constants.costs
    units = ("worker.step", "worker.step_component", "worker.scanned_component")
    return sum(costs.get(u, 0.0) * one.get(u, 0.0) for u in units) / shape.routes


def query_s(shape: Shape, load: Load, constants: Constants, q: float) -> float:
    """Quantile `q` of a single query with metadata, at the gateway's edge.

    :raises Saturated: more is asked than the mesh does.
    """
    rounds = work.rounds(shape)
    # A gateway is one event loop: what a fan-out sends and gets passes it one after another.
    gateway = Station(load.queries_per_s, gateway_query_s(shape, constants), shape.gateways)
    # Searches and fetches wait in one line before one loop; their mean is its service time. What
    # the worker does for writes takes its share of the loop.
    writes = use_of(shape, Load(writes_per_s=load.writes_per_s), constants).busiest("worker")
    ask = constants.costs.get("worker.ask", 0.0)
    mean = (search_s(shape, constants) / rounds + ask) / max(1e-3, 1 - writes)
    asks_per_s = load.queries_per_s * shape.routes * rounds / shape.workers
    worker = Station(asks_per_s, mean, 1, constants.pause_s, constants.pause_share).cdf()
    if shape.replicas > 1:
        worker = hedged(worker)
    a_round = constants.hop_s + quantile(slowest_of(worker, shape.routes), q)
    return quantile(gateway.cdf(), q) + rounds * a_round


def write_s(shape: Shape, load: Load, constants: Constants, q: float) -> float:
    """Quantile `q` of a transaction of a few rows, acknowledged.

    :raises Saturated: the sequencer, a gateway or the workers cannot follow.
    """
    costs = constants.costs
    use = use_of(shape, load, constants)
    votes = load.participants * shape.replicas
    total = constants.write_s
    total += (load.participants - 1) * costs.get("gateway.prepare", 0.0)
    total += (votes - 1) * costs.get("coordinator.message", 0.0)
    # Vote and decision: two fsyncs, each of the slowest participant. With three replicas the
    # second of three counts, taken for as slow as one alone.
    sync = Station(0.0, 0.0, 1, constants.pause_s, constants.pause_share).cdf()
    total += 2 * quantile(slowest_of(sync, load.participants), q)
    # A decision waits for the record before it: up to a period, when they come one after another.
    records = records_per_s(shape, load, constants)
    if records < load.writes_per_s:
        total += q / records
    # Five times a message meets a loop at work on something else.
    for process, passes in (("gateway", 1), ("worker", 2), ("coordinator", 2)):
        loop = Station(use.busiest(process) / constants.turn_s, constants.turn_s)
        total += passes * (quantile(loop.cdf(), q) - constants.turn_s)
    return total
