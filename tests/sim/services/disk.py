"""`ports.Disk` over a real folder, with a model of what a power cut leaves of it.

Sealed segments are mapped by path, so the files are real; durability is modelled. Owns the
invariant that whatever `sync`, `write_atomic`, `truncate` or `remove` has answered is there after
any crash, and that everything else may be gone, torn or undone.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from vector_db.common.model.rows import Buffer
from vector_db.common.ports import DiskFull

_TEMP = ".tmp"


class PowerCut(BaseException):
    """The machine is gone in the middle of a disk operation; nothing of the process runs on."""


@dataclass(slots=True)
class DiskFaults:
    """What goes wrong next. Counters run down with each operation; None: never."""

    cut_after: int | None = None
    """The power is cut in the middle of the operation after so many."""
    sync_error_after: int | None = None
    full: bool = False
    free_bytes: int = 1 << 40


class SimDisk:
    """The disk of one node over all its lives; `open` gives a life its handle."""

    def __init__(self, root: Path, random: Random, note: Callable[[str], None]) -> None:
        self.root = root
        self.random = random
        self.note = note
        self.faults = DiskFaults()
        self.on_cut: Callable[[], None] = lambda: None
        self._unsynced: dict[str, int] = {}
        """File → bytes of it that are durable; only files with more than that."""
        self._poisoned: set[str] = set()
        """Files with pages that a failed sync has marked clean: no later sync writes them."""
        self._nameless: set[str] = set()
        """Files whose directory entry is not durable yet."""
        self._shadows: dict[str, Path] = {}
        """Durable files by a second link: an unlink behind our back may be undone."""
        self._life = 0
        self._made = 0
        self._files: list[LiveFile] = []
        self.root.mkdir(parents=True, exist_ok=True)
        self._shadow_root = self.root.with_name(self.root.name + ".shadow")
        self._shadow_root.mkdir(exist_ok=True)

    # --- a life -------------------------------------------------------------------------------

    def open(self) -> LiveDisk:
        """The handle of a process that starts now; older ones are dead."""
        self._life += 1
        return LiveDisk(self, self._life)

    def check(self, life: int) -> None:
        """:raises PowerCut: the process that asks is dead."""
        if life != self._life:
            raise PowerCut

    def crash(self, power: bool) -> None:
        """The process dies; with `power` the machine does, and what was not synced may go."""
        self._life += 1
        for file in self._files:
            file.close()
        self._files.clear()
        if not power:
            # The kernel has it all, and a later power cut may still take it.
            return
        for name in sorted(self._unsynced):
            self._tear(name, self._unsynced[name])
        for name in sorted(self._nameless):
            if self.random.random() < 0.5:
                self._path(name).unlink(missing_ok=True)
        for name, shadow in sorted(self._shadows.items()):
            path = self._path(name)
            if path.exists():
                continue
            if self.random.random() < 0.5:
                path.parent.mkdir(parents=True, exist_ok=True)
                os.link(shadow, path)
            else:
                self._forget(name)
        self._unsynced.clear()
        self._poisoned.clear()
        self._nameless.clear()

    def erase(self) -> None:
        """Nothing is left of any file. No process may run."""
        for folder in (self.root, self._shadow_root):
            shutil.rmtree(folder)
            folder.mkdir()
        self._unsynced.clear()
        self._poisoned.clear()
        self._nameless.clear()
        self._shadows.clear()

    def flip_bit(self, name: str, offset: int) -> None:
        """Damage one bit of a file at rest."""
        path = self._path(name)
        data = bytearray(path.read_bytes())
        data[offset] ^= 1 << self.random.randrange(8)
        # In place, so that links stay links.
        with path.open("r+b") as file:
            file.write(data)

    # --- inside -------------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        return self.root / name

    def _tear(self, name: str, durable: int) -> None:
        path = self._path(name)
        if not path.exists():
            return
        size = path.stat().st_size
        keep = self.random.randint(durable, size)
        with path.open("r+b") as file:
            if self.random.random() < 0.2:
                # The size reached the medium, the sectors did not.
                start = min(size, -(-keep // 512) * 512)
                file.seek(start)
                file.write(bytes(size - start))
            else:
                file.truncate(keep)

    def cut_due(self) -> bool:
        """Whether the power is cut in this very operation."""
        faults = self.faults
        if faults.cut_after is None:
            return False
        faults.cut_after -= 1
        if faults.cut_after >= 0:
            return False
        faults.cut_after = None
        return True

    def cut(self) -> PowerCut:
        """Cut the power."""
        self.note("power cut in a disk operation")
        self.crash(power=True)
        self.on_cut()
        return PowerCut()

    def sync_fails(self) -> bool:
        faults = self.faults
        if faults.sync_error_after is None:
            return False
        faults.sync_error_after -= 1
        if faults.sync_error_after >= 0:
            return False
        faults.sync_error_after = None
        return True

    def remember(self, name: str) -> None:
        """The file is durable as it is now."""
        self._forget(name)
        self._unsynced.pop(name, None)
        self._nameless.discard(name)
        self._made += 1
        shadow = self._shadow_root / str(self._made)
        os.link(self._path(name), shadow)
        self._shadows[name] = shadow

    def _forget(self, name: str) -> None:
        shadow = self._shadows.pop(name, None)
        if shadow is not None:
            shadow.unlink(missing_ok=True)

    def forget(self, name: str) -> None:
        """The file is durably gone."""
        self._forget(name)
        self._unsynced.pop(name, None)
        self._nameless.discard(name)

    def began(self, name: str, durable: int, new: bool) -> None:
        """Unsynced bytes of a file start at `durable`, unless earlier ones wait already."""
        self._unsynced.setdefault(name, durable)
        if new:
            self._nameless.add(name)

    def opened(self, file: LiveFile) -> None:
        """A descriptor of this life, closed with it."""
        self._files.append(file)

    def poison(self, name: str) -> None:
        """A sync of the file has failed: what it should have written never becomes durable."""
        self._poisoned.add(name)

    def settled(self, name: str) -> None:
        """All bytes of the file, and its name, are durable."""
        if name not in self._poisoned:
            self._unsynced.pop(name, None)
        self._nameless.discard(name)


class LiveDisk:
    """One process's `ports.Disk`."""

    def __init__(self, disk: SimDisk, life: int) -> None:
        self._disk = disk
        self._life = life
        self.root = disk.root

    def _begin(self, what: str) -> None:
        self._disk.check(self._life)
        self._disk.note(f"disk {what}")

    def _room(self, what: str) -> None:
        if self._disk.faults.full:
            raise DiskFull(f"{what}: no space left on device")

    def append_file(self, name: str) -> LiveFile:
        self._begin(f"open {name}")
        path = self._path(name)
        new = not path.exists()
        if new:
            self._room(name)
            if self._disk.cut_due():
                raise self._disk.cut()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            self._disk.began(name, 0, new=True)
        return LiveFile(self._disk, self._life, name, path)

    def read(self, name: str) -> bytes:
        self._disk.check(self._life)
        return self._path(name).read_bytes()

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        self._disk.check(self._life)
        with self._path(name).open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def write_atomic(self, name: str, parts: Iterable[Buffer]) -> None:
        data = b"".join(bytes(p) for p in parts)
        self._begin(f"replace {name} {len(data)}")
        path = self._path(name)
        self._room(name)
        if self._disk.sync_fails():
            raise OSError(errno.EIO, "input/output error")
        cut = self._disk.cut_due()
        path.parent.mkdir(parents=True, exist_ok=True)
        temp = path.with_name(path.name + _TEMP)
        if cut and self._disk.random.random() < 0.5:
            temp.write_bytes(data[: self._disk.random.randint(0, len(data))])
            raise self._disk.cut()
        temp.write_bytes(data)
        os.replace(temp, path)
        self._disk.remember(name)
        if cut:
            raise self._disk.cut()

    def truncate(self, name: str, size: int) -> None:
        self._begin(f"truncate {name} {size}")
        path = self._path(name)
        if not path.exists():
            raise FileNotFoundError(name)
        if path.stat().st_size < size:
            raise ValueError(f"{path}: cannot be cut to {size} bytes, it is shorter")
        if self._disk.cut_due():
            raise self._disk.cut()
        os.truncate(path, size)
        self._disk.settled(name)

    def remove(self, name: str) -> None:
        self._begin(f"remove {name}")
        cut = self._disk.cut_due()
        if cut and self._disk.random.random() < 0.5:
            raise self._disk.cut()
        self._path(name).unlink(missing_ok=True)
        self._disk.forget(name)
        if cut:
            raise self._disk.cut()

    def names(self, prefix: str = "") -> list[str]:
        self._disk.check(self._life)
        found = []
        for directory, _, files in os.walk(self.root):
            relative = Path(directory).relative_to(self.root).as_posix()
            base = "" if relative == "." else f"{relative}/"
            found += [base + f for f in files if not f.endswith(_TEMP)]
        return sorted(name for name in found if name.startswith(prefix))

    def free_bytes(self) -> int:
        self._disk.check(self._life)
        return 0 if self._disk.faults.full else self._disk.faults.free_bytes

    def _path(self, name: str) -> Path:
        return self.root / name


class LiveFile:
    """`ports.AppendFile`."""

    def __init__(self, disk: SimDisk, life: int, name: str, path: Path) -> None:
        self._disk = disk
        self._life = life
        self._name = name
        self._file = path.open("ab", buffering=0)
        self._size = path.stat().st_size
        disk.opened(self)

    def write(self, parts: list[Buffer]) -> None:
        self._disk.check(self._life)
        data = b"".join(bytes(p) for p in parts)
        if self._disk.faults.full and data:
            raise DiskFull(f"{self._name}: no space left on device")
        self._disk.began(self._name, self._size, new=False)
        if self._disk.cut_due():
            self._file.write(data[: self._disk.random.randint(0, len(data))])
            raise self._disk.cut()
        self._file.write(data)
        self._size += len(data)

    def sync(self) -> None:
        self._disk.check(self._life)
        self._disk.note(f"disk sync {self._name} {self._size}")
        if self._disk.cut_due():
            raise self._disk.cut()
        if self._disk.sync_fails():
            self._disk.poison(self._name)
            raise OSError(errno.EIO, "input/output error")
        self._disk.settled(self._name)

    def size(self) -> int:
        return self._size

    def close(self) -> None:
        self._file.close()
