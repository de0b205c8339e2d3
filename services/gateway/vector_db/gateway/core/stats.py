"""Statistics of a collection from those of its workers. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vector_db.common.core.messages.reads import StatsReply


def stats_sum(replies: Sequence[StatsReply]) -> StatsReply:
    """Sums over the workers; `recall` is the mean over the indexed rows of those who measured.

    Without such rows `recall_samples` is 0: nothing was measured that still counts.
    """
    kinds: Counter[str] = Counter()
    for reply in replies:
        kinds.update(reply.kinds)
    measured = [r for r in replies if r.recall_samples and r.rows_indexed]
    weight = sum(r.rows_indexed for r in measured)
    return StatsReply(
        rows=sum(r.rows for r in replies),
        rows_indexed=sum(r.rows_indexed for r in replies),
        segments=sum(r.segments for r in replies),
        bytes_memory=sum(r.bytes_memory for r in replies),
        bytes_disk=sum(r.bytes_disk for r in replies),
        rows_dead=sum(r.rows_dead for r in replies),
        kinds=dict(sorted(kinds.items())),
        recall=sum(r.recall * r.rows_indexed for r in measured) / weight if weight else 0.0,
        recall_samples=sum(r.recall_samples for r in measured),
        building=(sum(r.building[0] for r in replies), sum(r.building[1] for r in replies)),
        bytes_predicted=sum(r.bytes_predicted for r in replies),
        bytes_resident=sum(r.bytes_resident for r in replies),
    )
