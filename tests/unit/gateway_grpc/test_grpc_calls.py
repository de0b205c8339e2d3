"""Every call over the wire: what goes in comes back, through protobuf and a real server."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from vector_db.v1 import vector_db_pb2 as pb


def packed(*numbers: float) -> bytes:
    return np.array(numbers, dtype="<f4").tobytes()


def row(row_id: str, *numbers: float, **metadata: Any) -> pb.Vector:
    text = json.dumps(metadata) if metadata else ""
    return pb.Vector(id=row_id, dimensions=packed(*numbers), metadata=text)


async def fill(stub: Any) -> int:
    """Three rows in the collection "things"; the commit_ts."""
    await stub.CreateCollection(pb.CreateCollectionRequest(name="things", dimension=2))
    rows = [row("a", 1, 0, year=2020), row("b", 0, 1, year=2021), row("c", 0.6, 0.8)]
    answer = await stub.InsertVectors(pb.InsertVectorsRequest(collection="things", vectors=rows))
    assert answer.count == 3
    return int(answer.commit_ts)


async def test_a_query_answers_best_first_with_distance_and_metadata(stub: Any) -> None:
    commit_ts = await fill(stub)
    answer = await stub.QuerySimilar(
        pb.QuerySimilarRequest(collection="things", vectors=[packed(1, 0)], k=2)
    )
    hits = answer.results[0].vectors
    assert [hit.id for hit in hits] == ["a", "c"]
    assert hits[0].similarity == pytest.approx(1.0)
    assert hits[1].distance == pytest.approx(0.4)
    assert json.loads(hits[0].metadata) == {"year": 2020}
    assert hits[1].metadata == ""
    assert hits[0].dimensions == b""
    assert answer.snapshot_ts >= commit_ts


async def test_a_batch_of_queries_answers_in_order(stub: Any) -> None:
    await fill(stub)
    answer = await stub.QuerySimilar(
        pb.QuerySimilarRequest(collection="things", vectors=[packed(0, 1), packed(1, 0)], k=1)
    )
    assert [r.vectors[0].id for r in answer.results] == ["b", "a"]


async def test_a_query_by_id_leaves_that_row_out(stub: Any) -> None:
    await fill(stub)
    answer = await stub.QuerySimilar(pb.QuerySimilarRequest(collection="things", id="a"))
    assert [hit.id for hit in answer.results[0].vectors] == ["c", "b"]


async def test_a_query_obeys_filter_min_similarity_and_includes(stub: Any) -> None:
    await fill(stub)
    answer = await stub.QuerySimilar(
        pb.QuerySimilarRequest(
            collection="things",
            vectors=[packed(1, 0)],
            filter='{"year": {"$gte": 2020}}',
            min_similarity=0.5,
            omit_metadata=True,
            include_dimensions=True,
        )
    )
    (hit,) = answer.results[0].vectors
    assert (hit.id, hit.metadata, hit.dimensions) == ("a", "", packed(1, 0))


async def test_fetched_vectors_are_bit_exact_and_absent_ids_left_out(stub: Any) -> None:
    await stub.CreateCollection(pb.CreateCollectionRequest(name="bits", dimension=3))
    bits = np.array([0x00000001, 0x3F800001, 0x80000000], dtype="<u4").tobytes()
    await stub.InsertVectors(
        pb.InsertVectorsRequest(collection="bits", vectors=[pb.Vector(id="ü/1", dimensions=bits)])
    )
    answer = await stub.Get(pb.GetRequest(collection="bits", ids=["none", "ü/1"]))
    (got,) = answer.vectors
    assert (got.id, got.dimensions) == ("ü/1", bits)
    assert got.version == answer.snapshot_ts
    bare = await stub.Get(pb.GetRequest(collection="bits", ids=["ü/1"], omit_dimensions=True))
    assert bare.vectors[0].dimensions == b""


async def test_the_first_insert_makes_the_default_collection(stub: Any) -> None:
    insert = pb.InsertVectorsRequest(vectors=[row("vec1", 0.1, 0.2, 0.3)])
    await stub.InsertVectors(insert)
    made = (await stub.GetCollection(pb.GetCollectionRequest())).collection
    assert (made.name, made.dimension, made.metric) == ("default", 3, pb.METRIC_COSINE)
    answer = await stub.QuerySimilar(pb.QuerySimilarRequest(vectors=[packed(0.1, 0.2, 0.3)]))
    assert [hit.id for hit in answer.results[0].vectors] == ["vec1"]


async def test_delete_by_id_counts_what_was_there(stub: Any) -> None:
    await fill(stub)
    answer = await stub.Delete(pb.DeleteRequest(collection="things", ids=["a", "nobody"]))
    assert answer.count == 1
    assert (await stub.Count(pb.CountRequest(collection="things"))).count == 2


async def test_delete_by_filter_deletes_only_matches(stub: Any) -> None:
    await fill(stub)
    answer = await stub.Delete(pb.DeleteRequest(collection="things", filter='{"year": 2021}'))
    assert answer.count == 1
    left = await stub.Scroll(pb.ScrollRequest(collection="things"))
    assert [v.id for v in left.vectors] == ["a", "c"]


async def test_patch_merges_metadata_and_null_removes(stub: Any) -> None:
    await fill(stub)
    await stub.PatchMetadata(
        pb.PatchMetadataRequest(collection="things", id="a", patch='{"year": null, "tag": "x"}')
    )
    answer = await stub.Get(pb.GetRequest(collection="things", ids=["a"]))
    assert json.loads(answer.vectors[0].metadata) == {"tag": "x"}


async def test_scroll_pages_meet_the_limit_and_end_with_an_empty_cursor(stub: Any) -> None:
    await fill(stub)
    first = await stub.Scroll(pb.ScrollRequest(collection="things", limit=2))
    assert [v.id for v in first.vectors] == ["a", "b"]
    rest = await stub.Scroll(pb.ScrollRequest(collection="things", limit=2, cursor=first.cursor))
    assert ([v.id for v in rest.vectors], rest.cursor) == (["c"], "")


async def test_scroll_pages_stay_below_the_message_limit_of_default_clients(
    stub: Any, database: Any
) -> None:
    await stub.CreateCollection(pb.CreateCollectionRequest(name="big", dimension=1024))
    note = "x" * 1_500
    for batch in range(12):
        rows = [row(f"{batch:02d}-{i:03d}", *([1.0] * 1024), note=note) for i in range(150)]
        await stub.InsertVectors(pb.InsertVectorsRequest(collection="big", vectors=rows))
    seen: list[str] = []
    cursor = ""
    while True:
        page = await stub.Scroll(pb.ScrollRequest(collection="big", limit=20_000, cursor=cursor))
        assert page.ByteSize() <= 4 * 1024 * 1024
        seen += [v.id for v in page.vectors]
        cursor = page.cursor
        if not cursor:
            break
    assert len(seen) == len(set(seen)) == 1_800
    assert max(database.scroll_limits) == 768  # 3 MiB of 4 KiB vectors: known before asking


async def test_commit_is_one_write_over_collections(stub: Any, database: Any) -> None:
    await fill(stub)
    await stub.CreateCollection(pb.CreateCollectionRequest(name="other", dimension=1))
    before = database.ts
    upsert = pb.Operation.Upsert(vectors=[row("x", 1.0)])
    answer = await stub.Commit(
        pb.CommitRequest(
            operations=[
                pb.Operation(collection="other", upsert=upsert),
                pb.Operation(collection="things", delete=pb.Operation.Delete(ids=["a", "b"])),
            ]
        )
    )
    assert (answer.count, answer.commit_ts) == (3, before + 1)


async def test_collections_are_made_listed_and_dropped(stub: Any) -> None:
    request = pb.CreateCollectionRequest(
        name="things", dimension=2, metric=pb.METRIC_EUCLIDEAN, shards=3
    )
    made = await stub.CreateCollection(request)
    assert (made.metric, list(made.shards)) == (pb.METRIC_EUCLIDEAN, [0, 1, 2])
    request.if_absent = True
    assert await stub.CreateCollection(request) == made
    listed = await stub.ListCollections(pb.ListCollectionsRequest())
    assert list(listed.collections) == [made]
    got = await stub.GetCollection(pb.GetCollectionRequest(name="things", include_stats=True))
    assert (got.collection, got.stats.rows_indexed) == (made, 3)
    dropped = await stub.DropCollection(pb.DropCollectionRequest(name="things"))
    assert dropped.commit_ts > made.created_ts
    assert not (await stub.ListCollections(pb.ListCollectionsRequest())).collections


async def test_a_transaction_tells_its_state(stub: Any) -> None:
    answer = await stub.GetTransaction(pb.GetTransactionRequest(id="t1"))
    assert (answer.state, answer.commit_ts, answer.reason) == ("aborted", 0, "conflict of t1")


async def test_consistency_reaches_the_database(stub: Any, database: Any) -> None:
    await fill(stub)
    for consistency in (pb.Consistency(at_least=7), pb.Consistency(strong=True)):
        await stub.Count(pb.CountRequest(collection="things", consistency=consistency))
    await stub.Count(pb.CountRequest(collection="things"))
    seen = [(c.at_least, c.strong) for c in database.consistencies]
    assert seen == [(7, False), (0, True), (0, False)]


async def test_if_version_reaches_the_database(stub: Any, database: Any, monkeypatch: Any) -> None:
    commit_ts = await fill(stub)
    operations: list[Any] = []
    write = database.write

    async def spy(given: Any, key: Any) -> Any:
        operations.extend(given)
        return await write(given, key)

    monkeypatch.setattr(database, "write", spy)
    vector = row("a", 1, 1)
    vector.if_version = commit_ts
    await stub.InsertVectors(pb.InsertVectorsRequest(collection="things", vectors=[vector]))
    assert operations[0].if_version.tolist() == [commit_ts]
