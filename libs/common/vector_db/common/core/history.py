"""Where two histories of decisions part. Pure.

A history is a chain of decision records, told by where it ends and by its *bases*: for every later
term where the history before it ended. A term that one of two histories does not have began after
they parted, so they agree up to the least base of such terms.
"""

from __future__ import annotations

from collections.abc import Mapping

from vector_db.common.model.ids import ts_term


def common_ts(cursor: int, bases: Mapping[int, int], theirs: Mapping[int, int]) -> int:
    """How much of the history that ends at `cursor` is also in the one with the bases `theirs`."""
    apart = [bases[t] if t in bases else theirs[t] for t in bases.keys() ^ theirs.keys()]
    return min([cursor, *apart])


def is_part_of(ts: int, bases: Mapping[int, int]) -> bool:
    """Whether what was decided at `ts` is in the history with these bases, or may become so."""
    return all(ts <= base for term, base in bases.items() if term > ts_term(ts))
