"""A manifest is whole or refused, and so is every file that it names."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.unit.shard_backup.small_cluster import SmallCluster
from vector_db.common.adapters.posix_disk import PosixDisk
from vector_db.common.model.errors import NewerFormat
from vector_db.shard.backup.errors import BackupError, Damaged, Unfinished
from vector_db.shard.backup.inventory import backups, open_backup
from vector_db.shard.backup.manifest import (
    MANIFEST_FILE,
    Manifest,
    check_bytes,
    check_sizes,
    read_manifest,
    write_manifest,
)


async def made(cluster: SmallCluster) -> tuple[Path, Manifest]:
    for _ in range(10):
        cluster.commit()
    return cluster.directory(), await cluster.backup()


async def test_no_bit_of_a_manifest_may_change(cluster: SmallCluster) -> None:
    directory, manifest = await made(cluster)
    path = directory / MANIFEST_FILE
    text = path.read_bytes()
    for at in range(len(text)):
        path.write_bytes(text[:at] + bytes([text[at] ^ (1 << at % 8)]) + text[at + 1 :])
        with pytest.raises((Damaged, NewerFormat)):
            read_manifest(directory)
    path.write_bytes(text)
    assert read_manifest(directory) == manifest


async def test_a_manifest_that_is_cut_short_is_none(cluster: SmallCluster) -> None:
    directory, _ = await made(cluster)
    path = directory / MANIFEST_FILE
    text = path.read_bytes()
    for length in range(0, len(text), 7):
        path.write_bytes(text[:length])
        with pytest.raises(Damaged, match=str(path)):
            read_manifest(directory)
    path.unlink()
    with pytest.raises(Unfinished, match=f"{directory} was not finished"):
        read_manifest(directory)


async def test_the_manifest_of_a_newer_program_is_refused(cluster: SmallCluster) -> None:
    directory, _ = await made(cluster)
    path = directory / MANIFEST_FILE
    envelope = msgspec.json.decode(path.read_bytes())
    envelope["format"] = 2
    path.write_bytes(msgspec.json.encode(envelope))
    with pytest.raises(NewerFormat, match="format 2, this program knows up to 1"):
        read_manifest(directory)
    assert [found.state for found in backups(directory.parent, verify=False)] == ["newer"]


async def test_every_file_is_as_it_was_or_the_backup_is_damaged(cluster: SmallCluster) -> None:
    directory, manifest = await made(cluster)
    for file in manifest.files:
        path = directory / file.name
        data = path.read_bytes()
        at = len(data) // 2
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        check_sizes(directory, manifest)
        with pytest.raises(Damaged, match=f"{path} does not match its crc32c"):
            check_bytes(directory, manifest)
        assert backups(directory.parent, verify=False)[0].state == "complete"
        assert backups(directory.parent, verify=True)[0].state == "damaged"
        path.write_bytes(data[:-1])
        with pytest.raises(Damaged, match=f"{path} has {len(data) - 1} bytes, want {len(data)}"):
            check_sizes(directory, manifest)
        path.unlink()
        with pytest.raises(Damaged, match=f"{path} is missing"):
            open_backup(directory.parent, "one", verify=False)
        path.write_bytes(data)
    check_bytes(directory, manifest)


async def test_a_manifest_names_no_file_outside(cluster: SmallCluster) -> None:
    directory, manifest = await made(cluster)
    outside = msgspec.structs.replace(manifest.files[0], name="../other")
    bad = msgspec.structs.replace(manifest, files=(outside,))
    write_manifest(PosixDisk(directory), bad)
    with pytest.raises(Damaged, match=r"names '\.\./other'"):
        read_manifest(directory)


def test_a_name_stays_in_the_folder(tmp_path: Path) -> None:
    for name in ("", "..", "a/b", ".hidden", "x" * 129):
        with pytest.raises(BackupError, match="no name of a backup"):
            open_backup(tmp_path, name, verify=False)
    with pytest.raises(BackupError, match=r"there is no backup 'x' in .*; there are: none"):
        open_backup(tmp_path, "x", verify=False)
