"""Snapshots of the past: by commit timestamp, by time, and those that cursors carry.

Owns the invariant that none of them is read before it is stable: one that is not reached within a
moment was made up, and is refused as a bad request.
"""

from __future__ import annotations

from vector_db.common.core.messages.reads import AsOfReply, AsOfRequest
from vector_db.common.core.subjects import worker
from vector_db.common.model.collection import Collection
from vector_db.common.model.errors import InvalidArgument, NotFound, Unavailable
from vector_db.common.ports import Bus, BusTimeout, BusUnavailable, NoResponders
from vector_db.gateway.cluster import ClusterView
from vector_db.gateway.core.requests import Consistency

FUTURE_TIMEOUT_S = 1.0
"""How long a snapshot that lies ahead may take to be reached before it is said not to exist."""
AS_OF_TIMEOUT_S = 6.0


class Snapshots:
    """One gateway's snapshots of the past."""

    def __init__(self, bus: Bus, view: ClusterView) -> None:
        self._bus = bus
        self._view = view

    async def of_the_past(self, collection: Collection, consistency: Consistency) -> int:
        """The snapshot that `as_of` or `as_of_ms` asks for.

        :raises InvalidArgument: it lies in the future.
        :raises NotFound: the collection did not exist then.
        :raises Unavailable: no shard worker says which snapshot that time was.
        """
        if consistency.strong or (consistency.as_of and consistency.as_of_ms):
            raise InvalidArgument("as_of: a commit_ts or a time, and not with strong consistency")
        if consistency.as_of:
            snapshot_ts = consistency.as_of
        else:
            snapshot_ts = await self._at_time(consistency.as_of_ms)
        await self.reach(snapshot_ts, "as_of")
        if snapshot_ts < collection.origin:
            raise NotFound(f"collection {collection.name!r} did not exist at {snapshot_ts}")
        return snapshot_ts

    async def reach(self, snapshot_ts: int, where: str) -> None:
        """Wait a little until the snapshot is stable.

        :raises InvalidArgument: it is not: it lies in the future. `where` is named.
        """
        if snapshot_ts <= self._view.stable_ts:
            return
        try:
            await self._view.wait_stable(snapshot_ts, FUTURE_TIMEOUT_S)
        except Unavailable:
            raise InvalidArgument(
                f"{where}: snapshot {snapshot_ts} lies in the future, the newest is "
                f"{self._view.stable_ts}"
            ) from None

    async def _at_time(self, wall_ms: int) -> int:
        """The newest snapshot whose decisions all lie at or before `wall_ms`."""
        now_ms = self._view.wall_ms()
        if wall_ms > now_ms:
            raise InvalidArgument(f"as_of: {wall_ms} ms lies in the future, now is {now_ms} ms")
        placed = [one for replicas in self._view.replicas.values() for one in replicas]
        for replica in self._view.heard_first(placed):
            try:
                reply = await self._bus.request(
                    worker(replica), AsOfRequest(wall_ms), AS_OF_TIMEOUT_S
                )
            except (BusTimeout, BusUnavailable, NoResponders, Unavailable):
                # Every placed worker follows the same decisions: any of them may tell.
                continue
            if isinstance(reply, AsOfReply):
                return reply.ts
        raise Unavailable("no shard worker says which snapshot that time was")
