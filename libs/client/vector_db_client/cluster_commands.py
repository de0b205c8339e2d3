"""`vector-db cluster status`, `drain` and `undrain`: what operators see of the workers, and do.

A drain is a wish that the cluster keeps: the command only waits for it, so it may be interrupted,
and run again to go on waiting.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

import typer

from vector_db_client.running import KeyOption, UrlOption, run

if TYPE_CHECKING:
    from vector_db_client.aio import AsyncVectorDatabaseClient
    from vector_db_client.values import Cluster

POLL_S = 0.5
TIMEOUT_S = 20.0
"""Bound of one request with its retries."""
SILENCE_S_MAX = 60.0
"""For how long a command that waits puts up with no answer: a coordinator or gateway restarts."""

app = typer.Typer(
    help="The workers of a cluster: what they hold, and letting one hold nothing.",
    no_args_is_help=True,
)

WorkerArgument = Annotated[
    str, typer.Argument(help="Id of a shard worker, or the beginning of it if that is unique.")
]


class ClusterError(Exception):
    """What is asked for cannot be done; one sentence for people."""


@app.command("status")
def status_command(
    watch: Annotated[bool, typer.Option("--watch", help="Draw it anew until Ctrl-C.")] = False,
    json: Annotated[bool, typer.Option("--json", help="What the API says, as JSON.")] = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """Show the workers, and the shards that lack replicas or move."""
    if watch and json:
        raise typer.BadParameter("--json goes without --watch")

    async def work(client: AsyncVectorDatabaseClient) -> None:
        cluster = await client.cluster()
        if json:
            import orjson

            print(orjson.dumps(cluster.answer, option=orjson.OPT_INDENT_2).decode())
        elif watch:
            await _watch(client, cluster)
        else:
            from vector_db_client.cluster_tables import console, tables

            console().print(tables(cluster))

    if watch:
        # Ctrl-C is the way out of it, not a failure.
        try:
            run(work, url, api_key, ClusterError, "stopped watching", TIMEOUT_S)
        except typer.Exit as ended:
            raise typer.Exit(0 if ended.exit_code == 130 else ended.exit_code) from None
    else:
        run(work, url, api_key, ClusterError, "interrupted", TIMEOUT_S)


@app.command("drain")
def drain_command(
    worker: WorkerArgument,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until the worker holds nothing.")
    ] = True,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """Move all that a worker holds to others; it gets no more until `undrain`."""

    async def work(client: AsyncVectorDatabaseClient) -> None:
        id = find_worker(await client.cluster(), worker)
        cluster = await client.drain(id)
        if not wait:
            print(f"{id} is draining, it holds {shards_text(len(cluster.held_by(id)))}")
            return
        took_s = await _wait_drained(client, id, cluster)
        print(f"{id} holds nothing (after {took_s:.1f} s)")

    told = "interrupted; the worker goes on draining, `vector-db cluster undrain` takes that back"
    run(work, url, api_key, ClusterError, told, TIMEOUT_S)


@app.command("undrain")
def undrain_command(
    worker: WorkerArgument, url: UrlOption = None, api_key: KeyOption = None
) -> None:
    """Let a worker that was drained hold shards again."""

    async def work(client: AsyncVectorDatabaseClient) -> None:
        before = await client.cluster()
        id = find_worker(before, worker)
        if id not in before.draining:
            print(f"{id} is not draining")
            return
        await client.undrain(id)
        print(f"{id} may hold shards again")

    run(work, url, api_key, ClusterError, "interrupted", TIMEOUT_S)


def find_worker(cluster: Cluster, beginning: str) -> str:
    """The one worker whose id begins so, or is that.

    :raises ClusterError: there is none, or there are several.
    """
    known = cluster.worker_ids
    found = [id for id in known if id.startswith(beginning)]
    if beginning in found:
        return beginning
    if len(found) == 1 and beginning:
        return found[0]
    if not found:
        raise ClusterError(f"no shard worker {beginning!r}; known are {', '.join(known) or 'none'}")
    raise ClusterError(f"several shard workers begin with {beginning!r}: {', '.join(found)}")


def shards_text(count: int) -> str:
    """So many shards, in words."""
    return "nothing" if not count else f"{count} shard{'s' * (count != 1)}"


async def _watch(client: AsyncVectorDatabaseClient, cluster: Cluster) -> None:
    from rich.live import Live

    from vector_db_client.cluster_tables import console, tables
    from vector_db_client.errors import VectorDatabaseError

    with Live(tables(cluster), console=console(), auto_refresh=False) as live:
        note = ""
        while True:
            live.update(tables(cluster, note), refresh=True)
            await asyncio.sleep(POLL_S)
            try:
                cluster, note = await client.cluster(), ""
            except VectorDatabaseError as error:
                if not error.retryable and not isinstance(error, TimeoutError):
                    raise
                note = f"no newer answer: {error.message}"


async def _wait_drained(client: AsyncVectorDatabaseClient, id: str, cluster: Cluster) -> float:
    """Until the worker holds nothing; the seconds that it took.

    :raises ClusterError: somebody takes the drain back meanwhile.
    """
    from vector_db_client.errors import VectorDatabaseError

    most = len(cluster.held_by(id))
    began_s = heard_s = time.monotonic()
    with _Line() as line:
        while left := cluster.held_by(id):
            if id not in cluster.draining:
                raise ClusterError(f"{id} is not draining any more, it holds {len(left)} shards")
            most = max(most, len(left))
            line.show(_progress(cluster, id, left, most))
            await asyncio.sleep(POLL_S)
            try:
                cluster, heard_s = await client.cluster(), time.monotonic()
            except VectorDatabaseError as error:
                lasting = not error.retryable and not isinstance(error, TimeoutError)
                if lasting or time.monotonic() - heard_s > SILENCE_S_MAX:
                    raise
                line.show(f"no answer, asking again: {error.message}")
    return time.monotonic() - began_s


def _progress(cluster: Cluster, id: str, left: tuple[int, ...], most: int) -> str:
    copies = [
        copy
        for worker in cluster.workers
        for shard, copy in worker.copying.items()
        if shard in left
    ]
    text = f"draining {id}: {shards_text(len(left))} of {most} left"
    if copies:
        done = sum(copy.bytes_done for copy in copies)
        whole = sum(copy.bytes_all for copy in copies)
        text += f", {done / 1e6:,.1f} of {whole / 1e6:,.1f} MB copied"
    moving = any(shard in cluster.joining or shard in cluster.leaving for shard in left)
    others = sum(w.ready and not w.draining for w in cluster.workers)
    if not moving and others < cluster.replication_factor:
        text += (
            f"; there is nowhere to go: {others} other workers, "
            f"{cluster.replication_factor} replicas wanted"
        )
    return text


class _Line(AbstractContextManager["_Line"]):
    """A line on standard error: rewritten on a terminal, else printed when it is another one."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = ""

    def show(self, text: str) -> None:
        if text == self._shown:
            return
        self._shown = text
        sys.stderr.write(f"\r\x1b[K{text}" if self._terminal else f"{text}\n")
        sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self._terminal and self._shown:
            sys.stderr.write("\n")
