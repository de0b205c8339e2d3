"""Coalescing: searches that wait travel together, and nobody's answer is any different for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

from tests.support.virtual_time import run, turns
from vector_db.common.core.messages.reads import SearchRequest
from vector_db.common.model.errors import Unavailable
from vector_db.gateway.coalesce import Coalescer, Shape
from vector_db.gateway.core.requests import Hits

DIMENSION = 3
ROWS = np.random.default_rng(1).normal(size=(40, DIMENSION)).astype(np.float32)


def shape(k: int = 4, snapshot_ts: int = 7, filter: bytes = b"") -> Shape:
    return Shape(1, (0,), snapshot_ts, k, filter, None, False, False)


def vector(n: int) -> bytes:
    return np.array([n + 1, 2 * n - 5, 3], dtype="<f4").tobytes()


def vectors_of(request: SearchRequest) -> list[bytes]:
    raw, row = bytes(request.queries), 4 * DIMENSION
    return [raw[i : i + row] for i in range(0, len(raw), row)]


def exact(request: SearchRequest) -> list[Hits]:
    """What a worker answers: the exact best rows of every query."""
    answers = []
    for raw in vectors_of(request):
        scores = ROWS @ np.frombuffer(raw, dtype="<f4")
        best = np.argsort(-scores, kind="stable")[: request.k].tolist()
        answers.append(Hits([b"%d" % i for i in best], scores[best].tolist(), None, None))
    return answers


class Worker:
    """Holds every request until it is let go; remembers them all."""

    def __init__(self) -> None:
        self.requests: list[SearchRequest] = []
        self._gates: list[asyncio.Future[Exception | None]] = []
        self._held = 0

    async def send(self, request: SearchRequest) -> list[Hits]:
        self.requests.append(request)
        gate: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._gates.append(gate)
        if (error := await gate) is not None:
            raise error
        return exact(request)

    async def let_go(self, count: int = 1, error: Exception | None = None) -> None:
        """Answer the next requests that wait here, or fail them."""
        for _ in range(count):
            await turns()
            gate = self._gates[self._held]
            self._held += 1
            if not gate.done():
                gate.set_result(error)
            await turns()

    async def let_all_go(self) -> None:
        await turns()
        while self._held < len(self._gates):
            await self.let_go()

    @property
    def waiting(self) -> int:
        return len(self._gates) - self._held

    def sizes(self) -> list[int]:
        return [len(vectors_of(request)) for request in self.requests]


def ask(work: Coroutine[Any, Any, Hits]) -> asyncio.Task[Hits]:
    return asyncio.create_task(work)


async def busy(queries_max: int = 100) -> tuple[Worker, Coalescer, asyncio.Task[Hits]]:
    """A coalescer whose only turn is taken by a search that waits at its worker."""
    worker = Worker()
    coalescer = Coalescer(worker.send, 1, queries_max)
    first = ask(coalescer.search(shape(), vector(0)))
    await turns()
    assert worker.sizes() == [1]
    return worker, coalescer, first


def test_a_search_alone_goes_at_once_and_as_it_is() -> None:
    async def main() -> None:
        worker, _, first = await busy()
        assert worker.requests == [shape().request(vector(0))]
        await worker.let_go()
        assert (await first).ids == exact(worker.requests[0])[0].ids

    run(main())


def test_searches_that_wait_for_their_turn_travel_as_one() -> None:
    async def main() -> None:
        worker, coalescer, first = await busy()
        waiting = [ask(coalescer.search(shape(), vector(n))) for n in range(1, 9)]
        await turns()
        assert worker.sizes() == [1], "one at a time"
        await worker.let_go(2)
        assert worker.sizes() == [1, 8]
        assert vectors_of(worker.requests[1]) == [vector(n) for n in range(1, 9)]
        await asyncio.gather(first, *waiting)

    run(main())


def test_answers_are_the_same_with_and_without_batching() -> None:
    async def main() -> None:
        worker, coalescer, first = await busy()
        shapes = [shape(), shape(k=9), shape(filter=b'{"a":1}')]
        asked = [(shapes[n % 3], vector(n)) for n in range(30)]
        waiting = [ask(coalescer.search(*one)) for one in asked]
        await worker.let_all_go()
        await first
        assert max(worker.sizes()) > 1, "nothing was batched: the test shows nothing"
        for (its_shape, its_vector), task in zip(asked, waiting, strict=True):
            assert await task == exact(its_shape.request(its_vector))[0]

    run(main())


@pytest.mark.parametrize("other", [shape(k=5), shape(snapshot_ts=8), shape(filter=b'{"a":1}')])
def test_searches_that_differ_in_anything_but_their_vector_never_share_a_request(
    other: Shape,
) -> None:
    async def main() -> None:
        worker, coalescer, first = await busy()
        pair = [ask(coalescer.search(s, vector(1))) for s in (shape(), other)]
        await worker.let_all_go()
        await asyncio.gather(first, *pair)
        assert worker.sizes() == [1, 1, 1]
        assert worker.requests[1:] == [shape().request(vector(1)), other.request(vector(1))]

    run(main())


def test_a_request_never_holds_more_queries_than_its_bound() -> None:
    async def main() -> None:
        worker, coalescer, first = await busy(queries_max=4)
        waiting = [ask(coalescer.search(shape(), vector(n))) for n in range(11)]
        await worker.let_all_go()
        await asyncio.gather(first, *waiting)
        assert worker.sizes() == [1, 4, 4, 3]

    run(main())


@pytest.mark.parametrize("in_flight_max", [1, 3])
def test_no_more_requests_are_in_flight_than_allowed(in_flight_max: int) -> None:
    async def main() -> None:
        worker = Worker()
        coalescer = Coalescer(worker.send, in_flight_max, 1)
        tasks = [ask(coalescer.search(shape(), vector(n))) for n in range(10)]
        await turns()
        while worker.waiting:
            assert worker.waiting <= in_flight_max
            await worker.let_go()
        await asyncio.gather(*tasks)
        assert len(worker.requests) == 10

    run(main())


def test_turns_are_taken_in_order_so_that_a_busy_shape_starves_no_other() -> None:
    async def main() -> None:
        worker, coalescer, _ = await busy(queries_max=2)
        rare = shape(k=9)
        tasks = [ask(coalescer.search(shape(), vector(n))) for n in range(2)]
        tasks.append(ask(coalescer.search(rare, vector(2))))
        await turns()
        # The busy shape goes on asking all the time.
        for n in range(6):
            tasks += [ask(coalescer.search(shape(), vector(n))) for _ in range(2)]
            await worker.let_go()
        assert rare.request(vector(2)) in worker.requests[:3]
        await worker.let_all_go()
        await asyncio.gather(*tasks)

    run(main())


def test_an_error_reaches_everyone_in_the_batch_and_nobody_else() -> None:
    async def main() -> None:
        worker, coalescer, first = await busy()
        batch = [ask(coalescer.search(shape(), vector(n))) for n in range(3)]
        await worker.let_go()
        await worker.let_go(error=Unavailable("the worker is gone"))
        await first
        for failed in await asyncio.gather(*batch, return_exceptions=True):
            assert isinstance(failed, Unavailable)
        after = ask(coalescer.search(shape(), vector(5)))
        await worker.let_go()
        assert await after == exact(shape().request(vector(5)))[0]

    run(main())


def test_an_error_of_a_search_alone_gives_its_turn_back() -> None:
    async def main() -> None:
        worker, coalescer, first = await busy()
        await worker.let_go(error=Unavailable("the worker is gone"))
        with pytest.raises(Unavailable):
            await first
        after = ask(coalescer.search(shape(), vector(5)))
        await worker.let_go()
        assert (await after).ids

    run(main())


def test_a_reply_for_another_number_of_queries_is_an_error_for_everyone() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def send(request: SearchRequest) -> list[Hits]:
            await gate.wait()
            return exact(request)[:2]

        coalescer = Coalescer(send, 1, 100)
        first = ask(coalescer.search(shape(), vector(0)))
        await turns()
        batch = [ask(coalescer.search(shape(), vector(n))) for n in range(4)]
        await turns()
        gate.set()
        await first
        answers = await asyncio.gather(*batch, return_exceptions=True)
        assert any(isinstance(answer, Exception) for answer in answers)

    run(main())


def test_a_leader_that_goes_away_while_it_waits_leaves_its_followers_answered() -> None:
    async def main() -> None:
        worker, coalescer, first = await busy()
        leader, *followers = [ask(coalescer.search(shape(), vector(n))) for n in range(4)]
        await turns()
        leader.cancel()
        await worker.let_all_go()
        for n, follower in enumerate(followers, start=1):
            assert await follower == exact(shape().request(vector(n)))[0]
        assert leader.cancelled()
        await first

    run(main())


def test_a_leader_that_goes_away_under_way_leaves_its_followers_answered() -> None:
    async def main() -> None:
        worker, coalescer, first = await busy()
        leader, *followers = [ask(coalescer.search(shape(), vector(n))) for n in range(4)]
        await worker.let_go()
        assert worker.sizes() == [1, 4]
        leader.cancel()
        await worker.let_all_go()
        for n, follower in enumerate(followers, start=1):
            assert await follower == exact(shape().request(vector(n)))[0]
        assert leader.cancelled()
        await first

    run(main())


def test_a_follower_that_goes_away_takes_nobody_with_it() -> None:
    async def main() -> None:
        worker, coalescer, first = await busy()
        tasks = [ask(coalescer.search(shape(), vector(n))) for n in range(4)]
        await turns()
        gone = tasks.pop(2)
        gone.cancel()
        await worker.let_all_go()
        for n, task in zip((0, 1, 3), tasks, strict=True):
            assert await task == exact(shape().request(vector(n)))[0]
        assert gone.cancelled()
        await first

    run(main())


@pytest.mark.parametrize("steps", range(6))
@pytest.mark.parametrize("company", [0, 2])
def test_whenever_a_search_goes_away_the_next_ones_are_answered(steps: int, company: int) -> None:
    """The turn that it holds or waits for is given back in every one of its states."""

    async def main() -> None:
        async def send(request: SearchRequest) -> list[Hits]:
            await turns(2)
            return exact(request)

        coalescer = Coalescer(send, 1, 100)
        gone = ask(coalescer.search(shape(), vector(0)))
        others = [ask(coalescer.search(shape(), vector(n))) for n in range(company)]
        await turns(steps)
        gone.cancel()
        for n, other in enumerate(others):
            assert await other == exact(shape().request(vector(n)))[0]
        after = await coalescer.search(shape(), vector(9))
        assert after == exact(shape().request(vector(9)))[0]

    run(main())
