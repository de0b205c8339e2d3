"""A paced writer as a process of its own: the load beside which queries are measured.

Batches go by turns as Arrow and as JSON. Everything is encoded before the start: it says `ready`,
waits for a line on its standard input, and tells at the end what it wrote and how late it was.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
import time
from pathlib import Path
from types import TracebackType

import uvloop

from bench import dataset, generate
from bench.common import F32, ROOT, BenchError, HttpConnection, encode_request, percentile
from bench.dataset import ID_PREFIX
from bench.engine.load import insert_request

BATCH_ROWS = 100
CONNECTIONS = 4
READY_TIMEOUT_S = 120.0


class PacedWriter:
    """The other end: starts the process, lets it go, takes what it found."""

    def __init__(
        self, port: int, collection: str, dimension: int, folder: Path | None = None
    ) -> None:
        """:param folder: real rows from elsewhere, see `dataset.load`."""
        self._options = ["--port", str(port), "--collection", collection]
        self._options += ["--dimension", str(dimension)]
        if folder is not None:
            self._options += ["--data", str(folder.resolve())]
        self._next_row = 0
        self._process: asyncio.subprocess.Process | None = None

    def begin_at(self, row: int) -> None:
        """The number of the first row that it writes."""
        self._next_row = row

    async def prepare(self, rows_per_s: int, seconds: float) -> None:
        """Return once everything is encoded.

        :raises BenchError: the process did not get so far.
        """
        options = ["--first", str(self._next_row), "--rows-per-s", str(rows_per_s)]
        options += ["--seconds", str(seconds)]
        self._next_row += BATCH_ROWS * batch_count(rows_per_s, seconds)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.engine.writer", *self._options, *options),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        if await asyncio.wait_for(self._line(), READY_TIMEOUT_S) != "ready":
            raise BenchError("the writer is not ready")

    async def go(self) -> None:
        """Let it write."""
        if self._process is None or self._process.stdin is None:
            raise BenchError("the writer was not prepared")
        self._process.stdin.write(b"go\n")
        await self._process.stdin.drain()

    async def finish(self) -> dict[str, float]:
        """Wait for its end: rows_per_s, p50_ms and p99_ms of a batch."""
        line = await self._line()
        if self._process is not None:
            await self._process.wait()
        if not line:
            raise BenchError("the writer ended without a word")
        found: dict[str, float] = json.loads(line)
        return found

    async def __aenter__(self) -> PacedWriter:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _line(self) -> str:
        if self._process is None or self._process.stdout is None:
            raise BenchError("the writer was not prepared")
        return (await self._process.stdout.readline()).decode().strip()


def batch_count(rows_per_s: int, seconds: float) -> int:
    """How many batches a run has."""
    return max(1, round(rows_per_s * seconds / BATCH_ROWS))


def json_request(collection: str, first: int, rows: F32) -> bytes:
    """The same as `insert_request`, as JSON like the SDK's."""
    texts = generate.metadata(first, len(rows))
    vectors = [
        {
            "id": f"{ID_PREFIX}{first + i:09d}",
            "dimensions": base64.b64encode(row.astype("<f4").tobytes()).decode(),
            "metadata": json.loads(text),
        }
        for i, (row, text) in enumerate(zip(rows, texts, strict=True))
    ]
    body = json.dumps({"vectors": vectors}).encode()
    return encode_request("POST", f"/v1/collections/{collection}/vectors", body)


async def write(args: argparse.Namespace, requests: list[bytes]) -> None:
    """Send at the pace, several in flight; a batch that is due waits for a free connection."""
    connections = [await HttpConnection.open(args.port) for _ in range(CONNECTIONS)]
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    queue = iter(enumerate(requests))
    seconds: list[float] = []
    pause_s = BATCH_ROWS / args.rows_per_s
    started = time.perf_counter()

    async def client(connection: HttpConnection) -> None:
        for number, encoded in queue:
            await asyncio.sleep(started + number * pause_s - time.perf_counter())
            sent = time.perf_counter()
            status, body = await connection.request(encoded)
            if not 200 <= status < 300:
                raise BenchError(f"the writer: {status} {body[:300]!r}")
            seconds.append(time.perf_counter() - sent)

    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(client(connection))
    wall_s = max(time.perf_counter() - started, len(requests) * pause_s)
    result = {
        "rows_per_s": len(requests) * BATCH_ROWS / wall_s,
        "p50_ms": 1000 * percentile(seconds, 50),
        "p99_ms": 1000 * percentile(seconds, 99),
    }
    print(json.dumps(result), flush=True)


def main() -> None:
    """The writer's process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--collection", required=True)
    parser.add_argument("--dimension", type=int, required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--rows-per-s", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--data", type=Path)
    args = parser.parse_args()
    count = batch_count(args.rows_per_s, args.seconds)
    real = dataset.load(args.data)
    spectrum = generate.Spectrum(real.rows, args.dimension, args.first)
    requests = []
    for number in range(count):
        rows = spectrum.queries(number, BATCH_ROWS)
        first = args.first + number * BATCH_ROWS
        encode = insert_request if number % 2 == 0 else json_request
        requests.append(encode(args.collection, first, rows))
    uvloop.run(write(args, requests))


if __name__ == "__main__":
    main()
