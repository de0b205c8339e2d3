"""`vector-db backup create`, `list`, `verify` and `restore`.

What can be expected to go wrong is one line on standard error and exit code 1. The libraries of a
command are loaded when it runs.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from vector_db.common.service.cli import ConfigOption

app = typer.Typer(
    help="Back up a running cluster, and restore it into another one.", no_args_is_help=True
)

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Where the backups lie.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The backup.")]


@app.command("create")
def create_command(
    folder: FolderArgument,
    name: Annotated[
        str | None, typer.Option("--name", help="Its name. [default: the time, 20260131T120000Z]")
    ] = None,
    nats_url: Annotated[
        str | None, typer.Option("--nats-url", help="Broker. [default: VECTOR_DB_NATS_URL]")
    ] = None,
    bytes_per_s_max: Annotated[
        str, typer.Option("--bytes-per-s-max", help="Bound of the rate, like 50MB. 0: none.")
    ] = "0",
    config: ConfigOption = None,
) -> None:
    """Copy the whole cluster, as of one commit, into DIR/NAME, while it goes on."""
    rate = _size(bytes_per_s_max)
    name = name or datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    _run(_create(folder, name, nats_url, rate, config))


@app.command("list")
def list_command(
    folder: FolderArgument,
    verify: Annotated[bool, typer.Option("--verify", help="Check every byte of each.")] = False,
) -> None:
    """Show the backups in DIR."""
    _run(_list(folder, verify))


@app.command("verify")
def verify_command(folder: FolderArgument, name: NameArgument) -> None:
    """Check every byte of one backup."""
    _run(_verify(folder, name))


@app.command("restore")
def restore_command(
    folder: FolderArgument,
    name: NameArgument,
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            help="A commit_ts, or a time like 2026-01-31T12:00:00Z. [default: the backup's commit]",
        ),
    ] = None,
    collection: Annotated[
        list[str] | None,
        typer.Option("--collection", "-c", help="Only this one; may be repeated."),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option("--shards", min=1, help="Of each collection. [default: the cluster's]"),
    ] = None,
    into_existing: Annotated[
        bool,
        typer.Option(
            "--into-existing",
            help="Write into collections that exist, too: to go on after an interruption.",
        ),
    ] = False,
    url: Annotated[
        list[str] | None,
        typer.Option(
            "--url", help="Gateways, separated by commas. [default: http://127.0.0.1:8080]"
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", envvar="VECTOR_DB_API_KEY", help="API key, if one is set."),
    ] = None,
) -> None:
    """Make the collections of a backup in a running cluster, and write their rows."""
    _run(_restore(folder, name, at, collection or [], shards, into_existing, url, api_key))


def _size(text: str) -> int:
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise typer.BadParameter(f"--bytes-per-s-max: {text!r} is no size") from None


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end; expected failures become one line and exit code 1."""
    from vector_db.common.model.errors import NewerFormat, StartupError, StorageCorrupt
    from vector_db.common.ports import DiskFull
    from vector_db.shard.backup.errors import BackupError

    expected = (BackupError, StartupError, StorageCorrupt, NewerFormat, DiskFull, OSError)
    try:
        asyncio.run(work)
    except expected as error:
        print(f"vector-db: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print("vector-db: interrupted; rows already written stay", file=sys.stderr)
        raise typer.Exit(130) from None


# --- create -------------------------------------------------------------------------------------


async def _create(
    folder: Path, name: str, nats_url: str | None, rate: int, config: Path | None
) -> None:
    from vector_db.common.adapters.nats_bus import NatsBus
    from vector_db.common.adapters.posix_disk import PosixDisk
    from vector_db.common.adapters.system_clock import SystemClock
    from vector_db.common.model.times import to_rfc3339
    from vector_db.common.service.broker import connect
    from vector_db.common.service.config import Config
    from vector_db.common.service.telemetry import configure_logging, logger, product_version
    from vector_db.shard.backup.create import Creation
    from vector_db.shard.backup.errors import BackupError
    from vector_db.shard.backup.inventory import backup_directory

    environ = dict(os.environ)
    if nats_url is not None:
        environ["VECTOR_DB_NATS_URL"] = nats_url
    settings = Config.load(config, environ)
    if settings.server.nats_url is None:
        raise BackupError("a backup reads from the broker: give --nats-url or VECTOR_DB_NATS_URL")
    directory = backup_directory(folder, name)
    if directory.exists():
        raise BackupError(f"{directory} exists already")
    configure_logging("warning", "console", sys.stderr)
    bus = await connect(
        lambda url, client: NatsBus.connect(url, client, timeout_s=2.0),
        settings.server.nats_url,
        "vector-db backup",
        settings.server.connect_timeout_s,
        logger,
    )
    started_s = time.perf_counter()
    try:
        with _byte_bar() as (expect, advance):
            creation = Creation(
                bus,
                PosixDisk(directory),
                SystemClock(),
                bytes_per_s_max=rate,
                expect=expect,
                advance=advance,
            )
            manifest = await creation.run(name, product_version())
    except BaseException:
        # It was made here, and without a manifest it is nothing.
        shutil.rmtree(directory, ignore_errors=True)
        raise
    finally:
        await bus.close()
    took_s = time.perf_counter() - started_s
    size, count = manifest.size_bytes, len(manifest.collections_at(manifest.commit_ts))
    print(
        f"backup {name}: {manifest.rows:,} rows of {count} collections, "
        f"{size:,} bytes in {took_s:.1f} s ({size / max(took_s, 1e-9) / 1e6:,.0f} MB/s), commit_ts "
        f"{manifest.commit_ts} of {to_rfc3339(manifest.taken_ms)}"
    )


@contextmanager
def _byte_bar() -> Iterator[tuple[Any, Any]]:
    """Two functions: bytes that will come, bytes that came."""
    import rich.console
    import rich.progress as bars

    expected = 0
    with bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeElapsedColumn(),
        console=rich.console.Console(stderr=True),
    ) as bar:
        task = bar.add_task("copying", total=None)

        def expect(size_bytes: int) -> None:
            nonlocal expected
            expected += size_bytes
            bar.update(task, total=expected)

        yield expect, lambda size_bytes: bar.advance(task, size_bytes)


