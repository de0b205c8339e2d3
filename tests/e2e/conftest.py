"""One real server for all end-to-end tests of a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.processes import Service


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A ready server; tests share it, so each uses collections of its own."""
    service = Service("all", tmp_path_factory.mktemp("server"))
    service.start()
    yield service
    assert service.stop() == 0, service.log[-4000:]
