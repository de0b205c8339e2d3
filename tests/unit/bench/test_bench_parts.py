"""The parts of the benchmarks that decide what a figure says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.common import F32
from bench.engine import load, raw, rest
from bench.engine.report import Aim, Findings
from bench.generate import SELECTIVITIES, metadata
from bench.memory import bytes_on_disk
from bench.peers.drivers.harness import FIELDS, fields_of


def test_the_least_beam_that_reaches_the_recall_is_taken() -> None:
    truth = np.arange(20).reshape(2, 10)

    def search(queries: F32, ef: int) -> NDArray[np.int64]:
        found = truth.copy()
        found[:, ef // 8 :] = -1
        return found

    asked = np.zeros((2, 4), dtype=np.float32)
    assert raw.least_ef(search, asked, truth, 0.5) == 40
    assert raw.least_ef(search, asked, truth, 1.0) == 80
    assert raw.least_ef(lambda queries, ef: -truth - 1, asked, truth, 0.5) == raw.EFS[-1]


def test_an_aim_is_met_from_its_own_side() -> None:
    assert Aim(0.8).met(0.8) and not Aim(0.8).met(0.79)
    assert Aim(0.8, at_most=True).met(0.8) and not Aim(0.8, at_most=True).met(0.81)


def test_what_could_not_be_measured_is_named_with_its_reason() -> None:
    findings = Findings()
    findings.skip("recall", "not in this version")
    assert findings.figures["recall"] == {"skipped": "not in this version"}


@pytest.mark.parametrize(
    ("stats", "rows"),
    [
        ({}, 0),
        ({"building": 7}, 7),
        ({"building": [70, 3]}, 70),
        ({"building": {"rows": 700, "done": 1}}, 700),
    ],
)
def test_rows_in_builds_are_read_from_any_version_of_the_statistics(
    stats: dict[str, Any], rows: int
) -> None:
    assert load.rows_in_builds(stats) == rows


def test_answers_become_rows_and_fewer_hits_leave_a_gap() -> None:
    hits = [{"vectors": [{"id": f"row-{row:09d}"} for row in rows]} for rows in ([5, 6], [])]
    found = rest.rows_of([json.dumps(one).encode() for one in hits])
    assert found[0, :3].tolist() == [5, 6, -1]
    assert (found[1] == -1).all()


def test_peers_get_the_same_metadata_as_the_product() -> None:
    assert FIELDS == SELECTIVITIES
    ours = [json.loads(text) for text in metadata(990, 20)]
    assert list(fields_of(990, 20)) == ours


def test_a_folder_takes_the_blocks_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_bytes(bytes(10_000))
    assert 10_000 <= bytes_on_disk(tmp_path) < 100_000
