"""Removes files that no manifest and no living segment needs.

Owns two invariants. A file goes only after a manifest without it is durable; the removals need not
be durable themselves, since what a crash brings back is a leftover again at the next start. And the
name of a segment is never used twice, not even after a crash: a directory stays, empty, until a
durable manifest counts past its number.
"""

from __future__ import annotations

import errno
from pathlib import Path

SEGMENTS_DIR = "segments"
IMAGES_DIR = "images"


def highest_number(root: Path) -> int:
    """The highest number in the name of a segment directory, 0 without any."""
    return max((_number(path) for path in _children(root / SEGMENTS_DIR)), default=0)


def remove_leftovers(root: Path, files: set[str], segments: set[str], names_used: int) -> None:
    """Remove images, sidecars of deaths and segments that are not named.

    :param files: images and sidecars to keep, relative to `root`.
    :param segments: directories to keep, whole but for their old sidecars.
    :param names_used: what the durable manifest says.
    :raises OSError: the medium failed.
    """
    for path in _children(root / IMAGES_DIR):
        if f"{IMAGES_DIR}/{path.name}" not in files:
            path.unlink(missing_ok=True)
    for directory in _children(root / SEGMENTS_DIR):
        name = f"{SEGMENTS_DIR}/{directory.name}"
        kept = name in segments
        for path in _children(directory):
            if f"{name}/{path.name}" not in files and (not kept or path.name.startswith("deaths-")):
                path.unlink(missing_ok=True)
        if not kept and _number(directory) <= names_used:
            _remove_empty(directory)


def _children(directory: Path) -> list[Path]:
    return list(directory.iterdir()) if directory.is_dir() else []


def _number(directory: Path) -> int:
    digits = directory.name.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else 0


def _remove_empty(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError as error:
        # An index builder may just have written there: the next sweep gets it.
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
            raise