# --- list and verify ----------------------------------------------------------------------------


async def _list(folder: Path, verify: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from vector_db.common.model.times import to_rfc3339
    from vector_db.shard.backup.errors import Damaged
    from vector_db.shard.backup.inventory import backups

    found = backups(folder, verify)
    table = Table(box=None, pad_edge=False)
    for column in ("name", "as of", "commit_ts", "collections", "rows", "bytes", "state"):
        right = column in ("commit_ts", "collections", "rows", "bytes")
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    for entry in found:
        about = entry.manifest
        facts = [""] * 5
        if about is not None:
            facts = [
                to_rfc3339(about.taken_ms),
                str(about.commit_ts),
                f"{len(about.collections_at(about.commit_ts)):,}",
                f"{about.rows:,}",
                f"{about.size_bytes:,}",
            ]
        table.add_row(entry.name, *facts, entry.state)
    # As wide as it is, also where the output is no terminal.
    console = Console(width=None if sys.stdout.isatty() else 1000, highlight=False)
    console.print(table)
    bad = [entry for entry in found if entry.state in ("damaged", "newer")]
    for entry in bad:
        print(f"{entry.name}: {entry.problem}", file=sys.stderr)
    if verify and bad:
        raise Damaged(f"{len(bad)} of {len(found)} backups are not whole")


async def _verify(folder: Path, name: str) -> None:
    from vector_db.shard.backup.inventory import open_backup

    _, manifest = open_backup(folder, name, verify=True)
    print(f"backup {name}: {len(manifest.files):,} files, {manifest.size_bytes:,} bytes are whole")


# --- restore ------------------------------------------------------------------------------------


async def _restore(
    folder: Path,
    name: str,
    at: str | None,
    names: list[str],
    shards: int | None,
    into_existing: bool,
    url: list[str] | None,
    api_key: str | None,
) -> None:
    try:
        from vector_db_client.aio import DEFAULT_URL
        from vector_db_client.errors import VectorDatabaseError
        from vector_db_client.gateways import checked_urls
        from vector_db_client.progress import reporting
        from vector_db_client.transport import Options, Transport
    except ImportError as error:
        from vector_db.common.model.errors import StartupError

        raise StartupError(f"{error}: install vector-db-python") from None

    from vector_db.shard.backup.errors import BackupError
    from vector_db.shard.backup.inventory import open_backup
    from vector_db.shard.backup.restore import Restore, chosen, commit_at

    directory, manifest = open_backup(folder, name, verify=True)
    commit_ts = commit_at(directory, manifest, *_moment(at))
    collections = chosen(manifest, commit_ts, names)
    started_s = time.perf_counter()
    try:
        transport = Transport(
            Options(checked_urls(url or DEFAULT_URL), api_key, timeout_s=120, retries=10)
        )
        try:
            restore = Restore(
                directory,
                manifest,
                commit_ts,
                collections,
                transport,
                lambda label, rows: reporting(True, label, rows),
                shards=shards,
                into_existing=into_existing,
            )
            done = await restore.run()
        finally:
            await transport.close()
    except VectorDatabaseError as error:
        raise BackupError(f"{error} (after an interruption go on with --into-existing)") from error
    took_s = max(time.perf_counter() - started_s, 1e-9)
    print(
        f"restored {done.rows:,} rows of {len(collections)} collections as of commit_ts "
        f"{commit_ts} in {took_s:.1f} s ({done.rows / took_s:,.0f} rows/s, "
        f"{done.size_bytes / took_s / 1e6:,.1f} MB/s), new commits up to {transport.token}"
    )


def _moment(at: str | None) -> tuple[int | None, int | None]:
    """(commit, milliseconds since 1970), at most one of them."""
    from vector_db.common.model.errors import InvalidArgument
    from vector_db.common.model.times import parse_rfc3339

    if at is None or at.isdecimal():
        return (None if at is None else int(at)), None
    try:
        return None, parse_rfc3339(at, "--at")
    except InvalidArgument as error:
        raise typer.BadParameter(f"{error.message}, nor a commit_ts") from None
