"""Options of collections and aliases over gRPC."""

from __future__ import annotations

import math
from typing import Any

import grpc
import pytest

from tests.unit.gateway_grpc.test_grpc_calls import fill, packed
from vector_db.v1 import vector_db_pb2 as pb


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


def aliases(**changes: str) -> pb.UpdateAliasesRequest:
    given = [pb.AliasChange(alias=a, collection=c) for a, c in changes.items()]
    return pb.UpdateAliasesRequest(changes=given)


async def test_options_are_set_shown_and_changed_in_part(stub: Any) -> None:
    made = await stub.CreateCollection(
        pb.CreateCollectionRequest(
            name="a",
            dimension=2,
            index=pb.IndexOptions(kind=pb.INDEX_KIND_HNSW, m=32),
            recall_target=0.9,
            fields=["lang"],
        )
    )
    assert (made.index.kind, made.index.encoding) == (pb.INDEX_KIND_HNSW, pb.ENCODING_AUTO)
    assert (made.index.m, made.index.ef_construction, made.index.lists) == (32, 128, 0)
    assert (made.recall_target, list(made.fields)) == (0.9, ["lang"])
    index = pb.IndexOptions(encoding=pb.ENCODING_SQ8, lists=0)
    changed = await stub.AlterCollection(pb.AlterCollectionRequest(name="a", index=index))
    assert (changed.index.kind, changed.index.encoding) == (pb.INDEX_KIND_HNSW, pb.ENCODING_SQ8)
    assert (changed.index.m, changed.recall_target) == (32, 0.9)
    nothing = pb.AlterCollectionRequest(name="a", fields=pb.FieldPaths(), recall_target=0.5)
    changed = await stub.AlterCollection(nothing)
    assert (list(changed.fields), changed.recall_target) == ([], 0.5)
    shown = await stub.GetCollection(pb.GetCollectionRequest(name="a", include_stats=True))
    assert shown.collection == changed
    assert not shown.stats.HasField("recall_measured") and shown.stats.recall_target == 0.95


async def test_a_collection_says_over_how_many_shards_it_is_being_spread(stub: Any) -> None:
    await stub.CreateCollection(pb.CreateCollectionRequest(name="a", dimension=2))
    changed = await stub.AlterCollection(pb.AlterCollectionRequest(name="a", shards=5))
    assert (list(changed.shards), changed.spreading_shards) == ([0], 5)
    shown = await stub.GetCollection(pb.GetCollectionRequest(name="a"))
    assert shown.collection == changed
    changed = await stub.AlterCollection(pb.AlterCollectionRequest(name="a", shards=1))
    assert changed.spreading_shards == 0


async def test_a_collection_made_without_options_has_the_defaults(stub: Any) -> None:
    made = await stub.CreateCollection(pb.CreateCollectionRequest(name="a", dimension=2))
    assert (made.index.kind, made.index.m) == (pb.INDEX_KIND_AUTO, 16)
    assert (made.recall_target, list(made.fields), list(made.aliases)) == (0.95, [], [])


async def test_options_out_of_bounds_are_refused(stub: Any) -> None:
    await stub.CreateCollection(pb.CreateCollectionRequest(name="a", dimension=2))
    for options, place in (
        ({"index": pb.IndexOptions(m=65)}, "index.m: 65, the limits are 4 and 64"),
        ({"index": {"kind": 9}}, "index.kind: 9"),
        ({"index": {"encoding": 9}}, "index.encoding: 9"),
        ({"recall_target": math.nan}, "recall_target"),
        ({"fields": pb.FieldPaths(paths=["a", "a"])}, "fields[1]"),
    ):
        request = pb.AlterCollectionRequest(name="a", **options)
        code, details = await refused(stub.AlterCollection(request))
        assert code == grpc.StatusCode.INVALID_ARGUMENT and place in details
    code, _ = await refused(stub.AlterCollection(pb.AlterCollectionRequest(recall_target=0.9)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT, "the default collection must be named"


async def test_an_alias_is_taken_where_a_name_is_and_switched_with_others(stub: Any) -> None:
    await fill(stub)
    await stub.CreateCollection(pb.CreateCollectionRequest(name="other", dimension=2))
    changed = await stub.UpdateAliases(aliases(now="things", next="other"))
    assert changed.commit_ts > 0
    query = pb.QuerySimilarRequest(collection="now", vectors=[packed(1, 0)], k=1)
    answer = await stub.QuerySimilar(query)
    assert [hit.id for hit in answer.results[0].vectors] == ["a"]
    shown = await stub.GetCollection(pb.GetCollectionRequest(name="now"))
    assert (shown.collection.name, list(shown.collection.aliases)) == ("things", ["now"])
    await stub.UpdateAliases(aliases(now="other", next=""))
    listed = await stub.ListAliases(pb.ListAliasesRequest())
    assert dict(listed.aliases) == {"now": "other"}
    assert (await stub.Count(pb.CountRequest(collection="now"))).count == 0


async def test_an_alias_that_cannot_be_is_refused(stub: Any) -> None:
    await fill(stub)
    await stub.UpdateAliases(aliases(now="things"))
    twice = pb.UpdateAliasesRequest(
        changes=[pb.AliasChange(alias="a", collection="things"), pb.AliasChange(alias="a")]
    )
    for request, code in (
        (aliases(new="absent"), grpc.StatusCode.NOT_FOUND),
        (aliases(absent=""), grpc.StatusCode.NOT_FOUND),
        (aliases(things="things"), grpc.StatusCode.ALREADY_EXISTS),
        (aliases(new="now"), grpc.StatusCode.INVALID_ARGUMENT),
        (aliases(**{"a b": "things"}), grpc.StatusCode.INVALID_ARGUMENT),
        (twice, grpc.StatusCode.INVALID_ARGUMENT),
        (aliases(**{f"n{i}": "things" for i in range(1001)}), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ):
        assert (await refused(stub.UpdateAliases(request)))[0] == code
    code, details = await refused(stub.DropCollection(pb.DropCollectionRequest(name="now")))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "is an alias" in details
