"""The backups in a directory, and what is wrong with those that are not whole."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from vector_db.common.model.errors import NewerFormat
from vector_db.shard.backup.errors import BackupError, Damaged, Unfinished
from vector_db.shard.backup.manifest import Manifest, check_bytes, check_sizes, read_manifest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Found:
    """A directory that is a backup or was to be one. `state`: complete, unfinished, damaged, or
    newer than this program; `problem` names what is wrong."""

    name: str
    state: str
    problem: str = ""
    manifest: Manifest | None = None


def backup_directory(folder: Path, name: str) -> Path:
    """Where the backup `name` lies, or is to lie.

    :raises BackupError: not a name of a backup.
    """
    if not _NAME.fullmatch(name):
        raise BackupError(
            f"{name!r} is no name of a backup: letters, digits, '.', '_' and '-', at most 128, the "
            "first a letter or digit"
        )
    return folder / name


def open_backup(folder: Path, name: str, verify: bool) -> tuple[Path, Manifest]:
    """A backup by its name, every file there; with `verify` every byte checked.

    :raises BackupError: there is none of this name, or it is unfinished or damaged.
    :raises NewerFormat: made by a newer program.
    """
    directory = backup_directory(folder, name)
    if not directory.is_dir():
        known = ", ".join(found.name for found in backups(folder, verify=False)) or "none"
        raise BackupError(f"there is no backup {name!r} in {folder}; there are: {known}")
    manifest = read_manifest(directory)
    (check_bytes if verify else check_sizes)(directory, manifest)
    return directory, manifest


def backups(folder: Path, verify: bool) -> list[Found]:
    """All backups in `folder`, by name; with `verify` every byte of each is checked.

    :raises BackupError: there is no such directory.
    """
    if not folder.is_dir():
        raise BackupError(f"there is no directory {folder}")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    return [_look(folder / name, verify) for name in names if _NAME.fullmatch(name)]


def _look(directory: Path, verify: bool) -> Found:
    manifest = None
    try:
        manifest = read_manifest(directory)
        (check_bytes if verify else check_sizes)(directory, manifest)
    except Unfinished as error:
        return Found(directory.name, "unfinished", str(error))
    except Damaged as error:
        return Found(directory.name, "damaged", str(error), manifest)
    except NewerFormat as error:
        return Found(directory.name, "newer", str(error))
    return Found(directory.name, "complete", "", manifest)
