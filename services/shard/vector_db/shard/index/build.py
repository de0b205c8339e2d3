"""What the build process does for one segment: build or extend its index, calibrate, finish it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import faiss as _faiss
import msgspec

from vector_db.common.model.collection import Encoding, IndexKind, IndexOptions, Metric
from vector_db.common.model.errors import StorageCorrupt
from vector_db.common.model.rows import F32
from vector_db.shard.index.calibrate import calibrate
from vector_db.shard.index.files import INDEX_FILE, IndexMeta, finish, temporary_path
from vector_db.shard.index.hnsw import Progress, build_hnsw, extend_hnsw
from vector_db.shard.index.ivf import build_ivf
from vector_db.shard.index.opening import open_searcher

faiss: Any = _faiss
_BUFFER_BYTES_MAX = 64 * 1024
"""More than a C file keeps back until it is closed, where an error is not told."""


class IndexSpec(msgspec.Struct, frozen=True):
    """An index to build. `base`: the segment whose rows are the first here, and whose graph is to
    be extended, with `encoding` as it is there; "": none."""

    kind: IndexKind
    metric: Metric
    options: IndexOptions
    quick: bool = False
    base: str = ""
    encoding: Encoding = Encoding.AUTO


def build_index(
    vectors: F32,
    spec: IndexSpec,
    root: Path,
    directory: Path,
    threads: int,
    progress: Progress,
) -> IndexMeta:
    """Build over `vectors` float32[rows, dimension], as the client sent them, into `directory`.

    :param root: below which the segment `spec.base` is.
    :raises OSError: the files could not be written; nothing opens then.
    :raises RuntimeError, StorageCorrupt: FAISS could not build or read it.
    """
    faiss.omp_set_num_threads(threads)
    path, metric = temporary_path(directory), spec.metric
    shape = (len(vectors), vectors.shape[1])
    try:
        encoding = _write(vectors, spec, root, path, threads, progress)
        index = open_searcher(path, spec.kind, metric, encoding, shape, mapped=False)
    except (RuntimeError, StorageCorrupt) as error:
        full = _is_full(path, error)
        path.unlink(missing_ok=True)
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    curve = calibrate(index, vectors, metric, spec.quick)
    return finish(directory, spec.kind, metric, shape, spec.options, encoding, spec.quick, curve)


def _write(
    vectors: F32, spec: IndexSpec, root: Path, path: Path, threads: int, progress: Progress
) -> Encoding:
    """Write the index to `path`; what became of its encoding.

    :raises RuntimeError: FAISS could not.
    """
    if spec.kind is IndexKind.IVF_PQ:
        build_ivf(vectors, spec.metric, spec.options, path, threads, progress)
        return spec.encoding
    if spec.base:
        extend_hnsw(root / spec.base / INDEX_FILE, vectors, spec.metric, path, progress)
        return spec.encoding
    return build_hnsw(vectors, spec.metric, spec.options, path, progress)


def _is_full(path: Path, error: Exception) -> bool:
    """Whether the disk was full: FAISS says so, or not at all where the last bytes got lost."""
    texts = (os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT))
    free = os.statvfs(path.parent)
    return any(text in str(error) for text in texts) or (
        free.f_bavail * free.f_frsize < _BUFFER_BYTES_MAX
    )
