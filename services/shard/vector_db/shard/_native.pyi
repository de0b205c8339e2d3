"""The compiled loops (`services/shard/native/module.c`).

Arguments are contiguous buffers of the native byte order, checked for their sizes; what is named
*out* is written. Each call either succeeds or leaves its outputs undefined.
"""

from typing import Any

LEVEL: str
"""The vector instructions in use: "generic", "avx2" or "avx512"."""
BEAM_MAX: int

class Graph:
    """A graph of neighbours over n rows, reading the arrays that it is given, where they lie.

    :param codes: n rows of `dimension` components.
    :param encoding: 0 float32, 1 float16, 2 uint8.
    :param distance: closeness is minus the squared distance, else the inner product.
    :param links: int32: of each row its links at level 0, then at each level above; -1 ends a list.
    :param offsets: uint64[n + 1]: where in `links` those of a row begin.
    :param starts: where in those of a row each level begins.
    :param entry: the row at which walks begin, -1: there are no rows.
    :param levels: of the entry.
    :param trained: float32[2 * dimension] of bytes: a component is a least value, and the width of
        the range that 255 steps span.
    :raises ValueError: a buffer of another size; links beyond their end.
    """

    def __init__(
        self,
        *,
        codes: Any,
        encoding: int,
        dimension: int,
        distance: bool,
        links: Any,
        offsets: Any,
        starts: tuple[int, ...],
        entry: int,
        levels: int,
        trained: Any,
    ) -> None: ...
    def search(
        self, queries: Any, k: int, beam: int, live: Any, closeness: Any, rows: Any, /
    ) -> None:
        """The best `k` rows for each of queries float32[nq, dimension], best first.

        `live`: bits of the rows that may be found (rows beyond its end may not), None: all. Out:
        `closeness` float32[nq, k], `rows` int64[nq, k], -1 where there are fewer.

        :raises ValueError: not 1 <= k <= beam <= BEAM_MAX.
        """

def prepare(queries: Any, lengths: Any, directions: Any, /) -> None:
    """Of queries float32[nq, d], out: `lengths` float64[nq], and `directions` float32[nq, d] unless
    None: the queries at length one (zeros stay)."""

def similarities(
    metric: int,
    queries: Any,
    lengths: Any,
    vectors: Any,
    rows: Any,
    asked: Any,
    out: Any,
    /,
) -> None:
    """Similarity of each pair: query `asked[i]` (int64; None: all of query 0), row `rows[i]`.

    `metric` 0 cosine, 1 dot, 2 euclidean; `queries` float32[nq, d] as the client sent them and
    `lengths` as `prepare` has them; `vectors` float32[n, d]; `rows` int64. Out: float64[len(rows)].

    :raises IndexError: a number out of range.
    """

def keys(
    metric: int,
    queries: Any,
    lengths: Any,
    vectors: Any,
    rows: Any,
    kept: int,
    offsets: Any,
    data: Any,
    number: int,
    /,
) -> list[tuple[float, bytes, int, int]]:
    """(-similarity to query 0, id, `number`, row) of each of `rows`, ascending; the arguments are
    as for `similarities`.

    `kept`: those beyond so many that do not tie with it may be left out, 0: none. The id of row r
    is ``data[offsets[r]:offsets[r + 1]]``, `offsets` int64.

    :raises IndexError: a row without vector or id.
    """

def encode(
    vectors: Any, dimension: int, codes: Any, steps: Any, errors: Any, lengths: Any, /
) -> None:
    """Of `vectors` float32[n, dimension], out: `codes` int8[n, dimension]; `steps`, `errors`,
    `lengths` float32[n]: row i is about ``steps[i] * codes[i]``, at most `errors[i]` away, and
    about `lengths[i]` long."""

def candidates(
    metric: int,
    query: Any,
    length: float,
    codes: Any,
    steps: Any,
    errors: Any,
    lengths: Any,
    live: Any,
    k: int,
    found: Any,
    /,
) -> int:
    """How many of n rows may be among the best `k` for `query` float32[d], which is `length` long;
    -1: numbers out of float32's range.

    The rows are as `encode` has them; `live` bool[n], None: all. Out: `found` int64[n], the rows,
    ascending, in its first places.
    """
