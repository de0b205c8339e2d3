"""What processes take: resident memory of a tree of processes, bytes of a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes: `anonymous` (heap), and `file` (mapped files and shared memory)."""

    anonymous: int
    file: int

    @property
    def resident(self) -> int:
        """Both together."""
        return self.anonymous + self.file

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.anonymous + other.anonymous, self.file + other.file)

    def __sub__(self, other: Memory) -> Memory:
        return Memory(self.anonymous - other.anonymous, self.file - other.file)


NONE = Memory(0, 0)


def memory_of(pid: int) -> Memory:
    """Of one process, what it shares with others in proportion; one that is gone has none."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return NONE
    fields = {name: value for name, _, value in (line.partition(":") for line in lines)}

    def kib(name: str) -> int:
        return int(fields.get(name, "0 kB").split()[0])

    anonymous = kib("Pss_Anon")
    return Memory(1024 * anonymous, 1024 * (kib("Pss") - anonymous))


def memory_below(pid: int) -> Memory:
    """Of a process and all processes below it."""
    return sum((memory_of(one) for one in (pid, *children_of(pid))), NONE)


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


def processes_naming(path: Path) -> list[int]:
    """The processes whose command lines name a path, which tells whose servers they are."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if str(path) in command_of(pid)]


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
