"""What a serializable transaction read, by the shards that have to confirm it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from vector_db.common.core.messages.transactions import ReadSet
from vector_db.common.core.placement import shards_of_ids
from vector_db.common.model.collection import Collection
from vector_db.common.model.rows import Blob, hash_ids

_NO_KEYS = Blob.pack([])


def read_sets(
    reads: Mapping[int, tuple[bytes, ...] | None], collections: Mapping[int, Collection]
) -> dict[int, tuple[ReadSet, ...]]:
    """Shard → its part of what was read.

    :param reads: collection id → the keys read of it, None for the whole of it.
    :param collections: by id, all that `reads` names.
    """
    found: defaultdict[int, list[ReadSet]] = defaultdict(list)
    for collection_id, keys in reads.items():
        shards = collections[collection_id].shards
        if keys is None:
            for shard in shards:
                found[shard].append(ReadSet(collection_id, True, _NO_KEYS))
            continue
        by_shard: defaultdict[int, list[bytes]] = defaultdict(list)
        if keys:
            homes = shards_of_ids(hash_ids(keys), shards).tolist()
            for key, shard in zip(keys, homes, strict=True):
                by_shard[shard].append(key)
        for shard, mine in by_shard.items():
            found[shard].append(ReadSet(collection_id, False, Blob.pack(mine)))
    return {shard: tuple(sets) for shard, sets in found.items()}
