"""The calls on rows as requests of the wire, and their answers as values.

A client on its own and a transaction make the same requests; they differ in the snapshot that a
read asks for, in the idempotency key of a write, and in who sends it. Owns the answer to the
question which request may be sent again when the connection broke under it: reads, and writes
that change nothing when they are applied a second time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from vector_db_client import wire
from vector_db_client.errors import InvalidArgument
from vector_db_client.values import (
    AsOf,
    Consistency,
    CountResult,
    Delete,
    Filter,
    IdempotencyKey,
    IfVersion,
    Match,
    Metadata,
    Mode,
    QueryPage,
    RowBatch,
    Upsert,
    VectorLike,
    WriteResult,
)

DEFAULT_COLLECTION = "default"
_MODES = ("upsert", "insert", "update")
_KEY = re.compile(r"[\x21-\x7e]+")
_Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request.

    `repeatable`: applied twice it does what it does once. `hedged`: it changes nothing, so several
    gateways may be asked at the same time.
    """

    method: str
    path: str
    payload: bytes | None = None
    content_type: str = wire.JSON_TYPE
    repeatable: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)
    hedged: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The decoded body; `token` of the transaction after it; `replayed`: nothing was applied."""

    body: Any
    token: str | None = None
    replayed: bool = False


def json_request(
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    repeatable: bool = True,
    hedged: bool = False,
) -> Request:
    """A request with a JSON body, or with none; one that only looks (GET) is hedged."""
    payload = None if body is None else wire.dumps(body)
    hedged = hedged or method == "GET"
    return Request(method, path, payload, repeatable=repeatable, hedged=hedged)


def collection_path(collection: str, *parts: str) -> str:
    """The path of a collection, or of something in it, every part percent-encoded."""
    return "/".join(("/v1/collections", *(quote(part, safe="") for part in (collection, *parts))))


# -- writes


def check_insert(mode: Mode, batch_size: int) -> None:
    """What must hold before the first batch of an insert is sent.

    :raises InvalidArgument: an unknown mode, or no room in a batch.
    """
    if mode not in _MODES:
        raise InvalidArgument(f"mode: one of {', '.join(_MODES)}, is {mode!r}")
    if batch_size < 1:
        raise InvalidArgument(f"batch_size: at least 1, is {batch_size}")


def insert(batch: RowBatch, collection: str, mode: Mode) -> Request:
    """Write the rows of a checked batch."""
    # The plain path is the one that makes the default collection on its first insert.
    plain = collection == DEFAULT_COLLECTION
    path = "/vectors" if plain else collection_path(collection, "vectors")
    # Writing the same rows again changes nothing, unless something must hold of them before.
    repeatable = mode != "insert" and batch.if_version is None
    if wire.use_arrow(batch):
        target = f"{path}?mode={mode}"
        return Request("POST", target, wire.rows_arrow(batch), wire.ARROW_TYPE, repeatable)
    body = {"vectors": wire.rows_json(batch), "mode": mode}
    return json_request("POST", path, body, repeatable=repeatable)


def patch(id: str, metadata: Metadata, collection: str, if_version: int | None) -> Request:
    """Merge metadata into a row's."""
    path = collection_path(collection, "vectors", id)
    request = json_request("PATCH", path, {"metadata": metadata}, repeatable=if_version is None)
    if if_version is None:
        return request
    (version,) = wire.version_list(if_version, 1)
    return replace(request, headers={"If-Match": f'"{version}"'})


def delete(
    ids: Sequence[str] | None,
    filter: Filter | None,
    collection: str,
    if_version: IfVersion | None,
) -> Request:
    """Delete rows by id or by filter.

    :raises InvalidArgument: not exactly one of them, or versions that do not go with ids.
    """
    if (ids is None) == (filter is None):
        raise InvalidArgument("delete: needs either ids or filter")
    path = collection_path(collection, "vectors", "delete")
    if ids is None:
        if if_version is not None:
            raise InvalidArgument("delete: if_version goes with ids, not with a filter")
        return json_request("POST", path, {"filter": filter})
    body: _Body = {"ids": wire.id_list(ids)}
    if if_version is not None:
        body["if_versions"] = wire.version_list(if_version, len(body["ids"]))
    return json_request("POST", path, body, repeatable=if_version is None)


def commit(operations: Sequence[Upsert | Delete]) -> Request:
    """One atomic write of all operations."""
    body: list[_Body] = []
    for operation in operations:
        if isinstance(operation, Delete):
            one: _Body = {"delete": wire.id_list(operation.ids)}
            if operation.if_version is not None:
                one["if_versions"] = wire.version_list(operation.if_version, len(one["delete"]))
        else:
            rows = wire.checked(
                RowBatch(operation.ids, operation.vectors, operation.metadata, operation.if_version)
            )
            one = {"upsert": wire.rows_json(rows)}
        body.append({"collection": operation.collection} | one)
    repeatable = all(operation.if_version is None for operation in operations)
    path = "/v1/transactions/commit"
    return json_request("POST", path, {"operations": body}, repeatable=repeatable)


def with_key(request: Request, key: IdempotencyKey | None, part: int = 0) -> Request:
    """`request` under an idempotency key, so that it may be repeated.

    `part`: where in an insert of several batches it starts; each batch has a key of its own, the
    same one when the same insert comes again.

    :raises InvalidArgument: the key cannot be one.
    """
    if key is None:
        return request
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise InvalidArgument(
            f'idempotency_key: "auto", or visible ASCII without spaces, is {key!r}'
        )
    if key == "auto":
        key = uuid4().hex
    elif part:
        key = f"{key}/{part}"
    headers = {**request.headers, "Idempotency-Key": key}
    return replace(request, headers=headers, repeatable=True)


