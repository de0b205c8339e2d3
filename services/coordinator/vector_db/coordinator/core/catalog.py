"""Changes of the catalog that are asked for, judged against the catalog as it is. Pure.

Owns the rules of names: a name means one collection, be it its own or an alias; an alias stands
for a collection, never for an alias; and only its own name drops a collection.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from vector_db.common.core.domain import DomainState
from vector_db.common.core.messages import AlterCollectionRequest, CreateCollectionRequest
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


def altered(state: DomainState, asked: AlterCollectionRequest) -> Collection:
    """The new catalog entry.

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
    return changed


def to_drop(state: DomainState, name: str) -> Collection:
    """The collection of that very name.

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
    return found


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
