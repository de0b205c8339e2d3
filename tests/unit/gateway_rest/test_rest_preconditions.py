"""Versions, entity tags, idempotency keys and reads of the past over REST."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest

from tests.unit.gateway_rest.conftest import Rest
from tests.unit.gateway_rest.memory_transactions import EPOCH_MS, TICK_MS
from vector_db.common.model.errors import InvalidArgument
from vector_db.common.model.limits import Limits
from vector_db.common.model.times import TS_MAX, to_rfc3339
from vector_db.gateway.arrow import decode_arrow
from vector_db.gateway.core.requests import Consistency

WORDS = "/v1/collections/words"
ROWS = f"{WORDS}/vectors"
COMMIT = "/v1/transactions/commit"
ARROW = "application/vnd.apache.arrow.stream"


@pytest.fixture
async def words(rest: Rest) -> Rest:
    """Collection made at 1, row a written at 2, row b at 3."""
    await rest.ok("POST", "/v1/collections", {"name": "words", "dimension": 2})
    for one in ("a", "b"):
        await rest.ok("POST", ROWS, {"vectors": [row(one)]})
    return rest


def row(row_id: str, **more: Any) -> dict[str, Any]:
    return {"id": row_id, "dimensions": [1, 0], **more}


def arrow(versions: Any, kind: Any = None) -> bytes:
    vectors = pa.array([[1.0, 0.0]] * len(versions), pa.list_(pa.float32()))
    ids = pa.array(["a", "b", "c"][: len(versions)])
    arrays = [ids, vectors, pa.array(versions, kind or pa.int64())]
    sink = pa.BufferOutputStream()
    batch = pa.record_batch(arrays, ["id", "vector", "if_version"])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        for i in range(len(versions)):
            writer.write_batch(batch.slice(i, 1))
    return bytes(sink.getvalue())


def versions(rest: Rest) -> dict[str, int]:
    table = rest.database.tables["words"].rows
    return {row_id.decode(): one.version for row_id, one in table.items()}


async def refused(
    rest: Rest, status: int, method: str, path: str, body: Any = None, **headers: str
) -> str:
    """The message of a refusal that changed nothing."""
    before = {name: dict(table.rows) for name, table in rest.database.tables.items()}
    got, answer, _ = await rest.send(method, path, body, **headers)
    assert got == status, answer
    assert {name: table.rows for name, table in rest.database.tables.items()} == before
    return str(answer["error"]["message"])


class TestVersions:
    async def test_every_read_of_rows_tells_versions_and_get_an_etag(self, words: Rest) -> None:
        status, got, told = await words.send("GET", f"{ROWS}/b")
        assert (status, got["version"], told["ETag"]) == (200, 3, '"3"')
        fetched = await words.ok("POST", f"{ROWS}/fetch", {"ids": ["a", "b"], "include": []})
        assert [one["version"] for one in fetched["vectors"]] == [2, 3]
        page = await words.ok("POST", f"{WORDS}/scroll", {"include": []})
        assert [one["version"] for one in page["vectors"]] == [2, 3]
        url = f"{words.url}{ROWS}/b"
        async with words.session.head(url) as answer:
            assert answer.headers["ETag"] == '"3"'

    @pytest.mark.parametrize(
        ("method", "body"),
        [("PATCH", {"metadata": {"n": 1}}), ("PUT", {"dimensions": [0, 1]}), ("DELETE", None)],
    )
    async def test_if_match_holds_or_is_a_412(self, words: Rest, method: str, body: Any) -> None:
        message = await refused(words, 412, method, f"{ROWS}/a", body, If_Match='"3"')
        assert "'a'" in message
        await refused(words, 412, method, f"{ROWS}/nobody", body, If_Match='"3"')
        status, answer, _ = await words.send(method, f"{ROWS}/a", body, If_Match='"2"')
        assert (status, answer) == (200, {"count": 1, "commit_ts": 4})
        assert versions(words) == ({"b": 3} if method == "DELETE" else {"a": 4, "b": 3})

    @pytest.mark.parametrize(
        "tag",
        ["*", '"2", "3"', 'W/"2"', "2", '""', '"x"', '"-2"', '"2', "'2'", f'"{TS_MAX + 1}"', "",
         '"2""3"', '"٢"', '"0x2"', '" 2"'],
    )  # fmt: skip
    @pytest.mark.parametrize(
        ("method", "body"),
        [("PATCH", {"metadata": {}}), ("PUT", {"dimensions": [0, 1]}), ("DELETE", None)],
    )
    async def test_any_other_tag_is_a_400(
        self, words: Rest, method: str, body: Any, tag: str
    ) -> None:
        message = await refused(words, 400, method, f"{ROWS}/a", body, If_Match=tag)
        assert "If-Match" in message

    async def test_put_writes_one_row_and_if_none_match_only_a_new_one(self, words: Rest) -> None:
        body = {"dimensions": [0, 1], "metadata": {"ü": [1]}}
        path = f"{ROWS}/{quote('x/y ü')}"
        status, answer, _ = await words.send("PUT", path, body, If_None_Match="*")
        assert (status, answer) == (200, {"count": 1, "commit_ts": 4})
        got = await words.ok("POST", f"{ROWS}/fetch", {"ids": ["x/y ü"]})
        assert got["vectors"] == [{"id": "x/y ü", **body, "version": 4}]
        await refused(words, 409, "PUT", path, body, If_None_Match="*")
        await words.ok("PUT", f"{ROWS}/a", {"dimensions": [0, 1]})
        assert (await words.ok("GET", f"{ROWS}/a"))["metadata"] is None
        for bad in ('"4"', 'W/"*"', "", '*, "4"'):
            await refused(words, 400, "PUT", path, body, If_None_Match=bad)
        both = await refused(words, 400, "PUT", path, body, If_None_Match="*", If_Match='"4"')
        assert "only one of" in both

    @pytest.mark.parametrize(
        ("body", "place"),
        [
            ({}, "dimensions: the field is missing"),
            ({"dimensions": [1]}, "dimensions: 1 numbers, collection 'words' has dimension 2"),
            ({"dimensions": [0, 0]}, "dimensions: a zero vector"),
            ({"dimensions": [1, [2]]}, "dimensions[1]: must be a number"),
            ({"dimensions": [1, 0], "id": "a"}, "id: unknown field"),
            ({"dimensions": [1, 0], "metadata": [1]}, "metadata: must be a JSON object"),
            ({"dimensions": [1, 0], "metadata": {"x": "y" * 70_000}}, "metadata: over"),
            ([1, 0], "body: must be a JSON object"),
        ],
    )
    async def test_a_malformed_put_is_refused_by_place(
        self, words: Rest, body: Any, place: str
    ) -> None:
        assert (await refused(words, 400, "PUT", f"{ROWS}/a", body)).startswith(place)

    async def test_rows_of_an_insert_name_the_version_they_replace(self, words: Rest) -> None:
        body = {"vectors": [row("a", if_version=2), row("b", if_version=2)]}
        assert "'b'" in await refused(words, 412, "POST", ROWS, body)
        body["vectors"][1]["if_version"] = 3
        await words.ok("POST", ROWS, body)
        assert versions(words) == {"a": 4, "b": 4}
        with_metadata = row("a", if_version=4, metadata={"n": 1})
        await words.ok("POST", ROWS, {"vectors": [with_metadata]})
        assert (await words.ok("GET", f"{ROWS}/a"))["metadata"] == {"n": 1}
        operation = {"collection": "words", "upsert": [row("a", if_version=4)]}
        await refused(words, 412, "POST", COMMIT, {"operations": [operation]})
        operation["upsert"] = [row("a", if_version=5)]
        await words.ok("POST", COMMIT, {"operations": [operation]})

    @pytest.mark.parametrize(
        ("rows", "more", "place"),
        [
            ([row("a", if_version=2), row("b")], {}, "vectors[1].if_version: every row"),
            ([row("b"), row("a", if_version=2)], {}, "vectors[0].if_version: every row"),
            ([row("b", if_version=None), row("a", if_version=2)], {}, "vectors[0].if_version: ev"),
            ([row("a", if_version="2")], {}, "vectors[0].if_version: must be a version"),
            ([row("a", if_version=2.0)], {}, "vectors[0].if_version: must be a version"),
            ([row("a", if_version=True)], {}, "vectors[0].if_version: must be a version"),
            ([row("a", if_version=-1)], {}, "vectors[0].if_version: must be a version"),
            ([row("a", if_version=TS_MAX + 1)], {}, "vectors[0].if_version: must be a version"),
            ([row("a", if_version=2)], {"mode": "update"}, "give only one of mode and if_version"),
        ],
    )
    async def test_malformed_versions_of_rows_are_refused_by_place(
        self, words: Rest, rows: Any, more: dict[str, str], place: str
    ) -> None:
        assert place in await refused(words, 400, "POST", ROWS, {"vectors": rows, **more})

    async def test_arrow_rows_have_a_column_of_versions(self, words: Rest) -> None:
        kind = {"Content_Type": ARROW}
        await refused(words, 412, "POST", ROWS, arrow([2, 2]), **kind)
        status, _, _ = await words.send("POST", ROWS, arrow([2, 3]), **kind)
        assert status == 200 and versions(words) == {"a": 4, "b": 4}
        path = f"{ROWS}?mode=insert"
        assert "only one of" in await refused(words, 400, "POST", path, arrow([4]), **kind)
        _, seen = decode_arrow(arrow([4, 0, TS_MAX]), Limits())
        assert seen is not None and seen.dtype == np.int64 and seen.tolist() == [4, 0, TS_MAX]

    @pytest.mark.parametrize(
        ("body", "place"),
        [
            (arrow([2, None]), "rows[1].if_version: every row"),
            (arrow([2, -1]), "rows[1].if_version: must be a version"),
            (arrow([2, TS_MAX + 1]), "rows[1].if_version: must be a version"),
            (arrow([2, 3], pa.int32()), "column 'if_version' must be an int64"),
            (arrow(["2", "3"], pa.string()), "column 'if_version' must be an int64"),
        ],
    )
    def test_malformed_arrow_versions_are_refused_by_place(self, body: bytes, place: str) -> None:
        with pytest.raises(InvalidArgument) as caught:
            decode_arrow(body, Limits())
        assert place in caught.value.message

    async def test_deletes_by_id_name_the_versions_they_delete(self, words: Rest) -> None:
        path = f"{ROWS}/delete"
        await refused(words, 412, "POST", path, {"ids": ["a", "b"], "if_versions": [2, 2]})
        for bad, place in (
            ([2], "1 if_versions for 2 ids"),
            ([], "if_versions: at least one"),
            ([2, "3"], "if_versions[1]: must be a version"),
            ([2, -3], "if_versions[1]: must be a version"),
            (2, "if_versions: must be a list"),
        ):
            body = {"ids": ["a", "b"], "if_versions": bad}
            assert place in await refused(words, 400, "POST", path, body)
        by_filter = {"filter": {}, "if_versions": [2]}
        assert "with ids only" in await refused(words, 400, "POST", path, by_filter)
        operation: dict[str, Any] = {"collection": "words", "delete": ["a"], "if_versions": [3]}
        await refused(words, 412, "POST", COMMIT, {"operations": [operation]})
        operation = {"collection": "words", "upsert": [row("a")], "if_versions": [2]}
        await refused(words, 400, "POST", COMMIT, {"operations": [operation]})
        answer = await words.ok("POST", path, {"ids": ["b", "a"], "if_versions": [3, 2]})
        assert answer["count"] == 2 and versions(words) == {}

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("POST", ROWS, {"vectors": [row("a")]}),
            ("POST", "/vectors", {"vectors": [row("a")]}),
            ("POST", f"{ROWS}/delete", {"ids": ["a"]}),
            ("POST", COMMIT, {"operations": [{"collection": "words", "delete": ["a"]}]}),
            ("POST", "/v1/transactions", {}),
            ("POST", "/v1/collections", {"name": "x", "dimension": 1}),
            ("DELETE", WORDS, None),
        ],
    )
    async def test_a_condition_that_a_write_would_not_keep_is_refused(
        self, words: Rest, method: str, path: str, body: Any
    ) -> None:
        for headers in ({"If_Match": '"2"'}, {"If_None_Match": "*"}):
            assert "has no meaning here" in await refused(words, 400, method, path, body, **headers)
        for method in ("PATCH", "DELETE"):
            body = {"metadata": {}} if method == "PATCH" else None
            await refused(words, 400, method, f"{ROWS}/a", body, If_None_Match="*")


WRITES: list[tuple[str, str, Any]] = [
    ("POST", ROWS, {"vectors": [row("x")]}),
    ("POST", "/vectors", {"vectors": [row("x")]}),
    ("PUT", f"{ROWS}/x", {"dimensions": [0, 1]}),
    ("PATCH", f"{ROWS}/a", {"metadata": {"n": 1}}),
    ("DELETE", f"{ROWS}/a", None),
    ("POST", f"{ROWS}/delete", {"ids": ["a"]}),
    ("POST", f"{ROWS}/delete", {"filter": {}}),
    ("POST", COMMIT, {"operations": [{"collection": "words", "delete": ["a"]}]}),
]


class TestIdempotency:
    @pytest.mark.parametrize(("method", "path", "body"), WRITES)
    async def test_a_write_sent_again_is_answered_the_same_and_applied_once(
        self, words: Rest, method: str, path: str, body: Any
    ) -> None:
        status, first, told = await words.send(method, path, body, Idempotency_Key="k-1")
        assert status == 200 and "Idempotency-Replayed" not in told
        ts = words.database.stable_ts
        assert first["commit_ts"] == ts
        status, again, told = await words.send(method, path, body, Idempotency_Key="k-1")
        assert (status, again, told["Idempotency-Replayed"]) == (200, first, "true")
        assert words.database.stable_ts == ts
        status, fresh, told = await words.send(method, path, body, Idempotency_Key="k-2")
        assert status == 200 and fresh["commit_ts"] > ts and "Idempotency-Replayed" not in told
        assert len(words.database.book.keys) == 2

    @pytest.mark.parametrize(
        ("method", "path", "body", "headers"),
        [
            ("POST", ROWS, {"vectors": [row("y")]}, {}),
            ("POST", f"{ROWS}?mode=upsert", {"vectors": [row("x")]}, {"Content_Type": ARROW}),
            ("POST", ROWS, {"vectors": [row("x")]}, {"Content_Type": "application/json"}),
            ("POST", "/v1/collections/other/vectors", {"vectors": [row("x")]}, {}),
            ("PUT", f"{ROWS}/x", {"dimensions": [1, 0]}, {}),
        ],
    )
    async def test_the_same_key_with_another_request_is_a_422(
        self, words: Rest, method: str, path: str, body: Any, headers: dict[str, str]
    ) -> None:
        await words.ok("POST", "/v1/collections", {"name": "other", "dimension": 2})
        first = {"vectors": [row("x")]}
        status, _, _ = await words.send("POST", ROWS, first, Idempotency_Key="k")
        assert status == 200
        if headers.get("Content_Type") == ARROW:
            body = _one_arrow_row()
        before = versions(words)
        status, answer, _ = await words.send(method, path, body, Idempotency_Key="k", **headers)
        assert (status, answer["error"]["code"]) == (422, "idempotency_mismatch")
        assert answer["error"]["retryable"] is False and versions(words) == before

    async def test_a_condition_is_part_of_the_request(self, words: Rest) -> None:
        async def patch(**headers: str) -> int:
            body = {"metadata": {"n": 1}}
            return (await words.send("PATCH", f"{ROWS}/a", body, Idempotency_Key="k", **headers))[0]

        assert await patch(If_Match='"2"') == 200
        assert await patch(If_Match='"2"') == 200
        assert await patch(If_Match='"4"') == 422
        assert await patch() == 422
        put = {"dimensions": [0, 1]}
        status, _, _ = await words.send("PUT", f"{ROWS}/q", put, Idempotency_Key="p")
        assert status == 200
        status, _, _ = await words.send(
            "PUT", f"{ROWS}/q", put, Idempotency_Key="p", If_None_Match="*"
        )
        assert status == 422

    async def test_the_modes_of_arrow_bodies_are_part_of_the_request(self, words: Rest) -> None:
        got = []
        for mode in ("upsert", "upsert", "insert"):
            path, headers = f"{ROWS}?mode={mode}", {"Content_Type": ARROW, "Idempotency_Key": "k"}
            got.append((await words.send("POST", path, _one_arrow_row(), **headers))[0])
        assert got == [200, 200, 422]

    async def test_the_commit_of_a_transaction_takes_a_key(self, words: Rest) -> None:
        ids, tokens = [], []
        for _ in range(2):
            _, begun, _ = await words.send("POST", "/v1/transactions")
            ids.append(begun["transaction"])
            tokens.append(begun["token"])
        path = f"/v1/transactions/{ids[0]}/commit"
        headers = {"Transaction": tokens[0], "Idempotency_Key": "k"}
        status, first, told = await words.send("POST", path, **headers)
        assert status == 200 and "Idempotency-Replayed" not in told
        status, again, told = await words.send("POST", path, **headers)
        assert (status, again, told["Idempotency-Replayed"]) == (200, first, "true")
        path = f"/v1/transactions/{ids[1]}/commit"
        headers["Transaction"] = tokens[1]
        status, answer, _ = await words.send("POST", path, **headers)
        assert (status, answer["error"]["code"]) == (422, "idempotency_mismatch")

    @pytest.mark.parametrize(("method", "path", "body"), WRITES)
    async def test_a_malformed_key_is_refused(
        self, words: Rest, method: str, path: str, body: Any
    ) -> None:
        for key in ("", "x" * 256, "a b", "ü", "a\tb"):
            message = await refused(words, 400, method, path, body, Idempotency_Key=key)
            assert "Idempotency-Key" in message and "255" in message
        assert words.database.book.keys == {}
        status, _, _ = await words.send(method, path, body, Idempotency_Key="!" + "~" * 254)
        assert status == 200

    async def test_a_key_is_refused_where_it_has_no_meaning(self, words: Rest) -> None:
        _, begun, _ = await words.send("POST", "/v1/transactions")
        txn = f"/v1/transactions/{begun['transaction']}"
        token = {"Transaction": begun["token"], "Idempotency_Key": "k"}
        for method, path, body in WRITES[:-1]:
            message = await refused(words, 400, method, path, body, **token)
            assert "goes with its commit" in message
        calls: list[tuple[str, str, Any]] = [
            ("POST", "/v1/collections", {"name": "x", "dimension": 1}),
            ("DELETE", WORDS, None),
            ("POST", "/v1/transactions", {}),
        ]
        for method, path, body in calls:
            message = await refused(words, 400, method, path, body, Idempotency_Key="k")
            assert "Idempotency-Key" in message
        await refused(words, 400, "POST", f"{txn}/abort", **token)
        assert len(words.database.book.states) == 1 and words.database.book.keys == {}

    async def test_replays_are_not_counted_as_rows_written(self, words: Rest) -> None:
        for _ in range(3):
            await words.send("POST", ROWS, {"vectors": [row("x")]}, Idempotency_Key="k")
        count = words.registry.get_sample_value("vector_db_insert_rows_total", {"edge": "rest"})
        assert count == 3  # a, b and x


def _one_arrow_row() -> bytes:
    vectors = pa.array([[1.0, 0.0]], pa.list_(pa.float32()))
    batch = pa.record_batch([pa.array(["x"]), vectors], ["id", "vector"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


class TestThePast:
    READS: tuple[tuple[str, dict[str, Any]], ...] = (
        (f"{WORDS}/count", {}),
        (f"{WORDS}/scroll", {}),
        (f"{ROWS}/fetch", {"ids": ["a", "b"]}),
        (f"{WORDS}/query", {"vector": [1, 0], "k": 9}),
    )

    @pytest.mark.parametrize(("path", "body"), READS)
    async def test_as_of_reads_what_was_there(
        self, words: Rest, path: str, body: dict[str, Any]
    ) -> None:
        """Row b is younger than commit_ts 2."""
        moment = to_rfc3339(EPOCH_MS + 2 * TICK_MS + 1)
        for as_of in (2, moment):
            answer = await words.ok("POST", path, {**body, "consistency": {"as_of": as_of}})
            found = answer["count"] if "count" in answer else len(answer["vectors"])
            assert found == 1
        assert words.database.last_consistency == Consistency(as_of_ms=EPOCH_MS + 2 * TICK_MS + 1)
        message = await words.refused(400, "POST", path, {**body, "consistency": {"as_of": 9}})
        assert "future" in message
        old = {**body, "consistency": {"as_of": "2001-01-01T00:00:00Z"}}
        status, answer = await words.call("POST", path, old)
        assert (status, answer["error"]["code"]) == (410, "snapshot_too_old")

    async def test_get_takes_as_of_in_its_query_string(self, words: Rest) -> None:
        for as_of, status in (("3", 200), ("2", 404)):
            assert (await words.send("GET", f"{ROWS}/b?as_of={as_of}"))[0] == status
        moment = quote("2023-11-15T00:13:22.5001+02:00")
        await words.send("GET", f"{ROWS}/a?as_of={moment}")
        assert words.database.last_consistency == Consistency(as_of_ms=1_700_000_002_500)

    @pytest.mark.parametrize(
        "as_of",
        [
            0, -1, TS_MAX + 1, 1.5, True, [], {}, "", "5", "now", "2026-01-31",
            "2026-01-31T12:00:00", "2026-01-31 12:00:00Z", "2026-02-29T12:00:00Z",
            "2026-01-31T12:00:60Z", "2026-01-31T24:00:00Z", "2026-01-31T12:00:00+24:00",
            "2026-01-31T12:00:00+0100", "2026-01-31T12:00Z", "2026-01-31T12:00:00.Z",
            "1969-12-31T23:59:59Z", "1970-01-01T00:00:00Z", "0000-01-01T00:00:00Z",
            "31/01/2026", "x" * 5000,
        ],
    )  # fmt: skip
    async def test_an_ambiguous_or_impossible_moment_is_refused(
        self, words: Rest, as_of: Any
    ) -> None:
        body = {"consistency": {"as_of": as_of}}
        assert "consistency.as_of" in await words.refused(400, "POST", f"{WORDS}/count", body)
        if as_of != "5" and isinstance(as_of, (str, int)):
            await refused(words, 400, "GET", f"{ROWS}/a?as_of={quote(str(as_of))}")

    async def test_only_one_consistency_at_a_time(self, words: Rest) -> None:
        for other in ({"at_least": 1}, {"strong": True}):
            body = {"consistency": {"as_of": 2, **other}}
            assert "exactly one" in await words.refused(400, "POST", f"{WORDS}/count", body)
        for text in ("as_of=2&at_least=1", "as_of=2&strong=true", "as_of=2&as_of=2"):
            await refused(words, 400, "GET", f"{ROWS}/a?{text}")
        plus = "2026-01-31T12:00:00+02:00"
        assert "%2B" in await refused(words, 400, "GET", f"{ROWS}/a?as_of={plus}")
