"""The bounds of what a collection may be told to want: indexes, recall, fields.

Owns the invariant that both edges and the sequencer refuse the same values with the same words.
"""

from __future__ import annotations

from collections.abc import Sequence

from vector_db.common.model.collection import IndexChange, IndexOptions
from vector_db.common.model.errors import InvalidArgument
from vector_db.common.model.limits import FIELD_PATH_BYTES_MAX, INDEXED_FIELDS_MAX

M_MIN, M_MAX = 4, 64
"""Links a node of an HNSW graph."""
EF_CONSTRUCTION_MIN, EF_CONSTRUCTION_MAX = 16, 1000
"""Beam while a graph is built."""
LISTS_MAX = 65_536
"""IVF lists of a segment; 0: chosen from its rows."""
RECALL_TARGET_MIN, RECALL_TARGET_MAX = 0.5, 0.999


def check_index(given: IndexOptions | IndexChange, where: str = "index") -> None:
    """:raises InvalidArgument: a number is out of its bounds, which the message names."""
    bounds = (
        ("m", given.m, M_MIN, M_MAX),
        ("ef_construction", given.ef_construction, EF_CONSTRUCTION_MIN, EF_CONSTRUCTION_MAX),
        ("lists", given.lists, 0, LISTS_MAX),
    )
    for name, value, least, most in bounds:
        if value is not None and not least <= value <= most:
            raise InvalidArgument(f"{where}.{name}: {value}, the limits are {least} and {most}")


def check_recall_target(value: float, where: str = "recall_target") -> None:
    """:raises InvalidArgument: out of its bounds, which the message names; NaN is."""
    if not RECALL_TARGET_MIN <= value <= RECALL_TARGET_MAX:
        raise InvalidArgument(
            f"{where}: {value:g}, the limits are {RECALL_TARGET_MIN} and {RECALL_TARGET_MAX}"
        )


def check_fields(paths: Sequence[str], where: str = "fields") -> None:
    """:raises InvalidArgument: a path that no filter can have, one given twice, or too many."""
    if len(paths) > INDEXED_FIELDS_MAX:
        raise InvalidArgument(
            f"{where}: {len(paths)} fields, the limit indexed_fields_max is {INDEXED_FIELDS_MAX}"
        )
    places: dict[str, int] = {}
    for i, path in enumerate(paths):
        _check_path(path, f"{where}[{i}]")
        if path in places:
            raise InvalidArgument(f"{where}[{i}]: {path!r} is given already at {places[path]}")
        places[path] = i


def _check_path(path: str, where: str) -> None:
    """A path is what a filter calls a field: keys with dots between them."""
    if not path or path.startswith("$"):
        raise InvalidArgument(f"{where}: a field is a dotted path that does not start with '$'")
    try:
        size_bytes = len(path.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(f"{where}: a field must be valid Unicode") from None
    if size_bytes > FIELD_PATH_BYTES_MAX:
        raise InvalidArgument(
            f"{where}: {size_bytes} bytes, the limit field_path_bytes_max is {FIELD_PATH_BYTES_MAX}"
        )
