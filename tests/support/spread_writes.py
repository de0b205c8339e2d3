"""What clients wrote to one collection, by commit, and what each snapshot of it has to show.

Owns the meaning of a write without an answer: nobody writes its rows any more, so the rows in the
end say whether and when it was committed, whole or not at all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

Rows: TypeAlias = Mapping[str, int | None]
"""Id → the number that is written, None for a row that is deleted."""
Shown: TypeAlias = dict[str, tuple[int, int]]
"""Id → the number that was written, and the row's version."""


class Acknowledged:
    """What was written, by commit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writes: list[tuple[int, Rows]] = []
        self._doubtful: list[Rows] = []

    def note(self, commit_ts: int, rows: Rows) -> None:
        """These were written at that commit."""
        with self._lock:
            self._writes.append((commit_ts, rows))

    def doubt(self, rows: Rows) -> None:
        """These may have been written or not, and are never written again; one of them at least
        is no deletion."""
        with self._lock:
            self._doubtful.append(rows)

    def settle(self, found: Shown) -> tuple[int, int]:
        """What became of the doubtful ones, by the rows of a snapshot that is newer than whatever
        is compared: how many were written, and how many were not."""
        doubtful, self._doubtful = self._doubtful, []
        written = 0
        for rows in doubtful:
            versions: set[int | None] = set()
            for row_id, n in rows.items():
                if n is not None:
                    shown, version = found.get(row_id, (None, 0))
                    versions.add(version if shown == n else None)
            assert len(versions) == 1, f"a write is torn: {rows}, {versions}"
            if (commit_ts := versions.pop()) is not None:
                self.note(commit_ts, rows)
                written += 1
        return written, len(doubtful) - written

    def __len__(self) -> int:
        return len(self._writes)

    def commits(self) -> list[int]:
        """In the order of acknowledgement."""
        with self._lock:
            return [commit_ts for commit_ts, _ in self._writes]

    def at(self, snapshots: Iterable[int]) -> Iterator[Shown]:
        """What each of these has to show, the oldest first; each good until the next one."""
        writes = sorted(self._writes, key=lambda write: write[0])
        shown: Shown = {}
        done = 0
        for snapshot_ts in sorted(snapshots):
            while done < len(writes) and writes[done][0] <= snapshot_ts:
                commit_ts, rows = writes[done]
                for row_id, n in rows.items():
                    if n is None:
                        shown.pop(row_id, None)
                    else:
                        shown[row_id] = n, commit_ts
                done += 1
            yield shown
