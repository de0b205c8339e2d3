"""Writes over REST: the quick start, modes, deletes, patches, transactions."""

from __future__ import annotations

import base64
from urllib.parse import quote

import numpy as np
import pytest

from tests.unit.gateway_rest.conftest import Rest

ROWS = "/v1/collections/words/vectors"


@pytest.fixture
async def words(rest: Rest) -> Rest:
    await rest.ok("POST", "/v1/collections", {"name": "words", "dimension": 2})
    return rest


def row(row_id: str, *numbers: float, **metadata: object) -> dict[str, object]:
    out: dict[str, object] = {"id": row_id, "dimensions": list(numbers)}
    return {**out, "metadata": metadata} if metadata else out


async def test_quick_start_lines_insert_into_and_query_the_default_collection(rest: Rest) -> None:
    body = (
        b'{"vectors":[{"id":"vec1","dimensions":[0.1,0.2,0.3,0.4]},'
        b'{"id":"b","dimensions":[4,3,2,1]}]}'
    )
    # What `curl -d` sends when it is not told a content type.
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await rest.ok("POST", "/vectors", body, headers=headers)
    assert answer == {"count": 2, "commit_ts": rest.database.stable_ts}
    found = await rest.ok("POST", "/query", b'{"vector":[0.1,0.2,0.3,0.4],"k":10}', headers=headers)
    assert [hit["id"] for hit in found["vectors"]] == ["vec1", "b"]
    assert found["vectors"][0]["similarity"] == pytest.approx(1.0)
    assert found["vectors"][0]["metadata"] is None
    assert found["snapshot_ts"] == answer["commit_ts"]
    assert rest.database.tables["default"].entry.metric == "cosine"


async def test_a_bad_first_batch_does_not_create_the_default_collection(rest: Rest) -> None:
    message = await rest.refused(400, "POST", "/vectors", {"vectors": [row("a", 0, 0)]})
    assert "vectors[0].dimensions" in message and "zero vector" in message
    assert rest.database.tables == {}


async def test_update_does_not_create_the_default_collection(rest: Rest) -> None:
    body = {"vectors": [row("a", 1, 0)], "mode": "update"}
    await rest.refused(404, "POST", "/vectors", body)
    assert rest.database.tables == {}


async def test_rows_keep_metadata_and_base64_vectors_bit_for_bit(words: Rest) -> None:
    numbers = np.array([1e-45, -3.4028235e38], dtype="<f4")
    given = {
        "id": "x",
        "dimensions": base64.b64encode(numbers.tobytes()).decode(),
        "metadata": {"n": {"deep": [1, "zwei", None]}},
    }
    await words.ok("POST", "/v1/collections", {"name": "raw", "dimension": 2, "metric": "dot"})
    await words.ok("POST", "/v1/collections/raw/vectors", {"vectors": [given, row("y", 0.1, 1)]})
    answer = await words.ok("POST", "/v1/collections/raw/vectors/fetch", {"ids": ["x", "y", "z"]})
    x, y = answer["vectors"]
    assert np.array(x["dimensions"], dtype=np.float32).tobytes() == numbers.tobytes()
    assert x["metadata"] == given["metadata"]
    assert y == {"id": "y", "dimensions": [0.1, 1.0], "metadata": None, "version": x["version"]}


async def test_insert_mode_conflicts_and_update_mode_misses(words: Rest) -> None:
    await words.ok("POST", ROWS, {"vectors": [row("a", 1, 0)], "mode": "insert"})
    message = await words.refused(
        409, "POST", ROWS, {"vectors": [row("b", 1, 0), row("a", 1, 0)], "mode": "insert"}
    )
    assert "'a'" in message
    await words.refused(404, "POST", ROWS, {"vectors": [row("c", 1, 0)], "mode": "update"})
    assert set(words.database.tables["words"].rows) == {b"a"}


