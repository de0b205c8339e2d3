"""Where things live: ids to shards, collections to shards, shards to workers. Pure hashing.

Rendezvous (highest random weight) hashing everywhere: Thaler & Ravishankar, "Using name-based
mappings to increase hit rates", IEEE/ACM ToN 1998. A set that grows by one moves only what the
newcomer wins.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

import numpy as np
import xxhash
from numpy.typing import NDArray

from vector_db.common.core.domain import majority
from vector_db.common.model.rows import U64

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _mix(x: U64) -> U64:
    # splitmix64's finaliser (Steele, Lea & Flood, OOPSLA 2014): spreads every bit of its input.
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def weight(*parts: object) -> int:
    """The rendezvous weight of a tuple of names, 64 bits."""
    return xxhash.xxh3_64_intdigest("\0".join(str(p) for p in parts).encode())


def shards_of_ids(hashes: U64, shards: Sequence[int]) -> NDArray[np.int64]:
    """The shard of each id, int64[n], by rendezvous of `model.rows.hash_ids` over `shards`."""
    if len(shards) == 1:
        return np.full(len(hashes), shards[0], dtype=np.int64)
    weights = _mix(hashes[:, None] ^ _seeds(tuple(shards))[None, :])
    chosen: NDArray[np.int64] = np.asarray(shards, dtype=np.int64)[weights.argmax(axis=1)]
    return chosen


@lru_cache(maxsize=1024)
def _seeds(shards: tuple[int, ...]) -> U64:
    seeds = np.array([weight("id", s) for s in shards], dtype=np.uint64)
    seeds.flags.writeable = False
    return seeds


def choose_worker(shard: int, workers: Collection[str], load: dict[str, int]) -> str:
    """The worker for a new shard: the highest weight among the least loaded ones."""
    least = min(load.get(w, 0) for w in workers)
    return max((w for w in workers if load.get(w, 0) == least), key=lambda w: weight(shard, w))


def choose_replicas(
    shard: int, first: str, zones: Mapping[str, str], load: dict[str, int], factor: int
) -> tuple[str, ...]:
    """`first` and others, `factor` workers in all: in zones that have none yet where there are
    some, and there as `choose_worker` says.

    :param zones: of each worker.
    """
    chosen = [first]
    while len(chosen) < factor:
        taken = {zones[w] for w in chosen}
        others = [w for w in zones if w not in chosen]
        elsewhere = [w for w in others if zones[w] not in taken]
        chosen.append(choose_worker(shard, elsewhere or others, load))
    return tuple(chosen)


def place_collection(
    name: str,
    count: int,
    shard_count: int,
    replicas: dict[int, tuple[str, ...]],
    workers: Mapping[str, str],
    factor: int = 1,
) -> tuple[tuple[int, ...], dict[int, tuple[str, ...]]]:
    """Shards for a new collection, and the placement that they need.

    Picks `count` shards (at most `shard_count`) by weight of (name, shard), on different workers
    first; a shard that has no replica yet is placed on `factor` of the least loaded workers, in
    different zones where there are some. Shards of which no majority of replicas is among `workers`
    are passed over.

    :param workers: the zone of each that is alive.
    :raises ValueError: fewer than `count` shards can be used, or than `factor` workers are alive.
    """
    placement = dict(replicas)
    load = {w: sum(w in ws for ws in placement.values()) for w in workers}
    ranked = sorted(range(shard_count), key=lambda s: weight(name, s), reverse=True)
    usable = [s for s in ranked if s not in placement or _is_served(placement[s], workers)]
    if len(usable) < count:
        raise ValueError(f"{count} shards asked, {len(usable)} have a live majority of replicas")
    chosen: list[int] = []
    used: dict[str, int] = dict.fromkeys(workers, 0)
    while len(chosen) < count:
        fewest = min(used.values())
        open_workers = [w for w in workers if used[w] == fewest]
        shard = _pick(usable, chosen, placement, open_workers)
        if shard is None:
            # No shard can reach the least used workers any more: take the best of the rest.
            shard = next(s for s in usable if s not in chosen)
            open_workers = list(workers)
        if shard not in placement:
            if len(workers) < factor:
                raise ValueError(f"{factor} replicas need as many live workers, {len(workers)} are")
            worker = choose_worker(shard, open_workers, load)
            placement[shard] = choose_replicas(shard, worker, workers, load, factor)
            for replica in placement[shard]:
                load[replica] += 1
        for worker in placement[shard]:
            if worker in used:
                used[worker] += 1
        chosen.append(shard)
    return tuple(chosen), placement


def _is_served(replicas: Sequence[str], alive: Collection[str]) -> bool:
    return sum(w in alive for w in replicas) >= majority(len(replicas))


def _pick(
    usable: Sequence[int],
    chosen: Sequence[int],
    placement: dict[int, tuple[str, ...]],
    workers: Sequence[str],
) -> int | None:
    for shard in usable:
        if shard in chosen:
            continue
        if shard not in placement or set(placement[shard]) & set(workers):
            return shard
    return None