def write_result(answer: Answer) -> WriteResult:
    """What a write answers; staged in a transaction, its commit_ts is 0."""
    body = answer.body
    return WriteResult(int(body.get("count", 1)), body.get("commit_ts") or 0, answer.replayed)


# -- reads


def snapshot(consistency: Consistency, as_of: AsOf | None, token: int) -> _Body:
    """Which snapshot a read asks for, as the field of its body.

    :raises InvalidArgument: both `as_of` and a consistency, or one that there is not.
    """
    if as_of is not None:
        if consistency != "own_writes":
            raise InvalidArgument("as_of: goes without consistency")
        return {"consistency": {"as_of": _as_of(as_of)}}
    if consistency == "strong":
        return {"consistency": {"strong": True}}
    if consistency == "own_writes":
        return {"consistency": {"at_least": token}} if token else {}
    if isinstance(consistency, int) and not isinstance(consistency, bool):
        return {"consistency": {"at_least": consistency}}
    if consistency != "stable":
        raise InvalidArgument(
            f"consistency: own_writes, stable, strong or a commit timestamp, is {consistency!r}"
        )
    return {}


def _as_of(as_of: AsOf) -> int | str:
    if isinstance(as_of, datetime):
        if as_of.tzinfo is None:
            raise InvalidArgument("as_of: a datetime needs a time zone, for example datetime.UTC")
        return as_of.isoformat()
    if isinstance(as_of, bool) or not isinstance(as_of, int | str):
        raise InvalidArgument(
            f"as_of: a commit timestamp, a datetime or RFC 3339 text, is {as_of!r}"
        )
    return as_of


def query(
    vector: VectorLike | None,
    vectors: VectorLike | None,
    id: str | None,
    at: _Body,
    asked: _Body,
    *,
    collection: str = DEFAULT_COLLECTION,
    filter: Filter | None = None,
    include: Sequence[str] = ("metadata",),
    k: int | None = None,
    min_similarity: float | None = None,
    radius: float | None = None,
    recall: float | None = None,
    ef: int | None = None,
    nprobe: int | None = None,
    exact: bool = False,
) -> Request:
    """Search by a vector, by several, or by a row; `asked`: what the answer is to have besides.

    :raises InvalidArgument: not exactly one of them.
    """
    if (vector is not None) + (vectors is not None) + (id is not None) != 1:
        raise InvalidArgument("query: needs exactly one of vector, vectors and id")
    body = at | asked | _filtered(filter) | {"include": list(include)}
    if vector is not None:
        body["vector"] = wire.vector_json(wire.as_vector(vector))
    elif vectors is not None:
        body["vectors"] = [wire.vector_json(row) for row in wire.as_vectors(vectors)]
    else:
        body["id"] = id
    options = {
        "k": k,
        "min_similarity": min_similarity,
        "radius": radius,
        "recall": recall,
        "ef": ef,
        "nprobe": nprobe,
        "exact": exact or None,
    }
    body |= {name: value for name, value in options.items() if value is not None}
    return json_request("POST", collection_path(collection, "query"), body, hedged=True)


def page_asked(after: str | None) -> _Body:
    """The first page of a query, or the one behind a cursor."""
    return {"page": True} if after is None else {"after": after}


def query_page(answer: Answer) -> QueryPage:
    """One page of hits."""
    body = answer.body
    found = [wire.decode_match(hit) for hit in body["vectors"]]
    return QueryPage(found, body["snapshot_ts"], body["cursor"])


def explanation(answer: Answer) -> dict[str, Any]:
    """How a query was carried out."""
    told: dict[str, Any] = answer.body["explain"]
    return told


def matches(answer: Answer, batch: bool) -> list[Match] | list[list[Match]]:
    """The hits of a query, or those of each query of a batch."""
    if not batch:
        return [wire.decode_match(hit) for hit in answer.body["vectors"]]
    return [[wire.decode_match(h) for h in one["vectors"]] for one in answer.body["results"]]


def fetch(ids: list[str], collection: str, include: Sequence[str], at: _Body) -> Request:
    """Rows by id."""
    body = at | {"ids": ids, "include": list(include)}
    return json_request("POST", collection_path(collection, "vectors", "fetch"), body, hedged=True)


def count(filter: Filter | None, collection: str, at: _Body) -> Request:
    """How many rows there are, or match."""
    return json_request(
        "POST", collection_path(collection, "count"), at | _filtered(filter), hedged=True
    )


def count_result(answer: Answer) -> CountResult:
    """What a count answers."""
    return CountResult(answer.body["count"], answer.body["snapshot_ts"])


def scroll(
    collection: str,
    filter: Filter | None,
    page_size: int,
    include: Sequence[str],
    cursor: str | None,
    at: _Body,
) -> Request:
    """The next page of a scroll."""
    body = at | _filtered(filter) | {"limit": page_size, "include": list(include)}
    if cursor is not None:
        body["cursor"] = cursor
    return json_request("POST", collection_path(collection, "scroll"), body, hedged=True)


def _filtered(filter: Filter | None) -> _Body:
    return {} if filter is None else {"filter": filter}
