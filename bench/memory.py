"""What processes take: resident memory of a tree of processes, bytes of a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes: `anonymous` (heap), and `file` (pages of mapped files, which may go)."""

    anonymous: int
    file: int

    @property
    def resident(self) -> int:
        """Both together."""
        return self.anonymous + self.file

    def __sub__(self, other: Memory) -> Memory:
        return Memory(self.anonymous - other.anonymous, self.file - other.file)


def memory_of(pid: int) -> Memory:
    """Of one process; a process that is gone has none."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return Memory(0, 0)
    fields = {name: value for name, _, value in (line.partition(":") for line in lines)}

    def kib(name: str) -> int:
        return int(fields.get(name, "0 kB").split()[0])

    return Memory(1024 * kib("RssAnon"), 1024 * (kib("RssFile") + kib("RssShmem")))


def children_of(pid: int) -> list[int]:
    """The processes below `pid`, at any depth."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            direct = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in direct:
            found += [child, *children_of(child)]
    return found


def command_of(pid: int) -> str:
    """The command line of a process; "" when it is gone."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace")


def bytes_on_disk(folder: Path) -> int:
    """What the files under `folder` occupy."""
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                total += 512 * os.lstat(os.path.join(directory, name)).st_blocks
            except FileNotFoundError:
                continue
    return total
