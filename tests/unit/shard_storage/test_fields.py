"""`fields.arrow`: the same answers from the file, never one from a damaged file."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.shard_search.metadata import DOCUMENTS, FILTERS, encode
from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.model.collection import Collection, Metric
from vector_db.common.model.errors import NewerFormat, StorageCorrupt
from vector_db.common.model.filters import matches, parse_filter
from vector_db.common.model.limits import Limits
from vector_db.common.model.rows import Blob, RowBlock
from vector_db.shard.search.columns import Columns
from vector_db.shard.search.executor import count
from vector_db.shard.search.postings import DeclaredColumns
from vector_db.shard.storage import fields
from vector_db.shard.storage.fields import FIELDS_FILE, open_fields, write_fields
from vector_db.shard.storage.payloads import GrowingBytes
from vector_db.shard.storage.sealed import SealedSegment
from vector_db.shard.storage.store import Store, StoreOptions

BlockMaker = Callable[..., RowBlock]
Seal = Callable[[Store, int], int]
PATHS = ("a", "b", "x", "a.x", "a.x.y", "b.y")
DOCUMENT: list[Any] = [
    {"a": n % 5, "b": f"s{n % 3}", "x": [n, "ä", 2**53 + n], "z": n} for n in range(40)
]


def column_of(documents: list[Any]) -> GrowingBytes:
    column = GrowingBytes()
    column.append(Blob.pack([encode(d) for d in documents]))
    return column


def write(disk: PosixDisk, documents: list[Any], paths: tuple[str, ...] = PATHS) -> Path:
    write_fields(disk, "s", paths, column_of(documents), len(documents))
    return disk.root / "s" / FIELDS_FILE


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(DOCUMENTS, max_size=25), st.lists(FILTERS, min_size=1, max_size=4))
def test_the_file_answers_as_the_reference_and_the_lazy_columns(
    disk: PosixDisk, documents: list[Any], filters: list[dict[str, Any]]
) -> None:
    write(disk, documents)
    opened = open_fields(disk.root, "s", len(documents))
    assert opened is not None and set(opened.paths) == set(PATHS)
    lazy = Columns(column_of(documents))
    columns = DeclaredColumns(opened, lazy)
    for filter in filters:
        parsed = parse_filter(filter, Limits())
        expected = [matches(parsed, d) for d in documents]
        assert columns.mask(parsed, len(documents)).tolist() == expected
        assert lazy.mask(parsed, len(documents)).tolist() == expected
        rows = columns.rows(parsed, len(documents))
        if rows is not None:
            assert rows.tolist() == np.flatnonzero(expected).tolist()


def test_arrays_are_read_where_they_are_mapped(disk: PosixDisk) -> None:
    write(disk, DOCUMENT)
    opened = open_fields(disk.root, "s", len(DOCUMENT))
    assert opened is not None
    column = opened.column(("x",))
    assert column is not None
    file = np.frombuffer(opened._file.data, dtype=np.uint8)
    arrays = (column.codes, column.order, column.starts, column.numbers.nearest,
              column.numbers.rest, column.strings.data, column.element_order,
              column.element_starts)  # fmt: skip
    for array in arrays:
        assert len(array) and np.may_share_memory(array, file) and not array.flags.writeable


def test_any_arrow_reader_opens_the_file(disk: PosixDisk) -> None:
    with pa.OSFile(str(write(disk, DOCUMENT, ("b", "x")))) as file:
        table = pa.ipc.open_file(file).read_all()
    assert table.schema.names == ["b", "x"] and table.num_rows == 1
    field = table.column("b")[0].as_py()
    assert field["strings"] == ["s0", "s1", "s2"]
    assert [field["codes"][n] - 5 for n in range(6)] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(("documents", "step"), [(DOCUMENT[:2], 5), ([], 11)])
def test_damage_at_any_offset_is_refused_by_name(
    disk: PosixDisk, documents: list[Any], step: int
) -> None:
    path = write(disk, documents, ("a", "x"))
    good = path.read_bytes()
    chance = random.Random(7)

    def use() -> None:
        opened = open_fields(disk.root, "s", len(documents))
        assert opened is not None
        opened.column(("a",))

    for at in range(0, len(good), step):
        damaged = bytearray(good)
        damaged[at] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(StorageCorrupt, match=r"s/fields\.arrow: .*offset"):
            use()
    cuts = [0, 1, 9, 10, 40, len(good) // 2, *range(len(good) - 60, len(good)), len(good) + 1]
    for cut in cuts:
        path.write_bytes((good + b"\0")[:cut])
        with pytest.raises(StorageCorrupt, match=r"s/fields\.arrow: .*offset"):
            use()
    path.write_bytes(good)
    use()


def test_fields_of_another_segment_are_refused(disk: PosixDisk) -> None:
    write(disk, DOCUMENT)
    opened = open_fields(disk.root, "s", len(DOCUMENT) + 1)
    assert opened is not None
    with pytest.raises(StorageCorrupt, match=r"fields\.arrow: fields of 40 rows, want 41"):
        opened.verify()


def test_a_newer_format_is_refused_as_such(
    disk: PosixDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fields, "FORMAT_VERSION", 2)
    write(disk, DOCUMENT)
    monkeypatch.undo()
    with pytest.raises(NewerFormat, match=r"fields\.arrow: offset \d+: format 2"):
        open_fields(disk.root, "s", len(DOCUMENT))


def test_without_paths_no_file_is_left(disk: PosixDisk) -> None:
    path = write(disk, DOCUMENT)
    assert path.exists()
    write(disk, DOCUMENT, ())
    assert not path.exists() and open_fields(disk.root, "s", len(DOCUMENT)) is None


# --- in a segment -------------------------------------------------------------------------------


def sealed_store(
    disk: PosixDisk, options: StoreOptions, upsert: BlockMaker, seal: Seal, paths: tuple[str, ...]
) -> tuple[Store, SealedSegment]:
    store = Store(disk, options)
    store.add_collection(Collection(7, "animals", 4, Metric.COSINE, (0,), fields=paths))
    ids = [b"a%02d" % n for n in range(len(DOCUMENT))]
    store.apply(0, upsert(ids, 1, [encode(d) for d in DOCUMENT]), 1)
    assert seal(store, 1) == 1
    part = store.slice_of(7, 0)
    assert part is not None
    return store, part.sealed[0]


def test_a_sealed_segment_has_the_declared_fields_of_its_collection(
    disk: PosixDisk, options: StoreOptions, upsert: BlockMaker, seal: Seal
) -> None:
    store, segment = sealed_store(disk, options, upsert, seal, ("a", "x"))
    assert segment.fields is not None and segment.fields.paths == ("a", "x")
    (view,) = store.views(7, (0,), 1)
    declared, undeclared = (parse_filter(f, Limits()) for f in ({"a": 3, "x": "ä"}, {"z": 3}))
    rows = view.columns.rows(declared, view.rows)
    assert rows is not None and rows.tolist() == list(range(3, 40, 5))
    assert view.columns.rows(undeclared, view.rows) is None
    assert count([view], declared) == 8 and count([view], undeclared) == 1
    files = sum(path.stat().st_size for path in segment.directory.iterdir())
    assert segment.disk_bytes == files


def test_fields_declared_later_come_with_a_rewrite_and_go_with_another(
    disk: PosixDisk, options: StoreOptions, upsert: BlockMaker, seal: Seal
) -> None:
    store, segment = sealed_store(disk, options, upsert, seal, ())
    assert segment.fields is None and not (segment.directory / FIELDS_FILE).exists()
    parsed = parse_filter({"b": "s1"}, Limits())
    (before,) = store.views(7, (0,), 1)
    assert before.columns.rows(parsed, 40) is None and count([before], parsed) == 13
    segment.fields = segment.rewrite_fields(disk, ("b",))
    (with_b,) = store.views(7, (0,), 1)
    assert with_b.columns.rows(parsed, 40) is not None and count([with_b], parsed) == 13
    assert count([before], parsed) == 13
    segment.fields = segment.rewrite_fields(disk, ("a", "z"))
    (with_a,) = store.views(7, (0,), 1)
    assert with_a.columns.rows(parsed, 40) is None and count([with_a], parsed) == 13
    # A view of before the rewrite goes on with the file that it has mapped.
    assert with_b.columns.rows(parsed, 40) is not None
    reopened = SealedSegment(disk.root, segment.name)
    assert reopened.fields is not None and reopened.fields.paths == ("a", "z")
    segment.fields = segment.rewrite_fields(disk, ())
    assert segment.fields is None and not (segment.directory / FIELDS_FILE).exists()


def test_fields_are_removed_with_their_segment(
    disk: PosixDisk, options: StoreOptions, upsert: BlockMaker, seal: Seal
) -> None:
    store, segment = sealed_store(disk, options, upsert, seal, ("a",))
    assert (segment.directory / FIELDS_FILE).exists()
    for dropped in (False, True):
        if dropped:
            store.drop_collection(7)
        job = store.checkpoint(1)
        job.run()
        store.checkpointed(job)
        assert (segment.directory / FIELDS_FILE).exists() is not dropped
    assert not segment.directory.exists()
