"""`vector-db import` and `vector-db export`.

Both stream: an import holds the batches that are in flight, an export one page or row group. An
export is of one snapshot. What can be expected to go wrong is one line on standard error.
"""

from __future__ import annotations

import time
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import orjson
import typer

from vector_db_client.running import KeyOption, UrlOption, run

if TYPE_CHECKING:
    from vector_db_client.aio import AsyncVectorDatabaseClient
    from vector_db_client.files import ExportInfo, Sink, Source
    from vector_db_client.values import Metric

PAGE_BYTES = 4 * 1024 * 1024
"""Vector bytes in one page of an export; as JSON text it is about three times that."""
PAGE_ROWS_MAX = 1000
INTERRUPTED = "interrupted; rows already written stay"


class MetricName(StrEnum):
    """What `--metric` takes."""

    COSINE = "cosine"
    DOT = "dot"
    EUCLIDEAN = "euclidean"


class ModeName(StrEnum):
    """What `--mode` takes."""

    UPSERT = "upsert"
    INSERT = "insert"
    UPDATE = "update"


CollectionOption = Annotated[str, typer.Option("--collection", "-c", help="Collection.")]


def import_command(
    file: Annotated[
        Path, typer.Argument(help="FILE.npy or FILE.parquet.", exists=True, dir_okay=False)
    ],
    collection: CollectionOption = "default",
    records: Annotated[
        Path | None,
        typer.Option(
            "--records",
            "--ids",
            "--metadata",
            help="For .npy: JSON lines (or .gz) with an id each; the other keys are the metadata. "
            "[default: FILE.jsonl or FILE.jsonl.gz]",
            dir_okay=False,
        ),
    ] = None,
    number_ids: Annotated[
        bool, typer.Option("--number-ids", help="For .npy: no records, ids are row numbers.")
    ] = False,
    id_column: Annotated[str, typer.Option(help="For .parquet: column of the ids.")] = "id",
    vector_column: Annotated[
        str, typer.Option(help="For .parquet: column of the vectors.")
    ] = "vector",
    create: Annotated[
        bool, typer.Option("--create", help="Create the collection if there is none.")
    ] = False,
    metric: Annotated[
        MetricName | None,
        typer.Option(help="With --create. [default: that of the export, else cosine]"),
    ] = None,
    mode: Annotated[ModeName, typer.Option(help="What must hold of the ids.")] = ModeName.UPSERT,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows in one atomic write.")] = 1000,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """Load vectors, ids and metadata from .npy + JSON lines, or from Parquet."""
    from vector_db_client.files import FileError

    async def work(client: AsyncVectorDatabaseClient) -> None:
        source = _open_source(file, records, number_ids, id_column, vector_column)
        await _prepare(client, collection, source, create, metric)
        started = time.perf_counter()
        result = await client.insert_stream(
            source.batches(batch_size),
            collection=collection,
            mode=mode.value,
            batch_size=batch_size,
            progress=True,
            rows_total=source.rows_total,
        )
        took_s = time.perf_counter() - started
        print(
            f"imported {result.count:,} rows into {collection} in {took_s:.1f} s "
            f"({result.count / max(took_s, 1e-9):,.0f} rows/s), commit_ts {result.commit_ts}"
        )

    if metric is not None and not create:
        raise typer.BadParameter("--metric needs --create")
    run(work, url, api_key, FileError, INTERRUPTED)


def export_command(
    out: Annotated[Path, typer.Argument(help="OUT.npy (with OUT.jsonl beside it) or OUT.parquet.")],
    collection: CollectionOption = "default",
    records: Annotated[
        Path | None,
        typer.Option(help="For .npy: where ids and metadata go. [default: OUT.jsonl]"),
    ] = None,
    filter: Annotated[
        str | None, typer.Option(help="""Only rows that match, as JSON: '{"pos": "verb"}'.""")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files.")] = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """Write a collection, as of one moment, to .npy + JSON lines, or to Parquet."""
    from vector_db_client.files import FileError

    try:
        matching = None if filter is None else orjson.loads(filter)
    except orjson.JSONDecodeError as error:
        raise typer.BadParameter(f"--filter: not JSON: {error}") from None

    async def work(client: AsyncVectorDatabaseClient) -> None:
        started = time.perf_counter()
        rows = await _export(client, out, collection, records, matching, overwrite)
        took_s = time.perf_counter() - started
        print(f"exported {rows:,} rows of {collection} to {out} in {took_s:.1f} s")

    run(work, url, api_key, FileError, INTERRUPTED)


def _open_source(
    file: Path, records: Path | None, number_ids: bool, id_column: str, vector_column: str
) -> Source:
    from vector_db_client.files import FileError

    if file.suffix == ".npy":
        from vector_db_client.npy_files import NpySource

        return NpySource(file, records, number_ids)
    if file.suffix == ".parquet":
        if records or number_ids:
            raise FileError("--records and --number-ids are for .npy files")
        from vector_db_client.parquet_files import ParquetSource

        return ParquetSource(file, id_column, vector_column)
    raise FileError(f"{file}: needs the suffix .npy or .parquet")


async def _prepare(
    client: AsyncVectorDatabaseClient,
    collection: str,
    source: Source,
    create: bool,
    metric: MetricName | None,
) -> None:
    """Make the collection if asked, and see that the file fits it before rows are sent."""
    from vector_db_client.errors import NotFound
    from vector_db_client.files import FileError

    if create:
        name = metric.value if metric else source.info.metric if source.info else "cosine"
        await client.create_collection(
            collection, source.dimension, cast("Metric", name), exist_ok=True
        )
        return
    try:
        existing = await client.get_collection(collection)
    except NotFound:
        if collection == "default":
            return  # the first insert makes it
        raise FileError(f"there is no collection {collection!r}; --create makes it") from None
    if existing.dimension != source.dimension:
        raise FileError(
            f"the vectors have dimension {source.dimension}, collection {collection!r} has "
            f"{existing.dimension}"
        )


def _open_sink(out: Path, records: Path | None, info: ExportInfo, overwrite: bool) -> Sink:
    from vector_db_client.files import FileError

    if out.suffix == ".npy":
        from vector_db_client.npy_files import NpySink

        return NpySink(out, records, info, overwrite)
    if out.suffix == ".parquet":
        if records:
            raise FileError("--records is for .npy files")
        from vector_db_client.parquet_files import ParquetSink

        return ParquetSink(out, info, overwrite)
    raise FileError(f"{out}: needs the suffix .npy or .parquet")


async def _export(
    client: AsyncVectorDatabaseClient,
    out: Path,
    collection: str,
    records: Path | None,
    filter: Any,
    overwrite: bool,
) -> int:
    """Write all pages of one scroll; the number of rows."""
    from vector_db_client.files import ExportInfo, check_free
    from vector_db_client.progress import reporting

    check_free(out, overwrite)
    about = await client.get_collection(collection)
    # By its own name: an alias may be switched meanwhile.
    expected = (await client.count(filter, collection=about.name)).count
    page_size = max(1, min(PAGE_ROWS_MAX, PAGE_BYTES // (4 * about.dimension)))
    sink: Sink | None = None
    done = 0
    try:
        with reporting(True, "exporting", expected) as advance:
            async for page in client.scroll_pages(
                collection=about.name, filter=filter, page_size=page_size
            ):
                if sink is None:
                    info = ExportInfo(about.name, about.dimension, about.metric, page.snapshot_ts)
                    sink = _open_sink(out, records, info, overwrite)
                sink.write(page.rows)
                done += len(page.rows)
                advance(len(page.rows))
        if sink is not None:
            sink.finish()
    except BaseException:
        if sink is not None:
            with suppress(OSError):  # the first failure is the one to tell
                sink.discard()
        raise
    return done
