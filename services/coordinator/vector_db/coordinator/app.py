"""The coordinator service: waits in standby, surveys the workers, leads a term until it is lost."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import structlog

from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.catalog import Member
from vector_db.common.core.messages.decisions import Takeover
from vector_db.common.core.messages.reads import ConfirmRequest
from vector_db.common.core.messages.takeover import NeedTakeover, Promise, PromiseRequest
from vector_db.common.core.messages.transactions import Beat, Durable, Vote, Votes
from vector_db.common.core.subjects import (
    beats,
    decision_log,
    log_term,
    members,
    promise_replies,
    promises,
    sequencer,
    shard_log,
    votes,
)
from vector_db.common.model.errors import InvalidArgument, TooLarge
from vector_db.common.ports import BusTimeout, BusUnavailable, Subscription
from vector_db.common.service.config import Config
from vector_db.common.service.runtime import Runtime, Service
from vector_db.coordinator.controller import MEMBER_TIMEOUT_S, Controller, Placing
from vector_db.coordinator.core.sequencer import Sequencer
from vector_db.coordinator.core.takeover import ClusterMismatch, HistoryLost, Survey
from vector_db.coordinator.metrics import CoordinatorMetrics
from vector_db.coordinator.requests import Requests
from vector_db.coordinator.spreading import Spreader
from vector_db.coordinator.term import Term, TermLost

BEAT_TIMEOUT_S = 1.5
"""Silence of the sequencer after which a standby coordinator seeks a new term, plus jitter."""
SURVEY_REPEAT_S = 0.2
BOOTSTRAP_GRACE_S = 1.0
"""How long a new cluster waits for workers that know an older one."""
COMPLAINT_S = 5.0


class Coordinator:
    """One coordinator of domain 0."""

    name = "coordinator"

    def __init__(self, runtime: Runtime, config: Config) -> None:
        self._runtime = runtime
        self._bus = runtime.bus
        self._clock = runtime.clock
        self._shard_count = config.sharding.shard_count
        self._retention_s = config.transactions.retention_s
        sharding = config.sharding
        self._wanted = Placing(
            sharding.replication_factor, sharding.copies_max, sharding.failover_grace_s
        )
        self._id = runtime.random.randbytes(16).hex()
        self._log = structlog.get_logger("vector_db.coordinator").bind(coordinator=self._id)
        self._subscriptions: list[Subscription] = []
        self._members: dict[str, tuple[float, Member]] = {}
        self._term: Term | None = None
        self._survey: Survey | None = None
        self._survey_changed = asyncio.Event()
        self._highest_term = 0
        self._foreign: set[str] = set()
        self._fresh_since_s: float | None = None
        self._old_logs = False
        self._cluster_id = ""
        self._stable_ts = 0
        self._heard_beat_s = self._clock.monotonic_s()
        self._leading = asyncio.Event()
        self._waits_for = "the first survey"
        self._wall_base = (self._clock.wall_ms(), self._clock.monotonic_s())
        self._runner: asyncio.Task[None] | None = None
        self._controller: Controller | None = None
        self._spreader: Spreader | None = None
        self._metrics = CoordinatorMetrics(
            runtime.metrics, lambda: self._controller, lambda: self._spreader
        )

    # --- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Return once a term is led, or another coordinator's beat is heard."""
        bus = self._bus
        self._subscriptions = [
            await bus.subscribe(votes(), self._on_vote),
            await bus.subscribe(beats(), self._on_beat),
            await bus.subscribe(members(), self._on_member),
            await bus.serve(promise_replies(self._id), self._on_promise),
        ]
        self._runner = asyncio.create_task(self._cycle(), name="coordinator")
        ready = asyncio.create_task(self._leading.wait())
        try:
            await asyncio.wait({ready, self._runner}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if self._runner.done():
            self._runner.result()

    async def run(self) -> None:
        """Until cancelled; raises what ends the coordinator."""
        if self._runner is None:
            raise RuntimeError("start() comes first")
        await asyncio.shield(self._runner)

    async def stop(self) -> None:
        """Stop leading; a standby takes over, or the next start does."""
        if self._runner is not None and not self._runner.done():
            self._runner.cancel()
            await asyncio.wait({self._runner})
        for subscription in self._subscriptions:
            await subscription.close()

    def health(self) -> dict[str, Any]:
        """Ready while leading, or while another coordinator leads."""
        if self._term is not None:
            led = self._term.sequencer
            facts = {"term": led.term, "stable_ts": led.stable_ts, **led.counts()}
            return {"ready": led.stable_ts > 0, "role": "sequencer", **facts}
        quiet_s = self._clock.monotonic_s() - self._heard_beat_s
        standby = self._leading.is_set() and quiet_s < BEAT_TIMEOUT_S
        return {"ready": standby, "role": "standby", "waits_for": self._waits_for}

    # --- inputs -----------------------------------------------------------------------------------

    def _on_vote(self, message: AnyMessage) -> None:
        if self._term is not None and isinstance(message, Vote | Votes | Durable | NeedTakeover):
            self._term.on_message(message)

    def _is_foreign(self, cluster_id: str, who: str) -> bool:
        """Whether a message comes from another cluster on the same broker; said once each."""
        foreign = bool(cluster_id and self._cluster_id and cluster_id != self._cluster_id)
        if foreign and who not in self._foreign:
            self._foreign.add(who)
            self._log.error("ignored: it belongs to another cluster", who=who, cluster=cluster_id)
        return foreign

    def _on_beat(self, message: AnyMessage) -> None:
        if isinstance(message, Beat) and message.coordinator == self._id:
            if self._term is not None:
                self._term.heard_itself()
        elif isinstance(message, Beat):
            if self._is_foreign(message.cluster_id, f"coordinator {message.coordinator}"):
                return
            self._heard_beat_s = self._clock.monotonic_s()
            self._see_term(message.term)
            self._stable_ts = max(self._stable_ts, message.stable_ts)
            if message.stable_ts:
                # Before, it may be the attempt of a candidate that loses.
                self._cluster_id = self._cluster_id or message.cluster_id

    def _on_member(self, message: AnyMessage) -> None:
        if isinstance(message, Member):
            if self._is_foreign(message.cluster_id, f"shard worker {message.worker}"):
                return
            self._members[message.worker] = (self._clock.monotonic_s(), message)
            self._cluster_id = self._cluster_id or message.cluster_id
            self._see_term(message.term)

    async def _on_promise(self, message: AnyMessage) -> AnyMessage:
        if not isinstance(message, Promise):
            raise InvalidArgument("a candidate takes promises only")
        if not self._is_foreign(message.cluster_id, f"shard worker {message.worker}"):
            self._see_term(message.promised)
            if self._survey is not None:
                self._take_promise(self._survey, message)
            if message.worker not in self._members:
                # Alive, and the first heartbeat may be half a second away.
                self._on_member(
                    Member(
                        worker=message.worker,
                        cluster_id=message.cluster_id,
                        term=message.promised,
                        ready=True,
                        zone="",
                        shards=(),
                        cursor=message.cursor,
                    )
                )
        return ConfirmRequest(message.promised)

    def _take_promise(self, survey: Survey, promise: Promise) -> None:
        try:
            survey.promise(promise)
        except ClusterMismatch as mismatch:
            # Which of them is meant only the operator knows.
            self._waits_for = f"one cluster's workers alone: {mismatch}"
            self._log.error("shard workers of two clusters answer", reason=str(mismatch))
            return
        self._survey_changed.set()

    def _see_term(self, term: int) -> None:
        self._highest_term = max(self._highest_term, term)
        if self._term is not None and term > self._term.sequencer.term:
            self._term.lose(f"term {term} has begun")

    def _alive(self) -> list[Member]:
        limit = self._clock.monotonic_s() - MEMBER_TIMEOUT_S
        return [m for seen_s, m in self._members.values() if seen_s >= limit]

    def _wall_ms(self) -> int:
        """Wall time that does not jump with the system clock."""
        base_ms, base_s = self._wall_base
        return base_ms + int((self._clock.monotonic_s() - base_s) * 1000)

    # --- the cycle --------------------------------------------------------------------------------

    async def _cycle(self) -> None:
        await self._standby(0.0 if self._runtime.sole else BEAT_TIMEOUT_S)
        while True:
            try:
                sequencer_ = await self._campaign()
                if sequencer_ is not None:
                    await self._lead(sequencer_)
            except TermLost as lost:
                self._log.warning("the term is over", reason=str(lost))
            except (BusUnavailable, BusTimeout) as error:
                self._log.warning("no new term yet", error=str(error))
                await asyncio.sleep(SURVEY_REPEAT_S)
            except TooLarge as error:
                # The whole catalog is in the record: the broker's max_payload must grow.
                self._waits_for = f"a larger max_payload of the broker: {error}"
                self._log.error("no new term yet", error=str(error))
                await asyncio.sleep(COMPLAINT_S)
            # Two candidates that start together must not follow each other's steps for ever.
            jitter_s = 0.0 if self._runtime.sole else self._runtime.random.random() * BEAT_TIMEOUT_S
            await self._standby(SURVEY_REPEAT_S + jitter_s)

    async def _standby(self, quiet_s: float) -> None:
        """Until no beat of another coordinator was heard for a while."""
        started = self._clock.monotonic_s()
        while True:
            now = self._clock.monotonic_s()
            heard = self._heard_beat_s > started
            jitter = self._runtime.random.random()
            limit_s = BEAT_TIMEOUT_S * (1 + jitter / 2) if heard else quiet_s
            since = self._heard_beat_s if heard else started
            if now - since >= limit_s:
                return
            if heard:
                self._leading.set()
                self._waits_for = "the other coordinator's silence"
            await asyncio.sleep(min(0.1, limit_s))

    async def _campaign(self) -> Sequencer | None:
        """Survey the workers for a new term; None when a higher term is about."""
        await self._see_logs()
        term = self._highest_term + 1
        self._highest_term = term
        survey = self._survey = Survey(term, self._cluster_id)
        # The grace is this survey's own: who promised an earlier term may know a cluster by now.
        self._fresh_since_s = None
        complained = asked = self._clock.monotonic_s()
        asked -= SURVEY_REPEAT_S
        try:
            while True:
                self._survey_changed.clear()
                # At a pace of its own: asking at every promise would make promises without end.
                if self._clock.monotonic_s() - asked >= SURVEY_REPEAT_S:
                    request = PromiseRequest(term, self._id, self._cluster_id)
                    await self._bus.publish(promises(), request)
                    asked = self._clock.monotonic_s()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._survey_changed.wait(), SURVEY_REPEAT_S)
                if survey.refused_term or self._highest_term > term:
                    self._log.info("gives way", term=term, to=self._highest_term)
                    return None
                takeover = self._takeover(survey)
                if takeover is not None:
                    return await self._begin(survey, takeover)
                now = self._clock.monotonic_s()
                if now - complained > COMPLAINT_S:
                    complained = now
                    self._log.warning("no new term yet", waits_for=self._waits_for)
        finally:
            self._survey = None

    async def _see_logs(self) -> None:
        """Know the terms of the logs that the broker holds: a term's logs are never used again."""
        names = await self._bus.log_names()
        self._see_term(max((log_term(name) for name in names), default=0))
        # Shard logs are made with the first collection: before that there is nothing to lose.
        self._old_logs = any(name.startswith("VDB_SHARD_") for name in names)

    def _takeover(self, survey: Survey) -> Takeover | None:
        """The first decision of the term, or None while something is missing (`_waits_for`)."""
        if survey.complete():
            try:
                return survey.takeover(self._stable_ts)
            except HistoryLost as lost:
                self._waits_for = f"shard workers that lost nothing: {lost}"
                return None
        if not survey.is_fresh():
            self._waits_for = (
                f"a majority of shards {survey.missing()}"
                if survey.missing()
                else "a majority of the shard workers that the cluster began with"
                if survey.lacks_founders()
                else "shard workers"
            )
            return None
        if self._cluster_id:
            self._waits_for = "the shard workers of its cluster: those that answer are new"
            return None
        now_s = self._clock.monotonic_s()
        if self._fresh_since_s is None:
            self._fresh_since_s = now_s
        if not self._runtime.sole and now_s - self._fresh_since_s < BOOTSTRAP_GRACE_S:
            return None
        if not self._runtime.sole and self._old_logs:
            self._waits_for = (
                "the shard workers of the cluster that the broker's logs belong to (only new, "
                "empty workers answer; to begin anew, remove the broker's VDB_* streams)"
            )
            return None
        return survey.bootstrap(self._runtime.random.randbytes(16).hex())

    async def _begin(self, survey: Survey, takeover: Takeover) -> Sequencer:
        """Make the term's logs and its sequencer."""
        wall_ms = max(self._clock.wall_ms(), survey.wall_ms())
        self._wall_base = (wall_ms, self._clock.monotonic_s())
        if not survey.is_fresh():
            # The id of a new cluster counts once a worker has it: another candidate may be first.
            self._cluster_id = takeover.cluster_id
        await self._bus.create_log(decision_log(survey.term))
        for shard in takeover.replicas:
            await self._bus.create_log(shard_log(survey.term, shard))
        return Sequencer(survey.term, takeover, wall_ms)

    async def _lead(self, sequencer_: Sequencer) -> None:
        term = Term(self._bus, self._id, sequencer_, self._wall_ms)
        requests = Requests(self._bus, term, self._shard_count, self._wanted.factor, self._alive)
        controller = Controller(
            term, self._clock, lambda: self._members, self._wanted, self._metrics.moved
        )
        spreader = Spreader(self._bus, term, self._wall_ms, self._retention_s, self._metrics.copied)
        self._metrics.term.set(sequencer_.term)
        self._metrics.undecided.set_function(lambda: sequencer_.counts()["undecided"])
        subjects = (sequencer(sequencer_.term), sequencer())
        serving = [await self._bus.serve(subject, requests.handle) for subject in subjects]
        self._log.info("leads", term=sequencer_.term, shards=len(sequencer_.state.replicas))
        self._term, self._controller, self._spreader = term, controller, spreader
        self._leading.set()
        try:
            await term.lead(controller.run, spreader.run)
        finally:
            self._stable_ts = max(self._stable_ts, sequencer_.stable_ts)
            self._term = self._controller = self._spreader = None
            self._metrics.term.set(0)
            for served in serving:
                await served.close()


def build(runtime: Runtime, config: Config) -> Service:
    """The coordinator service."""
    return Coordinator(runtime, config)
