"""The operations of one write: validated against the catalog as it is here. Pure.

Owns the rule that no row is given twice in one write, and what the preconditions of an operation
say of the versions that its rows have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vector_db.common.model.collection import Collection
from vector_db.common.model.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    PreconditionFailed,
)
from vector_db.common.model.limits import Limits
from vector_db.gateway.core.requests import Delete, Upsert
from vector_db.gateway.core.rows import check_distinct, validate_rows


class Operations:
    """Collects the operations of one write, in order, and refuses what cannot be taken."""

    def __init__(self, limits: Limits, count: int) -> None:
        """`count`: how many operations there are, which decides how places are named."""
        self._limits = limits
        self._count = count
        self._seen: dict[int, list[bytes]] = {}
        self.checked: list[tuple[Upsert | Delete, Collection]] = []
        """Those that have rows, each with its collection."""
        self.written = 0
        """Rows that are written, deletes left out."""

    def add(self, operation: Upsert | Delete, collection: Collection, index: int) -> None:
        """Take the next operation.

        :raises InvalidArgument: names its place.
        """
        where = "vectors" if self._count == 1 else f"operations[{index}]"
        ids = ids_of(operation)
        if isinstance(operation, Upsert):
            validate_rows(operation.rows, collection, self._limits, where)
            self.written += len(ids)
        else:
            check_distinct(ids, where)
        versions = operation.if_version
        if versions is not None and len(versions) != len(ids):
            raise InvalidArgument(f"{where}: {len(versions)} if_version for {len(ids)} rows")
        # By id: a collection may be called by its name and by aliases in one write.
        if collection.id in self._seen:
            check_distinct(self._seen[collection.id] + ids, f"{where} and those before it")
        self._seen.setdefault(collection.id, []).extend(ids)
        if ids:
            self.checked.append((operation, collection))


def ids_of(operation: Upsert | Delete) -> list[bytes]:
    """The rows that an operation is about."""
    return operation.rows.ids if isinstance(operation, Upsert) else operation.ids


def looks_first(operation: Upsert | Delete) -> bool:
    """Whether what an operation does or answers depends on the rows that are there."""
    if isinstance(operation, Delete) or operation.if_version is not None:
        return True
    return operation.mode != "upsert"


def judged(operation: Upsert | Delete, versions: Mapping[bytes, int]) -> int:
    """What the operation counts, given the version of each of its rows that exists.

    :raises AlreadyExists: mode ``insert`` and an id exists.
    :raises NotFound: mode ``update`` and an id is absent.
    :raises PreconditionFailed: `if_version` does not hold; an absent row has version 0.
    """
    ids = ids_of(operation)
    if operation.if_version is not None:
        wanted = operation.if_version.tolist()
        bad = [i for i, v in zip(ids, wanted, strict=True) if versions.get(i, 0) != v]
        if bad:
            raise PreconditionFailed(_says(bad, ids, "has another version"))
    elif isinstance(operation, Upsert) and operation.mode == "insert":
        if bad := [i for i in ids if i in versions]:
            raise AlreadyExists(_says(bad, ids, "exists already"))
    elif (
        isinstance(operation, Upsert)
        and operation.mode == "update"
        and (bad := [i for i in ids if i not in versions])
    ):
        raise NotFound(_says(bad, ids, "does not exist"))
    if isinstance(operation, Upsert):
        return len(ids)
    return sum(i in versions for i in ids)


def unconditional(operation: Upsert | Delete) -> Upsert | Delete:
    """The operation without what must hold before: it was judged."""
    if isinstance(operation, Delete):
        return Delete(operation.collection, operation.ids)
    return Upsert(operation.collection, operation.rows)


def _says(bad: Sequence[bytes], ids: Sequence[bytes], what: str) -> str:
    return f"id {bad[0].decode()!r} {what} ({len(bad)} of {len(ids)} rows)"
