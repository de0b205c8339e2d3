"""Writers and readers of the collection ``c`` while it is spread over other shards.

Each kind of writer has rows of its own and writes them one after the other, so what was
acknowledged says exactly what every snapshot has to show, versions included.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial

from tests.support.load import InThreads
from tests.support.spread_writes import Acknowledged, Rows, Shown
from vector_db_client import (
    Aborted,
    Conflict,
    DeadlineExceeded,
    Delete,
    OutcomeUnknown,
    Unavailable,
    Upsert,
    VectorDatabaseClient,
    VectorDatabaseError,
    WriteResult,
)
from vector_db_client.sync_transaction import Transaction
from vector_db_client.values import Consistency, Isolation

WRITTEN = 40
"""Rows of each kind of writer."""
SPREAD_S_MAX = 90.0
RETRIES = 30
"""Of patient clients: more than fit into the time of one call."""
REFUSED_S = 0.05
"""After a refusal the client of a single try waits so long."""


class Clients(InThreads):
    """Of the gateways at `urls`, each in a thread; `still` rows are there that nobody writes.

    By default each of them asks one gateway once, and every error is kept. Those that are
    `patient` know all gateways and try again, and mind only errors that are left then; a client
    of a single try is among them, too, and may be refused. What they get no answer to is in doubt.
    """

    def __init__(self, urls: Sequence[str], still: int, patient: bool = False) -> None:
        writers = [self._plain, self._conditional, self._searched, self._open]
        readers = [self._snapshots, self._past, self._long]
        super().__init__(self._going_on(i, work) for i, work in enumerate([*writers, *readers]))
        self._urls, self._still, self._patient = list(urls), still, patient
        self.acknowledged = Acknowledged()
        self.seen: list[tuple[int, Shown]] = []
        self.refused = self.conflicts = self.committed = 0
        self.settled = 0, 0
        """Of the writes in doubt: those that were applied, and those that were not."""
        self._retired: set[str] = set()
        self._n = 0

    def _going_on(
        self, seed: int, work: Callable[[VectorDatabaseClient, random.Random], None]
    ) -> Callable[[], None]:
        def run() -> None:
            chance = random.Random(seed)
            clients = self._connected(single_try=not self._patient or work == self._plain)
            try:
                while not self.over.is_set():
                    work(chance.choice(clients), chance)
            except Exception as error:
                self.errors.append(f"{work.__name__}: {error!r}")
            finally:
                for client in clients:
                    client.close()

        return run

    def _connected(self, single_try: bool) -> list[VectorDatabaseClient]:
        """One client for each gateway, which it asks first, or alone and once."""
        urls = self._urls
        if single_try:
            return [VectorDatabaseClient(url, retries=0) for url in urls]
        return [
            VectorDatabaseClient(urls[i:] + urls[:i], retries=RETRIES) for i in range(len(urls))
        ]

    def fill(self, client: VectorDatabaseClient) -> None:
        """Write the rows that stay as they are; before the threads begin."""
        for start in range(0, self._still, 500):
            numbers = range(start, min(start + 500, self._still))
            ids = [f"s{n}" for n in numbers]
            done = client.insert_vectors(
                ids, [[n / self._still, 1.0] for n in numbers],
                [{"n": n, "still": True} for n in numbers], collection="c",
            )  # fmt: skip
            self.acknowledged.note(done.commit_ts, dict(zip(ids, numbers, strict=True)))

    def wait_for_more(self, writes: int) -> None:
        """Until so many more writes were acknowledged."""
        wanted = len(self.acknowledged) + writes
        while len(self.acknowledged) < wanted and not self.errors:
            time.sleep(0.01)

    # --- writers ----------------------------------------------------------------------------------

    def _some(self, kind: str, count: int, chance: random.Random) -> list[str]:
        """Ids of a writer's rows."""
        ids = [f"{kind}{i}" for i in range(WRITTEN)]
        return chance.sample([row_id for row_id in ids if row_id not in self._retired], count)

    def _fresh(self) -> int:
        self._n += 1
        return self._n

    def _write(self, rows: Rows, write: Callable[[], WriteResult]) -> None:
        """Do and note it. What may be applied or not is in doubt, and its rows are left alone."""
        try:
            done = write()
        except VectorDatabaseError as error:
            if not self._patient or not is_in_doubt(error):
                raise
            self.acknowledged.doubt(rows)
            self._retired |= rows.keys()
        else:
            self.acknowledged.note(done.commit_ts, rows)

    @property
    def _key(self) -> str | None:
        """Of a write that patient clients repeat until they know when it was applied."""
        return "auto" if self._patient else None

    def _plain(self, client: VectorDatabaseClient, chance: random.Random) -> None:
        ids, n = self._some("a", 4, chance), self._fresh()
        rows: Rows = {ids[0]: None} | dict.fromkeys(ids[1:], n)
        operations: list[Upsert | Delete] = [upsert(ids[1:], n), Delete("c", ids[:1])]
        try:
            self._write(rows, lambda: client.commit(operations))
        except VectorDatabaseError as error:
            if not self._patient or not error.retryable:
                raise
            self.refused += 1
            self.over.wait(REFUSED_S)

    def _conditional(self, client: VectorDatabaseClient, chance: random.Random) -> None:
        ids, n = self._some("b", 3, chance), self._fresh()
        client.observe(max(self.acknowledged.commits(), default=0))
        found = {row.id: row.version for row in client.fetch(ids, collection="c", include=())}
        for row_id in ids:
            vectors, metadata, version = [[1.0, float(n)]], [{"n": n}], found.get(row_id)
            insert = partial(client.insert_vectors, [row_id], vectors, metadata, collection="c")
            if version is None:
                self._write({row_id: n}, partial(insert, mode="insert"))
            elif chance.random() < 0.3:
                # No row would tell when it went, so it is not left in doubt.
                done = client.delete(
                    [row_id], collection="c", if_version=[version], idempotency_key=self._key
                )
                assert done.count == 1
                self.acknowledged.note(done.commit_ts, {row_id: None})
            else:
                self._write({row_id: n}, partial(insert, if_version=[version]))

    def _searched(self, client: VectorDatabaseClient, _: random.Random) -> None:
        ids, n, patched_n = [f"d{i}" for i in range(6)], self._fresh(), self._fresh()
        done = client.insert_vectors(
            ids, [[1.0, float(n)]] * 6, [{"n": n, "group": i % 2} for i in range(6)],
            collection="c", idempotency_key=f"key-{n}",
        )  # fmt: skip
        self.acknowledged.note(done.commit_ts, dict.fromkeys(ids, n))
        patched = client.update_metadata(
            "d1", {"n": patched_n}, collection="c", idempotency_key=self._key
        )
        self.acknowledged.note(patched.commit_ts, {"d1": patched_n})
        gone = client.delete(filter={"group": 0}, collection="c", idempotency_key=self._key)
        assert gone.count == 3
        self.acknowledged.note(gone.commit_ts, dict.fromkeys(ids[::2]))

    def _open(self, client: VectorDatabaseClient, chance: random.Random) -> None:
        ids, n = self._some("e", 3, chance), self._fresh()
        rows: Rows = {ids[0]: None} | dict.fromkeys(ids[1:], n)
        isolation: Isolation = "serializable" if chance.random() < 0.3 else "snapshot"

        def transaction() -> WriteResult:
            with client.transaction(isolation) as inside:
                self._statements(inside, ids, n, isolation)
                done = inside.commit()
            self.committed += 1
            return done

        try:
            self._write(rows, transaction)
        except (Conflict, Aborted) as error:
            # A commit that was sent twice may have found that it is aborted.
            if isinstance(error, Aborted) and not self._patient:
                raise
            self.conflicts += 1

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
            assert inside.count({"still": True}, collection="c").count == self._still

    # --- readers ----------------------------------------------------------------------------------

    def _look(self, client: VectorDatabaseClient, as_of: int | None, pause_s: float = 0.0) -> None:
        shown: Shown = {}
        pages = client.scroll_pages(
            collection="c", page_size=700, include=("metadata",), as_of=as_of
        )
        for page in pages:
            read = {row.id: ((row.metadata or {})["n"], row.version) for row in page.rows}
            assert len(read) == len(page.rows) and read.keys().isdisjoint(shown), "a row is doubled"
            shown |= read
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

    # --- the check --------------------------------------------------------------------------------

    def check(self, client: VectorDatabaseClient, commits_max: int = 30) -> None:
        """After the threads: every snapshot that was read, and those of up to so many commits,
        show what was acknowledged, and nothing else."""
        assert self.errors == []
        self.settled = self.acknowledged.settle(rows_of(client))
        seen = sorted(self.seen, key=lambda look: look[0])
        wanted = self.acknowledged.at(snapshot_ts for snapshot_ts, _ in seen)
        for (snapshot_ts, shown), expected in zip(seen, wanted, strict=True):
            assert shown == expected, snapshot_ts
        commits = sorted(self.acknowledged.commits())
        chosen = [*commits[:: len(commits) // commits_max + 1], commits[-1]]
        for commit_ts, expected in zip(chosen, self.acknowledged.at(chosen), strict=True):
            assert rows_of(client, as_of=commit_ts) == expected, commit_ts
            counted = client.count(collection="c", as_of=commit_ts).count
            assert counted == len(expected), commit_ts


def is_in_doubt(error: VectorDatabaseError) -> bool:
    """Whether a write that failed so may be applied nevertheless."""
    if isinstance(error, Unavailable):
        return "may or may not be applied" in error.message
    return isinstance(error, OutcomeUnknown | DeadlineExceeded)


def upsert(ids: list[str], n: int) -> Upsert:
    return Upsert("c", ids, [[1.0, float(n)]] * len(ids), [{"n": n}] * len(ids))


def rows_of(client: VectorDatabaseClient, as_of: int | None = None) -> Shown:
    """All rows of a snapshot: the newest, or the one asked for."""
    shown: Shown = {}
    newest: Consistency = "strong" if as_of is None else "own_writes"
    rows = client.scroll(collection="c", include=("metadata",), consistency=newest, as_of=as_of)
    for row in rows:
        assert row.id not in shown, f"{row.id} is doubled"
        shown[row.id] = (row.metadata or {})["n"], row.version
    return shown


def spread(client: VectorDatabaseClient, shards: int) -> None:
    """Ask for so many shards, and wait until the collection has them."""
    asked = client.update_collection("c", shards=shards)
    assert asked.spreading_shards == shards
    wait_spread(client, shards)


def wait_spread(client: VectorDatabaseClient, shards: int) -> None:
    """Until the collection has so many shards."""
    until = time.monotonic() + SPREAD_S_MAX
    while (shown := client.get_collection("c")).spreading_shards is not None:
        assert time.monotonic() < until, shown
        time.sleep(0.05)
    assert shown.shards == shards
