"""A client that alters collections and switches aliases, and checks what they are afterwards.

It alone changes these, so it knows what may be: what it was told last, and whatever was sent since
without a word. Two aliases are always switched together, so nobody may ever see them apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, TypeVar

import numpy as np

from tests.sim.services.cluster import Cluster, ConnectionLost, Node, NotServing
from vector_db.common.model.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    TooLarge,
    VectorDBError,
)
from vector_db.gateway.api import DatabaseApi
from vector_db.gateway.core.requests import CollectionChange, Consistency, RowsIn, Upsert

T = TypeVar("T")
COLORS = ("blue", "green")
ALIASES = ("now", "twin")
TARGETS = (0.6, 0.7, 0.8, 0.9)
REQUEST_TIMEOUT_S = 40.0
LATE_S = 30.0
"""How long a change that was sent without a word may still take effect."""
STRONG = Consistency(strong=True)
_NEVER_RIGHT = (AlreadyExists, InvalidArgument, TooLarge)
"""What no change of this client may be told."""


class Known:
    """What one thing may be now: as it was told last, or as was sent since without a word."""

    def __init__(self, first: Any) -> None:
        self._told = first
        self._late: dict[Any, float] = {}
        """Value → until when it may come."""

    def tell(self, value: Any) -> None:
        """It was changed to `value` for certain."""
        self._told = value
        now = asyncio.get_running_loop().time()
        self._late = {v: until for v, until in self._late.items() if until > now}

    def send(self, value: Any) -> None:
        """It may be changed to `value`, now or a little later."""
        self._late[value] = asyncio.get_running_loop().time() + LATE_S

    def may_be(self, value: Any) -> bool:
        """Whether nothing speaks against it."""
        return value == self._told or value in self._late

    def __str__(self) -> str:
        return f"{self._told} or {list(self._late)}"


class Switcher:
    """One session, over any gateway."""

    def __init__(self, cluster: Cluster, random: Random) -> None:
        self._cluster = cluster
        self._random = random
        self._stands_for = Known(None)
        self._recall = {color: Known(0.95) for color in COLORS}
        self.stopping = False

    async def run(self) -> None:
        """Until `stopping`."""
        begun = False
        while not self.stopping and not begun:
            begun = await self._begin()
            await asyncio.sleep(0.2)
        steps: list[Callable[[], Awaitable[object]]] = [
            self._switch,
            self._switch,
            self._alter,
            self._look_at_both,
            self.check,
        ]
        while not self.stopping:
            await self._random.choice(steps)()
            await asyncio.sleep(0.3 * self._random.random())

    async def _call(self, request: Callable[[DatabaseApi], Awaitable[T]]) -> T:
        gateway: Node = self._random.choice(self._cluster.gateways)
        return await gateway.call(request, REQUEST_TIMEOUT_S)

    async def _begin(self) -> bool:
        """Two collections with one row each, which says where it lies; whether they are there."""
        for n, color in enumerate(COLORS):
            rows = RowsIn([b"row"], np.full((1, 2), n + 1, "<f4"), None)
            try:
                await self._call(lambda d, c=color: d.create_collection(c, 2, "dot", 1, True))  # type: ignore[misc]
                await self._call(lambda d, c=color, r=rows: d.write([Upsert(c, r)]))  # type: ignore[misc]
            except (NotServing, ConnectionLost, VectorDBError):
                return False
        return True

    # --- changes ------------------------------------------------------------------------------

    async def _switch(self) -> None:
        """Both aliases at once, while somebody looks at them."""
        target = self._random.choice([*COLORS, *COLORS, None])
        changes = dict.fromkeys(ALIASES, target)
        changing = asyncio.ensure_future(
            self._change(self._stands_for, target, lambda database: database.set_aliases(changes))
        )
        while not changing.done():
            await self._look_at_both()
            await asyncio.sleep(0.01 * self._random.random())
        await changing

    async def _alter(self) -> None:
        color, recall = self._random.choice(COLORS), self._random.choice(TARGETS)
        change = CollectionChange(recall_target=recall)
        await self._change(
            self._recall[color], recall, lambda database: database.alter_collection(color, change)
        )

    async def _change(
        self, known: Known, value: Any, request: Callable[[DatabaseApi], Awaitable[object]]
    ) -> None:
        try:
            await self._call(request)
        except NotServing:
            return
        except NotFound as error:
            # The aliases were removed already, or may have been.
            if value is not None or not known.may_be(None):
                self._cluster.violation(f"a change to {value}: {error}")
        except _NEVER_RIGHT as error:
            self._cluster.violation(f"a change to {value}: {error}")
        except (ConnectionLost, VectorDBError):
            known.send(value)
        else:
            known.tell(value)
            self._cluster.count("catalog changes")

    # --- checks -------------------------------------------------------------------------------

    async def _look_at_both(self) -> None:
        """Two aliases that are always changed together are never seen apart."""
        try:
            aliases = await self._call(lambda database: database.aliases())
        except (NotServing, ConnectionLost, VectorDBError):
            return
        now, twin = (aliases.get(alias) for alias in ALIASES)
        if now != twin:
            self._cluster.violation(f"aliases seen apart: {now} and {twin}")

    async def check(self) -> bool:
        """A strong read through an alias, and the options; whether they could be read."""
        alias = self._random.choice(ALIASES)
        try:
            found = await self._call(lambda database: database.fetch(alias, [b"row"], STRONG))
            if found.vectors is None or not found.ids:
                self._cluster.violation(f"no row through {alias}")
                return False
            place: str | None = COLORS[int(found.vectors[0][0]) - 1]
        except NotFound:
            place = None
        except (NotServing, ConnectionLost, VectorDBError):
            return False
        if not self._stands_for.may_be(place):
            self._cluster.violation(f"{alias} stands for {place}, not for {self._stands_for}")
        self._cluster.count("aliases checked")
        return await self._check_options()

    async def _check_options(self) -> bool:
        try:
            entries = await self._call(lambda database: database.collections())
        except (NotServing, ConnectionLost, VectorDBError):
            return False
        for entry in entries:
            known = self._recall.get(entry.name)
            if known is not None and not known.may_be(entry.recall_target):
                self._cluster.violation(f"{entry.name}: {entry.recall_target}, not {known}")
        return True
