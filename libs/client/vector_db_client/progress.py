"""Progress of long calls: a bar on request, whatever is installed.

Rich draws it when it is installed; without it a plain line on standard error is rewritten.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vector_db_client.values import Progress


@contextmanager
def reporting(
    progress: Progress, label: str, rows_total: int | None
) -> Iterator[Callable[[int], None]]:
    """A function to call with the rows that were done since its last call."""
    if progress is False:
        yield lambda rows: None
        return
    if progress is not True:
        report, done = progress, 0

        def count(rows: int) -> None:
            nonlocal done
            done += rows
            report(done, rows_total)

        yield count
        return
    try:
        import rich.console
        import rich.progress as bars
    except ImportError:
        with _plain_line(label, rows_total) as advance:
            yield advance
        return
    with bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("rows"),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
        console=rich.console.Console(stderr=True),
    ) as bar:
        task = bar.add_task(label, total=rows_total)
        yield lambda rows: bar.advance(task, rows)


@contextmanager
def _plain_line(label: str, rows_total: int | None) -> Iterator[Callable[[int], None]]:
    done = 0
    of = "" if rows_total is None else f" of {rows_total}"

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        sys.stderr.write(f"\r{label}: {done}{of} rows")
        sys.stderr.flush()

    try:
        yield advance
    finally:
        sys.stderr.write("\n")
