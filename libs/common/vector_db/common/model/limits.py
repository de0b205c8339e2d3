"""Every bound in one place: the fields of `Limits` are configured, the rest are constants."""

from __future__ import annotations

from dataclasses import dataclass

ID_BYTES_MAX = 512
"""Longest row id, in UTF-8 bytes."""

COLLECTION_NAME_CHARS_MAX = 128

ALIASES_MAX = 1_000
"""Aliases of a cluster: a change of one is a decision that carries them all."""

INDEXED_FIELDS_MAX = 64
"""Metadata paths with an inverted index, of one collection."""

FIELD_PATH_BYTES_MAX = 512
"""Longest of them, in UTF-8 bytes."""

CHUNK_BYTES_MAX = 512 * 1024
"""Largest body of one PREPARE or STAGE record; measured best for JetStream (architecture, section
8)."""

BROKER_PAYLOAD_BYTES_MAX = 8 * 1024 * 1024
"""`max_payload` of our own nats-server; replies larger than half of it are refused by name."""

UNACKED_BYTES_PER_SHARD_MAX = 16 * 1024 * 1024
"""Bytes of undecided writes that one gateway keeps in flight to one shard, then 429."""

OVERLAY_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of a transaction's own staged rows that a query or a filter inside it sees at a worker."""

STAGED_PART_BYTES_MAX = 8 * 1024 * 1024
"""Chunks of one shard's part of a transaction that a replica keeps in memory; the rest is read back
from its WAL when it is needed."""

QUERY_DEPTH_MAX = 100_000
"""How deep the pages of one query reach: each page searches for all hits up to its end."""

HITS_PER_REQUEST_MAX = 1_000_000
"""Queries of a batch times k: what one request may be answered."""

PEER_REPLY_BYTES_MAX = 4 * 1024 * 1024
"""Records in one answer to a worker that lacks them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Request limits, each named in the error that it causes.

    Sizes in bytes, `filter_depth_max` in nested operators.
    """

    body_bytes_max: int = 64 * 1024 * 1024
    rows_per_batch_max: int = 100_000
    k_max: int = 10_000
    queries_per_batch_max: int = 1_000
    dimension_max: int = 65_536
    filter_depth_max: int = 16
    filter_terms_max: int = 1_000
    metadata_bytes_max: int = 64 * 1024
    scroll_limit_max: int = 10_000
