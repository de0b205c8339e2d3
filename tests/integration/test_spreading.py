"""A collection is spread over more and over fewer shards by real processes under load: no client
sees it, and every snapshot shows exactly the rows that were acknowledged."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.support.load import InThreads
from tests.support.meshes import Mesh, running_mesh
from vector_db_client import Conflict, Delete, Upsert, VectorDatabaseClient
from vector_db_client.sync_transaction import Transaction
from vector_db_client.values import Isolation

STILL = 1500
"""Rows that nobody writes while they are copied."""
WRITTEN = 40
"""Rows of each kind of writer."""
SPREAD_S_MAX = 90.0

Shown: TypeAlias = dict[str, tuple[int, int]]
"""Id → the number that was written, and the row's version."""


class Acknowledged:
    """What was written, by commit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writes: list[tuple[int, dict[str, int | None]]] = []

    def note(self, commit_ts: int, rows: dict[str, int | None]) -> None:
        """Rows and their numbers, None for those that are gone."""
        with self._lock:
            self._writes.append((commit_ts, rows))

    def __len__(self) -> int:
        return len(self._writes)

    def commits(self) -> list[int]:
        """In the order of acknowledgement."""
        with self._lock:
            return [commit_ts for commit_ts, _ in self._writes]

    def at(self, snapshot_ts: int) -> Shown:
        """What that snapshot has to show."""
        shown: Shown = {}
        for commit_ts, rows in sorted(self._writes, key=lambda write: write[0]):
            for row_id, n in rows.items() if commit_ts <= snapshot_ts else ():
                if n is None:
                    shown.pop(row_id, None)
                else:
                    shown[row_id] = n, commit_ts
        return shown


class Clients(InThreads):
    """Writers and readers of ``c``, each in a thread with a client of its own."""

    def __init__(self, mesh: Mesh) -> None:
        writers: list[Callable[[VectorDatabaseClient, random.Random], None]] = [
            self._plain, self._conditional, self._searched, self._open,
        ]  # fmt: skip
        readers = [self._snapshots, self._past, self._long]
        self._urls = [gateway.url for gateway in mesh.gateways]
        super().__init__(self._going_on(i, work) for i, work in enumerate([*writers, *readers]))
        self.acknowledged = Acknowledged()
        self.seen: list[tuple[int, Shown]] = []
        self.conflicts = 0
        self.committed = 0
        self._n = 0

    def _going_on(
        self, seed: int, work: Callable[[VectorDatabaseClient, random.Random], None]
    ) -> Callable[[], None]:
        def run() -> None:
            chance = random.Random(seed)
            # Nothing is tried again here: what the gateway says is what the test is about.
            clients = [VectorDatabaseClient(url, retries=0) for url in self._urls]
            try:
                while not self.over.is_set():
                    work(chance.choice(clients), chance)
            except Exception as error:
                self.errors.append(f"{work.__name__}: {error!r}")
            finally:
                for client in clients:
                    client.close()

        return run

    def wait_for_more(self, writes: int) -> None:
        """Until so many more writes were acknowledged."""
        wanted = len(self.acknowledged) + writes
        while len(self.acknowledged) < wanted and not self.errors:
            time.sleep(0.01)

    # --- writers ----------------------------------------------------------------------------------

    def _fresh(self) -> int:
        self._n += 1
        return self._n

    def _plain(self, client: VectorDatabaseClient, chance: random.Random) -> None:
        ids = chance.sample([f"a{i}" for i in range(WRITTEN)], 4)
        n = self._fresh()
        operations: list[Upsert | Delete] = [upsert(ids[1:], n), Delete("c", ids[:1])]
        done = client.commit(operations)
        self.acknowledged.note(done.commit_ts, {ids[0]: None} | dict.fromkeys(ids[1:], n))

    def _conditional(self, client: VectorDatabaseClient, chance: random.Random) -> None:
        ids = chance.sample([f"b{i}" for i in range(WRITTEN)], 3)
        client.observe(max(self.acknowledged.commits(), default=0))
        found = {row.id: row.version for row in client.fetch(ids, collection="c", include=())}
        n = self._fresh()
        for row_id in ids:
            given = [[1.0, float(n)]], [{"n": n}]
            if row_id not in found:
                done = client.insert_vectors([row_id], *given, collection="c", mode="insert")
            elif chance.random() < 0.3:
                done = client.delete([row_id], collection="c", if_version=[found[row_id]])
                assert done.count == 1
                self.acknowledged.note(done.commit_ts, {row_id: None})
                continue
            else:
                version = [found[row_id]]
                done = client.insert_vectors([row_id], *given, collection="c", if_version=version)
            self.acknowledged.note(done.commit_ts, {row_id: n})

    def _searched(self, client: VectorDatabaseClient, chance: random.Random) -> None:
        ids, n = [f"d{i}" for i in range(6)], self._fresh()
        done = client.insert_vectors(
            ids, [[1.0, float(n)]] * 6, [{"n": n, "group": i % 2} for i in range(6)],
            collection="c", idempotency_key=f"key-{n}",
        )  # fmt: skip
        self.acknowledged.note(done.commit_ts, dict.fromkeys(ids, n))
        patched = client.update_metadata("d1", {"n": n + 1}, collection="c")
        self._n += 1
        self.acknowledged.note(patched.commit_ts, {"d1": n + 1})
        gone = client.delete(filter={"group": 0}, collection="c")
        assert gone.count == 3
        self.acknowledged.note(gone.commit_ts, dict.fromkeys(ids[::2]))

    def _open(self, client: VectorDatabaseClient, chance: random.Random) -> None:
        ids = chance.sample([f"e{i}" for i in range(WRITTEN)], 3)
        n = self._fresh()
        isolation: Isolation = "serializable" if chance.random() < 0.3 else "snapshot"
        try:
            with client.transaction(isolation) as inside:
                self._statements(inside, ids, n, isolation)
        except Conflict:
            self.conflicts += 1
            return
        self.committed += 1
        self.acknowledged.note(inside.commit_ts, {ids[0]: None} | dict.fromkeys(ids[1:], n))

    def _statements(self, inside: Transaction, ids: list[str], n: int, isolation: str) -> None:
        for row_id in ids[1:]:
            inside.insert_vectors([row_id], [[1.0, float(n)]], [{"n": n}], collection="c")
        if isolation == "snapshot":
            self.over.wait(0.05)
        inside.delete(ids[:1], collection="c")
        rows = inside.fetch(ids, collection="c", include=("metadata",))
        assert [(row.id, (row.metadata or {})["n"], row.version) for row in rows] == [
            (row_id, n, 0) for row_id in ids[1:]
        ]
        if isolation == "snapshot":
            assert inside.count({"still": True}, collection="c").count == STILL

    # --- readers ----------------------------------------------------------------------------------

    def _look(self, client: VectorDatabaseClient, as_of: int | None, pause_s: float = 0.0) -> None:
        shown: Shown = {}
        pages = client.scroll_pages(
            collection="c", page_size=700, include=("metadata",), as_of=as_of
        )
        for page in pages:
            shown |= {row.id: ((row.metadata or {})["n"], row.version) for row in page.rows}
            snapshot_ts = page.snapshot_ts
            self.over.wait(pause_s)
        counted = client.count(collection="c", as_of=snapshot_ts)
        assert counted.count == len(shown), (snapshot_ts, counted.count, len(shown))
        ids = [f"{kind}{i}" for kind in "abde" for i in range(WRITTEN)]
        found = client.fetch(ids, collection="c", include=(), as_of=snapshot_ts)
        assert {row.id: row.version for row in found} == {
            row_id: version for row_id, (_, version) in shown.items() if row_id[0] != "s"
        }
        self.seen.append((snapshot_ts, shown))

    def _snapshots(self, client: VectorDatabaseClient, _: random.Random) -> None:
        self._look(client, None)
        hits = client.query_similar([0.0, 1.0], k=5, collection="c", filter={"still": True})
        assert [hit.id for hit in hits] == [f"s{i}" for i in range(5)], hits
        self.over.wait(0.2)

    def _past(self, client: VectorDatabaseClient, chance: random.Random) -> None:
        commits = self.acknowledged.commits()
        self._look(client, chance.choice(commits))
        self.over.wait(0.2)

    def _long(self, client: VectorDatabaseClient, _: random.Random) -> None:
        self._look(client, None, pause_s=0.7)


def upsert(ids: list[str], n: int) -> Upsert:
    return Upsert("c", ids, [[1.0, float(n)]] * len(ids), [{"n": n}] * len(ids))


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path, shards=2, gateways=2, VECTOR_DB_SHARD_COUNT="8") as mesh:
        yield mesh


def spread(client: VectorDatabaseClient, shards: int) -> None:
    """Ask for so many shards, and wait until the collection has them."""
    asked = client.update_collection("c", shards=shards)
    assert asked.spreading_shards == shards
    until = time.monotonic() + SPREAD_S_MAX
    while (shown := client.get_collection("c")).spreading_shards is not None:
        assert time.monotonic() < until, shown
        time.sleep(0.05)
    assert shown.shards == shards


def test_a_collection_is_spread_over_more_and_fewer_shards_and_no_client_sees_it(
    mesh: Mesh,
) -> None:
    with VectorDatabaseClient([gateway.url for gateway in mesh.gateways]) as client:
        client.create_collection("c", 2, "euclidean", shards=2)
        clients = Clients(mesh)
        still = {f"s{i}": i for i in range(STILL)}
        for start in range(0, STILL, 500):
            ids = list(still)[start : start + 500]
            done = client.insert_vectors(
                ids, [[float(still[i]) / STILL, 1.0] for i in ids],
                [{"n": still[i], "still": True} for i in ids], collection="c",
            )  # fmt: skip
            clients.acknowledged.note(done.commit_ts, {i: still[i] for i in ids})
        with clients:
            clients.wait_for_more(100)
            for shards in (5, 1):
                spread(client, shards)
                clients.wait_for_more(100)
        assert clients.errors == []
        assert clients.committed > clients.conflicts, clients.conflicts
        for snapshot_ts, shown in clients.seen:
            assert shown == clients.acknowledged.at(snapshot_ts), snapshot_ts
        commits = clients.acknowledged.commits()
        for commit_ts in [*commits[:: max(1, len(commits) // 30)], max(commits)]:
            rows = client.scroll(collection="c", include=("metadata",), as_of=commit_ts)
            shown = {row.id: ((row.metadata or {})["n"], row.version) for row in rows}
            assert shown == clients.acknowledged.at(commit_ts), commit_ts


def test_the_number_that_a_collection_has_gives_up_another_one(mesh: Mesh) -> None:
    with VectorDatabaseClient(mesh.gateway.url) as client:
        client.create_collection("c", 2, shards=2)
        for start in range(0, 6000, 1000):
            ids = [f"r{start + i}" for i in range(1000)]
            client.insert_vectors(ids, [[1.0, 0.5]] * 1000, collection="c")
        client.update_collection("c", shards=4)
        given_up = client.update_collection("c", shards=2)
        assert (given_up.shards, given_up.spreading_shards) == (2, None)
        client.insert_vectors(["x"], [[1.0, 0.5]], collection="c")
        assert client.count(collection="c").count == 6001
        spread(client, 3)
        assert client.count(collection="c").count == 6001
