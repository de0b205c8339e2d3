"""``python -m tests.crash``: many rounds of faults; exit code 1 if anything is wrong.

``ROUNDS`` (200), ``SEED`` (random, printed) and ``FOLDER`` (temporary; kept when something is
wrong) may be set in the environment or as options.
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

from tests.crash.rounds import Run


def main() -> int:
    """The exit code."""
    env = os.environ
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--rounds", type=int, default=int(env.get("ROUNDS") or 200))
    parser.add_argument(
        "--seed", type=int, default=env.get("SEED") or SystemRandom().getrandbits(32)
    )
    parser.add_argument("--folder", type=Path, default=env.get("FOLDER") or None)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="vector-db-crash-"))
    folder.mkdir(parents=True, exist_ok=True)
    # Whoever ends this run ends its services, too: as for Ctrl-C, which a shell's job ignores.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {line}", flush=True)

    print(f"SEED={given.seed} ROUNDS={given.rounds}, everything under {folder}", flush=True)
    try:
        result = asyncio.run(Run(folder, given.rounds, given.seed, say).run())
    except BaseException:
        print(f"failed: SEED={given.seed}; logs and history under {folder}", file=sys.stderr)
        raise
    print(result.summary())
    if result.violations:
        print(f"failed: SEED={given.seed}; logs and history under {folder}", file=sys.stderr)
        return 1
    if given.folder is None:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
