"""Files of sealed segments, images and sidecars: bit-exact, and refused when damaged or newer."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.core.messages.reads import FetchRequest
from vector_db.common.model.collection import Collection
from vector_db.common.model.errors import NewerFormat, StorageCorrupt
from vector_db.common.model.rows import Blob, RowBlock, hash_ids
from vector_db.shard.storage import table
from vector_db.shard.storage.store import Store, StoreOptions
from vector_db.shard.storage.table import Table, crc32c, write_table

BlockMaker = Callable[..., RowBlock]
Seal = Callable[[Store, int], int]


@pytest.fixture
def manifest(store: Store, upsert: BlockMaker, delete: BlockMaker, seal: Seal) -> dict[str, Any]:
    """A durable checkpoint with a sealed segment, deaths in it, and an image of growing rows."""
    store.apply(
        0, upsert([b"a%d" % n for n in range(9)], 1, [b'{"n":%d}' % n for n in range(9)]), 1
    )
    assert seal(store, 1) == 1
    store.apply(0, upsert([b"a1", b"z"], 2), 2)
    store.apply(0, delete([b"a2"]), 3)
    job = store.checkpoint(3)
    job.run()
    store.checkpointed(job)
    return job.manifest


def use_everything(disk: PosixDisk, options: StoreOptions, manifest: dict[str, Any],
                   collection: Collection) -> None:  # fmt: skip
    store = Store.open(disk, options, manifest, [collection])
    ids = Blob.pack([b"a%d" % n for n in range(9)] + [b"z"])
    assert len(store.fetch(FetchRequest(7, (0,), 3, ids)).ids) == 9
    assert len(store.views(7, (0,), 3)) == 2
    store.verify()


def test_every_damaged_byte_of_every_file_is_refused_by_name(
    manifest: dict[str, Any], disk: PosixDisk, options: StoreOptions, collection: Collection
) -> None:
    use_everything(disk, options, manifest, collection)
    names = disk.names()
    kinds = [Path(name).name.split("-")[0] for name in names]
    assert sorted(kinds) == ["7", "columns.vdb", "deaths", "vectors.f32"]
    for name in names:
        path = disk.root / name
        good = path.read_bytes()
        for at in range(0, len(good), 1 if len(good) < 400 else 7):
            damaged = bytearray(good)
            damaged[at] ^= 0x41
            path.write_bytes(damaged)
            with pytest.raises(StorageCorrupt, match="offset") as caught:
                use_everything(disk, options, manifest, collection)
            assert name in str(caught.value)
        path.write_bytes(good)
    use_everything(disk, options, manifest, collection)


@pytest.mark.parametrize("keep", [0, 1, 15, 40, -64, -1])
def test_a_file_cut_short_or_missing_is_refused_by_name(
    keep: int,
    manifest: dict[str, Any],
    disk: PosixDisk,
    options: StoreOptions,
    collection: Collection,
) -> None:
    for name in disk.names():
        path = disk.root / name
        good = path.read_bytes()
        for bad in (good[:keep], None):
            if bad is None:
                path.unlink()
            else:
                path.write_bytes(bad)
            with pytest.raises(StorageCorrupt, match=Path(name).name):
                use_everything(disk, options, manifest, collection)
        path.write_bytes(good)


def test_a_newer_format_is_refused_as_such(
    disk: PosixDisk, options: StoreOptions, collection: Collection,
    manifest: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with pytest.raises(NewerFormat, match="storage manifest: format 2"):
        Store.open(disk, options, manifest | {"format": 2}, [collection])
    monkeypatch.setitem(table.COLUMN_FORMATS, "later", 3)
    write_table(disk, "newer.vdb", "segment", {}, {"later": np.empty(0)})
    with pytest.raises(NewerFormat, match=r"newer\.vdb: offset 4: format 3"):
        Table(disk.root, "newer.vdb", "segment")


def test_a_program_that_knows_no_versions_refuses_files_with_them_alone(
    disk: PosixDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(disk, "plain.vdb", "segment", {}, {"begin_ts": np.arange(2)})
    write_table(
        disk, "copied.vdb", "segment", {}, {"begin_ts": np.arange(2), "versions": np.ones(2)}
    )
    assert Table(disk.root, "copied.vdb", "segment").has("versions")
    monkeypatch.setattr(table, "FORMAT_VERSION", 1)
    assert not Table(disk.root, "plain.vdb", "segment").has("versions")
    with pytest.raises(NewerFormat, match=r"copied\.vdb: offset 4: format 2"):
        Table(disk.root, "copied.vdb", "segment")


def test_a_table_gives_back_its_columns_and_keeps_them_apart(disk: PosixDisk) -> None:
    columns: dict[str, np.ndarray[Any, np.dtype[Any]]] = {
        "empty": np.empty(0, dtype=np.uint8),
        "grid": np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::-1],
        "ts": np.array([1, 1 << 62], dtype=np.int64),
    }
    size = write_table(disk, "t/x.vdb", "kind", {"rows": 2}, columns)
    opened = Table(disk.root, "t/x.vdb", "kind")
    assert opened.meta == {"rows": 2} and opened.size_bytes == size
    for name, want in columns.items():
        got = opened.column(name)
        assert got.dtype == want.dtype and got.tolist() == want.ravel().tolist()
        assert not got.flags.writeable and got.ctypes.data % 64 == 0
    with pytest.raises(StorageCorrupt, match="no column"):
        opened.column("absent")
    with pytest.raises(StorageCorrupt, match="'kind', want 'image'"):
        Table(disk.root, "t/x.vdb", "image")


def test_crc32c_is_the_standard_one_and_does_not_depend_on_chunks() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    data = bytes(range(256)) * 5000
    assert crc32c(data[1000:], crc32c(data[:1000])) == crc32c(data)


def test_vectors_come_back_bit_for_bit_from_memory_disk_and_image(
    store: Store, disk: PosixDisk, options: StoreOptions, collection: Collection, seal: Seal
) -> None:
    patterns = [0x80000000, 0x00000001, 0x7F7FFFFF, 0x3F800001, 0x807FFFFF, 0xFF7FFFFF, 0x33333333]
    bits = np.array(patterns * 8, dtype=np.uint32)[: 4 * 12].reshape(12, 4)
    ids = [b"v%02d" % n for n in range(12)]
    block = RowBlock(7, 4, Blob.pack(ids), hash_ids(ids).tobytes(), bits.tobytes())
    store.apply(1, block, 5)
    request = FetchRequest(7, (1,), 5, Blob.pack(ids))

    def vectors(of: Store) -> bytes:
        return bytes(of.fetch(request).vectors)

    assert vectors(store) == bits.tobytes()
    job = store.checkpoint(5)
    job.run()
    reopened = Store.open(disk, options, job.manifest, [collection])
    assert vectors(reopened) == bits.tobytes()
    assert seal(reopened, 5) == 1
    assert vectors(reopened) == bits.tobytes()
    raw = next((disk.root / "segments").glob("*/vectors.f32")).read_bytes()
    assert raw == bits.tobytes()


def test_opening_a_segment_reads_no_column(
    manifest: dict[str, Any], disk: PosixDisk, options: StoreOptions, collection: Collection
) -> None:
    (vectors,) = (disk.root / "segments").glob("*/vectors.f32")
    data = bytearray(vectors.read_bytes())
    data[0] ^= 1
    vectors.write_bytes(data)
    store = Store.open(disk, options, manifest, [collection])
    with pytest.raises(StorageCorrupt, match=r"vectors\.f32.*offset 0"):
        store.views(7, (0,), 3)


def test_a_damaged_header_length_does_not_reach_past_the_file(disk: PosixDisk) -> None:
    disk.write_atomic("x.vdb", [struct.pack("<4sHHII", b"VDBT", 1, 0, 0xFFFFFFFF, 0)])
    with pytest.raises(StorageCorrupt, match=r"x\.vdb"):
        Table(disk.root, "x.vdb", "image")
