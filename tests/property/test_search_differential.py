"""Random lives of a store: every answer is what an exact search of a dictionary of its rows says.

Exact searches, counts and scrolls must agree to the bit of their order; searches by an index may
miss rows, as many as the recall target of their collection allows, but whatever they answer is a
visible, matching row with its right similarity in its right place.

`VECTOR_DB_TEST_SEQUENCES` sets how many lives there are; `VECTOR_DB_TEST_FIRST` the seed of the
first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from tests.property.world import COLLECTION_ID, FILTERS, SHARDS, Counts, Document, Row, World
from tests.unit.shard_search.segments import unpack
from vector_db.common.core.messages.reads import FetchRequest, ScrollRequest, SearchRequest
from vector_db.common.model.collection import IndexKind, Metric
from vector_db.common.model.filters import Filter, parse_filter
from vector_db.common.model.limits import Limits
from vector_db.common.model.rows import F32, Blob
from vector_db.shard.core import index_choice, planner
from vector_db.shard.core.planner import Method, Plan, Walk
from vector_db.shard.index import ivf
from vector_db.shard.search import candidates as candidates_module
from vector_db.shard.search import executor
from vector_db.shard.search.ranking import Pairs

SEQUENCES = int(os.environ.get("VECTOR_DB_TEST_SEQUENCES", "60"))
FIRST = int(os.environ.get("VECTOR_DB_TEST_FIRST", "1"))
STEPS = 60
Hits = list[tuple[bytes, float]]


def exact(world: World, rows: dict[bytes, Row], query: F32) -> tuple[Hits, dict[bytes, float]]:
    """All of `rows`, best first, and the similarity of each."""
    if not rows:
        return [], {}
    ids = list(rows)
    x = world.vectors[[number for _, number in rows.values()]].astype(np.float64)
    q = query.astype(np.float64)
    scores: NDArray[np.float64]
    match world.metric:
        case Metric.COSINE:
            scores = (x * q).sum(axis=1) / np.sqrt((x * x).sum(axis=1) * (q * q).sum())
        case Metric.DOT:
            scores = (x * q).sum(axis=1)
        case Metric.EUCLIDEAN:
            scores = 1 / (1 + np.sqrt(((x - q) ** 2).sum(axis=1)))
    known = dict(zip(ids, scores.tolist(), strict=True))
    return sorted(known.items(), key=lambda hit: (-hit[1], hit[0])), known


def matching(
    world: World, ts: int
) -> tuple[dict[bytes, Row], dict[bytes, Row], Document, Filter | None]:
    """All visible rows, those that match a random filter, and the filter."""
    rows = world.visible(ts)
    if world.rng.random() < 0.5:
        return rows, rows, {}, None
    document, fits = world.rng.choice(FILTERS)
    matched = {i: row for i, row in rows.items() if fits(world.documents[row[1]])}
    return rows, matched, document, parse_filter(document, Limits())


def search(world: World) -> None:
    """Single or batch, exact or not, now or in the past, with or without a filter."""
    rng, ts = world.rng, world.snapshot()
    _, rows, document, parsed = matching(world, ts)
    nq, k = rng.choice([1, 1, 3, 8]), rng.choice([1, 10, 10, 60])
    picked = [rng.randrange(len(world.texts)) for _ in range(2 * nq)]
    queries = (world.vectors[picked[:nq]] + 0.3 * world.vectors[picked[nq:]]).astype(np.float32)
    only_exact = rng.random() < 0.3
    request = SearchRequest(
        COLLECTION_ID, SHARDS, ts, queries.tobytes(), k,
        filter=orjson.dumps(document) if document else b"",
        recall=world.target, exact=only_exact,
    )  # fmt: skip
    views = world.store.views(COLLECTION_ID, SHARDS, ts)
    before = world.counts.done["walks"]
    reply = executor.search(views, world.metric, world.dimension, request, parsed)
    walked = world.counts.done["walks"] > before
    kinds = {v.index.kind for v in views if v.index is not None}
    assert not (walked and only_exact)
    world.counts.done["searches"] += 1
    for query, hits in zip(queries, unpack(reply), strict=True):
        ranked, known = exact(world, rows, query)
        if not walked:
            assert [i for i, _ in hits] == [i for i, _ in ranked[:k]]
        assert len(hits) == min(k, len(rows)), "as many as there are"
        assert len({i for i, _ in hits}) == len(hits)
        assert [s for _, s in hits] == pytest.approx([known[i] for i, _ in hits], rel=1e-9)
        assert hits == sorted(hits, key=lambda hit: (-hit[1], hit[0]))
        if walked and ranked:
            bar = ranked[: len(hits)][-1][1]
            found = sum(score >= bar - 1e-12 for _, score in hits)
            kind = "both" if len(kinds) > 1 else next(iter(kinds)).value
            for name in (kind, f"target {world.target}"):
                world.counts.found[name] += found
                world.counts.of[name] += len(hits)


def read(world: World) -> None:
    """Fetch, count and scroll."""
    rng, ts, store = world.rng, world.snapshot(), world.store
    rows, matched, _, parsed = matching(world, ts)
    asked = rng.sample(world.ids, 40)
    reply = store.fetch(FetchRequest(COLLECTION_ID, SHARDS, ts, Blob.pack(asked)))
    there = [i for i in asked if i in rows]
    assert reply.ids.unpack() == there
    assert np.frombuffer(reply.versions, "<i8").tolist() == [rows[i][0] for i in there]
    numbers = [rows[i][1] for i in there]
    assert bytes(reply.vectors) == world.vectors[numbers].tobytes()
    assert reply.metadata.unpack() == [world.texts[n] for n in numbers]
    assert store.count_all(COLLECTION_ID, SHARDS, ts) == len(rows)
    views = store.views(COLLECTION_ID, SHARDS, ts)
    assert executor.count(views, parsed) == len(matched)
    mask = None if parsed is None else lambda view: view.columns.mask(parsed, view.rows)
    seen: list[bytes] = []
    while True:
        after = seen[-1] if seen else b""
        page = store.scroll(ScrollRequest(COLLECTION_ID, SHARDS, ts, 97, after), mask)
        if not len(page.ids):
            break
        seen += page.ids.unpack()
    assert seen == sorted(matched)
    world.counts.done["reads"] += 1


def live(seed: int, counts: Counts) -> None:
    """One sequence."""
    world = World(seed, counts)
    steps: dict[Callable[[], Any], int] = {
        world.write: 18,
        world.seal: 6,
        world.start_index: 14 if world.large else 7,
        world.start_merge: 5,
        world.finish_job: 14 if world.large else 9,
        world.checkpoint: 2,
        world.crash: 1,
        lambda: search(world): 14,
        lambda: read(world): 3,
    }
    try:
        for step in world.rng.choices(list(steps), weights=list(steps.values()), k=STEPS):
            step()
            counts.done["operations"] += 1
        while world.jobs:
            world.finish_job()
        search(world)
        read(world)
    except BaseException as error:
        error.add_note(f"sequence {seed}: replay with VECTOR_DB_TEST_FIRST={seed}")
        raise
    finally:
        world.close()


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """With lists on few rows, and walks wherever there is an index."""
    counts = Counts()

    def prefer_walks(*, walk: Walk | None, matching: int, k: int, **rest: Any) -> Plan:
        if walk is None or matching <= k:
            return planner.plan(walk=None, matching=matching, k=k, **rest)
        return Plan(Method.INDEX, walk.effort, 1.0)

    walk_index = candidates_module._from_index

    def counted(*args: Any) -> Pairs:
        counts.done["walks"] += 1  # not where it is planned: views remember their plans
        return walk_index(*args)

    monkeypatch.setattr(candidates_module, "plan", prefer_walks)
    monkeypatch.setattr(candidates_module, "_from_index", counted)
    monkeypatch.setattr(ivf, "ROWS_MIN", 64)
    monkeypatch.setattr(index_choice, "IVF_ROWS_MIN", 64)
    return counts


def test_random_lives_answer_as_a_dictionary_does(
    counts: Counts, capfd: pytest.CaptureFixture[str]
) -> None:
    for seed in range(FIRST, FIRST + SEQUENCES):
        live(seed, counts)
    done = ", ".join(f"{n:,} {what}" for what, n in sorted(counts.done.items()))
    recalls = ", ".join(f"{kind} {counts.recall(kind):.4f}" for kind in sorted(counts.of))
    with capfd.disabled():
        print(f"\n{SEQUENCES:,} sequences: {done}; recall: {recalls}")
    for what in ("walks", "merges", "graphs extended", "rows dropped", "indexes", "restarts"):
        assert counts.done[what] or SEQUENCES < 20, what
    if SEQUENCES >= 20:
        assert {IndexKind.HNSW.value, IndexKind.IVF_PQ.value} <= set(counts.of)
        for target in (0.9, 0.95, 0.98):
            assert counts.recall(f"target {target}") >= target
