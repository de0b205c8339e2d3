"""Batches of a backup as Arrow IPC streams, as the REST edge takes them.

No Python object is made for a row: ids and metadata go as the bytes that were stored.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from vector_db.common.model.rows import Blob
from vector_db.shard.backup.rows import Batch


def encode(batch: Batch) -> bytes:
    """One record batch: id, vector, and metadata where a row has some."""
    dimension = batch.vectors.shape[1]
    flat = pa.array(np.ascontiguousarray(batch.vectors).reshape(-1))
    columns = {
        "id": _texts(batch.ids, None),
        "vector": pa.FixedSizeListArray.from_arrays(flat, dimension),
    }
    given = batch.metadata.lengths() > 0
    if given.any():
        columns["metadata"] = _texts(batch.metadata, given)
    record_batch = pa.record_batch(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, record_batch.schema) as writer:
        writer.write_batch(record_batch)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def _texts(blob: Blob, given: np.ndarray[tuple[int], np.dtype[np.bool_]] | None) -> pa.StringArray:
    """The items as strings; null where not `given`."""
    valid = None
    if given is not None:
        valid = pa.py_buffer(np.packbits(given, bitorder="little").tobytes())
    buffers = [valid, pa.py_buffer(blob.offsets), pa.py_buffer(blob.data)]
    return pa.StringArray.from_buffers(len(blob), buffers[1], buffers[2], buffers[0])