@pytest.mark.parametrize(
    ("rows", "place"),
    [
        ([row("a", 1, 0), row("b", 1)], "vectors[1].dimensions: 1 numbers, row 0 has 2"),
        ([row("a", 1)], "vectors[0].dimensions: 1 numbers, collection 'words' has dimension 2"),
        ([row("a", 1, 0), row("a", 1, 0)], "vectors[1].id: 'a'"),
        ([row("a", 1, 0), row("b", 1e39, 0)], "vectors[1].dimensions[0]: not a finite"),
        ([row("a", 1, 0), row("b", 0, 0)], "vectors[1].dimensions: a zero vector"),
        ([row("a", 1e-44, 0)], "vectors[0].dimensions: a vector of length"),
        ([row("a", 3e38, 3e38)], "vectors[0].dimensions: a vector of length"),
        ([row("a", 1, 0), row("", 1, 0)], "vectors[1].id: an id must not be empty"),
        ([row("a" * 513, 1, 0)], "vectors[0].id: id of 513 bytes"),
        ([row("a\x85", 1, 0)], "vectors[0].id: an id must not contain control"),
        ([{"id": "a"}], "vectors[0]: the field 'dimensions' is missing"),
        ([{"dimensions": [1, 0]}], "vectors[0]: the field 'id' is missing"),
        ([{"id": 7, "dimensions": [1, 0]}], "vectors[0].id: must be a string"),
        ([{"id": "a", "dimensions": [[1], [0]]}], "vectors[0].dimensions[0]: must be a number"),
        ([{"id": "a", "dimensions": [True, 0]}], "vectors[0].dimensions[0]: must be a number"),
        ([{"id": "a", "dimensions": "AAA"}], "vectors[0].dimensions: not valid base64"),
        ([{"id": "a", "dimensions": "AAAA"}], "vectors[0].dimensions: 3 bytes"),
        ([{**row("a", 1, 0), "vector": 1}], "vectors[0].vector: unknown field"),
        ([{**row("a", 1, 0), "metadata": [1]}], "vectors[0].metadata: must be a JSON object"),
        ([{**row("a", 1, 0), "metadata": "x"}], "vectors[0].metadata: must be a JSON object"),
        ([{**row("a", 1, 0), "metadata": {"x": "y" * 70_000}}], "metadata_bytes_max"),
        ([], "vectors: at least one row"),
        ([row("a", 1, 0), 5], "vectors[1]: must be an object"),
        ({}, "vectors: must be a list of rows"),
    ],
)
async def test_a_batch_at_fault_is_refused_whole_and_names_the_place(
    words: Rest, rows: object, place: str
) -> None:
    assert place in await words.refused(400, "POST", ROWS, {"vectors": rows})
    assert words.database.tables["words"].rows == {}


async def test_a_nested_list_is_found_beside_base64_rows(words: Rest) -> None:
    """As many brackets as lists are due, but one list of two is hidden in another's place."""
    good = base64.b64encode(np.ones(2, dtype="<f4").tobytes()).decode()
    rows = [{"id": "a", "dimensions": good}, {"id": "b", "dimensions": [1, [2]]}]
    message = await words.refused(400, "POST", ROWS, {"vectors": rows})
    assert "vectors[1].dimensions[1]" in message


async def test_too_many_rows_are_413_and_name_the_limit(words: Rest) -> None:
    rows = [row(str(i), 1, 0) for i in range(2001)]
    assert "rows_per_batch_max" in await words.refused(413, "POST", ROWS, {"vectors": rows})


async def test_ids_in_paths_may_hold_slashes_escapes_and_any_script(words: Rest) -> None:
    ids = ["a/b/c", "100%", "%2F", "a%252Fb", "ключ ☃", "fetch", "..", "?x=1&y#z", "a+b c"]
    await words.ok("POST", ROWS, {"vectors": [row(one, 1, 0) for one in ids]})
    for one in ids:
        # aiohttp's client would decode and resolve the path: send it as it is.
        status, answer = await raw_get(words, f"{ROWS}/{quote(one, safe='')}")
        assert (status, answer.get("id")) == (200, one)
    status, answer = await raw_get(words, f"{ROWS}/a/b/c?include=metadata")
    assert status == 200 and set(answer) == {"id", "metadata", "version", "snapshot_ts"}
    for bad in ("%FF", "a%0Ab", "a%C2%85"):
        status, answer = await raw_get(words, f"{ROWS}/{bad}")
        assert status == 400, answer


