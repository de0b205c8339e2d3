"""The files of a segment's index: `index.faiss`, and `index.json`, which makes it valid.

Owns the invariant that a build which died midway leaves nothing that opens: the large file appears
by rename first, and `index.json`, which has its size and checksum and says how it was made, after
it. Without a matching `index.json` there is no index. Of `index.json` itself there is a checksum
too, in its last line: what it says of recall is believed.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import google_crc32c
import msgspec

from vector_db.common.model.collection import Encoding, IndexKind, IndexOptions, Metric
from vector_db.common.model.errors import NewerFormat, StorageCorrupt
from vector_db.shard.core.calibration import Calibration

INDEX_FILE = "index.faiss"
META_FILE = "index.json"
FORMAT_VERSION = 2
_TEMPORARY = f".{INDEX_FILE}.tmp"
_READ_BYTES = 1 << 20


class IndexMeta(msgspec.Struct, frozen=True):
    """What `index.json` says. `crc32c` is of the whole of `index.faiss`.

    `options` are those that it was built for; `encoding` is what became of AUTO. `quick`: built to
    bridge the time until the index that the collection wants.
    """

    version: int
    kind: IndexKind
    metric: Metric
    rows: int
    dimension: int
    options: IndexOptions
    encoding: Encoding
    quick: bool
    size_bytes: int
    crc32c: int
    calibration: Calibration = Calibration()


def temporary_path(directory: Path) -> Path:
    """Where a build writes the index until `finish`."""
    return directory / _TEMPORARY


def finish(
    directory: Path,
    kind: IndexKind,
    metric: Metric,
    shape: tuple[int, int],
    options: IndexOptions,
    encoding: Encoding,
    quick: bool,
    calibration: Calibration,
) -> IndexMeta:
    """Make the index at `temporary_path` the segment's, durably.

    :raises OSError: the files could not be written; nothing opens then.
    """
    (directory / META_FILE).unlink(missing_ok=True)
    temporary = temporary_path(directory)
    _sync(temporary)
    rows, dimension = shape
    meta = IndexMeta(
        version=FORMAT_VERSION,
        kind=kind,
        metric=metric,
        rows=rows,
        dimension=dimension,
        options=options,
        encoding=encoding,
        quick=quick,
        size_bytes=temporary.stat().st_size,
        crc32c=_checksum(temporary),
        calibration=calibration,
    )
    temporary.replace(directory / INDEX_FILE)
    temporary_meta = directory / f".{META_FILE}.tmp"
    temporary_meta.write_bytes(_with_checksum(msgspec.json.encode(meta)))
    _sync(temporary_meta)
    _sync(directory)
    temporary_meta.replace(directory / META_FILE)
    _sync(directory)
    return meta


def read_meta(directory: Path, metric: Metric, rows: int, dimension: int) -> IndexMeta:
    """What is known of the index of a segment of that shape.

    :raises FileNotFoundError: there is no finished index.
    :raises NewerFormat: written by a newer program.
    :raises StorageCorrupt: damaged, of an older format, or not of this segment; it can be built
        again.
    """
    path = directory / META_FILE
    text, _, _ = (data := path.read_bytes()).partition(b"\n")
    if data != _with_checksum(text):
        raise StorageCorrupt(f"{path}: offset 0: checksum mismatch")
    try:
        version = msgspec.json.decode(text)["version"]
        if version > FORMAT_VERSION:
            raise NewerFormat(
                f"{path}: offset 0: format {version}, this program knows up to {FORMAT_VERSION}"
            )
        if version < FORMAT_VERSION:
            raise StorageCorrupt(f"{path}: offset 0: format {version}")
        meta = msgspec.json.decode(text, type=IndexMeta)
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise StorageCorrupt(f"{path}: offset 0: {error}") from None
    if (meta.metric, meta.rows, meta.dimension) != (metric, rows, dimension):
        raise StorageCorrupt(f"{path}: offset 0: not the index of this segment")
    return meta


def check_file(directory: Path, meta: IndexMeta) -> Path:
    """The path of the index file, compared with its checksum.

    :raises FileNotFoundError: it is missing.
    :raises StorageCorrupt: it differs.
    """
    path = directory / INDEX_FILE
    if path.stat().st_size != meta.size_bytes or _checksum(path) != meta.crc32c:
        raise StorageCorrupt(f"{path}: offset 0: checksum or size differ from {META_FILE}")
    return path


def index_size(directory: Path) -> int:
    """Bytes of the index file.

    :raises FileNotFoundError: there is none.
    """
    return (directory / INDEX_FILE).stat().st_size


def remove_index(directory: Path) -> None:
    """Remove an index and whatever a build left behind; none is no error."""
    for name in (META_FILE, INDEX_FILE, f".{META_FILE}.tmp", _TEMPORARY):
        with contextlib.suppress(FileNotFoundError):
            (directory / name).unlink()


def _with_checksum(text: bytes) -> bytes:
    return b"%b\n%08x\n" % (text, google_crc32c.value(text))


def _checksum(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            crc = google_crc32c.extend(crc, chunk)
    return crc


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
