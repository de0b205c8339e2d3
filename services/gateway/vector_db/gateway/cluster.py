"""The cluster as this gateway hears it: term, `stable_ts`, catalog, placement.

Owns the invariant that `stable_ts` here only grows within what the sequencer announced, and that a
catalog older than the announced `catalog_ts` is fetched again before it is used.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

import structlog

from vector_db.common.core.domain import majority
from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.catalog import CatalogReply, CatalogRequest, Member
from vector_db.common.core.messages.reads import StrongReply, StrongRequest
from vector_db.common.core.messages.transactions import (
    AbortRequest,
    Beat,
    Outcome,
    TxnStatusRequest,
)
from vector_db.common.core.subjects import beats, members, sequencer
from vector_db.common.model.collection import Collection
from vector_db.common.model.errors import NotFound, Unavailable
from vector_db.common.model.rows import RowBlock
from vector_db.common.ports import (
    Bus,
    BusTimeout,
    BusUnavailable,
    Clock,
    NoResponders,
    Subscription,
)
from vector_db.gateway.core.entries import Entries
from vector_db.gateway.core.partition import Routed, partition
from vector_db.gateway.core.requests import Consistency

REQUEST_TIMEOUT_S = 12.0
QUICK = (AbortRequest, CatalogRequest, StrongRequest, TxnStatusRequest)
"""What is answered at once, and may be asked twice."""
QUICK_TIMEOUTS_S = (1.5, 3.0, 7.5)
STABLE_TIMEOUT_S = 5.0
MEMBER_TIMEOUT_S = 3.0
QUIET_S = 2.0
"""Without a beat for so long the gateway says that it is not ready."""


class ClusterView:
    """What the beats say, and the catalog behind them."""

    def __init__(self, bus: Bus, clock: Clock, on_outcome: Callable[[Outcome], None]) -> None:
        self._bus = bus
        self._clock = clock
        self._on_outcome = on_outcome
        self._log = structlog.get_logger("vector_db.gateway")
        self.term = 0
        self.cluster_id = ""
        self.stable_ts = 0
        self.catalog_ts = 0
        self.replicas: dict[int, tuple[str, ...]] = {}
        self.reply: CatalogReply | None = None
        self.entries = Entries()
        self._announced_catalog_ts = 0
        self._wall = (0, 0.0)
        self._heard_s = float("-inf")
        self._beaten = asyncio.Event()
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._refresh: asyncio.Task[None] | None = None
        self._subscriptions: list[Subscription] = []
        self._members: dict[str, float] = {}
        self.on_new_term: list[Callable[[], None]] = []

    async def start(self, timeout_s: float) -> None:
        """Return once a sequencer leads and its catalog is here.

        :raises Unavailable: it does not within `timeout_s`.
        """
        self._subscriptions = [
            await self._bus.subscribe(beats(), self.on_beat),
            await self._bus.subscribe(members(), self._on_member),
        ]
        await self.wait_stable(1, timeout_s)
        await self.refresh()

    async def stop(self) -> None:
        for subscription in self._subscriptions:
            await subscription.close()
        if self._refresh is not None:
            self._refresh.cancel()

    def ready(self) -> bool:
        """Whether a sequencer was heard just now."""
        return self.stable_ts > 0 and self._clock.monotonic_s() - self._heard_s < QUIET_S

    def _on_member(self, message: AnyMessage) -> None:
        if isinstance(message, Member):
            self._members[message.worker] = self._clock.monotonic_s()

    def is_silent(self, worker_id: str) -> bool:
        """Whether a worker that was heard before is not heard any more."""
        heard_s = self._members.get(worker_id)
        now_s = self._clock.monotonic_s()
        return heard_s is not None and heard_s < now_s - MEMBER_TIMEOUT_S

    def heard_first(self, workers: Iterable[str]) -> list[str]:
        """The workers once each, those that are not heard any more last."""
        return sorted(dict.fromkeys(workers), key=self.is_silent)

    def silent_shards(self, shards: Iterable[int]) -> list[int]:
        """Those of `shards` of which no majority of replicas was heard lately.

        A worker that was never heard from here has its first heartbeats still to come.
        """
        silent = []
        for shard in shards:
            replicas = self.replicas.get(shard, ())
            heard = sum(not self.is_silent(w) for w in replicas)
            if heard < majority(len(replicas)):
                silent.append(shard)
        return silent

    async def heard(self, timeout_s: float) -> bool:
        """Whether a sequencer is heard, waiting a little: this process may have been busy."""
        if self.ready():
            return True
        await self.heard_again(timeout_s)
        return self.ready()

    async def heard_again(self, timeout_s: float) -> bool:
        """Whether another beat comes in time."""
        self._beaten.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._beaten.wait(), timeout_s)
            return True
        return False

    async def wait_term(self, term: int, timeout_s: float) -> None:
        """Until a beat of this term or a later one is heard.

        :raises Unavailable: none is within `timeout_s`.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while self.term < term:
            self._beaten.clear()
            try:
                await asyncio.wait_for(self._beaten.wait(), until - loop.time())
            except TimeoutError:
                raise Unavailable(f"the coordinator of term {term} is not heard yet") from None

    def wall_ms(self) -> int:
        """The sequencer's wall time, as well as it can be told from here."""
        wall_ms, heard_s = self._wall
        return wall_ms + int((self._clock.monotonic_s() - heard_s) * 1000)

    def on_beat(self, message: AnyMessage) -> None:
        """Take a beat, with the outcomes that it carries."""
        if not isinstance(message, Beat) or message.term < self.term:
            return
        if self.cluster_id and message.cluster_id != self.cluster_id:
            self._log.error("ignored a coordinator of another cluster", cluster=message.cluster_id)
            return
        now = self._clock.monotonic_s()
        self._heard_s = now
        self._beaten.set()
        self._wall = (message.wall_ms, now)
        if message.stable_ts:
            # Before, it may be the attempt of a candidate that loses.
            self.cluster_id = message.cluster_id
        new_term = message.term > self.term
        if new_term:
            self.term = message.term
        # A takeover may have undone a change, so a new term's word counts even where it is lower.
        if new_term or message.catalog_ts > self._announced_catalog_ts:
            self._announced_catalog_ts = message.catalog_ts
        if message.stable_ts > self.stable_ts:
            self.stable_ts = message.stable_ts
            self._wake()
        for outcome in message.outcomes:
            self._on_outcome(outcome)
        if new_term:
            for listener in self.on_new_term:
                listener()
        if self._announced_catalog_ts != self.catalog_ts and self.reply is not None:
            self._refresh_later()

    def _wake(self) -> None:
        if self._waiters:
            for ts, future in self._waiters:
                if ts <= self.stable_ts and not future.done():
                    future.set_result(None)
            self._waiters = [w for w in self._waiters if not w[1].done()]

    async def wait_stable(self, ts: int, timeout_s: float = STABLE_TIMEOUT_S) -> None:
        """Until `stable_ts` reaches `ts`.

        :raises Unavailable: not within `timeout_s`.
        """
        if self.stable_ts >= ts:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((ts, future))
        try:
            await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            raise Unavailable(
                f"the snapshot {ts} is not reached within {timeout_s:g} s, the newest is "
                f"{self.stable_ts}"
            ) from None

    async def snapshot(self, consistency: Consistency) -> int:
        """The snapshot that a read with this consistency uses now.

        :raises Unavailable: it cannot be reached, or no majority confirms the sequencer.
        """
        if consistency.strong:
            reply = await self.ask(StrongRequest())
            if not isinstance(reply, StrongReply):
                raise Unavailable("the sequencer gave no strong snapshot")
            await self.wait_stable(reply.stable_ts)
        if consistency.at_least > self.stable_ts:
            await self.wait_stable(consistency.at_least)
        if not self.stable_ts:
            raise Unavailable("no sequencer leads yet")
        return self.stable_ts

    # --- catalog ----------------------------------------------------------------------------------

    async def ask(self, message: AnyMessage) -> AnyMessage:
        """Ask the sequencer of the newest term that was heard; once more, perhaps of another one,
        when that does not answer what takes no time.

        :raises Unavailable: nobody leads now.
        """
        quick = isinstance(message, QUICK)
        for timeout_s in QUICK_TIMEOUTS_S if quick else (REQUEST_TIMEOUT_S,):
            term = self.term
            try:
                try:
                    return await self._bus.request(sequencer(term), message, timeout_s)
                except NoResponders:
                    return await self._bus.request(sequencer(), message, timeout_s)
            except BusTimeout as error:
                told: Exception = error
            except (NoResponders, BusUnavailable) as error:
                raise Unavailable("no coordinator leads now, try again") from error
        raise Unavailable("no coordinator leads now, try again") from told

    def take_catalog(self, reply: AnyMessage) -> None:
        """Use a catalog unless a newer one is here."""
        if not isinstance(reply, CatalogReply):
            raise Unavailable("the sequencer gave no catalog")
        if (reply.term, reply.catalog_ts) < (
            (self.reply.term, self.catalog_ts) if self.reply else (0, 0)
        ):
            return
        self.reply = reply
        self.catalog_ts = reply.catalog_ts
        # A beat may have announced a newer one while the answer was on its way.
        newer = reply.catalog_ts > self._announced_catalog_ts
        if reply.term > self.term or (reply.term == self.term and newer):
            self._announced_catalog_ts = reply.catalog_ts
        self.entries = Entries(reply.collections, reply.aliases)
        self.replicas = reply.replicas

    async def refresh(self) -> None:
        """Fetch the catalog.

        :raises Unavailable: nobody leads now.
        """
        self.take_catalog(await self.ask(CatalogRequest()))

    async def caught_up(self) -> int:
        """The `catalog_ts` here, after fetching another one that was announced: then every change
        up to `stable_ts` is known here.

        :raises Unavailable: nobody leads now.
        """
        if self._announced_catalog_ts != self.catalog_ts:
            await self.refresh()
        return self.catalog_ts

    async def generation(self, collection: Collection, snapshot_ts: int) -> Collection:
        """The generation of the collection that serves a snapshot, which is stable here.

        :raises NotFound: the collection was dropped, or did not exist at the snapshot.
        :raises SnapshotTooOld: the generation of that time is gone.
        :raises Unavailable: another catalog was announced, and nobody leads now.
        """
        # A takeover may have undone a switch that the catalog which is here still tells of.
        await self.caught_up()
        return self.entries.at(collection, snapshot_ts)

    def _refresh_later(self) -> None:
        if self._refresh is None or self._refresh.done():
            self._refresh = asyncio.create_task(self._refresh_quietly(), name="catalog")

    async def _refresh_quietly(self) -> None:
        if self._announced_catalog_ts == self.catalog_ts:
            return  # somebody fetched it meanwhile
        try:
            await self.refresh()
        except Unavailable as error:
            self._log.warning("the catalog is not fetched, the next beat asks", error=str(error))

    def collections(self) -> list[Collection]:
        """All collections but the hidden ones, by name; of each the generation in force."""
        by_name = self.entries.by_name
        return [by_name[name] for name in sorted(by_name)]

    def collection_by_id(self, collection_id: int) -> Collection | None:
        """An entry of the catalog that is here, of whichever generation."""
        return self.entries.by_id.get(collection_id)

    def routed(self, blocks: Iterable[tuple[RowBlock, Collection]]) -> Routed:
        """Every shard's part of a transaction by the catalog of this very moment.

        :raises NotFound: a collection was dropped.
        """
        return Routed(partition(self.entries.routed(blocks)), self.catalog_ts)

    async def hidden(self, name: str) -> Collection | None:
        """The hidden collection of that name; asks the sequencer before it says None."""
        if name not in self.entries.hidden or self._announced_catalog_ts != self.catalog_ts:
            await self.refresh()
        return self.entries.hidden.get(name)

    def aliases(self) -> dict[str, str]:
        """Alias → name of the collection that it stands for, by alias."""
        by_alias = self.entries.by_alias
        return {alias: by_alias[alias].name for alias in sorted(by_alias)}

    def aliases_of(self, collection: Collection) -> tuple[str, ...]:
        """The aliases that stand for the collection, sorted."""
        stand = self.entries.by_alias.items()
        return tuple(sorted(a for a, c in stand if c.origin == collection.origin))

    def is_alias(self, name: str) -> bool:
        """Whether the name is an alias in the catalog that is here."""
        return name in self.entries.by_alias

    async def collection(self, name: str) -> Collection:
        """The collection of that name or alias; asks the sequencer before it says there is none.

        :raises NotFound: there is none, or it is hidden.
        :raises Unavailable: what an alias stands for is not durable in time.
        """
        if (
            found := self.entries.by_name.get(name)
        ) and self._announced_catalog_ts == self.catalog_ts:
            return found
        return (await self.named((name,)))[name]

    async def named(self, names: Iterable[str]) -> dict[str, Collection]:
        """The collections of these names and aliases, all as one state of the catalog has them.

        What an alias stands for is told as of the newest catalog that was announced here, and only
        once nothing can undo that.

        :raises NotFound: there is none of a name, or it is hidden.
        :raises Unavailable: what an alias stands for is not known or not durable in time.
        """
        wanted = tuple(dict.fromkeys(names))
        loop = asyncio.get_running_loop()
        until = loop.time() + STABLE_TIMEOUT_S
        while True:
            if self._announced_catalog_ts != self.catalog_ts or not all(map(self._knows, wanted)):
                await self.refresh()
            for name in wanted:
                if not self._knows(name):
                    raise NotFound(f"collection {name!r} does not exist")
            entries = self.entries
            found = {n: entries.by_alias.get(n) or entries.by_name[n] for n in wanted}
            if entries.by_alias.keys().isdisjoint(wanted):
                return found
            if self._announced_catalog_ts == self.catalog_ts:
                if self.catalog_ts <= self.stable_ts:
                    return found
                term = 0 if self.reply is None else self.reply.term
                await self.wait_stable(self.catalog_ts)
                if self.term <= term:
                    return found
                # Another term's snapshot is past it: that term may have undone the change.
            elif not await self.heard_again(until - loop.time()):
                # A coordinator that was replaced may have answered, and this one is not heard.
                raise Unavailable("the catalog that was announced is not here yet, try again")

    def _knows(self, name: str) -> bool:
        return name in self.entries.by_name or name in self.entries.by_alias

    async def of_origin(self, origin: int) -> Collection | None:
        """The generation in force of the collection whose first one has this id; asks the sequencer
        before it says that there is none."""
        found = self.entries.of_origin(origin)
        if found is None or self._announced_catalog_ts != self.catalog_ts:
            await self.refresh()
        return self.entries.of_origin(origin)

    async def moved_on(self, known_ts: int) -> bool:
        """Whether the catalog has aliases and is not the one of `known_ts`: asks the sequencer."""
        if not self.entries.by_alias:
            return False
        with contextlib.suppress(Unavailable):  # nobody who could have changed it leads
            await self.refresh()
        return self.catalog_ts != known_ts
