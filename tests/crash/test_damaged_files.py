"""A worker's files with a cut or a flipped bit: right answers or a refusal, never a wrong answer.

Each damage is done to a copy of the folder of `worker_folder.py`; then everything is read that the
damage may have reached, and compared with the model. `VECTOR_DB_TEST_FLIPS` sets how many bits are
flipped (10,000 in a thorough run).
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.crash.worker_folder import (
    OPTIONS,
    History,
    Reader,
    knowledge,
    write_folder,
)
from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.model.errors import NewerFormat, StorageCorrupt
from vector_db.shard.index.opening import open_index
from vector_db.shard.storage.deaths import Deaths
from vector_db.shard.storage.identity import worker_identity
from vector_db.shard.storage.image import read_deaths
from vector_db.shard.storage.recovery import Recovered, recover
from vector_db.shard.storage.sealed import SealedSegment
from vector_db.shard.storage.wal import Wal

FLIPS = int(os.environ.get("VECTOR_DB_TEST_FLIPS", "4000"))
REFUSED = (StorageCorrupt, NewerFormat)


class Folder:
    """A written folder, its bytes, and what it must give back."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.history: History = write_folder(root)
        self.reader = Reader(self.history.model)
        self.last_lsn = max(self.history.known)
        self.files = read_files(root)
        self.wal = sorted(name for name in self.files if name.startswith("wal/"))

    def copy(self, root: Path) -> Path:
        shutil.copytree(self.root, root)
        return root

    def check(self, found: Recovered, lsn: int) -> None:
        """Everything that was recovered is as it was after the record `lsn`."""
        known = self.history.known[lsn]
        assert found.wal.durable_lsn == lsn
        assert found.worker == self.history.worker
        assert knowledge(found.participant) == known
        self.reader.check(found.store, known["cursor"])


