"""The scaling model counts the messages that whole services send, up to thirty workers."""

from __future__ import annotations

import pytest

from bench.scaling.simulated import traffic
from bench.scaling.work import Shape


@pytest.mark.parametrize(
    ("workers", "replicas", "participants"),
    [(1, 1, 1), (4, 1, 1), (4, 1, 4), (3, 3, 3), (10, 3, 5), (30, 3, 1)],
)
def test_a_transaction_sends_what_the_model_says(
    workers: int, replicas: int, participants: int
) -> None:
    found = traffic(Shape(workers, replicas), participants)
    assert found.kinds["Prepare"] == participants
    assert found.kinds["DecisionRecord"] == 1
    # Beats ask for votes and cursors again now and then.
    assert found.kinds["Vote"] == pytest.approx(participants * replicas, rel=0.12)
    assert found.kinds["Durable"] == pytest.approx(workers, rel=0.35)
    assert found.messages == pytest.approx(found.predicted, rel=0.15)


def test_an_idle_mesh_sends_what_the_model_says() -> None:
    found = traffic(Shape(10, 3), 1, transactions=5)
    assert found.idle_per_s == pytest.approx(found.idle_predicted_per_s, rel=0.12)
