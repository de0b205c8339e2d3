"""Options of collections and aliases over REST."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.gateway_rest.conftest import Rest
from vector_db.gateway.core.requests import CollectionStats
from vector_db.gateway.rest import answers

DEFAULTS = {"kind": "auto", "encoding": "auto", "m": 16, "ef_construction": 128, "lists": 0}


async def make(rest: Rest, *names: str) -> None:
    for name in names:
        await rest.ok("POST", "/v1/collections", {"name": name, "dimension": 2})


async def test_a_collection_is_made_with_options_and_shows_them(rest: Rest) -> None:
    body = {"name": "a", "dimension": 2, "index": {"kind": "hnsw", "m": 32}, "recall_target": 0.9}
    made = await rest.ok("POST", "/v1/collections", {**body, "fields": ["lang", "deep.er"]})
    assert made["index"] == {**DEFAULTS, "kind": "hnsw", "m": 32}
    assert (made["recall_target"], made["fields"]) == (0.9, ["lang", "deep.er"])
    assert answers.CollectionAnswer.model_validate(made)
    assert await rest.ok("GET", "/v1/collections/a") == made


async def test_what_a_change_leaves_out_stays_as_it_is(rest: Rest) -> None:
    await make(rest, "a")
    path = "/v1/collections/a"
    await rest.ok("PATCH", path, {"index": {"kind": "ivf_pq", "lists": 64}, "fields": ["x"]})
    await rest.ok("PATCH", path, {"index": {"encoding": "sq8"}})
    changed = await rest.ok("PATCH", path, {"recall_target": 0.5, "index": {}})
    assert changed == await rest.ok("GET", path)
    assert changed["index"] == {**DEFAULTS, "kind": "ivf_pq", "encoding": "sq8", "lists": 64}
    assert (changed["recall_target"], changed["fields"]) == (0.5, ["x"])
    assert (await rest.ok("PATCH", path, {"fields": []}))["fields"] == []


OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"index": {"kind": "flat"}}, "index.kind"),
    ({"index": {"m": 3}}, "index.m: input should be greater than or equal to 4"),
    ({"index": {"m": 65}}, "index.m: input should be less than or equal to 64"),
    ({"index": {"m": 16.5}}, "index.m"),
    ({"index": {"ef_construction": 15}}, "index.ef_construction: input should be greater"),
    ({"index": {"ef_construction": 1001}}, "than or equal to 1000"),
    ({"index": {"lists": -1}}, "index.lists"),
    ({"index": {"lists": 65_537}}, "than or equal to 65536"),
    ({"index": {"ef": 5}}, "index.ef: unknown field"),
    ({"index": "hnsw"}, "index"),
    ({"recall_target": 0.4}, "recall_target: input should be greater than or equal to 0.5"),
    ({"recall_target": 1}, "recall_target: input should be less than or equal to 0.999"),
    ({"fields": "lang"}, "fields: must be a list of dotted paths"),
    ({"fields": ["a", 5]}, "fields[1]: must be a string"),
    ({"fields": ["a", "b", "a"]}, "fields[2]: 'a' is given already at 0"),
    ({"fields": ["$or"]}, "fields[0]: a field is a dotted path"),
    ({"fields": [f"f{i}" for i in range(65)]}, "65 fields, the limit indexed_fields_max is 64"),
]


@pytest.mark.parametrize(("options", "place"), OPTIONS)
async def test_options_out_of_bounds_are_refused_by_place(
    rest: Rest, options: dict[str, Any], place: str
) -> None:
    body = {"name": "b", "dimension": 2, **options}
    assert place in await rest.refused(400, "POST", "/v1/collections", body)
    await make(rest, "a")
    assert place in await rest.refused(400, "PATCH", "/v1/collections/a", options)


async def test_a_change_of_nothing_or_of_what_is_fixed_is_refused(rest: Rest) -> None:
    await make(rest, "a")
    for body, place in (
        ({}, "give at least one of index, recall_target, fields and shards"),
        ({"dimension": 3}, "dimension: unknown field"),
        ({"name": "b"}, "name: unknown field"),
    ):
        assert place in await rest.refused(400, "PATCH", "/v1/collections/a", body)
    await rest.refused(404, "PATCH", "/v1/collections/b", {"recall_target": 0.9})


async def test_a_collection_says_over_how_many_shards_it_is_being_spread(rest: Rest) -> None:
    await make(rest, "a")
    path = "/v1/collections/a"
    told = await rest.ok("PATCH", path, {"shards": 5})
    assert answers.CollectionAnswer.model_validate(told)
    assert (told["shards"], told["spreading"]) == (1, {"shards": 5})
    assert await rest.ok("GET", path) == told
    assert (await rest.ok("GET", "/v1/collections"))["collections"] == [told]
    assert (await rest.ok("PATCH", path, {"shards": 1}))["spreading"] is None
    for shards in (0, 65_537, 2.5, "2"):
        assert "shards" in await rest.refused(400, "PATCH", path, {"shards": shards})


async def test_an_alias_stands_for_its_collection_in_every_route(rest: Rest) -> None:
    await make(rest, "a", "b")
    told = await rest.ok("PUT", "/v1/aliases/now", {"collection": "a"})
    assert answers.AliasesChangedAnswer.model_validate(told)
    assert (await rest.ok("GET", "/v1/collections/a"))["aliases"] == ["now"]
    one = "/v1/collections/now"
    row = {"id": "x", "dimensions": [1, 0], "metadata": {"n": 1}}
    await rest.ok("POST", one + "/vectors", {"vectors": [row]})
    await rest.ok("PUT", one + "/vectors/y", {"dimensions": [0, 1]})
    await rest.ok("PATCH", one + "/vectors/x", {"metadata": {"n": 2}})
    assert (await rest.ok("GET", one))["name"] == "a"
    assert (await rest.ok("GET", "/v1/collections/a/vectors/x"))["metadata"] == {"n": 2}
    found = await rest.ok("POST", one + "/query", {"vector": [1, 0], "k": 1})
    assert [hit["id"] for hit in found["vectors"]] == ["x"]
    assert len((await rest.ok("POST", one + "/scroll", {}))["vectors"]) == 2
    assert len((await rest.ok("POST", one + "/vectors/fetch", {"ids": ["y"]}))["vectors"]) == 1
    operations = [{"collection": "now", "delete": ["y"]}]
    await rest.ok("POST", "/v1/transactions/commit", {"operations": operations})
    assert (await rest.ok("POST", "/v1/collections/a/count", {}))["count"] == 1
    assert (await rest.ok("GET", one + "/stats"))["rows"] == 1
    await rest.ok("PATCH", one, {"recall_target": 0.9})
    assert (await rest.ok("GET", "/v1/collections/a"))["recall_target"] == 0.9


async def test_aliases_are_switched_together_listed_and_removed(rest: Rest) -> None:
    await make(rest, "a", "b")
    await rest.ok("POST", "/v1/aliases", {"changes": {"now": "a", "before": "b"}})
    listed = await rest.ok("GET", "/v1/aliases")
    assert answers.AliasesAnswer.model_validate(listed).aliases == {"before": "b", "now": "a"}
    await rest.ok("POST", "/v1/aliases", {"changes": {"now": "b", "before": None, "old": "a"}})
    assert (await rest.ok("GET", "/v1/aliases"))["aliases"] == {"now": "b", "old": "a"}
    await rest.ok("DELETE", "/v1/aliases/old")
    await rest.refused(404, "DELETE", "/v1/aliases/old")
    await rest.ok("DELETE", "/v1/collections/b")
    assert (await rest.ok("GET", "/v1/aliases"))["aliases"] == {}


@pytest.mark.parametrize(
    ("status", "method", "path", "body", "message"),
    [
        (404, "PUT", "now", {"collection": "absent"}, "collection 'absent' does not exist"),
        (409, "PUT", "b", {"collection": "a"}, "alias 'b': a collection has this name"),
        (400, "PUT", "new", {"collection": "is-a"}, "'is-a' is an alias itself"),
        (400, "PUT", "new", {"collection": "_idempotency"}, "collection: a collection name"),
        (400, "PUT", "_new", {"collection": "a"}, "alias in the path"),
        (400, "PUT", "new", {}, "collection: the field is missing"),
        (400, "PUT", "new", {"collection": None}, "collection: must be a string"),
        (400, "POST", "", {}, "changes: the field is missing"),
        (400, "POST", "", {"changes": {}}, "changes: must be an object of one or more"),
        (400, "POST", "", {"changes": ["a"]}, "changes: must be an object of one or more"),
        (400, "POST", "", {"changes": {"new": 5}}, "changes.new: must be the name of a collection"),
        (400, "POST", "", {"changes": {"new": ""}}, "changes.new: a collection name"),
        (400, "POST", "", {"changes": {"a b": "a"}}, "changes.a b: a collection name"),
        (400, "POST", "", b'{"changes": {"x": "a", "x": "b"}}', "changes.x: is given twice"),
        (404, "POST", "", {"changes": {"new": "a", "absent": None}}, "alias 'absent'"),
        (413, "POST", "", {"changes": {f"n{i}": "a" for i in range(1001)}}, "aliases_max is 1000"),
    ],
)
async def test_an_alias_that_cannot_be_is_refused(
    rest: Rest, status: int, method: str, path: str, body: Any, message: str
) -> None:
    await make(rest, "a", "b")
    await rest.ok("PUT", "/v1/aliases/is-a", {"collection": "a"})
    target = f"/v1/aliases/{path}".rstrip("/")
    assert message in await rest.refused(status, method, target, body)
    assert (await rest.ok("GET", "/v1/aliases"))["aliases"] == {"is-a": "a"}, "nothing is changed"


async def test_a_name_is_a_collections_or_an_aliass(rest: Rest) -> None:
    await make(rest, "a")
    await rest.ok("PUT", "/v1/aliases/now", {"collection": "a"})
    body = {"name": "now", "dimension": 2}
    message = await rest.refused(409, "POST", "/v1/collections", body)
    assert message == "'now' is an alias of collection 'a'"
    message = await rest.refused(400, "DELETE", "/v1/collections/now")
    assert "drop that by its own name" in message


async def test_the_quick_start_works_when_default_is_an_alias(rest: Rest) -> None:
    await make(rest, "a")
    await rest.ok("PUT", "/v1/aliases/default", {"collection": "a"})
    await rest.ok("POST", "/vectors", {"vectors": [{"id": "x", "dimensions": [1, 0]}]})
    assert len((await rest.ok("POST", "/query", {"vector": [1, 0]}))["vectors"]) == 1
    message = await rest.refused(404, "POST", "/query", {"id": "absent"})
    assert "insert vectors first" not in message


async def test_catalog_changes_are_no_part_of_transactions(rest: Rest) -> None:
    await make(rest, "a")
    token = (await rest.ok("POST", "/v1/transactions", {}))["token"]
    for method, path in (
        ("PATCH", "/v1/collections/a"),
        ("PUT", "/v1/aliases/x"),
        ("POST", "/v1/aliases"),
        ("DELETE", "/v1/aliases/x"),
        ("GET", "/v1/aliases"),
    ):
        status, answer, _ = await rest.send(method, path, {}, Transaction=token)
        assert status == 400 and "header Transaction" in answer["error"]["message"]


async def test_statistics_tell_recall_builds_and_memory(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(rest, "a")
    plain = answers.StatsAnswer.model_validate(await rest.ok("GET", "/v1/collections/a/stats"))
    assert plain.recall.measured is None and plain.recall.target == 0.95

    async def stats(name: str) -> CollectionStats:
        return CollectionStats(
            9, 8, 2, 10, 20, 1, {"hnsw": 8, "exact": 1}, 0.9, 0.93, 64, (5, 2), 70, 60
        )

    monkeypatch.setattr(rest.database, "stats", stats)
    assert await rest.ok("GET", "/v1/collections/a/stats") == {
        "rows": 9,
        "rows_indexed": 8,
        "rows_dead": 1,
        "segments": 2,
        "kinds": {"hnsw": 8, "exact": 1},
        "recall": {"target": 0.9, "measured": 0.93, "samples": 64},
        "building": {"rows": 5, "done": 2},
        "bytes_memory": 10,
        "bytes_disk": 20,
        "bytes_predicted": 70,
        "bytes_resident": 60,
    }
