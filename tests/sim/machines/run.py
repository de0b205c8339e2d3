"""One seed of the machines, from its beginning to its verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import xxhash

from tests.sim.machines.checks import Report, check
from tests.sim.machines.world import Flags, Shape, World

STEPS = 1500
ONE_REPLICA = Shape(workers=2, shards=3, replication=1)
THREE_REPLICAS = Shape(workers=3, shards=2, replication=3)
FIVE_WORKERS = Shape(workers=5, shards=3, replication=3)
SHAPES = (ONE_REPLICA, THREE_REPLICAS, FIVE_WORKERS)


def run(
    seed: int,
    shape: Shape | None = None,
    flags: Flags | None = None,
    watch: Callable[[World], None] | None = None,
) -> Report:
    """The report of a seed; without a shape the seed chooses it.

    :param watch: called with the world after every step, for whoever looks for the cause.
    """
    shape = SHAPES[seed % len(SHAPES)] if shape is None else shape
    world = World(seed, shape, replace(flags) if flags is not None else None)
    for _ in range(STEPS):
        world.step()
        if watch is not None:
            watch(world)
    world.settle()
    report = check(world, world.probe())
    report.seed = seed
    told = [(t.txn_id, t.told and t.told.commit_ts) for t in world.transactions.values()]
    report.digest = xxhash.xxh3_64_hexdigest(repr((told, world.reads)).encode())
    return report
