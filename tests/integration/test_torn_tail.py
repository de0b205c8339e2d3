"""A worker whose log lost its last records, though they were synced: the broker gives them back."""

from __future__ import annotations

import os
import time
from pathlib import Path
from random import Random

from tests.support.cluster import BACK_S, Cluster
from tests.support.processes import HttpError
from vector_db.coordinator.term import TRIM_S


def flip_in_last_record(wal: Path, chance: Random) -> None:
    """One bit among the last bytes of the last file; no record is shorter than its header."""
    last = max(wal.glob("*.log"))
    data = bytearray(last.read_bytes())
    data[-1 - chance.randrange(25)] ^= 1 << chance.randrange(8)
    last.write_bytes(data)


def cut_last_records(wal: Path, chance: Random) -> None:
    """Several transactions off the end of the last file."""
    last = max(wal.glob("*.log"))
    os.truncate(last, last.stat().st_size - 4000 - chance.randrange(1000))


def test_damage_at_the_end_of_the_log_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    chance = Random(3)
    cluster = Cluster(tmp_path, workers=1)
    worker = cluster.shards[0]
    try:
        cluster.start()
        cluster.load.create()
        for damage in (flip_in_last_record, cut_last_records):
            cluster.work(30)
            # Idle at the kill, so that the last record is of an acknowledged transaction.
            cluster.load.stop()
            # Time enough to trim the logs as far as they ever are.
            time.sleep(1.5 * TRIM_S)
            worker.kill()
            damage(worker.folder / "data" / "shard" / "wal", chance)
            worker.start()
            started = time.monotonic()
            while True:
                try:
                    rows = cluster.load.check()
                    break
                except HttpError as error:
                    # 503 until the worker has read again what it lost.
                    assert error.status == 503 and time.monotonic() - started < BACK_S, error
            print(f"\n{rows} rows, all of them after {time.monotonic() - started:.1f} s")
            recovered = [line for line in worker.log.splitlines() if "recovered" in line][-1]
            assert "torn_bytes=" in recovered and "torn_bytes=0" not in recovered
            cluster.work(1)
            cluster.check_back("torn")
    finally:
        cluster.close()
