"""Work in small steps, so that whoever drives it can do other things between them."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[int, None, T]
"""Yields the number of rows that each step was about; ends with the result."""


def exhaust(steps: Steps[T]) -> T:
    """The result of all steps at once."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result
