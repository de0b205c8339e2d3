"""An operator who spreads collections over other numbers of shards, faults or not.

Owns the rule that nothing stays on its way: once all is healed every spreading ends by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from random import Random

from tests.support.clients.client import Shared
from tests.support.clients.edge import Edge, NeverSent

COLLECTIONS = ("a", "b", "lists", "marks")
EVERY_S = (8.0, 20.0)
SHARDS_MAX = 4
_AGAIN_S = 0.2


class Spreads:
    """Of one run. `shared` is told what was asked and what should not be."""

    def __init__(self, edges: Sequence[Edge], shared: Shared, seed: int) -> None:
        self._edges = edges
        self._shared = shared
        self._random = Random(f"spreads-{seed}")

    async def run(self, over: asyncio.Event) -> None:
        """One collection after the other, until told to stop."""
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), self._random.uniform(*EVERY_S))
                return
            name = self._random.choice(COLLECTIONS)
            edge = self._random.choice(self._edges)
            shards = self._random.randint(1, SHARDS_MAX)
            try:
                answer = await edge.ask(
                    f"/v1/collections/{name}", {"shards": shards}, method="PATCH"
                )
            except NeverSent:
                continue
            self._shared.done["spreads" if answer.ok else f"spreads: {answer.code}"] += 1
            if answer.ok or answer.retryable:
                continue
            if answer.code not in ("already_exists", "no answer"):
                self._shared.broken.append(f"{name} over {shards} shards: {answer}")

    async def ended(self, within_s: float) -> None:
        """Until no collection is being spread.

        :raises TimeoutError: one still is.
        """
        until = time.monotonic() + within_s
        for name in COLLECTIONS:
            while True:
                with contextlib.suppress(NeverSent):
                    answer = await self._edges[0].ask(f"/v1/collections/{name}", method="GET")
                    if answer.ok and not answer.body.get("spreading"):
                        break
                if time.monotonic() > until:
                    raise TimeoutError(f"{name} is still being spread")
                await asyncio.sleep(_AGAIN_S)
