"""Follows one log without a gap, through a push consumer that is made anew whenever it falters.

Owns the invariant that `on_record` sees every sequence once, in order. nats-py and the server may
lose messages of a consumer (local overflow, a reconnect, a restart); every log has one subject, so
sequences are contiguous and a loss shows as a jump. What reading again does not mend is a gap.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog
from nats.aio.msg import Msg

from vector_db.common.adapters.nats_link import NatsLink
from vector_db.common.core.subjects import LogName
from vector_db.common.ports import BusTimeout, BusUnavailable, GapHandler, RecordHandler

API_TIMEOUT_S: Final = 5.0
STREAM_NOT_FOUND: Final = 10059
_TRY_S: Final = 2.0
"""Short: nobody answers while servers elect a leader, and the next try may be the one."""
_RETRY_S: Final = 0.1
_UNSERVED_S_MAX: Final = 20.0
"""A log that connected servers do not serve for so long is given up; elections take up to 9 s."""
_SILENT_BEATS_MAX: Final = 3

logger = structlog.get_logger(__name__)


class _Gap(Exception):
    """The log cannot be followed; the message is the reason."""


class _ApiFailed(Exception):
    """JetStream refused for a reason that may pass."""


class NatsTail:
    """`ports.Subscription` on a log; call `start` once.

    `heartbeat_s` is how often a quiet consumer shows that it lives (0.1 at least); three missed
    beats end it. `pending_msgs_max` bounds what lies undelivered in this process; the server's flow
    control keeps the bytes of it below 32 MiB.
    """

    def __init__(
        self,
        link: NatsLink,
        log_name: LogName,
        after_seq: int,
        on_record: RecordHandler,
        on_gap: GapHandler,
        *,
        heartbeat_s: float,
        pending_msgs_max: int,
    ) -> None:
        self._link = link
        self._log = log_name
        self._last = after_seq
        self._on_record = on_record
        self._on_gap = on_gap
        self._heartbeat_s = heartbeat_s
        self._pending_msgs_max = pending_msgs_max
        self._created: str | None = None
        self._generation = 0
        self._active = False
        self._faltered = asyncio.Event()
        self._why = ""
        self._fatal: _Gap | None = None
        self._hole_at = -1
        self._unserved_since_s: float | None = None
        self._subscription: Any = None
        self._consumer = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow, in a task of its own."""
        self._link.on_reconnect.append(self._reconnected)
        self._task = asyncio.get_running_loop().create_task(
            self._follow(), name=f"tail {self._log.stream}"
        )

    async def close(self) -> None:
        """Stop delivering; idempotent."""
        self._generation += 1
        task, self._task = self._task, None
        if task is None:
            return
        self._link.on_reconnect.remove(self._reconnected)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self._detach()

    async def _follow(self) -> None:
        try:
            while True:
                await self._link.wait_connected()
                try:
                    await self._attach()
                    self._unserved_since_s = None
                    await self._watch()
                except (BusUnavailable, BusTimeout, _ApiFailed) as error:
                    self._why = str(error)
                    self._check_served()
                    await asyncio.sleep(_RETRY_S)
                await self._detach()
                logger.info(
                    "tail begins anew", stream=self._log.stream, seq=self._last, why=self._why
                )
        except _Gap as gap:
            await self._give_up(str(gap))
        except Exception as error:
            logger.exception("tail failed", stream=self._log.stream, seq=self._last)
            await self._give_up(f"the tail failed: {error!r}")

    def _check_served(self) -> None:
        """A log whose servers are away, others of the cluster being there, is mended by a new one.

        :raises _Gap: it was not served for too long.
        """
        now_s = asyncio.get_running_loop().time()
        if not self._link.connected:
            self._unserved_since_s = None
        elif self._unserved_since_s is None:
            self._unserved_since_s = now_s
        elif now_s - self._unserved_since_s > _UNSERVED_S_MAX:
            raise _Gap(f"nobody served the log for {_UNSERVED_S_MAX:g} s: {self._why}")

    async def _give_up(self, reason: str) -> None:
        logger.warning("log has a gap", stream=self._log.stream, seq=self._last, why=reason)
        await self._detach()
        self._on_gap(reason)

    async def _attach(self) -> None:
        """Make a consumer that starts behind the last record delivered.

        :raises _Gap: the log no longer holds what comes next.
        """
        await self._check_stream()
        self._generation += 1
        generation = self._generation
        self._faltered.clear()
        self._active = True

        async def on_message(msg: Msg) -> None:
            if generation == self._generation:
                await self._on_message(msg)

        inbox = self._link.new_inbox()
        self._subscription = await self._link.subscribe(
            inbox, on_message, pending_msgs_max=self._pending_msgs_max, pending_bytes_max=0
        )
        reply = await self._link.api(
            f"CONSUMER.CREATE.{self._log.stream}",
            {
                "stream_name": self._log.stream,
                "config": {
                    "deliver_subject": inbox,
                    "deliver_policy": "by_start_sequence",
                    "opt_start_seq": self._last + 1,
                    "ack_policy": "none",
                    "max_deliver": 1,
                    "replay_policy": "instant",
                    "flow_control": True,
                    "idle_heartbeat": int(self._heartbeat_s * 1e9),
                    "num_replicas": 1,
                    "mem_storage": True,
                },
            },
            _TRY_S,
        )
        self._raise_for_error(reply)
        self._consumer = str(reply["name"])

    async def _check_stream(self) -> None:
        """:raises _Gap: the stream is gone, was made anew, was rolled back or was trimmed."""
        info = await self._link.api(f"STREAM.INFO.{self._log.stream}", None, _TRY_S)
        self._raise_for_error(info)
        created = str(info["created"])
        if self._created not in (None, created):
            raise _Gap("the stream was made anew")
        self._created = created
        first, last = int(info["state"]["first_seq"]), int(info["state"]["last_seq"])
        if last < self._last:
            raise _Gap(f"the log ends at {last}, before record {self._last} that was read")
        if first > self._last + 1:
            raise _Gap(f"the log starts at {first}, record {self._last + 1} was trimmed away")

    def _raise_for_error(self, reply: dict[str, Any]) -> None:
        error = reply.get("error")
        if error is None:
            return
        if error.get("err_code") == STREAM_NOT_FOUND:
            raise _Gap("the stream does not exist")
        raise _ApiFailed(str(error.get("description", error)))

    async def _watch(self) -> None:
        """Until the consumer falters.

        A blocked event loop misses beats too, but counts as one silent interval only.
        """
        silent = 0
        while silent < _SILENT_BEATS_MAX:
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    await self._faltered.wait()
            except TimeoutError:
                silent = 0 if self._active else silent + 1
                self._active = False
            else:
                if self._fatal is not None:
                    raise self._fatal
                return
        self._why = "missed heartbeats"

    async def _detach(self) -> None:
        self._generation += 1
        subscription, self._subscription = self._subscription, None
        consumer, self._consumer = self._consumer, ""
        if subscription is not None:
            await self._link.unsubscribe(subscription)
        if consumer and self._link.connected:
            # The server removes it by itself too, once nobody listens; nobody waits for the answer.
            await self._link.publish(f"$JS.API.CONSUMER.DELETE.{self._log.stream}.{consumer}", b"")

    async def _on_message(self, msg: Msg) -> None:
        self._active = True
        if msg.headers and "Status" in msg.headers:
            await self._on_control(msg, msg.headers)
            return
        tokens = msg.reply.split(".")
        # $JS.ACK.<stream>.<consumer>.<delivered>.<seq>..., with <domain>.<account> in the longer.
        seq = int(tokens[5] if len(tokens) == 9 else tokens[7])
        if seq <= self._last:
            return
        if seq > self._last + 1:
            self._jump(seq)
            return
        try:
            self._on_record(seq, msg.data)
        except Exception as error:
            logger.exception("a record could not be taken", stream=self._log.stream, seq=seq)
            self._falter("handler", _Gap(f"record {seq} could not be taken: {error!r}"))
            return
        self._last = seq

    async def _on_control(self, msg: Msg, headers: dict[str, str]) -> None:
        """Flow control is answered once all before it is delivered; a beat tells what was sent."""
        if headers["Status"] != "100":
            self._falter(f"status {headers['Status']} {headers.get('Description', '')}")
            return
        answer_to = msg.reply or headers.get("Nats-Consumer-Stalled")
        if answer_to and self._link.connected:
            await self._link.publish(answer_to, b"")
        sent = headers.get("Nats-Last-Stream")
        if sent is not None and int(sent) > self._last:
            self._falter(f"records up to {sent} were sent, up to {self._last} arrived")

    def _jump(self, seq: int) -> None:
        """A loss on the way is mended by a new consumer; if it jumps too, the log has a hole."""
        missing = self._last + 1
        if self._hole_at == missing:
            self._falter("hole", _Gap(f"records {missing} to {seq - 1} are missing from the log"))
        else:
            self._hole_at = missing
            self._falter(f"record {seq} came, {missing} was next")

    def _falter(self, why: str, fatal: _Gap | None = None) -> None:
        self._generation += 1
        self._why = why
        self._fatal = fatal
        self._faltered.set()

    def _reconnected(self) -> None:
        self._falter("reconnected")
