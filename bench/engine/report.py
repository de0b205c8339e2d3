"""What was found: a line of the table each, the JSON file and the picture.

Owns the rule that a figure which could not be taken is a line with its reason.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from bench import plot
from bench.common import OUT, print_table, save

LEFT = frozenset((0, 2, 3))


@dataclass(frozen=True, slots=True)
class Aim:
    """A figure is to be at least (or at most) `value`."""

    value: float
    at_most: bool = False

    def met(self, figure: float) -> bool:
        """Whether the figure keeps it."""
        return figure <= self.value if self.at_most else figure >= self.value

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.value:g}"


class Findings:
    """Lines in the order in which they were found, and the raw figures beside them."""

    def __init__(self) -> None:
        self._rows: list[list[str]] = []
        self.figures: dict[str, Any] = {}
        self.curves: dict[str, list[tuple[float, float]]] = {}

    def add(
        self, name: str, value: float, form: str, aim: Aim | None = None, note: str = ""
    ) -> None:
        """`form` is the figure's text, with `{}` or `{:…}` for the value."""
        verdict = "" if aim is None else f"{aim} {'yes' if aim.met(value) else 'NO'}"
        self._line(name, form.format(value), verdict, note)
        self.figures[name] = value

    def skip(self, name: str, reason: str) -> None:
        """No figure, and why."""
        self._line(name, "–", "", reason)
        self.figures[name] = {"skipped": reason}

    def _line(self, name: str, value: str, verdict: str, note: str) -> None:
        self._rows.append([name, value, verdict, note])
        said = "  ".join(part for part in (value, verdict, note) if part)
        print(f"  {name}: {said}", flush=True)

    def show(self, title: str, options: argparse.Namespace) -> None:
        """Print the table; write `bench/out/engine.json` and `bench/out/engine.png`."""
        print_table(title, ["", "figure", "aim", "note"], self._rows, LEFT)
        result = {
            "options": {k: str(v) for k, v in vars(options).items()},
            "figures": self.figures,
            "curves": self.curves,
        }
        print(f"\nwritten: {save('engine', result)}")
        if self.curves:
            figure = {
                "title": title,
                "x": "recall@10",
                "y": "queries a second, one thread",
                "log_y": True,
                "lines": self.curves,
            }
            print(plot.draw(figure, OUT / "engine.png"))
