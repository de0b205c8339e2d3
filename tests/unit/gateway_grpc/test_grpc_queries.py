"""Options of queries over gRPC: what reaches the database, what is refused, what is answered."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest

from tests.unit.gateway_grpc.memory_database import MemoryDatabase
from vector_db.gateway.core.requests import Effort, Query, QueryResult
from vector_db.v1 import vector_db_pb2 as pb

VECTOR = np.ones(2, dtype="<f4").tobytes()


def query(**options: Any) -> Any:
    return pb.QuerySimilarRequest(**{"collection": "things", "vectors": [VECTOR], **options})


@pytest.fixture
async def asked(
    stub: Any, database: MemoryDatabase, monkeypatch: pytest.MonkeyPatch
) -> list[Query]:
    """The queries that reach the database, which answers as the real one where it is asked to."""
    await stub.CreateCollection(pb.CreateCollectionRequest(name="things", dimension=2))
    queries: list[Query] = []
    real = database.query

    async def spy(given: Query) -> QueryResult:
        queries.append(given)
        told = {"coalesced": False} if given.explain else None
        cursor = "next" if given.page else None
        return replace(await real(given), paged=given.paged, cursor=cursor, explain=told)

    monkeypatch.setattr(database, "query", spy)
    return queries


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"effort": Effort(), "k": 10, "paged": False, "after": None}),
        ({"recall": 0.999}, {"effort": Effort(0.999)}),
        ({"recall": 1.0}, {"effort": Effort(exact=True)}),
        ({"exact": True}, {"effort": Effort(exact=True)}),
        ({"ef": 64, "nprobe": 8}, {"effort": Effort(0.0, 64, 8)}),
        ({"radius": 0.5}, {"radius": 0.5, "k": 100, "paged": True}),  # k_max here is 100
        ({"radius": 0.0, "k": 7}, {"radius": 0.0, "k": 7}),
        ({"page": True}, {"page": True}),
        ({"after": "abc"}, {"after": "abc", "paged": True}),
        ({"explain": True}, {"explain": True}),
    ],
)
async def test_options_reach_the_database(
    stub: Any, asked: list[Query], options: dict[str, Any], expected: dict[str, Any]
) -> None:
    answer = await stub.QuerySimilar(query(**options))
    assert {name: getattr(asked[-1], name) for name in expected} == expected
    assert answer.cursor == ("next" if options.get("page") else "")
    assert bool(answer.explain) == asked[-1].explain
    assert not answer.explain or json.loads(answer.explain) == {"coalesced": False}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recall": 0.0}, "recall: must be from 0.5"),
        ({"recall": float("nan")}, "recall: must be from 0.5"),
        ({"ef": 0}, "ef: must be from 1 to 65536"),
        ({"nprobe": 65_537}, "nprobe: must be from 1 to 65536"),
        ({"exact": True, "nprobe": 1}, "exact: goes without"),
        ({"radius": float("inf")}, "radius: must be a finite number"),
        ({"radius": 1.0, "min_similarity": 0.0}, "only one of radius and min_similarity"),
        ({"after": "x" * 8_193}, "after: must be 1 to 8192"),
        ({"vectors": [VECTOR] * 2, "page": True}, "not with a batch"),
        ({"vectors": [VECTOR] * 2, "after": "abc"}, "not with a batch"),
    ],
)
async def test_options_that_make_no_sense_are_refused_by_name(
    stub: Any, asked: list[Query], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=message) as refused:
        await stub.QuerySimilar(query(**options))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not asked
