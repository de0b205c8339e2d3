"""Turns at rows: writes of one gateway that would stand in each other's way go one by one.

An undecided transaction makes every other one of the same rows fail, which is then tried again. So
when decisions take long, what waits for a row would be sent over and over, by all who wait, and
that is load which makes decisions take longer. Owns the invariant that nothing waits in a ring:
a write gets in line at all of its rows in one moment.

It saves work and promises nothing: other gateways have lines of their own, so whoever had a turn
may lose all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TypeAlias

from vector_db.common.model.collection import Collection
from vector_db.common.model.errors import Conflict
from vector_db.common.model.rows import RowBlock

ROWS_MAX = 64
"""A write of more rows takes no turns: its lines would cost more than they save."""
TURN_TIMEOUT_S = 5.0

Key: TypeAlias = tuple[str, bytes]
"""(name of the collection, id of the row)."""


class _Ticket:
    """One write in line."""

    __slots__ = ("alone", "called", "missing")

    def __init__(self, alone: bool, lines: int, called: asyncio.Future[None]) -> None:
        self.alone = alone
        self.missing = lines
        """Lines in which it is not its turn yet."""
        self.called = called


class Turns:
    """The lines of one gateway."""

    def __init__(self) -> None:
        self._lines: dict[Key, deque[_Ticket]] = {}

    @contextlib.asynccontextmanager
    async def turn(self, keys: Iterable[Key], alone: bool) -> AsyncIterator[None]:
        """The block runs while it is this write's turn at all of `keys`.

        :param alone: false for blind upserts, which do not stand in each other's way.
        :raises Conflict: others were not done with the rows within `TURN_TIMEOUT_S`.
        """
        wanted = set(keys)
        if not 0 < len(wanted) <= ROWS_MAX:
            yield
            return
        ticket = self._line_up(wanted, alone)
        try:
            if ticket.missing:
                try:
                    await asyncio.wait_for(ticket.called, TURN_TIMEOUT_S)
                except TimeoutError:
                    raise Conflict(
                        "other writes of the same rows are undecided, try again"
                    ) from None
            yield
        finally:
            self._leave(ticket, wanted)

    def lines(self) -> int:
        """Rows at which somebody has a turn or waits."""
        return len(self._lines)

    def _line_up(self, keys: set[Key], alone: bool) -> _Ticket:
        ticket = _Ticket(alone, len(keys), asyncio.get_running_loop().create_future())
        for key in keys:
            line = self._lines.setdefault(key, deque())
            line.append(ticket)
            if len(line) == 1 or not any(other.alone for other in line):
                ticket.missing -= 1
        return ticket

    def _leave(self, ticket: _Ticket, keys: set[Key]) -> None:
        for key in keys:
            line = self._lines[key]
            before = _at_turn(line)
            line.remove(ticket)
            if not line:
                del self._lines[key]
                continue
            for other in _at_turn(line):
                if other not in before:
                    other.missing -= 1
                    if not other.missing and not other.called.done():
                        other.called.set_result(None)


def keys_of(blocks: Sequence[tuple[RowBlock, Collection]]) -> list[Key]:
    """The rows that blocks write; none where they are too many to take turns for."""
    if sum(len(block) for block, _ in blocks) > ROWS_MAX:
        return []
    return [(c.name, row_id) for block, c in blocks for row_id in block.ids.unpack()]


def _at_turn(line: deque[_Ticket]) -> list[_Ticket]:
    """The first of a line, with all that follow it and need not be alone, if it need not either."""
    if line[0].alone:
        return [line[0]]
    found = []
    for ticket in line:
        if ticket.alone:
            break
        found.append(ticket)
    return found
