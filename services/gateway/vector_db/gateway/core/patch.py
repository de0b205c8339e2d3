"""RFC 7396, JSON Merge Patch, over stored metadata. Pure."""

from __future__ import annotations

from typing import Any

import orjson

from vector_db.common.model.limits import Limits
from vector_db.gateway.core.rows import check_metadata_size


def merge_patch(target: Any, patch: Any) -> Any:
    """Null removes, objects merge, anything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def patched_metadata(stored: bytes, patch: dict[str, Any], limits: Limits) -> bytes:
    """The JSON text of `stored` (b"" for none) with `patch` merged into it.

    :raises InvalidArgument: the result is over `metadata_bytes_max`.
    """
    text = orjson.dumps(merge_patch(orjson.loads(stored) if stored else {}, patch))
    check_metadata_size([text], limits, "metadata")
    return text
