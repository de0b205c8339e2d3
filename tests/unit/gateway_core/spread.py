"""What tests of collections that are spread do and look at, in the cluster that is played."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from tests.unit.gateway_core.played import Cluster
from vector_db.common.core.messages.catalog import CopyReply, CopyRequest
from vector_db.common.core.messages.reads import (
    CountRequest,
    FetchRequest,
    ScrollRequest,
    SearchRequest,
)
from vector_db.common.core.messages.transactions import Prepare
from vector_db.common.model.collection import Collection
from vector_db.gateway.core.requests import Consistency

NOW = Consistency()
WIDER = (1, 2, 3, 4)
ONES = np.ones((1, 2), np.float32)


def shown(cluster: Cluster, collection: Collection) -> dict[bytes, tuple[int, bytes]]:
    """Id → version and metadata of the newest rows of one generation, as its shards have them."""
    found = {}
    for (collection_id, row_id), versions in cluster.history.items():
        if collection_id == collection.id and versions[-1].alive:
            found[row_id] = versions[-1].version, versions[-1].metadata
    return found


def same(cluster: Cluster, successor: Collection) -> None:
    """Both generations have the same rows."""
    assert shown(cluster, successor) == shown(cluster, cluster.by_name("c")) != {}


def prepared(cluster: Cluster) -> list[Prepare]:
    return [r for log in cluster.broker.logs.values() for r in log if isinstance(r, Prepare)]


def read_of(cluster: Cluster) -> set[int]:
    """The generations that shards were asked about."""
    kinds = CountRequest | FetchRequest | ScrollRequest | SearchRequest
    return {asked.collection_id for asked in cluster.asked if isinstance(asked, kinds)}


async def heard(cluster: Cluster) -> None:
    """Every gateway has the newest catalog."""
    for gateway in cluster.gateways:
        await gateway.view.refresh()


async def copied(cluster: Cluster, successor: Collection, rows_max: int = 100) -> list[CopyReply]:
    """Ask for all pages, one after the other."""
    replies: list[CopyReply] = []
    after = b""
    while not replies or not replies[-1].done:
        request = CopyRequest(successor.replaces, successor.id, after, rows_max)
        replies.append(await cluster.gateways[0].copier.copy(request))
        after = replies[-1].last
    return replies


async def filled(cluster: Cluster) -> Collection:
    """A second generation of ``c`` that has all its rows."""
    successor = cluster.spread("c", WIDER)
    await heard(cluster)
    await copied(cluster, successor)
    return successor


def during(target: Any, name: str, then: Callable[[], Awaitable[None]]) -> None:
    """Before the next call of that method of `target`, `then` happens."""
    method = getattr(target, name)

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        setattr(target, name, method)
        await then()
        return await method(*args, **kwargs)

    setattr(target, name, wrapped)


async def ids(database: Any, consistency: Consistency = NOW) -> list[str]:
    page = await database.scroll("c", 100, None, None, consistency)
    return [row_id.decode() for row_id in page.rows.ids]