def read_files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def record_ends(folder: Folder, name: str) -> dict[int, int]:
    """lsn → where its record ends in a file of the log."""
    disk = PosixDisk(folder.root)
    wal, _ = Wal.open(disk)
    first = int(Path(name).stem)
    last = next((int(Path(n).stem) for n in folder.wal if n > name), folder.last_lsn + 1) - 1
    sizes = {lsn: 25 + len(payload) for lsn, _, payload in wal.replay(first) if lsn <= last}
    wal.close()
    ends, at = {}, 32
    for lsn in sorted(sizes):
        at += sizes[lsn]
        ends[lsn] = at
    assert at == len(folder.files[name])
    return ends


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    """On a file system in memory where there is one: thousands of starts sync their files."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="vector-db-damage-", dir=base) as root:
        yield Folder(Path(root) / "worker")


@pytest.fixture
def copy(folder: Folder) -> Iterator[Path]:
    root = folder.root.with_name("damaged")
    yield folder.copy(root)
    shutil.rmtree(root)


def test_the_undamaged_folder_gives_back_every_snapshot(folder: Folder, copy: Path) -> None:
    found = recover(PosixDisk(copy), OPTIONS)
    folder.check(found, folder.last_lsn)
    found.store.verify()
    for ts in folder.history.commits[3:]:
        folder.reader.check(found.store, ts)
    found.wal.close()
    assert read_files(copy) == folder.files
    assert len(folder.wal) >= 4
    assert sum(name.endswith("index.faiss") for name in folder.files) >= 4
    first_of_last = int(Path(folder.wal[-1]).stem)
    assert first_of_last < folder.history.checkpoint_lsn < folder.last_lsn


def test_the_last_file_of_the_log_cut_anywhere_gives_the_records_before_the_cut(
    folder: Folder, copy: Path
) -> None:
    name = folder.wal[-1]
    data, ends, history = folder.files[name], record_ends(folder, name), folder.history
    verdicts: Counter[str] = Counter()
    full_reads = 0
    for cut in range(len(data)):
        (copy / name).write_bytes(data[:cut])
        lsn = max((lsn for lsn, end in ends.items() if end <= cut), default=min(ends) - 1)
        if lsn < history.checkpoint_lsn - 1:
            # The manifest says that these records were synced: they cannot be a torn write.
            with pytest.raises(StorageCorrupt, match=f"{Path(name).stem}.*offset") as refusal:
                recover(PosixDisk(copy), OPTIONS)
            assert str(copy) in str(refusal.value)
            verdicts["refused"] += 1
            continue
        found = recover(PosixDisk(copy), OPTIONS)
        known = history.known[lsn]
        assert found.wal.durable_lsn == lsn
        assert knowledge(found.participant) == known
        if cut in (ends[lsn], ends[lsn] + 1, ends[lsn] + 30, len(data) - 1):
            folder.check(found, lsn)
            for ts in (history.checkpoint_ts, history.commits[10]):
                folder.reader.check(found.store, ts)
            full_reads += 1
        found.wal.close()
        verdicts["prefix"] += 1
    print(f"\ncut at each of {len(data)} bytes: {dict(verdicts)}, {full_reads} read in full")
    assert verdicts["prefix"] > 500 and verdicts["refused"] > 500 and full_reads > 10


def test_an_earlier_file_of_the_log_cut_anywhere_is_refused_by_name(
    folder: Folder, copy: Path
) -> None:
    for name, following in zip(folder.wal[1:3], folder.wal[2:4], strict=True):
        data = folder.files[name]
        boundaries = {32, *record_ends(folder, name).values()}
        for cut in range(len(data)):
            (copy / name).write_bytes(data[:cut])
            with pytest.raises(StorageCorrupt) as refusal:
                recover(PosixDisk(copy), OPTIONS)
            # Cut between two records, it is the next file that does not fit.
            at_fault = following if cut in boundaries else name
            assert str(copy / at_fault) in str(refusal.value)
            assert "offset" in str(refusal.value)
        (copy / name).write_bytes(data)
    assert read_files(copy) == folder.files


def test_a_missing_file_is_refused_and_nothing_is_removed_meanwhile(
    folder: Folder, copy: Path
) -> None:
    for name in folder.files:
        if name.endswith(("index.faiss", "index.json", "fields.arrow")):
            continue  # derived: done without, and made again
        (copy / name).unlink()
        with pytest.raises(StorageCorrupt) as refusal:
            recover(PosixDisk(copy), OPTIONS)
        assert "offset" in str(refusal.value) or "missing" in str(refusal.value)
        left = read_files(copy)
        assert left == {n: data for n, data in folder.files.items() if n != name}
        (copy / name).write_bytes(folder.files[name])
    folder.check(recover(PosixDisk(copy), OPTIONS), folder.last_lsn)


def test_without_the_declared_fields_filters_answer_the_same(folder: Folder, copy: Path) -> None:
    names = [name for name in folder.files if name.endswith("fields.arrow")]
    assert len(names) >= 2
    for name in names:
        (copy / name).unlink()
    found = recover(PosixDisk(copy), OPTIONS)
    folder.check(found, folder.last_lsn)
    found.wal.close()


def test_an_identity_without_a_checksum_still_counts(tmp_path: Path) -> None:
    worker = "f5b16522-4a58-4791-9f6a-f1d8303e61cd"
    disk = PosixDisk(tmp_path)
    disk.write_atomic("identity.json", [b'{"format":1,"worker":"%s"}' % worker.encode()])
    assert worker_identity(disk, random.Random(0)) == worker


# --- flipped bits -------------------------------------------------------------------------------


def kind_of(name: str) -> str:
    """The type of a file, for the counts."""
    if name.startswith("wal/"):
        return "wal"
    if name.startswith("images/"):
        return "image"
    last = name.rpartition("/")[2]
    return "deaths" if last.startswith("deaths-") else last


class Flipper:
    """Flips one bit, reads all that it may have reached, and flips it back."""

    def __init__(self, folder: Folder, copy: Path) -> None:
        self._folder = folder
        self._copy = copy
        self._disk = PosixDisk(copy)
        self._found = recover(self._disk, OPTIONS)
        self._found.wal.close()
        self._segments = {
            segment.name: (part, at)
            for by_shard in self._found.store._slices.values()
            for part in by_shard.values()
            for at, segment in enumerate(part.sealed)
        }
        self._hits = {name: self._search_index(name) for name in self._segments}
        self.last_record = record_ends(folder, folder.wal[-1])[folder.last_lsn - 1]
        """Where it starts in the last file of the log."""
        self.verdicts: Counter[tuple[str, str]] = Counter()

    def flip(self, name: str, bit: int) -> None:
        """One bit of one file.

        :raises AssertionError: a wrong answer, or a refusal that does not say what is damaged.
        """
        path, original = self._copy / name, self._folder.files[name]
        damaged = original[bit // 8] ^ (1 << bit % 8)
        with path.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), bytes([damaged]), bit // 8)
            try:
                verdict = self._checks(name)(name, bit // 8)
            except REFUSED as refusal:
                # The checksum of an index lies in the file beside it: that message names both.
                told = str(refusal)
                assert str(path.parent) in told and path.name in told, f"{told}: want {path}"
                assert "offset" in told, told
                verdict = type(refusal).__name__
            if verdict.startswith("prefix"):
                path.write_bytes(original)
            assert path.stat().st_size == len(original), f"{name}: a refused file was changed"
            os.pwrite(file.fileno(), original[bit // 8 : bit // 8 + 1], bit // 8)
        self.verdicts[kind_of(name), verdict] += 1

    def _checks(self, name: str) -> Callable[[str, int], str]:
        """What has to be read again once this file has changed."""
        checks: dict[str, Callable[[str, int], str]] = {
            "identity.json": self._identity,
            "index.faiss": self._index,
            "index.json": self._index,
            "columns.vdb": self._sealed,
            "vectors.f32": self._sealed,
            "fields.arrow": self._sealed,
            "deaths": self._deaths,
        }
        return checks.get(kind_of(name), self._everything)

    def _everything(self, name: str, offset: int) -> str:
        found = recover(self._disk, OPTIONS)
        try:
            lsn = found.wal.durable_lsn
            self._folder.check(found, lsn)
            self._folder.reader.check(found.store, self._folder.history.commits[20])
        finally:
            found.wal.close()
        if lsn == self._folder.last_lsn:
            return "right"
        # Only damage to the last record can look like a torn write.
        assert (name, lsn) == (self._folder.wal[-1], self._folder.last_lsn - 1)
        assert offset >= self.last_record
        return "prefix"

    def _identity(self, name: str, offset: int) -> str:
        assert worker_identity(self._disk, random.Random(0)) == self._folder.history.worker
        return "right"

    def _index(self, name: str, offset: int) -> str:
        segment = name.rpartition("/")[0]
        assert self._search_index(segment) == self._hits[segment], "it answers something else"
        return "right"

    def _sealed(self, name: str, offset: int) -> str:
        segment = name.rpartition("/")[0]
        reopened = SealedSegment(self._copy, segment)
        part, at = self._segments[segment]
        self._read_with(reopened, part.sealed[at].deaths, segment)
        # Nothing of these files is without a checksum, and a worker verifies them as it starts.
        reopened.verify()
        raise AssertionError(f"{name}: damage at offset {offset} is not noticed")

    def _deaths(self, name: str, offset: int) -> str:
        segment = name.rpartition("/")[0]
        reopened = SealedSegment(self._copy, segment)
        self._read_with(reopened, read_deaths(self._disk, name, reopened.rows), segment)
        return "right"

    def _read_with(self, segment: SealedSegment, deaths: Deaths, name: str) -> None:
        part, at = self._segments[name]
        whole = part.sealed[at]
        segment.deaths = deaths
        part.sealed[at] = segment
        try:
            for ts in (self._found.participant.cursor, self._folder.history.commits[20]):
                self._folder.reader.check(self._found.store, ts)
        finally:
            part.sealed[at] = whole

    def _search_index(self, name: str) -> list[Any]:
        """What the index of a segment answers, and all that is told of it."""
        part, at = self._segments[name]
        segment = part.sealed[at]
        shape = segment.rows, segment.dimension
        index = open_index(segment.directory, part.collection.metric, *shape, mapped=False)
        queries = np.random.default_rng(5).standard_normal((4, segment.dimension))
        scores, rows = index.search(queries.astype(np.float32), 10, None, 32)
        return [scores.tolist(), rows.tolist(), index.meta]


def test_a_flipped_bit_in_any_file_never_gives_a_wrong_answer(folder: Folder, copy: Path) -> None:
    by_kind: dict[str, list[str]] = {}
    for name in sorted(folder.files):
        by_kind.setdefault(kind_of(name), []).append(name)
    chance = random.Random(20_240_501)
    flipper = Flipper(folder, copy)
    kinds = sorted(by_kind)
    for n in range(FLIPS):
        kind = kinds[n % len(kinds)]
        names = by_kind[kind]
        sizes = [len(folder.files[name]) for name in names]
        name, start = chance.choices(names, sizes)[0], 0
        if kind == "wal" and chance.random() < 0.3:
            name = folder.wal[-1]
            start = flipper.last_record if chance.random() < 0.5 else 0
        flipper.flip(name, chance.randrange(8 * start, 8 * len(folder.files[name])))
    assert read_files(copy) == folder.files

    print(f"\n{FLIPS} flipped bits")
    verdicts = ("right", "prefix", "StorageCorrupt", "NewerFormat")
    for kind in kinds:
        counts = {v: flipper.verdicts[kind, v] for v in verdicts if flipper.verdicts[kind, v]}
        print(f"  {kind:14} {counts}")
        assert counts.get("StorageCorrupt"), f"no damage to {kind} was noticed"
    assert flipper.verdicts["wal", "prefix"], "no flip hit the last record of the log"
