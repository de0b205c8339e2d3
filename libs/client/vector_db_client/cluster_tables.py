"""The cluster as tables for a terminal: its workers, and the shards that are not as wanted.

Owns what counts as worth a line: a shard with another number of replicas than wanted, or that has a
worker joining or leaving. Of ids it shows as much as is unique.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from vector_db_client.values import Cluster, ShardCopy, Worker

ID_CHARACTERS_MIN = 8
WIDTH = 120
"""Of what is no terminal."""
TERM_TS = 2**36
"""Timestamps that a term has: a cursor so far behind is of another term."""


def console() -> Console:
    """Standard output, wide enough for tables in files and pipes, too."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)


def tables(cluster: Cluster, note: str = "") -> Group:
    """All of it; `note` comes last."""
    short = short_ids(cluster.worker_ids)
    parts: list[Table | Text] = [
        Text(f"term {cluster.term}, stable_ts {cluster.stable_ts}"),
        _workers(cluster, short),
    ]
    if shards := _shards(cluster, short):
        parts.append(shards)
    parts.append(Text(summary(cluster)))
    if note:
        parts.append(Text(note, style="red"))
    return Group(*parts)


def short_ids(ids: Sequence[str]) -> dict[str, str]:
    """Of each id the shortest beginning, of eight characters at least, that no other one has."""
    length = ID_CHARACTERS_MIN
    while len({id[:length] for id in ids}) < len(set(ids)):
        length += 1
    return {id: id[:length] for id in ids}


def summary(cluster: Cluster) -> str:
    """How many shards are as they should be, in a sentence."""
    wanted = cluster.replication_factor
    short = sum(len(workers) < wanted for workers in cluster.shards.values())
    moving = len(cluster.joining.keys() | cluster.leaving.keys())
    text = f"{len(cluster.shards)} shards of {wanted} replica{'s' * (wanted != 1)}: "
    if not short and not moving:
        return text + "all whole, nothing moves"
    return text + f"{short} with too few, {moving} on the move"


def _workers(cluster: Cluster, short: dict[str, str]) -> Table:
    table = Table("worker", "zone", "state", title="Workers", title_justify="left")
    table.add_column("replicas", justify="right")
    table.add_column("lag", justify="right")
    table.add_column("copies under way")
    for id in cluster.worker_ids:
        worker = cluster.worker(id)
        replicas = sum(id in workers for workers in cluster.shards.values())
        state = _state(worker, id in cluster.draining)
        if worker is None:
            table.add_row(short[id], "", state, str(replicas), "", "")
            continue
        copies = "\n".join(copies_text(worker))
        lag = lag_text(cluster.stable_ts - worker.cursor)
        table.add_row(short[id], worker.zone, state, str(replicas), lag, copies)
    return table


def _state(worker: Worker | None, draining: bool) -> Text:
    if worker is None:
        text = Text("not heard", style="red")
    elif worker.ready:
        text = Text("ready", style="green")
    else:
        text = Text("not ready", style="yellow")
    return text.append(", draining", style="yellow") if draining else text


def lag_text(behind: int) -> str:
    """How far a cursor is behind `stable_ts`."""
    return f"{max(0, behind):,}" if behind < TERM_TS else "a term"


def copies_text(worker: Worker) -> Iterator[str]:
    """A line for each shard that a worker copies."""
    for shard, copy in sorted(worker.copying.items()):
        done, whole = copy.bytes_done / 1e6, copy.bytes_all / 1e6
        yield f"shard {shard}: {done:,.1f} of {whole:,.1f} MB, {percent(copy)}"


def percent(copy: ShardCopy) -> str:
    """How much of a copy is there."""
    return f"{100 * copy.bytes_done // copy.bytes_all if copy.bytes_all else 100} %"


def _shards(cluster: Cluster, short: dict[str, str]) -> Table | None:
    """The shards worth a line, or None where there are none."""
    wanted = cluster.replication_factor
    table = Table("shard", "replicas", "on", "moves", title="Shards", title_justify="left")
    for shard, replicas in sorted(cluster.shards.items()):
        moves = []
        if (joining := cluster.joining.get(shard)) is not None:
            worker = cluster.worker(joining)
            copy = worker.copying.get(shard) if worker else None
            moves.append(f"{short[joining]} joins" + (f" ({percent(copy)})" if copy else ""))
        moves += [f"{short[id]} leaves" for id in cluster.leaving.get(shard, ())]
        if moves or len(replicas) != wanted:
            count = Text(f"{len(replicas)} of {wanted}", "red" if len(replicas) < wanted else "")
            on = ", ".join(short[id] for id in replicas)
            table.add_row(str(shard), count, on, ", ".join(moves))
    return table if table.row_count else None
