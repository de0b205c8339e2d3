"""Vector instructions: used unless forbidden, and what is forbidden is not used in silence."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vector_db.common.model.errors import StartupError
from vector_db.common.service.simd import LEVEL_VARIABLE, choose_simd
from vector_db.shard.building.process import BuildProcess
from vector_db.shard.building.task import BuildTask
from vector_db.shard.index.simd import GENERIC, check_simd, simd_level

with_instructions = pytest.mark.skipif(
    simd_level() == GENERIC, reason="this CPU has no vector instructions that FAISS uses"
)


def level_of_a_process(enabled: bool) -> str:
    code = (
        "import os\n"
        "from vector_db.common.service.simd import choose_simd\n"
        f"choose_simd({enabled}, os.environ)\n"
        "from vector_db.shard.index.simd import simd_level\n"
        "print(simd_level())"
    )
    kept = {name: value for name, value in os.environ.items() if name != LEVEL_VARIABLE}
    said = subprocess.run([sys.executable, "-c", code], env=kept, capture_output=True, check=True)
    return said.stdout.decode().strip()


def test_a_process_without_them_is_generic_and_another_takes_the_widest() -> None:
    assert level_of_a_process(enabled=False) == GENERIC
    assert level_of_a_process(enabled=True) == simd_level()


def test_what_the_operator_chose_stays_unless_it_is_forbidden() -> None:
    environ = {LEVEL_VARIABLE: "AVX2"}
    choose_simd(True, environ)
    assert environ == {LEVEL_VARIABLE: "AVX2"}
    choose_simd(False, environ)
    assert environ == {LEVEL_VARIABLE: "NONE"}


@with_instructions
def test_it_is_too_late_once_faiss_is_loaded() -> None:
    check_simd(enabled=True)
    with pytest.raises(StartupError, match=f"loaded before with {simd_level()}: set FAISS_SIMD"):
        check_simd(enabled=False)


def test_a_build_process_does_as_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LEVEL_VARIABLE, "AVX2")  # also put back afterwards
    choose_simd(False, os.environ)
    build = BuildProcess(tmp_path, BuildTask("segments/1-0-1"))
    try:
        until = time.monotonic() + 10
        inherited = b""
        while not inherited and time.monotonic() < until:  # empty while the program is loaded
            inherited = Path(f"/proc/{build.pid}/environ").read_bytes()
    finally:
        build.kill()
    assert b"FAISS_SIMD_LEVEL=NONE" in inherited.split(b"\0")
