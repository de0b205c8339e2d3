"""A nats-server of a benchmark's own: the raw cost of what the product does through its broker."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from bench.common import BenchError, free_port


class NatsProcess:
    """A nats-server of its own for the raw cost, configured as `run all` configures its broker."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Return once it accepts connections."""
        directory = self.directory / "raw"
        directory.mkdir()
        conf = directory / "nats.conf"
        conf.write_text(
            f'listen: "127.0.0.1:{self.port}"\nmax_payload: 8388608\n'
            f'jetstream {{ store_dir: "{directory}/js", max_file_store: 10GB }}\n'
        )
        binary = Path(sys.executable).with_name("nats-server")
        self._process = await asyncio.create_subprocess_exec(
            str(binary), "-c", str(conf), stderr=asyncio.subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return
        raise BenchError("nats-server does not listen after 10 s")

    async def stop(self) -> None:
        """Terminate and reap."""
        if self._process is not None:
            self._process.terminate()
            await self._process.wait()
