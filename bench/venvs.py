"""Virtual environments of the benchmarks' own, for what the product does not need.

Owns the invariant that an environment is complete or not there: a stamp that names what it holds is
written last, and anything else is made anew.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.common import OUT, BenchError

INSTALL_TIMEOUT_S = 600.0


def python_of(name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of the environment `bench/out/venvs/<name>`, made now if need be.

    :param requirements: names with versions, as pip takes them.
    :raises BenchError: it cannot be made; says what pip said last.
    """
    directory = OUT / "venvs" / name
    python = directory / "bin" / "python"
    stamp = directory / ".installed"
    wanted = "\n".join(requirements) + "\n"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    shutil.rmtree(directory, ignore_errors=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    print(f"making an environment for {name}: {', '.join(requirements)}", flush=True)
    _run([sys.executable, "-m", "venv", str(directory)])
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    _run([*pip, *requirements])
    stamp.write_text(wanted)
    return python


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=INSTALL_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{command[2:4]}: not done after {INSTALL_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise BenchError(f"cannot install: {lines[-1] if lines else done.returncode}")
