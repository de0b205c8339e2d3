"""The scaling model agrees with what can be worked out by hand, and grows where it must."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest

from bench.scaling import work
from bench.scaling.capacity import Load, bytes_of, most, records_per_s, use_of
from bench.scaling.constants import MEASURED, Constants
from bench.scaling.fit import Line, solve
from bench.scaling.latency import query_s, write_s
from bench.scaling.queueing import Saturated, Station, hedged, must_wait, quantile, slowest_of
from bench.scaling.walls import (
    collections_max,
    query_rates,
    record_bytes,
    shards_at_takeover_s,
    takeover_s,
    write_rates,
)
from bench.scaling.work import Shape
from vector_db.common.core.placement import place_collection

MILLION = 1_000_000
CONSTANTS = replace(
    MEASURED,
    costs={
        "gateway.query": 200e-6, "gateway.ask": 100e-6, "gateway.txn": 300e-6,
        "worker.ask": 150e-6, "worker.step": 5e-6, "worker.prepare": 150e-6,
        "worker.commit": 10e-6, "worker.record": 100e-6,
        "coordinator.message": 50e-6,  "broker.message": 10e-6,
    },
    hop_s=0.0005, write_s=0.002, records_per_s=300.0,
)  # fmt: skip


# --- queueing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [0.1, 0.5, 0.9])
def test_one_server_is_found_busy_as_often_as_it_is(load: float) -> None:
    assert must_wait(load, 1) == pytest.approx(load)


def test_two_servers_wait_as_erlang_says() -> None:
    # C(2, 1) = 1/3: two servers, one server's work.
    assert must_wait(1.0, 2) == pytest.approx(1 / 3)


def test_more_work_than_servers_is_refused() -> None:
    with pytest.raises(Saturated):
        must_wait(2.0, 2)


def test_an_idle_station_takes_its_service_time() -> None:
    assert quantile(Station(0.0, 0.003).cdf(), 0.99) == pytest.approx(0.003, rel=1e-4)


def test_waits_of_one_server_are_exponential() -> None:
    # M/M/1 at 50 %: P(wait > t) = 0.5 exp(-500 t) with 1,000 served a second.
    found = quantile(Station(500.0, 0.001).cdf(), 0.99)
    assert found == pytest.approx(0.001 + math.log(50) / 500, rel=1e-3)


def test_the_slowest_of_many_meets_the_rare_pause() -> None:
    cdf = Station(0.0, 0.001, 1, pause_s=0.01, pause_share=0.005).cdf()
    assert quantile(cdf, 0.99) == pytest.approx(0.001, rel=1e-3)
    assert quantile(slowest_of(cdf, 100), 0.99) == pytest.approx(0.011, rel=1e-3)


def test_a_hedge_cuts_the_tail_to_its_delay_and_an_answer() -> None:
    cdf = Station(0.0, 0.001, 1, pause_s=1.0, pause_share=0.02).cdf()
    assert quantile(hedged(cdf), 0.99) == pytest.approx(0.006, rel=1e-3)
    assert quantile(hedged(cdf), 0.5) == pytest.approx(0.001, rel=1e-3)


# --- counts -----------------------------------------------------------------------------------


def test_messages_of_a_transaction_are_those_of_the_protocol() -> None:
    """One worker: PREPARE (in, out), vote (2), record (in, out, ack), durable (2), outcome (2),
    beat (in, and out to worker, gateway and coordinator)."""
    assert work.messages(work.transaction(Shape())) == 2 + 2 + 3 + 2 + 2 + 4


def test_each_replica_and_participant_adds_its_own_messages() -> None:
    base = work.messages(work.transaction(Shape(3, 1)))
    one_replica_more = work.messages(work.transaction(Shape(3, 2)))
    assert one_replica_more - base == 3, "a PREPARE delivered, a vote in and out"
    assert work.messages(work.transaction(Shape(3, 1), 2)) - base == 4, "and a PREPARE stored"


def test_every_worker_follows_every_record() -> None:
    few, many = (work.messages(work.transaction(Shape(n))) for n in (10, 11))
    assert many - few == 4, "the record, the beat, a durable cursor in and out"


@pytest.mark.parametrize(("workers", "replicas", "routes"), [(1, 1, 1), (8, 1, 8), (3, 3, 1)])
def test_a_query_asks_once_for_each_set_of_replicas(
    workers: int, replicas: int, routes: float
) -> None:
    shape = Shape(workers, replicas, MILLION)
    assert shape.routes == pytest.approx(routes)
    asks = routes if routes == 1 else 2 * routes
    assert work.messages(work.query(shape)) == pytest.approx(4 * asks)


def test_sets_of_replicas_meet_by_chance() -> None:
    assert 90 < Shape(100, 3).routes < 100
    # Ten shards on ten pairs of five workers: 10 (1 - 0.9^10).
    assert Shape(5, 2, shards=10).routes == pytest.approx(10 * (1 - 0.9**10))


def test_replicas_need_as_many_workers() -> None:
    with pytest.raises(ValueError, match="3 replicas on 2"):
        Shape(2, 3)


@pytest.mark.parametrize(("workers", "shards"), [(24, 24), (24, 8), (100, 100), (100, 33)])
def test_the_product_places_as_the_model_assumes(workers: int, shards: int) -> None:
    zones = {f"w{n}": f"z{n % 3}" for n in range(workers)}
    chosen, placement = place_collection("documents", shards, workers, {}, zones, 3)
    sets = {tuple(sorted(placement[shard])) for shard in chosen}
    assert len(sets) == pytest.approx(Shape(workers, 3, shards=shards).routes, rel=0.02)
    held = Counter(one for shard in chosen for one in placement[shard])
    assert max(held.values()) <= math.ceil(3 * shards / workers) + 1


# --- bytes ------------------------------------------------------------------------------------


def test_bytes_of_a_worker_by_hand() -> None:
    """128 dimensions: 256 of float16, links of 32 + 16/15, a node of 12; rows of 4 x 128 + 4."""
    constants = replace(CONSTANTS, process_bytes=0.0)
    found = bytes_of(Shape(rows=MILLION), constants, payload_bytes=60)
    index = 256 + 4 * (32 + 16 / 15) + 12
    assert found.memory == pytest.approx(MILLION * (index + 3) + 256e6, rel=1e-6)
    assert found.cache == pytest.approx(MILLION * (512 + 4 + 40 + 3 + 60), rel=1e-6)
    assert found.disk == pytest.approx(MILLION * index + found.cache + 512e6, rel=1e-6)


def test_bytes_fall_with_workers_and_grow_with_replicas() -> None:
    constants = replace(CONSTANTS, process_bytes=0.0)
    disks = [
        bytes_of(Shape(w, r, 100 * MILLION), constants).disk
        for w, r in ((10, 1), (10, 3), (30, 3), (100, 3))
    ]
    assert disks[0] < disks[1] and disks[1] > disks[2] > disks[3]
    assert disks[2] == pytest.approx(disks[0])


# --- rates and latencies ----------------------------------------------------------------------


def test_the_sequencer_is_full_when_votes_and_cursors_fill_a_core() -> None:
    """By 20 records a second, which are the least: 3 votes each, and 10 cursors a record."""
    shape = Shape(10, 3)
    left = 1 - use_of(shape, Load(), CONSTANTS).busiest("coordinator")
    expected = (left - 20 * 10 * 50e-6) / (3 * 50e-6)
    assert write_rates(shape, CONSTANTS).coordinator == pytest.approx(expected, rel=1e-3)


def test_a_busy_sequencer_puts_more_decisions_into_a_record() -> None:
    def rate(workers: int, writes_per_s: float) -> float:
        return records_per_s(Shape(workers, 3), Load(writes_per_s=writes_per_s), CONSTANTS)

    assert rate(10, 50.0) == 50.0, "one each"
    assert rate(10, 500.0) == 300.0, "as many as it writes"
    # 0.9 of a core less 3 x 1,000 votes, for 100 cursors a record.
    assert rate(100, 1_000.0) == pytest.approx((0.9 - 0.15) / 0.005)
    assert rate(100, 9_000.0) == 20.0


def test_more_workers_or_replicas_never_raise_what_the_sequencer_does() -> None:
    rates = [
        write_rates(Shape(w, r), CONSTANTS).coordinator
        for w, r in ((1, 1), (10, 1), (10, 3), (50, 3))
    ]
    assert rates == sorted(rates, reverse=True)


def test_a_mesh_that_is_full_when_idle_does_nothing() -> None:
    load, heavy = Load(writes_per_s=1.0), replace(CONSTANTS, costs={"worker.second": 1.0})
    assert most(Shape(), load, heavy, "worker") == 0.0


def test_gateways_are_full_sooner_the_more_a_query_scatters() -> None:
    rates = [query_rates(Shape(w, 1, MILLION), CONSTANTS).gateway for w in (1, 4, 16)]
    assert rates == sorted(rates, reverse=True)


def test_fewer_shards_than_workers_make_queries_cheaper() -> None:
    wide = Shape(30, 3, 100 * MILLION, gateways=10)
    assert (
        query_rates(replace(wide, shards=10), CONSTANTS).worker
        > query_rates(wide, CONSTANTS).worker
    )


def test_latency_grows_with_load_fan_out_and_quantile() -> None:
    small, large = Shape(4, 1, MILLION, gateways=4), Shape(64, 1, 16 * MILLION, gateways=4)
    quiet, busy = Load(queries_per_s=1.0), Load(queries_per_s=2_000.0)
    p50, p99 = (query_s(small, quiet, CONSTANTS, q) for q in (0.5, 0.99))
    assert p50 < p99 < query_s(small, busy, CONSTANTS, 0.99)
    assert p99 < query_s(large, quiet, CONSTANTS, 0.99)
    assert query_s(small, quiet, CONSTANTS, 0.5) > CONSTANTS.hop_s


def test_a_query_beyond_what_the_gateway_does_is_refused() -> None:
    with pytest.raises(Saturated):
        query_s(Shape(16, 1, MILLION), Load(queries_per_s=5_000.0), CONSTANTS, 0.5)


def test_a_lone_write_takes_what_was_measured() -> None:
    load, calm = Load(writes_per_s=0.001), replace(CONSTANTS, pause_share=0.0)
    assert write_s(Shape(), load, calm, 0.5) == pytest.approx(CONSTANTS.write_s, rel=0.05)
    assert write_s(Shape(4), replace(load, participants=4), calm, 0.5) > CONSTANTS.write_s


# --- walls and the fit ------------------------------------------------------------------------


def test_streams_and_records_by_hand() -> None:
    constants = replace(CONSTANTS, takeover_s=2.0, stream_s=0.004, placement_bytes=40.0)
    assert takeover_s(1_000, constants) == pytest.approx(6.0)
    assert shards_at_takeover_s(6.0, constants) == pytest.approx(1_000)
    assert record_bytes(100, 3, 0, 1, constants) == 12_000
    assert collections_max(100, 3, 10, constants) > collections_max(100, 3, 100, constants) > 0


def test_costs_that_were_mixed_are_found_again() -> None:
    mixed = [(10.0, 1.0), (1.0, 10.0), (5.0, 5.0)]
    lines = [Line({"x": x, "y": y}, 0.2 * x + 0.3 * y) for x, y in mixed]
    assert solve(lines) == pytest.approx({"x": 0.2, "y": 0.3}, rel=1e-3)


def test_no_cost_is_negative() -> None:
    lines = [Line({"x": 1.0, "y": 1.0}, 1.0), Line({"x": 1.0, "y": 2.0}, 0.5)]
    assert min(solve(lines).values()) == 0.0


def test_the_documented_constants_cover_every_unit() -> None:
    def units(constants: Constants) -> set[str]:
        shape = Shape(2, 1, MILLION)
        return set(
            work.plus(
                work.query(shape), work.transaction(shape), work.bulk_row(shape, 1.0),
                work.idle_second(shape),
            )
        )  # fmt: skip

    assert units(MEASURED) <= set(MEASURED.costs)
