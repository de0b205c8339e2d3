"""Makes logs at the broker, also while the servers of a cluster elect leaders or one is away.

Owns the rule that replicas of a stream are wished for and never needed: acknowledged writes lie in
the shard workers' logs, so that a log with fewer copies is better than no log.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog

from vector_db.common.adapters.nats_link import NatsLink
from vector_db.common.core.subjects import LogName
from vector_db.common.model.limits import BROKER_PAYLOAD_BYTES_MAX
from vector_db.common.ports import BusTimeout

STREAM_EXISTS: Final = 10058
_NO_PLACE: Final = (10005, 10023)
"""Fewer servers than replicas are known, or have room for a stream."""
_NOT_CLUSTERED: Final = 10074
_UNAVAILABLE: Final = 503
_DUPLICATE_WINDOW_NS: Final = 100_000_000
"""The shortest that the server takes; no message carries an id to compare."""
_MAKE_S: Final = 12.0
"""How long it waits for the broker to have a leader; an election takes up to 9 s."""
_PLACE_S: Final = 3.0
"""How long it waits for a place for all replicas: servers that start together meet one by one."""
_CROWDED_S: Final = 60.0
"""For how long nobody waits again after that was in vain: a term has many logs."""
_TRY_S: Final = 2.0
_PAUSE_S: Final = 0.1

logger = structlog.get_logger(__name__)


class LogMaker:
    """Makes streams with `replicas` copies, where there is a place for them."""

    def __init__(self, link: NatsLink, replicas: int) -> None:
        self._link = link
        self._replicas = replicas
        self._crowded_until_s = 0.0

    async def make(self, log: LogName) -> dict[str, Any]:
        """The broker's last word; it may hold ``error``, such as `STREAM_EXISTS`.

        :raises BusUnavailable: not connected.
        :raises BusTimeout: no answer to the last try; the log may have been made.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + _MAKE_S
        place_until = loop.time() + (0.0 if loop.time() < self._crowded_until_s else _PLACE_S)
        replicas = self._replicas
        while True:
            last = loop.time() + _TRY_S > until
            try:
                reply = await self._try(log, replicas)
            except BusTimeout:
                # An election is on, or it took its time: making a log twice does no harm.
                if last:
                    raise
                continue
            error = reply.get("error", {})
            if replicas > 1 and error.get("err_code") in _NO_PLACE:
                if loop.time() >= place_until:
                    self._crowded_until_s = loop.time() + _CROWDED_S
                    logger.warning(
                        "a log gets one replica, the NATS servers have no place for more",
                        stream=log.stream,
                        replicas=replicas,
                        why=error.get("description"),
                    )
                    replicas = 1
                    continue
            elif error.get("err_code") == _NOT_CLUSTERED:
                logger.error(
                    "a log with replicas needs a cluster of NATS servers, this one is alone",
                    stream=log.stream,
                    replicas=replicas,
                )
                return reply
            elif error.get("code") != _UNAVAILABLE or last:
                return reply
            await asyncio.sleep(_PAUSE_S)

    async def _try(self, log: LogName, replicas: int) -> dict[str, Any]:
        config = {
            "name": log.stream,
            "subjects": [log.subject],
            "storage": "file",
            "retention": "limits",
            "discard": "old",
            "num_replicas": replicas,
            "max_msg_size": BROKER_PAYLOAD_BYTES_MAX,
            "duplicate_window": _DUPLICATE_WINDOW_NS,
            "allow_direct": True,
        }
        return await self._link.api(f"STREAM.CREATE.{log.stream}", config, _TRY_S)
