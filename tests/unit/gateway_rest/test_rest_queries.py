"""Options of queries over REST: what reaches the database, what is refused, what is answered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.gateway_rest.conftest import Rest
from vector_db.gateway.core.requests import Effort, Query, QueryResult
from vector_db.gateway.rest import answers

BASE = "/v1/collections/words"
TOLD: dict[str, Any] = {
    "snapshot_wait_us": 1.0, "scatter_gather_us": 2.0, "payload_us": 0.0, "coalesced": False,
    "workers": [
        {
            "worker": "w", "shards": [0], "round_trip_us": 1.5, "wait_us": 0.5,
            "estimate_us": 3.0, "pool": False, "run_us": 1.0, "score_us": 0.2, "recall": 0.95,
            "exact": False,
            "segments": [
                {
                    "name": "memory", "rows": 5, "matching": 5, "selectivity": 1.0, "index": None,
                    "method": "scan", "ef": 0, "nprobe": 0, "width": 2, "candidates": 2,
                    "cost_us": 9.0, "rejected": [{"method": "gather", "cost_us": 11.0}],
                    "filter_us": 0.1, "search_us": 0.7,
                }
            ],
        }
    ],
}  # fmt: skip


@pytest.fixture
async def asked(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> list[Query]:
    """The queries that reach the database, which answers as the real one where it is asked to."""
    await rest.ok("POST", "/v1/collections", {"name": "words", "dimension": 2})
    rows = [{"id": f"r{i}", "dimensions": [1, i]} for i in range(5)]
    await rest.ok("POST", BASE + "/vectors", {"vectors": rows})
    queries: list[Query] = []
    query = rest.database.query

    async def spy(given: Query) -> QueryResult:
        queries.append(given)
        result = await query(given)
        cursor = "next" if given.paged and given.k < 5 else None
        told = TOLD if given.explain else None
        return replace(result, paged=given.paged, cursor=cursor, explain=told)

    monkeypatch.setattr(rest.database, "query", spy)
    return queries


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, {"effort": Effort(), "k": 10, "page": False, "after": None, "explain": False}),
        ({"recall": 0.5}, {"effort": Effort(0.5)}),
        ({"recall": 1}, {"effort": Effort(exact=True)}),
        ({"exact": True}, {"effort": Effort(exact=True)}),
        ({"exact": False, "recall": 0.9}, {"effort": Effort(0.9)}),
        ({"ef": 65_536, "nprobe": 1}, {"effort": Effort(0.0, 65_536, 1)}),
        ({"recall": None, "ef": None, "radius": None, "after": None}, {"effort": Effort()}),
        ({"radius": 0.5}, {"radius": 0.5, "k": 1000, "paged": True}),
        ({"radius": 2, "k": 10}, {"radius": 2.0, "k": 10}),
        ({"radius": -3.5, "k": 10_000}, {"radius": -3.5, "k": 10_000}),
        ({"page": True}, {"page": True, "k": 10, "paged": True}),
        ({"after": "abc"}, {"after": "abc", "paged": True}),
        ({"explain": True}, {"explain": True, "paged": False}),
    ],
)
async def test_options_reach_the_database(
    rest: Rest, asked: list[Query], body: dict[str, Any], expected: dict[str, Any]
) -> None:
    answer = await rest.ok("POST", BASE + "/query", {"vector": [1, 1]} | body)
    answers.QueryAnswer.model_validate(answer)
    assert {name: getattr(asked[-1], name) for name in expected} == expected
    assert ("cursor" in answer) == asked[-1].paged
    assert ("explain" in answer) == asked[-1].explain


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"recall": 0.4}, "recall: must be from 0.5 to 0.999, or 1 (exact), not 0.4"),
        ({"recall": "high"}, "recall: "),
        ({"recall": True}, "recall: "),
        ({"ef": 0}, "ef: must be from 1 to 65536"),
        ({"ef": 65_537}, "ef: must be from 1 to 65536"),
        ({"ef": 1.5}, "ef: "),
        ({"nprobe": 65_537}, "nprobe: must be from 1 to 65536"),
        ({"exact": True, "recall": 0.9}, "exact: goes without recall, ef and nprobe"),
        ({"exact": True, "ef": 9}, "exact: goes without"),
        ({"exact": "yes"}, "exact: "),
        ({"recall": 1, "nprobe": 9}, "recall: 1 is exact"),
        ({"radius": 1, "min_similarity": 0.5}, "give only one of radius and min_similarity"),
        ({"radius": "near"}, "radius: "),
        ({"radius": 1, "k": 10_001}, "k: must be from 1 to 10000 (the limit k_max)"),
        ({"page": 1}, "page: "),
        ({"after": ""}, "after: must be 1 to 8192 characters"),
        ({"after": "x" * 8_193}, "after: must be 1 to 8192 characters"),
        ({"after": 5}, "after: "),
        ({"explain": "all"}, "explain: "),
    ],
)
async def test_options_that_make_no_sense_are_refused_by_name(
    rest: Rest, asked: list[Query], body: dict[str, Any], message: str
) -> None:
    assert message in await rest.refused(400, "POST", BASE + "/query", {"vector": [1, 1]} | body)
    assert not asked


async def test_a_batch_has_bounds_and_no_pages(rest: Rest, asked: list[Query]) -> None:
    batch: dict[str, Any] = {"vectors": [[1, 0], [0, 1]]}
    for given in ({"page": True}, {"after": "abc"}):
        message = await rest.refused(400, "POST", BASE + "/query", batch | given)
        assert "go with one query, not with a batch" in message
    many = {"vectors": [[1, 0]] * 101, "k": 10_000}
    message = await rest.refused(413, "POST", BASE + "/query", many)
    assert "1010000 hits, the limit hits_per_request_max is 1000000" in message
    assert not asked
    answer = await rest.ok("POST", BASE + "/query", batch | {"radius": 0.5, "explain": True})
    answers.BatchQueryAnswer.model_validate(answer)
    assert answer["explain"] == TOLD and "cursor" not in answer


async def test_a_cursor_is_answered_where_pages_were_asked_for(
    rest: Rest, asked: list[Query]
) -> None:
    first = await rest.ok("POST", BASE + "/query", {"vector": [1, 1], "k": 2, "page": True})
    assert first["cursor"] == "next"
    last = await rest.ok("POST", BASE + "/query", {"vector": [1, 1], "k": 9, "after": "next"})
    assert last["cursor"] is None


async def test_the_openapi_document_shows_options_and_plans(rest: Rest) -> None:
    schemas = (await rest.ok("GET", "/openapi.json"))["components"]["schemas"]
    given = schemas["QueryRequest"]["properties"]
    assert given["ef"]["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 65_536}
    assert {"recall", "nprobe", "exact", "radius", "page", "after", "explain"} <= set(given)
    assert {"cursor", "explain"} <= set(schemas["QueryAnswer"]["properties"])
    assert {"Explanation", "WorkerPlan", "SegmentPlan", "RejectedPlan"} <= set(schemas)
