"""What the build process does for one segment: build or extend its index, calibrate, finish it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss as _faiss
import msgspec

from vector_db.common.model.collection import Encoding, IndexKind, IndexOptions, Metric
from vector_db.common.model.rows import F32
from vector_db.shard.index.calibrate import calibrate
from vector_db.shard.index.files import INDEX_FILE, IndexMeta, finish, temporary_path
from vector_db.shard.index.hnsw import build_hnsw, extend_hnsw
from vector_db.shard.index.ivf import build_ivf
from vector_db.shard.index.opening import open_searcher

faiss: Any = _faiss


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
    progress: Callable[[int], None],
) -> IndexMeta:
    """Build over `vectors` float32[rows, dimension], as the client sent them, into `directory`.

    :param root: below which the segment `spec.base` is.
    :raises OSError: the files could not be written; nothing opens then.
    """
    faiss.omp_set_num_threads(threads)
    path, metric = temporary_path(directory), spec.metric
    encoding = spec.encoding
    if spec.kind is IndexKind.IVF_PQ:
        build_ivf(vectors, metric, spec.options, path, threads, progress)
    elif spec.base:
        extend_hnsw(root / spec.base / INDEX_FILE, vectors, metric, path, progress)
    else:
        encoding = build_hnsw(vectors, metric, spec.options, path, progress)
    shape = (len(vectors), vectors.shape[1])
    index = open_searcher(path, spec.kind, metric, encoding, shape, mapped=False)
    curve = calibrate(index, vectors, metric, spec.quick)
    return finish(directory, spec.kind, metric, shape, spec.options, encoding, spec.quick, curve)