async def raw_get(rest: Rest, target: str) -> tuple[int, dict[str, object]]:
    from yarl import URL

    url = URL(rest.url + target, encoded=True)
    async with rest.session.get(url) as answer:
        return answer.status, await answer.json()


async def test_delete_counts_what_was_there(words: Rest) -> None:
    rows = [row(str(i), 1, i, year=2000 + i) for i in range(6)]
    await words.ok("POST", ROWS, {"vectors": rows})
    answer = await words.ok("POST", ROWS + "/delete", {"ids": ["0", "nope"]})
    assert answer["count"] == 1 and answer["commit_ts"] > 0
    assert (await words.ok("DELETE", ROWS + "/1"))["count"] == 1
    assert (await words.ok("DELETE", ROWS + "/1"))["count"] == 0
    by_filter = await words.ok("POST", ROWS + "/delete", {"filter": {"year": {"$gte": 2004}}})
    assert by_filter["count"] == 2
    assert sorted(words.database.tables["words"].rows) == [b"2", b"3"]
    bad: tuple[dict[str, object], ...] = (
        {},
        {"ids": ["a"], "filter": {}},
        {"ids": []},
        {"ids": ["a", "a"]},
        {"ids": [1]},
    )
    for body in bad:
        await words.refused(400, "POST", ROWS + "/delete", body)


async def test_patch_changes_metadata_and_not_the_vector(words: Rest) -> None:
    await words.ok("POST", ROWS, {"vectors": [row("a", 1, 2, year=1, lang="en")]})
    await words.ok("PATCH", ROWS + "/a", {"metadata": {"year": 2, "lang": None}})
    got = await words.ok("GET", ROWS + "/a")
    assert got["metadata"] == {"year": 2} and got["dimensions"] == [1.0, 2.0]
    await words.refused(404, "PATCH", ROWS + "/b", {"metadata": {}})
    await words.refused(400, "PATCH", ROWS + "/a", {"metadata": []})
    await words.refused(400, "PATCH", ROWS + "/a", {"year": 3})


async def test_a_transaction_writes_two_collections_with_one_commit_ts(words: Rest) -> None:
    await words.ok("POST", "/v1/collections", {"name": "images", "dimension": 1, "metric": "dot"})
    await words.ok("POST", ROWS, {"vectors": [row("old", 1, 0)]})
    body = {
        "operations": [
            {"collection": "words", "delete": ["old"]},
            {"collection": "words", "upsert": [row("new", 1, 0)]},
            {"collection": "images", "upsert": [row("i", 5), row("j", 6)]},
        ]
    }
    answer = await words.ok("POST", "/v1/transactions/commit", body)
    assert answer["count"] == 4
    tables = words.database.tables
    assert set(tables["words"].rows) == {b"new"} and set(tables["images"].rows) == {b"i", b"j"}
    assert {r.version for t in tables.values() for r in t.rows.values()} == {answer["commit_ts"]}


@pytest.mark.parametrize(
    ("operations", "place"),
    [
        ([], "operations"),
        ([{"collection": "words"}], "operations[0]: give exactly one"),
        ([{"collection": "words", "upsert": []}], "operations[0].upsert: at least one row"),
        ([{"collection": "words", "update": []}], "operations[0].update: unknown field"),
        ([{"delete": ["a"]}], "operations[0].collection: the field is missing"),
        (
            [{"collection": "words", "upsert": [{"id": "a", "dimensions": [1, [2]]}]}],
            "operations[0].upsert[0].dim",
        ),
        (
            [{"collection": "words", "delete": ["a"]}, {"collection": "words", "delete": ["a"]}],
            "operations[1]: id 'a' of 'words' is written already by operations[0]",
        ),
        ([7], "operations[0]"),
        ("x", "operations"),
    ],
)
async def test_a_malformed_transaction_is_refused_by_place(
    words: Rest, operations: object, place: str
) -> None:
    body = {"operations": operations}
    assert place in await words.refused(400, "POST", "/v1/transactions/commit", body)
    assert "write" not in words.database.calls
