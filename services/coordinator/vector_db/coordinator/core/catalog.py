"""Changes of the catalog that are asked for, judged against the catalog as it is. Pure.

Owns the rules of names: a name means one collection, be it its own or an alias; an alias stands
for a collection, never for an alias; and only its own name drops a collection. And that a
collection has one generation in force, and at most one that is being filled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages.catalog import (
    AlterCollectionRequest,
    CreateCollectionRequest,
    SpreadRequest,
)
from vector_db.common.model.collection import Collection
from vector_db.common.model.errors import AlreadyExists, InvalidArgument, NotFound, TooLarge
from vector_db.common.model.ids import HIDDEN_PREFIX, validate_collection_name
from vector_db.common.model.limits import ALIASES_MAX
from vector_db.common.model.options import check_fields, check_index, check_recall_target


def check_create(state: DomainState, asked: CreateCollectionRequest) -> None:
    """:raises AlreadyExists: a collection or an alias has the name.
    :raises InvalidArgument: its options are out of their bounds.
    """
    check_index(asked.index)
    check_recall_target(asked.recall_target)
    check_fields(asked.fields)
    existing = state.by_name(asked.name)
    if asked.name in state.aliases and existing is not None:
        raise AlreadyExists(f"{asked.name!r} is an alias of collection {existing.name!r}")
    if existing is not None:
        raise AlreadyExists(f"collection {asked.name!r} exists already")


def altered(state: DomainState, asked: AlterCollectionRequest) -> tuple[Collection, ...]:
    """The new catalog entries: of the generation that is being filled, then of the one in force.

    :raises NotFound: there is no such collection, or it is hidden.
    :raises InvalidArgument: an option is out of its bounds.
    """
    found = _visible(state, asked.name)
    changed = found
    if asked.index is not None:
        check_index(asked.index)
        changed = msgspec.structs.replace(changed, index=asked.index.of(found.index))
    if asked.recall_target is not None:
        check_recall_target(asked.recall_target)
        changed = msgspec.structs.replace(changed, recall_target=asked.recall_target)
    if asked.fields is not None:
        check_fields(asked.fields)
        changed = msgspec.structs.replace(changed, fields=asked.fields)
    successor = state.successor(found.id)
    if successor is None:
        return (changed,)
    filled = msgspec.structs.replace(
        successor,
        index=changed.index,
        recall_target=changed.recall_target,
        fields=changed.fields,
    )
    return filled, changed


@dataclass(frozen=True, slots=True)
class Spreading:
    """What a request to spread comes to: `begin` a generation of this one, `give_up` this one, or
    neither. In any case it is as asked for once `until_ts` is stable."""

    begin: Collection | None = None
    give_up: Collection | None = None
    until_ts: int = 0


def to_spread(state: DomainState, asked: SpreadRequest, shard_count: int) -> Spreading:
    """What has to be decided so that a collection is spread over so many shards.

    :raises NotFound: there is no such collection, or it is hidden.
    :raises InvalidArgument: not 1 to `shard_count` shards.
    :raises AlreadyExists: it is being spread over another number of shards.
    """
    found = _visible(state, asked.name)
    if not 1 <= asked.shards <= shard_count:
        raise InvalidArgument(
            f"shards: {asked.shards} asked, it must be 1 to VECTOR_DB_SHARD_COUNT = {shard_count}"
        )
    successor, present = state.successor(found.id), len(found.shards)
    if successor is None:
        if asked.shards == present:
            return Spreading(until_ts=state.catalog_ts)
        return Spreading(begin=found)
    if asked.shards == present:
        return Spreading(give_up=successor)
    if asked.shards == len(successor.shards):
        return Spreading(until_ts=state.catalog_ts)
    raise AlreadyExists(
        f"collection {found.name!r} is being spread over {len(successor.shards)} shards; ask for "
        f"its present {present} to give that up, or wait"
    )


def to_switch(state: DomainState, generation_id: int) -> Collection | None:
    """The generation that is being filled, unless it was given up or took its place meanwhile."""
    found = state.collections.get(generation_id)
    return found if found is not None and found.replaces else None


def to_end(state: DomainState, now_ms: int, kept_ms: int) -> Collection | None:
    """A generation that another one replaced at least `kept_ms` ago."""
    over = (c for c in state.collections.values() if c.until_ts)
    return next((c for c in over if now_ms >= c.until_ms + kept_ms), None)


def to_drop(state: DomainState, name: str) -> tuple[Collection, ...]:
    """All generations of the collection of that very name, the one in force last.

    :raises NotFound: there is none.
    :raises InvalidArgument: it is an alias.
    """
    found = state.by_name(name)
    if found is None:
        raise NotFound(f"collection {name!r} does not exist")
    if name in state.aliases:
        raise InvalidArgument(
            f"{name!r} is an alias of collection {found.name!r}: drop that by its own name, or "
            "remove the alias"
        )
    return *(c for c in reversed(state.generations(name)) if c.id != found.id), found


def aliases_after(state: DomainState, changes: Mapping[str, str | None]) -> dict[str, int]:
    """All aliases once `changes` (alias → name of a collection, None removes it) are made.

    :raises NotFound: a collection, or an alias to be removed, does not exist.
    :raises AlreadyExists: a collection has the name of an alias.
    :raises InvalidArgument: an alias of an alias, or a name that cannot be one.
    :raises TooLarge: more than `ALIASES_MAX` aliases.
    """
    own_names = {c.name for c in state.collections.values()}
    after = dict(state.aliases)
    for alias, target in changes.items():
        validate_collection_name(alias, "alias")
        if target is None:
            if after.pop(alias, None) is None:
                raise NotFound(f"alias {alias!r} does not exist")
            continue
        if alias in own_names:
            raise AlreadyExists(f"alias {alias!r}: a collection has this name")
        if target in state.aliases or changes.get(target) is not None:
            raise InvalidArgument(
                f"alias {alias!r}: {target!r} is an alias itself, name the collection"
            )
        after[alias] = _visible(state, target).id
    if len(after) > ALIASES_MAX:
        raise TooLarge(f"{len(after)} aliases, the limit aliases_max is {ALIASES_MAX}")
    return after


def _visible(state: DomainState, name: str) -> Collection:
    found = state.by_name(name)
    if found is None or found.name.startswith(HIDDEN_PREFIX):
        raise NotFound(f"collection {name!r} does not exist")
    return found
