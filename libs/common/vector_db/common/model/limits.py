"""Every bound in one place: the fields of `Limits` are configured, the rest are constants."""

from __future__ import annotations

from dataclasses import dataclass

ID_BYTES_MAX = 512
"""Longest row id, in UTF-8 bytes."""

COLLECTION_NAME_CHARS_MAX = 128

CHUNK_BYTES_MAX = 512 * 1024
"""Largest body of one PREPARE or STAGE record; measured best for JetStream (architecture, section
8)."""

BROKER_PAYLOAD_BYTES_MAX = 8 * 1024 * 1024
"""`max_payload` of our own nats-server; replies larger than half of it are refused by name."""

UNACKED_BYTES_PER_SHARD_MAX = 16 * 1024 * 1024
"""Bytes of undecided writes that one gateway keeps in flight to one shard, then 429."""


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
