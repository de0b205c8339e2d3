"""What the files of `vector-db import` and `export` have in common.

Owns two invariants: every exported file carries a format version, and one newer than this program
knows is refused; and an export appears under its name only when it is whole (written beside,
synced, renamed).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from vector_db_client.values import Row, RowBatch

FORMAT_VERSION = 1


class FileError(Exception):
    """A file cannot be read or written as asked; the message is the one line that people see."""


@dataclass(frozen=True, slots=True)
class ExportInfo:
    """Where an exported file's rows come from; `format_version` is of the file."""

    collection: str
    dimension: int
    metric: str
    snapshot_ts: int
    format_version: int = FORMAT_VERSION

    def as_dict(self) -> dict[str, Any]:
        """The fields as a file carries them."""
        return asdict(self)


def read_info(fields: Mapping[str, Any], path: Path) -> ExportInfo:
    """The info that `fields` of the file at `path` hold; fields it does not know are passed by.

    :raises FileError: a newer format version, or fields that are missing or no numbers.
    """
    try:
        version = int(fields["format_version"])
        if version > FORMAT_VERSION:
            raise FileError(
                f"{path}: format version {version} is newer than {FORMAT_VERSION}, the newest "
                "that this program knows; use a newer vector-db"
            )
        return ExportInfo(
            str(fields["collection"]),
            int(fields["dimension"]),
            str(fields["metric"]),
            int(fields["snapshot_ts"]),
            version,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path}: its export header is damaged: {error!r}") from None


class Source(Protocol):
    """Rows to import, read as they are asked for."""

    info: ExportInfo | None
    dimension: int
    rows_total: int

    def batches(self, batch_size: int) -> Iterator[RowBatch]:
        """All rows in order, `batch_size` at a time.

        :raises FileError: a row cannot be read; the message names it.
        """


class Sink(Protocol):
    """Where exported rows go."""

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows that have a vector."""

    def finish(self) -> None:
        """Make the files durable and give them their names."""

    def discard(self) -> None:
        """Remove what was written; nothing after `finish`."""


def check_free(path: Path, overwrite: bool) -> None:
    """:raises FileError: there is a file at `path`, unless `overwrite`, or no folder for it."""
    if path.exists() and not overwrite:
        raise FileError(f"{path}: exists; --overwrite replaces it")
    if not path.parent.is_dir():
        raise FileError(f"{path}: the folder {path.parent} does not exist")


class PartFile:
    """A file that takes its name only when it is whole."""

    def __init__(self, path: Path, overwrite: bool) -> None:
        """:raises FileError: there is one of this name, unless `overwrite`."""
        check_free(path, overwrite)
        self.path = path
        self.part = path.with_name(path.name + ".part")

    def publish(self) -> None:
        """Sync the closed part file and rename it."""
        with self.part.open("rb") as file:
            os.fsync(file.fileno())
        self.part.replace(self.path)

    def discard(self) -> None:
        """Remove the part file, if there is one."""
        self.part.unlink(missing_ok=True)
