"""Draws the figures of the benchmarks as PNG, in an environment of its own that has matplotlib.

`draw` is called by a benchmark; the same file, run by the other interpreter, draws what it is told.
A machine that cannot install matplotlib loses the picture and nothing else.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

REQUIREMENTS = ("matplotlib==3.11.2",)
TIMEOUT_S = 120.0


def draw(figure: dict[str, Any], path: Path) -> str:
    """Write `path`; what to tell the person at the terminal.

    `figure`: title, x, y (labels), log_y, and lines: name → list of [x, y], drawn in the order of
    x; a line of one point is a mark.
    """
    from bench import venvs
    from bench.common import ROOT, BenchError

    try:
        python = venvs.python_of("plot", REQUIREMENTS)
        command = [str(python), "-m", "bench.plot", str(path)]
        done = subprocess.run(
            command,
            input=json.dumps(figure),
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
            cwd=ROOT,
        )
    except (BenchError, subprocess.TimeoutExpired) as error:
        return f"no plot: {error}"
    if done.returncode != 0:
        return f"no plot: {done.stderr.strip().splitlines()[-1]}"
    return f"plotted: {path}"


def main() -> None:
    """Draw the figure on standard input into the file that the argument names."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = json.load(sys.stdin)
    picture, axes = pyplot.subplots(figsize=(8, 5), constrained_layout=True)
    for name, points in figure["lines"].items():
        xs, ys = zip(*sorted(points), strict=True)
        axes.plot(xs, ys, marker="o", markersize=4, label=name)
    axes.set(title=figure["title"], xlabel=figure["x"], ylabel=figure["y"])
    if figure.get("log_y"):
        axes.set_yscale("log")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    picture.savefig(sys.argv[1], dpi=120)


if __name__ == "__main__":
    main()
