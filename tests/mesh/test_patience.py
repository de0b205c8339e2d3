"""What a patient call does when gateways are away, silent, busy or in doubt."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from tests.mesh import patient
from tests.mesh.patient import Meter, PatientEdge, Route, kind_of
from tests.support.clients.edge import Answer, Edge, NeverSent

FETCH = "/v1/collections/c/vectors/fetch"
COMMIT = "/v1/transactions/commit"
KEY = {"Idempotency-Key": "k"}
OK = Answer(200, {"commit_ts": 1})
SILENCE = Answer(0, {})
WITHIN_S = 0.2


def refusal(code: str, retryable: bool = False, status: int = 409) -> Answer:
    return Answer(status, {"error": {"code": code, "retryable": retryable}})


BUSY = refusal("unavailable", True, 503)
CONFLICT = refusal("conflict", True)
UNKNOWN = refusal("outcome_unknown", False, 503)
ABSENT = refusal("precondition_failed", False, 412)


class Scripted(Edge):
    """A gateway that answers by the script, its last word for ever; None: nobody listens."""

    def __init__(self, *script: Answer | None) -> None:
        self.script = list(script)
        self.bodies: list[Any] = []

    @property
    def asked(self) -> int:
        return len(self.bodies)

    async def ask(self, path: str, body: Any = None, *args: Any, **kwargs: Any) -> Answer:
        self.bodies.append(body)
        told = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if told is None:
            raise NeverSent("away")
        return Answer(told.status, told.body)


class Call:
    """One patient call over scripted gateways."""

    def __init__(self, *gateways: Scripted) -> None:
        self.meter = Meter()
        self.gateways = gateways
        self.edge = PatientEdge(Route(gateways, 0), self.meter, Random(1))

    async def ask(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return await self.edge.ask(path, {}, headers=headers, within_s=WITHIN_S)

    @property
    def asked(self) -> Sequence[int]:
        return [gateway.asked for gateway in self.gateways]


@pytest.mark.parametrize("trouble", [None, SILENCE, BUSY])
async def test_a_read_goes_to_the_other_gateway_and_stays_there(trouble: Answer | None) -> None:
    call = Call(Scripted(trouble), Scripted(OK))
    for _ in range(2):
        assert (await call.ask(FETCH)).ok
    assert call.asked == [1, 2]
    assert call.edge.moves == 1
    assert call.meter.late["read"] == 0


@pytest.mark.parametrize("trouble", [SILENCE, UNKNOWN])
async def test_a_blind_write_without_an_answer_is_not_repeated(trouble: Answer) -> None:
    call = Call(Scripted(trouble), Scripted(OK))
    assert (await call.ask(COMMIT)).outcome == "unknown"
    assert call.asked == [1, 0]
    assert call.meter.late["write"] == 1


async def test_a_blind_write_without_an_answer_may_go_on_as_another_write() -> None:
    call = Call(Scripted(SILENCE, ABSENT), Scripted(UNKNOWN))
    bodies = iter([{"second": 2}, {"third": 3}, {"fourth": 4}])
    answer = await call.edge.ask(COMMIT, {}, renew=lambda: next(bodies))
    assert answer.outcome == "aborted", "it is about the third, which nothing is in doubt of"
    assert [gateway.bodies for gateway in call.gateways] == [[{}, {"third": 3}], [{"second": 2}]]


@pytest.mark.parametrize("trouble", [None, BUSY])
async def test_a_blind_write_that_was_not_applied_is_repeated(trouble: Answer | None) -> None:
    call = Call(Scripted(trouble), Scripted(OK))
    assert (await call.ask(COMMIT)).ok
    assert call.meter.late["write"] == 0


@pytest.mark.parametrize("headers", [KEY, {"Transaction": "t"}])
async def test_a_write_that_cannot_be_applied_twice_is_repeated(headers: dict[str, str]) -> None:
    call = Call(Scripted(SILENCE), Scripted(UNKNOWN, OK))
    assert (await call.ask(COMMIT, headers)).outcome == "committed"


async def test_a_refusal_after_a_try_without_an_answer_leaves_the_outcome_unknown() -> None:
    call = Call(Scripted(SILENCE), Scripted(ABSENT))
    answer = await call.ask(COMMIT, KEY)
    assert (answer.code, answer.outcome) == ("precondition_failed", "unknown")


async def test_a_refusal_is_an_answer() -> None:
    call = Call(Scripted(ABSENT), Scripted(OK))
    assert (await call.ask(COMMIT, KEY)).outcome == "aborted"
    assert call.asked == [1, 0]
    assert call.meter.late["write"] == 0


async def test_conflicts_are_tried_again_a_few_times_and_then_told() -> None:
    call = Call(Scripted(CONFLICT))
    answer = await call.edge.ask(COMMIT, {}, headers=KEY)
    assert (answer.code, call.asked) == ("conflict", [patient.CONFLICTS_MAX + 1])
    assert call.meter.late["write"] == 0


async def test_a_conflict_in_a_transaction_is_told_at_once() -> None:
    call = Call(Scripted(CONFLICT))
    assert (await call.ask(COMMIT, {"Transaction": "t"})).code == "conflict"
    assert call.asked == [1]


async def test_what_nobody_answers_in_time_counts_as_late() -> None:
    silent, away = Call(Scripted(BUSY)), Call(Scripted(None))
    assert (await silent.ask(FETCH)).code == "unavailable"
    with pytest.raises(NeverSent):
        await away.ask(FETCH)
    assert (silent.meter.late["read"], away.meter.late["read"]) == (1, 1)


def test_strong_reads_count_with_writes_and_asking_for_an_outcome_with_neither() -> None:
    assert kind_of(FETCH, {"consistency": {"strong": True}}, "POST") == "write"
    assert kind_of(FETCH, {"consistency": {"at_least": 7}}, "POST") == "read"
    assert kind_of("/v1/transactions/t", None, "GET") == "other"
    assert kind_of("/v1/collections/lists/vectors/a", {}, "PATCH") == "write"
