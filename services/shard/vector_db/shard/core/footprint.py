"""How many bytes of memory rows take, before they are there: what budgets and choices rest on.

The constants are the layouts' own: `index/hnsw.py` and `index/ivf.py` for the copies and links of
an index, `storage/segment_files.py` for the columns. Stats show the prediction beside what is
really resident.
"""

from __future__ import annotations

from vector_db.common.model.collection import Encoding, IndexKind

BYTES_A_COMPONENT = {
    Encoding.AUTO: 2.0,
    Encoding.FLOAT32: 4.0,
    Encoding.FLOAT16: 2.0,
    Encoding.SQ8: 1.0,
}
"""AUTO as what almost always becomes of it."""

_LINK_BYTES = 4
_NODE_BYTES = 8 + 4
"""Offset of the node's links, and its level."""
_LIST_ID_BYTES = 8
_WIDE = 64
_ROWS_PER_LIST = 256
_PADDED_ROWS = 15.5
"""Lists are stored in blocks of 32 rows."""
_COLUMN_BYTES = 8 + 8 + 4 + 4 + 2 * 8
"""begin_ts, key hash, its row, id order, offsets of id and metadata: mapped."""
_KEY_BITMAP_BYTES = 3.0
"""Two bits of 16 to 32 a row, see `storage/keys.py`."""


def index_bytes(kind: IndexKind, encoding: Encoding, m: int, dimension: int) -> float:
    """Bytes a row in an index of that kind, but for what a segment has once: the rotation of skewed
    rows, 4 x dimension² of lists."""
    match kind:
        case IndexKind.HNSW:
            # Twice m at the bottom; above, one node for every m - 1 rows, with m links.
            links = (2 * m + m / (m - 1)) * _LINK_BYTES
            return BYTES_A_COMPONENT[encoding] * dimension + links + _NODE_BYTES
        case IndexKind.IVF_PQ:
            # 4 bits a code, of one dimension up to 64 and of two beyond; padded once a list.
            codes = dimension if dimension <= _WIDE else (dimension + 1) // 2
            code_bytes = (codes + 1) // 2
            a_list = 4 * dimension + _PADDED_ROWS * code_bytes
            return code_bytes + _LIST_ID_BYTES + a_list / _ROWS_PER_LIST
        case _:
            return 0.0


def column_bytes(dimension: int, cosine: bool, payload: float) -> float:
    """Bytes a row of a sealed segment's own files and key bitmap; `payload`: of id and metadata."""
    return 4 * dimension + (4 if cosine else 0) + _COLUMN_BYTES + _KEY_BITMAP_BYTES + payload
