"""The meshes that are measured: the model is fitted on one and two workers, and judged on others.

Owns the separation: what `FITTED` gave is all that the fit sees.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bench.common import OUT
from bench.generate import QueryStream
from bench.scaling.mesh import CountedMesh, counted_mesh
from bench.scaling.observe import CLIENTS, Observation, Observer, drawn, first_rows
from bench.scaling.work import Shape

SCANNED_ROWS = 1_000
"""On each shard of the meshes: rows without a graph, so that nothing is built beside."""
GRAPH_ROWS = (12_000, 40_000)
WIDE_ROWS = 12_000
QUERIES = 300
QUERIES_AT_ONCE = 1_500
WRITES = 200
WRITES_AT_ONCE = 1_000
ROUNDS = 3
SEED = 1


def scanned(workers: int, replicas: int) -> Shape:
    """A mesh with a collection that is small enough to be scanned."""
    return Shape(workers, replicas, SCANNED_ROWS * workers, graphs=False)


FITTED = (scanned(1, 1), scanned(2, 1))
JUDGED = (scanned(4, 1), scanned(3, 3))


@asynccontextmanager
async def _running(shape: Shape) -> AsyncIterator[CountedMesh]:
    OUT.mkdir(parents=True, exist_ok=True)
    # Beside the repository and not in /tmp, which may be memory: fsync must mean something.
    with tempfile.TemporaryDirectory(prefix="run-", dir=OUT) as folder:
        async with counted_mesh(Path(folder), shape.workers, shape.replicas) as mesh:
            yield mesh


async def _settled(rounds: int, *kinds: Callable[[], Awaitable[Observation]]) -> list[Observation]:
    """Each kind of work in turn, so many times; of each the observation of median CPU."""
    taken = [[await kind() for kind in kinds] for _ in range(rounds)]
    return [
        sorted(same, key=lambda one: sum(one.cpu_s.values()) / one.count)[rounds // 2]
        for same in zip(*taken, strict=True)
    ]


async def _reads(
    one: Observer, shape: Shape, stream: QueryStream | None = None
) -> list[Observation]:
    stream = stream or QueryStream(drawn(shape.dimension, SEED))
    await one.queries(stream.take(100), 1)
    return await _settled(
        ROUNDS,
        lambda: one.queries(stream.take(QUERIES), 1),
        lambda: one.queries(stream.take(QUERIES_AT_ONCE), CLIENTS),
    )


async def protocol(shape: Shape) -> list[Observation]:
    """Idling, queries and transactions of one mesh."""
    async with _running(shape) as mesh:
        one = Observer(mesh, shape, "scaling")
        await one.create()
        found = [await one.bulk(first_rows(drawn(shape.dimension, SEED), shape.rows))]
        found += [await one.idle(), *await _reads(one, shape)]
        for parts in sorted({1, len(one.shards)}):
            found += await _settled(
                ROUNDS,
                functools.partial(one.transactions, WRITES, 1, parts),
                functools.partial(one.transactions, WRITES_AT_ONCE, CLIENTS, parts),
            )
    return found


async def graphs(sizes: Sequence[int] = GRAPH_ROWS, dimension: int = 128) -> list[Observation]:
    """Loads, builds and searches of one worker's graphs, growing from size to size."""
    found: list[Observation] = []
    async with _running(Shape()) as mesh:
        spectrum, stream = drawn(dimension, SEED), QueryStream(drawn(dimension, SEED))
        one = Observer(mesh, Shape(dimension=dimension), "graphs")
        await one.create()
        rows = first_rows(spectrum, sizes[-1])
        loaded = 0
        for size in sizes:
            one.shape = Shape(rows=size, dimension=dimension)
            found.append(await one.bulk(rows[loaded:size]))
            found.append(await one.settle())
            found += await _reads(one, one.shape, stream)
            loaded = size
    return found
