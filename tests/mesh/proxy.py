"""Links in a process of their own, told over its standard input: the load does not feel them.

Each command is a line of JSON and each is answered by one. The process ends with its standard
input, so it never outlives the test.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import uvloop

from tests.mesh.links import Link, Weather

ANSWER_WITHIN_S = 10.0
_ROOT = Path(__file__).parents[2]


class Proxy:
    """The process as the test sees it."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()
        self.ports: dict[str, int] = {}

    async def start(self, targets: Mapping[str, int]) -> None:
        """Open a link to each target port; `ports` has where they listen."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.mesh.proxy"),
            cwd=_ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self.ports = await self._tell({"seed": self._seed, "targets": dict(targets)})

    async def set(self, link: str, weather: Weather) -> None:
        """Change the weather on one link; it is in force on return."""
        await self._tell({"link": link, "weather": asdict(weather)})

    async def stop(self) -> None:
        """End the process; idempotent."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            await process.wait()

    async def _tell(self, command: Mapping[str, Any]) -> dict[str, Any]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("start() comes first")
        async with self._lock, asyncio.timeout(ANSWER_WITHIN_S):
            process.stdin.write(orjson.dumps(command) + b"\n")
            line = await process.stdout.readline()
        if not line:
            raise RuntimeError("the proxy ended by itself")
        answer: dict[str, Any] = orjson.loads(line)
        return answer


async def _serve() -> None:
    """The process: links until its standard input ends."""
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    links: dict[str, Link] = {}
    while line := await commands.readline():
        command = orjson.loads(line)
        answer: dict[str, Any] = {}
        if "targets" in command:
            for name, port in command["targets"].items():
                links[name] = Link(name, port, command["seed"])
                await links[name].open()
            answer = {name: link.port for name, link in links.items()}
        else:
            links[command["link"]].set(_weather(command["weather"]))
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
        sys.stdout.buffer.flush()
    for link in links.values():
        await link.close()


def _weather(plain: dict[str, Any]) -> Weather:
    plain |= {key: tuple(plain[key]) for key in ("blocked", "delay_ms", "stall_ms")}
    return Weather(**plain)


if __name__ == "__main__":
    uvloop.run(_serve())
