"""Fills second generations of collections, switches to them, and ends those that are over.

Gateways copy, a page of rows at a time, whoever is asked; here is only where a pass over the ids
stands, in memory. The term is the fence: whoever was replaced decides no switch any more, and a new
term begins every pass anew. Owns the rule that a switch is decided only after a pass of this term
that began once the generation's creation was stable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from vector_db.common.core.messages.catalog import CopyReply, CopyRequest
from vector_db.common.core.subjects import gateways
from vector_db.common.model.collection import Collection
from vector_db.common.model.errors import Internal, OutcomeUnknown, Unavailable, VectorDBError
from vector_db.common.ports import Bus, BusTimeout, BusUnavailable, NoResponders
from vector_db.coordinator.core.catalog import to_end, to_switch
from vector_db.coordinator.term import Term

TURN_S = 0.25
ROWS_MAX = 256
"""Of a page: a write that meets an undecided copy of its row waits for the whole page."""
COPY_TIMEOUT_S = 15.0
"""Longer than a page may stay undecided; one that is asked for twice does no harm."""
KEPT_S = 60.0
"""How much longer than `retention_s` a generation is kept that another one replaced."""


@dataclass(slots=True)
class _Pass:
    """Over the ids of one generation, in order: all up to `last` are in the other."""

    last: bytes = b""
    done: bool = False
    read: int = 0
    copied: int = 0
    told: str = ""
    """The last failure that the log has."""


class Spreader:
    """Of one term. `on_copied` takes how many rows a page brought."""

    def __init__(
        self,
        bus: Bus,
        term: Term,
        wall_ms: Callable[[], int],
        retention_s: float,
        on_copied: Callable[[int], None],
    ) -> None:
        self._bus = bus
        self._term = term
        self._wall_ms = wall_ms
        self._kept_ms = int((retention_s + KEPT_S) * 1000)
        self._on_copied = on_copied
        self._passes: dict[int, _Pass] = {}
        self._log = structlog.get_logger("vector_db.coordinator").bind(term=term.sequencer.term)

    def spreading(self) -> int:
        """How many collections are being spread."""
        return len(self._filling())

    async def run(self) -> None:
        """Until cancelled: a page of each collection that is being spread, again and again."""
        while True:
            self._end_passes()
            stable_ts = self._term.sequencer.stable_ts
            due = [g for g in self._filling() if stable_ts >= g.id]
            got_on = [await self._step(generation) for generation in due]
            if await self._end_one() or (got_on and all(got_on)):
                continue
            await asyncio.sleep(TURN_S)

    def _filling(self) -> list[Collection]:
        return [c for c in self._term.state.collections.values() if c.replaces]

    def _end_passes(self) -> None:
        """Forget those of generations that are not filled any more."""
        collections = self._term.state.collections
        for generation_id, pass_ in list(self._passes.items()):
            found = collections.get(generation_id)
            if found is None:
                self._log.info("gives up spreading", generation=generation_id)
            elif not found.replaces:
                self._log.info("is spread", **_facts(found), rows=pass_.read, copied=pass_.copied)
            else:
                continue
            del self._passes[generation_id]

    # --- filling and switching --------------------------------------------------------------------

    async def _step(self, generation: Collection) -> bool:
        """One page, or the switch after the last; false: it failed, and has to be tried again."""
        if (pass_ := self._passes.get(generation.id)) is None:
            pass_ = self._passes[generation.id] = _Pass()
            self._log.info("spreads", **_facts(generation))
        try:
            if pass_.done:
                await self._switch(generation)
            else:
                await self._copy_page(generation, pass_)
        except (NoResponders, BusTimeout, BusUnavailable, VectorDBError) as error:
            if isinstance(error, VectorDBError) and not _is_passing(error):
                # Whatever was found missing may lie anywhere.
                pass_ = self._passes[generation.id] = _Pass(told=pass_.told)
            if pass_.told != str(error):
                pass_.told = str(error)
                self._log.warning(
                    "spreading does not get on, it is tried again",
                    **_facts(generation),
                    error=f"{type(error).__name__}: {error}",
                )
            return False
        return True

    async def _copy_page(self, generation: Collection, pass_: _Pass) -> None:
        request = CopyRequest(generation.replaces, generation.id, pass_.last, ROWS_MAX)
        reply = await self._bus.request(gateways(), request, COPY_TIMEOUT_S)
        if not isinstance(reply, CopyReply):
            raise Internal(f"a gateway answers a page with {type(reply).__name__}")
        if reply.last <= pass_.last and not reply.done:
            raise Internal(f"a page ends at {reply.last!r}, where it began")
        pass_.last, pass_.done = reply.last, reply.done
        pass_.read += reply.read
        pass_.copied += reply.copied
        pass_.told = ""
        self._on_copied(reply.copied)

    async def _switch(self, generation: Collection) -> None:
        await self._term.changes.switch(
            lambda: to_switch(self._term.state, generation.id), self._wall_ms()
        )

    # --- generations that are over ----------------------------------------------------------------

    async def _end_one(self) -> bool:
        """Drop a generation that no snapshot needs any more; false: there is none."""

        def find() -> Collection | None:
            sequencer = self._term.sequencer
            now_ms = sequencer.wall_now(self._wall_ms())
            return to_end(sequencer.state, now_ms, self._kept_ms)

        if (generation := find()) is None:
            return False
        try:
            ended = await self._term.changes.end_generation(find)
        except Unavailable as error:
            self._log.warning("the end of a generation is not durable yet", error=str(error))
            return False
        if ended:
            self._log.info("drops what it was spread over before", **_facts(generation))
        return ended


def _is_passing(error: VectorDBError) -> bool:
    """Whether the same page may well succeed a little later."""
    return error.retryable or isinstance(error, OutcomeUnknown)


def _facts(generation: Collection) -> dict[str, object]:
    return {
        "collection": generation.name,
        "generation": generation.id,
        "shards": generation.shards,
    }
