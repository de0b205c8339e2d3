"""A draft of who holds which shard, and how to make its load even. Pure and deterministic.

Owns two invariants: a swap never takes a shard to fewer zones, and every path of swaps that is
found makes the sum of the squared loads smaller, so evening out ends. Where workers may be
exchanged at will this is the optimal semi-matching of Harvey, Ladner, Lovász & Tamir
("Semi-matchings for bipartite graphs and load balancing", J. Algorithms 2006): the load is as even
as it can be when no path leads from a worker to one that holds two shards less.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from vector_db.common.core.placement import weight

Pools = Mapping[int, Collection[str]]
"""Of each shard that may change: the workers that can be exchanged for one another in it."""


@dataclass(frozen=True, slots=True)
class Swap:
    """`taker` holds the shard in place of `giver`."""

    shard: int
    giver: str
    taker: str


class Assignment:
    """`holders` of each shard, and the `load` of each worker: how many shards it holds."""

    def __init__(self, zones: Mapping[str, str]) -> None:
        self.holders: dict[int, set[str]] = {}
        self.load = dict.fromkeys(zones, 0)
        self._zones = zones

    def put(self, shard: int, *workers: str) -> None:
        """`workers` hold `shard` too."""
        self.holders.setdefault(shard, set()).update(workers)
        for worker in workers:
            self.load[worker] += 1

    def take(self, shard: int, worker: str) -> None:
        """`worker` holds `shard` no longer."""
        self.holders[shard].remove(worker)
        self.load[worker] -= 1

    def swap(self, *swaps: Swap) -> None:
        for swap in swaps:
            self.take(swap.shard, swap.giver)
            self.put(swap.shard, swap.taker)

    def zones(self, shard: int) -> set[str]:
        """Those of its holders."""
        return {self._zones[w] for w in self.holders[shard]}

    def best_taker(self, shard: int, candidates: Collection[str]) -> str:
        """In a zone without a holder first, then the least loaded, then by rendezvous weight."""
        taken = self.zones(shard)
        return min(
            candidates,
            key=lambda w: (self._zones[w] in taken, self.load[w], -weight(shard, w), w),
        )

    def best_giver(self, shard: int, newest: str | None = None) -> str:
        """In a zone with another holder first, then the most loaded, then `newest`."""
        zones = [self._zones[w] for w in self.holders[shard]]
        return min(
            self.holders[shard],
            key=lambda w: (
                zones.count(self._zones[w]) == 1,
                -self.load[w],
                w != newest,
                weight(shard, w),
                w,
            ),
        )

    def even_out(self, pools: Pools) -> None:
        """Swap within `pools` until no swaps make the load more even."""
        while swaps := self.evening(pools, len(pools)):
            self.swap(*swaps)

    def evening(self, pools: Pools, swaps_max: int) -> tuple[Swap, ...]:
        """The swaps that take one shard off a worker and, by way of as few others as can be, give
        one to a worker that holds at least two less. Of the most loaded worker that has any.
        """
        members = {w for pool in pools.values() for w in pool}
        least = min((self.load[w] for w in members), default=0)
        givers = [w for w in members if self.load[w] >= least + 2]
        for giver in sorted(givers, key=lambda w: (-self.load[w], w)):
            if path := self._path(giver, pools, swaps_max):
                return path
        return ()

    def _path(self, start: str, pools: Pools, swaps_max: int) -> tuple[Swap, ...]:
        """The shortest one to the least loaded of those that hold two less than `start`."""
        came: dict[str, Swap] = {}
        front = [start]
        for _ in range(swaps_max):
            reached: dict[str, Swap] = {}
            for giver in front:
                for swap in self._swaps_of(giver, pools):
                    if swap.taker in came or swap.taker == start:
                        continue
                    known = reached.get(swap.taker)
                    if known is None or _weight(swap) > _weight(known):
                        reached[swap.taker] = swap
            came |= reached
            ends = [w for w in reached if self.load[w] <= self.load[start] - 2]
            if ends:
                end = min(ends, key=lambda w: (self.load[w], -_weight(reached[w]), w))
                return _distinct(_back(start, end, came))
            front = sorted(reached)
            if not front:
                break
        return ()

    def _swaps_of(self, giver: str, pools: Pools) -> Iterator[Swap]:
        """All single swaps by which `giver` holds one shard less."""
        for shard, pool in pools.items():
            holders = self.holders[shard]
            if giver not in holders or giver not in pool:
                continue
            rest = {self._zones[w] for w in holders if w != giver}
            is_doubled = self._zones[giver] in rest
            for taker in pool:
                if taker not in holders and (is_doubled or self._zones[taker] not in rest):
                    yield Swap(shard, giver, taker)


def _weight(swap: Swap) -> int:
    return weight(swap.shard, swap.taker)


def _back(start: str, end: str, came: Mapping[str, Swap]) -> tuple[Swap, ...]:
    path = [came[end]]
    while path[-1].giver != start:
        path.append(came[path[-1].giver])
    return tuple(path[::-1])


def _distinct(path: tuple[Swap, ...]) -> tuple[Swap, ...]:
    # Two swaps of one shard may be right alone and wrong together: that path is given up.
    return path if len({swap.shard for swap in path}) == len(path) else ()
