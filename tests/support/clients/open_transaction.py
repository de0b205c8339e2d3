"""One open transaction of a client: random statements, then commit or abort.

Owns the repeating: what got no answer is asked again, perhaps at another gateway, and a commit is
in doubt only if it was sent and never answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tests.checkers.history import Append, Operation, Outcome, Row, Write
from tests.support.clients.edge import Answer, Edge, NeverSent
from tests.support.clients.wire import lists_of, operations_of, row_json

if TYPE_CHECKING:
    from tests.support.clients.client import Client

COMMIT_TRIES = 8
STATEMENT_TRIES = 3


class OpenTransaction:
    """One open transaction; what gets no answer is repeated, perhaps at another gateway."""

    def __init__(self, client: Client, begun: Answer) -> None:
        self._client = client
        self.txn_id = str(begun.body["transaction"])
        self._token = str(begun.body["token"])
        self._snapshot_ts = begun.body["snapshot_ts"]
        self.operations: list[Operation] = []
        self._marked = False
        self.moved = False

    async def statement(self) -> bool:
        """One random statement; whether the transaction may go on."""
        random = self._client.random
        choice = random.random()
        if choice < 0.45:
            return await self._append(self._client.list_key(), random.random() < 0.7)
        if choice < 0.7:
            return await self._write(self._client.changes()[:3])
        if choice < 0.78:
            return await self._insert_once()
        edge = self._edge()
        try:
            found = await self._client.read_something({}, {"Transaction": self._token}, edge)
        except NeverSent:
            return False
        if found is None:
            return False
        answer, operations = found
        self._take(answer)
        if answer.body["snapshot_ts"] != self._snapshot_ts:
            self._client.broken(f"{self.txn_id} began at {self._snapshot_ts}: {answer.body}")
        self.operations += operations
        return True

    async def _append(self, key: str, writes: bool) -> bool:
        """Read a list, and mostly append to it."""
        path = "/v1/collections/lists/vectors"
        body = {"ids": [key], "include": ["metadata"]}
        answer = await self._call(f"{path}/fetch", body)
        if answer is None:
            return False
        self.operations += lists_of(answer, [key])
        if not writes:
            return True
        (seen,) = lists_of(answer, [key])
        value = self._client.tag()
        metadata = {"l": dict.fromkeys((*seen.seen, value), 1)}
        row = {"id": key, "dimensions": [1.0, 1.0], "metadata": metadata}
        self.operations.append(Append(key, value))
        return await self._call(path, {"vectors": [row]}) is not None

    async def _write(self, writes: Sequence[Write]) -> bool:
        """Rows of one collection a call; the marker with the first."""
        if not self._marked:
            tag = self._client.tag()
            writes = [*writes, Write(f"marks/{tag}", Row(tag, (1.0, 1.0), {"tag": tag}))]
            self._marked = True
        for operation in operations_of(writes):
            self.operations += [
                w for w in writes if w.key.partition("/")[0] == operation["collection"]
                and (w.row is None) == ("delete" in operation)
            ]  # fmt: skip
            path = f"/v1/collections/{operation['collection']}/vectors"
            if "delete" in operation:
                answer = await self._call(f"{path}/delete", {"ids": operation["delete"]})
            else:
                answer = await self._call(path, {"vectors": operation["upsert"]})
            if answer is None:
                return False
        return True

    async def _insert_once(self) -> bool:
        """Insert a row that others try to insert as well."""
        client = self._client
        write = Write(client.once_key(), client.row(), "absent")
        if any(isinstance(o, Write) and o.key == write.key for o in self.operations):
            return True
        self.operations.append(write)
        body = {"vectors": [row_json(write)], "mode": "insert"}
        return await self._call("/v1/collections/once/vectors", body) is not None

    async def commit(self) -> tuple[Outcome, int]:
        """Commit, again until it is answered; a transaction whose commit was sent and never
        answered is in doubt."""
        sent = False
        client = self._client
        for number in range(client.tries):
            edge = client.home if number == 0 else client.random.choice(client.edges)
            try:
                answer = await client.ask(
                    f"/v1/transactions/{self.txn_id}/commit",
                    edge=edge,
                    headers={"Transaction": self._token},
                )
            except NeverSent:
                await asyncio.sleep(0.3)
                continue
            sent = True
            if edge is not client.home:
                self.moved = True
            if answer.ok:
                if client.random.random() < 0.1:
                    await self._commit_again(answer)
                return "committed", int(answer.body["commit_ts"])
            if answer.outcome == "aborted" and not answer.retryable:
                return "aborted", 0
            if answer.code == "conflict":
                return "aborted", 0
            await asyncio.sleep(0.2)
        return ("unknown" if sent else "aborted"), 0

    async def _commit_again(self, first: Answer) -> None:
        """A second commit answers like the first."""
        client = self._client
        try:
            again = await client.ask(
                f"/v1/transactions/{self.txn_id}/commit",
                edge=client.random.choice(client.edges),
                headers={"Transaction": self._token},
            )
        except NeverSent:
            return
        client.shared.done["committed again"] += 1
        refused = again.outcome == "aborted" and not again.retryable
        if refused or (again.ok and again.body != first.body):
            client.broken(f"commit again of {self.txn_id}: {first.body}, then {again.body}")

    async def abort(self) -> None:
        """Abort; without an answer it expires, since nobody commits it."""
        try:
            await self._client.ask(
                f"/v1/transactions/{self.txn_id}/abort", headers={"Transaction": self._token}
            )
        except NeverSent:
            self._client.shared.done["abandoned"] += 1

    def _edge(self) -> Edge:
        """Mostly the client's own gateway: any will do."""
        client = self._client
        return client.random.choice(client.edges) if client.random.random() < 0.2 else client.home

    def _take(self, answer: Answer) -> None:
        self._token = answer.headers.get("Transaction", self._token)

    async def _call(self, path: str, body: Any) -> Answer | None:
        """One call in the transaction, repeated if there is no answer; None if it was refused."""
        for _ in range(min(STATEMENT_TRIES, self._client.tries)):
            try:
                answer = await self._client.ask(
                    path, body, self._edge(), headers={"Transaction": self._token}
                )
            except NeverSent:
                await asyncio.sleep(0.2)
                continue
            if answer.ok:
                self._take(answer)
                return answer
            if answer.status:
                return None
        return None
