"""What the HTTP edge costs without a database: the same stack, the same decoding, no search.

An aiohttp application on uvloop that parses the query body with the product's own decoder and
answers as many bytes as a real answer has. Run by `bench/query.py` as a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import signal

import uvloop
from aiohttp import web

from vector_db.common.model.limits import Limits
from vector_db.gateway.rest.decode import Decoder


def make_app(answer_bytes: int) -> web.Application:
    """One route, which decodes and answers `answer_bytes` of JSON."""
    limits = Limits()
    decoder = Decoder(limits)
    frame = b'{"vectors":""}'
    answer = frame[:-2] + b"x" * (answer_bytes - len(frame)) + frame[-2:]

    async def query(request: web.Request) -> web.Response:
        decoder.query(request.match_info["collection"], await request.read())
        return web.Response(body=answer, content_type="application/json")

    app = web.Application(client_max_size=limits.body_bytes_max)
    app.router.add_post("/v1/collections/{collection}/query", query)
    return app


async def serve(port: int, answer_bytes: int) -> None:
    """Until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    runner = web.AppRunner(make_app(answer_bytes), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    """Parse the options and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--answer-bytes", type=int, required=True)
    args = parser.parse_args()
    uvloop.run(serve(args.port, args.answer_bytes))


if __name__ == "__main__":
    main()
