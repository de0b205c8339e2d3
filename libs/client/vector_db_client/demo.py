"""`vector-db demo`: a dictionary that knows what words are about, in a minute.

It shows the database through the SDK as anyone would use it, each step with the time it took, then
goes on serving for one's own tries.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from vector_db_client.sync import VectorDatabaseClient
    from vector_db_client.values import Match, Row

DATA = Path("examples/dictionary")
VECTORS, RECORDS = "vectors.f16.npy", "records.jsonl.gz"
KEPT_DATA_DIR = Path("data/demo")
COLLECTION, BOOKMARKS = "dictionary", "bookmarks"
WORDS = ("bread", "guitar", "anger")
BESIDE_WORD_AND_MEANING = 33
"""Columns of the terminal that the rest of a table's row takes."""
FILTERED_WORD, FILTER = "bread", {"pos": "verb"}


def demo_command(
    data: Annotated[
        Path | None,
        typer.Option(help=f"Folder with {VECTORS} and {RECORDS}. [default: {DATA}]"),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve/--no-serve", help="Go on serving until Ctrl-C.")
    ] = True,
    keep: Annotated[
        bool, typer.Option("--keep", help=f"Keep the data in {KEPT_DATA_DIR} instead of /tmp.")
    ] = False,
    url: Annotated[
        str | None, typer.Option("--url", help="Show it on a running server; start none.")
    ] = None,
    http_port: Annotated[int, typer.Option(envvar="VECTOR_DB_HTTP_PORT", min=1, max=65535)] = 8080,
    grpc_port: Annotated[int, typer.Option(envvar="VECTOR_DB_GRPC_PORT", min=1, max=65535)] = 9090,
    api_key: Annotated[
        str | None, typer.Option("--api-key", envvar="VECTOR_DB_API_KEY", help="API key, if any.")
    ] = None,
) -> None:
    """Load 5,000 dictionary entries, search them by meaning, and serve them."""
    from rich.console import Console

    from vector_db_client.demo_server import DemoError, DemoServer, signals_as_interrupts
    from vector_db_client.errors import VectorDatabaseError
    from vector_db_client.files import FileError

    console = Console(highlight=False)
    try:
        with signals_as_interrupts():
            folder = _find_data(data)
            if url is None:
                console.print("Starting the server …")
                own = DemoServer(http_port, grpc_port, KEPT_DATA_DIR if keep else None)
            else:
                own = None
            with own or nullcontext():
                target = own.url if own else url or ""
                if own:
                    console.print(f"Serving on {own.url} (log: {own.log})", soft_wrap=True)
                _show(console, target, api_key, folder)
                _print_curls(console, target.split(",")[0], api_key)
                if own and serve:
                    console.print("\nServing until Ctrl-C.")
                    own.serve()
    except KeyboardInterrupt:
        console.print("\nStopped.")
    except (DemoError, FileError, VectorDatabaseError, OSError) as error:
        print(f"vector-db: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(1) from None


def _find_data(data: Path | None) -> Path:
    """The folder asked for, or the project's, from here or from where this package lies."""
    from vector_db_client.files import FileError

    candidates = [data] if data else [DATA, Path(__file__).resolve().parents[3] / DATA]
    for candidate in candidates:
        if (candidate / VECTORS).is_file() and (candidate / RECORDS).is_file():
            return candidate
    raise FileError(
        f"{candidates[0]}: needs {VECTORS} and {RECORDS}; run the demo in the project's folder, or "
        "name the data with --data"
    )


def _show(console: Console, url: str, api_key: str | None, folder: Path) -> None:
    from vector_db_client.sync import VectorDatabaseClient

    with VectorDatabaseClient.connect(url, api_key) as client:
        _load(console, client, folder)
        for word in WORDS:
            _show_neighbours(console, client, word)
        _show_filtered(console, client)
        _show_atomic_write(console, client)


def _load(console: Console, client: VectorDatabaseClient, folder: Path) -> None:
    from vector_db_client.npy_files import NpySource

    source = NpySource(folder / VECTORS, folder / RECORDS)
    client.create_collection(COLLECTION, source.dimension, "cosine", exist_ok=True)
    with _timed() as took:
        result = client.insert_stream(
            source.batches(500),
            collection=COLLECTION,
            batch_size=500,
            progress=True,
            rows_total=source.rows_total,
        )
    console.print(
        f"Loaded {result.count:,} entries of {source.dimension} dimensions into [b]{COLLECTION}[/b]"
        f" in {took.s:.2f} s, durable and searchable.",
        soft_wrap=True,
    )


def _show_neighbours(console: Console, client: VectorDatabaseClient, word: str) -> None:
    entry = _entry(client, word)
    with _timed() as took:
        found = client.query_similar(id=entry.id, k=5, collection=COLLECTION)
    _print_table(console, f'Nearest to "{word}" ({took.s * 1000:.1f} ms)', found)


def _show_filtered(console: Console, client: VectorDatabaseClient) -> None:
    entry = _entry(client, FILTERED_WORD)
    with _timed() as took:
        found = client.query_similar(id=entry.id, k=5, collection=COLLECTION, filter=FILTER)
    title = f'Nearest verbs to "{FILTERED_WORD}", filter {FILTER} ({took.s * 1000:.1f} ms)'
    _print_table(console, title, found)


def _show_atomic_write(console: Console, client: VectorDatabaseClient) -> None:
    from rich.table import Table

    from vector_db_client.values import Upsert

    entry = _entry(client, WORDS[1])
    if entry.vector is None:
        raise ValueError(f"{entry.id} was read without its vector")
    client.create_collection(BOOKMARKS, len(entry.vector), "cosine", exist_ok=True)
    metadata = entry.metadata or {}
    with _timed() as took:
        result = client.commit(
            [
                Upsert(COLLECTION, [entry.id], [entry.vector], [metadata | {"bookmarked": True}]),
                Upsert(BOOKMARKS, ["first"], [entry.vector], [{"entry": entry.id}]),
            ]
        )
    title = f"One atomic write over two collections ({took.s * 1000:.1f} ms)"
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in ("collection", "id", "written at commit_ts"):
        table.add_column(column)
    for collection, row_id in ((COLLECTION, entry.id), (BOOKMARKS, "first")):
        (row,) = client.fetch([row_id], collection=collection)
        if row.version != result.commit_ts:
            raise ValueError(f"{row_id} has version {row.version}, not {result.commit_ts}")
        table.add_row(collection, row_id, str(row.version))
    console.print(table)


def _entry(client: VectorDatabaseClient, word: str) -> Row:
    from vector_db_client.files import FileError

    matching = {"lemma": word, "pos": "noun"}
    for row in client.scroll(collection=COLLECTION, filter=matching, page_size=10):
        return row
    raise FileError(f"the data have no noun {word!r}")


def _print_table(console: Console, title: str, matches: Sequence[Match]) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("similarity", justify="right", no_wrap=True)
    for column in ("word", "kind", "meaning"):
        table.add_column(column, no_wrap=True)
    entries = [(match.similarity, match.metadata or {}) for match in matches]
    longest = max((len(str(about.get("lemma", ""))) for _, about in entries), default=0)
    width = max(20, console.width - longest - BESIDE_WORD_AND_MEANING)
    for similarity, about in entries:
        word, pos, gloss = (str(about.get(key, "")) for key in ("lemma", "pos", "gloss"))
        meaning = textwrap.shorten(gloss, width, placeholder=" …")
        table.add_row(f"{similarity:.3f}", word, pos, meaning)
    console.print(table)


def _print_curls(console: Console, url: str, api_key: str | None) -> None:
    host = url.removeprefix("http://").replace("127.0.0.1", "localhost")
    key = " -H 'Authorization: Bearer '$VECTOR_DB_API_KEY" if api_key else ""
    head = f"curl -X POST {host}%s -H 'Content-Type: application/json'{key} -d '%s'"
    rows = (
        '{"vectors":[{"id":"vec1","dimensions":[0.1,0.2,0.3,0.4]},'
        '{"id":"vec2","dimensions":[0.4,0.3,0.2,0.1]}]}'
    )
    console.print("\n[b]Try it:[/b]")
    for path, body in (
        ("/vectors", rows),
        ("/query", '{"vector":[0.1,0.2,0.3,0.4],"k":10}'),
        (f"/v1/collections/{COLLECTION}/count", '{"filter":{"pos":"adverb"}}'),
    ):
        # Plain, so that a line can be copied whole and its brackets stay.
        console.print(head % (path, body), markup=False, soft_wrap=True)
    console.print(f"The whole API: {url}/docs", soft_wrap=True)


class _Took:
    """Seconds that a block took, once it is over."""

    s = 0.0


@contextmanager
def _timed() -> Iterator[_Took]:
    took, began = _Took(), time.perf_counter()
    yield took
    took.s = time.perf_counter() - began
