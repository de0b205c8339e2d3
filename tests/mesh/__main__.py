"""``python -m tests.mesh``: the mesh under load and faults; the last line has the figures.

``MINUTES`` (10), ``SEED`` (random, printed), ``RATE`` (200 calls a second), ``BROKERS`` (1) and
``FOLDER`` (temporary; kept when something is wrong) may be set in the environment or as options.
The exit code is 1 when a bound is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from random import SystemRandom

from tests.mesh.figures import Result
from tests.mesh.run import RATE, Run


def main() -> int:
    """The exit code."""
    env = os.environ
    parser = argparse.ArgumentParser(prog="python -m tests.mesh", description=__doc__)
    parser.add_argument("--minutes", type=float, default=float(env.get("MINUTES") or 10))
    parser.add_argument(
        "--seed", type=int, default=int(env.get("SEED") or SystemRandom().getrandbits(32))
    )
    parser.add_argument("--rate", type=float, default=float(env.get("RATE") or RATE))
    parser.add_argument("--brokers", type=int, default=int(env.get("BROKERS") or 1))
    parser.add_argument("--folder", type=Path, default=env.get("FOLDER") or None)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="vector-db-mesh-"))
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {line}", flush=True)

    print(f"SEED={given.seed} MINUTES={given.minutes:g}, everything under {folder}", flush=True)
    run = Run(
        folder,
        given.seed,
        60 * given.minutes,
        brokers=given.brokers,
        rate=given.rate,
        say=say,
    )
    try:
        result = asyncio.run(_until_ended(run))
    except BaseException:
        print(f"failed: SEED={given.seed}; logs and history under {folder}", file=sys.stderr)
        raise
    if result.violations:
        print(f"failed: SEED={given.seed}; logs and history under {folder}", file=sys.stderr)
    print(result.summary())
    if given.folder is None and not result.violations:
        shutil.rmtree(folder)
    return 1 if result.violations else 0


async def _until_ended(run: Run) -> Result:
    """The run. Who ends this process ends its services, too: as Ctrl-C does."""
    task = asyncio.ensure_future(run.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


if __name__ == "__main__":
    sys.exit(main())
