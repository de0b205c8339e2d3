"""The protocol, step by step, as text that a reader can follow: ``scripts/*.txt``.

A script is blocks of commands, a line ``----``, and what they show, ended by an empty line. What
they show now is written back with ``--rewrite-golden``; the difference is then for a reader to
judge.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sim.golden.scripted import Domain

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))
RULE = "----"


def replay(script: str) -> str:
    """The script with what its commands show now."""
    domain = Domain()
    out: list[str] = []
    shown: list[str] = []
    skipping = False
    for line in script.splitlines():
        if skipping:
            # What an older run showed, up to the empty line.
            skipping = bool(line)
            if skipping:
                continue
        if line == RULE:
            out += [RULE, *shown]
            shown, skipping = [], True
            continue
        out.append(line)
        if line and not line.startswith("#"):
            shown += domain.run(line)
    if shown:
        raise ValueError(f"commands without {RULE!r}: they showed {shown}")
    return "\n".join(out) + "\n"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_protocol_goes_as_its_script_says(path: Path, request: pytest.FixtureRequest) -> None:
    script = path.read_text()
    now = replay(script)
    if request.config.getoption("--rewrite-golden"):
        path.write_text(now)
    else:
        assert now.splitlines() == script.splitlines(), "if it is meant: --rewrite-golden"


def test_there_are_scripts_and_each_shows_something() -> None:
    assert len(SCRIPTS) >= 6
    for path in SCRIPTS:
        assert path.read_text().count(RULE) >= 3, path.name
