"""Snapshot isolation and serializability of list-append histories.

Every append adds a value of its own to a list, and a read sees the whole list; so the order of
versions, who wrote what was read (wr) and who overwrote it (rw) follow from the reads alone
(Kingsbury and Alvaro, "Elle", VLDB 2020). With D = ww + wr + session order, a history is snapshot
isolated iff D + (D;rw) has no cycle (Cerone and Gotsman, "Analysing Snapshot Isolation", 2018), and
serializable iff D + rw has none. The report names what a cycle is: G0, G1c, lost update, read skew
(G-single), long fork, write skew (G2-item); "in session" says that a cycle needs session order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.checkers.graph import Edges, components, path
from tests.checkers.history import Append, ReadList, Report, Transaction

SEARCHES_MAX = 200
"""Paths that are looked for to name one cycle."""


def check_lists(history: Sequence[Transaction]) -> Report:
    """Whether the lists of `history` are snapshot isolated, and its `serializable` transactions
    serializable among all others.

    A transaction of unknown outcome counts as committed iff somebody saw one of its appends. One
    that aborted, or was never seen, still read a snapshot: it stays as a reader.

    :raises ValueError: two transactions append the same value to one list: the workload is wrong.
    """
    lists = _Lists(history)
    lists.read()
    order = _Order(history, lists)
    order.build()
    found = _Cycles(lists.report, order)
    found.unseen_updates()
    found.snapshot_isolation()
    if any(t.isolation == "serializable" for t in history):
        found.serializability()
    lists.report.tally("list transactions", len(history))
    return lists.report


class _Lists:
    """The order of every list's values, and what each transaction saw of it.

    `longest` the longest list read; `reads` per transaction and key how much of it was there before
    the transaction's own appends; reads that make no sense are reported and left out.
    """

    def __init__(self, history: Sequence[Transaction]) -> None:
        self.history = history
        self.report = Report()
        self.writer: dict[tuple[str, str], int] = {}
        self.appended: list[dict[str, list[str]]] = []
        self.longest: dict[str, tuple[str, ...]] = {}
        self.reads: list[dict[str, int]] = [{} for _ in history]
        for number, transaction in enumerate(history):
            mine: dict[str, list[str]] = {}
            for operation in transaction.operations:
                if isinstance(operation, Append):
                    place = (operation.key, operation.value)
                    if place in self.writer:
                        raise ValueError(f"{place} is appended twice, by the workload itself")
                    self.writer[place] = number
                    mine.setdefault(operation.key, []).append(operation.value)
            self.appended.append(mine)
        self.seen_writers: set[int] = set()

    def committed(self, number: int) -> bool:
        """Whether its appends took place."""
        outcome = self.history[number].outcome
        return outcome == "committed" or (outcome == "unknown" and number in self.seen_writers)

    def read(self) -> None:
        """Take in all reads."""
        outside = [dict(self._outside(n, t)) for n, t in enumerate(self.history)]
        for reads in outside:
            for key, seen in reads.items():
                if len(seen) > len(self.longest.get(key, ())) and len(set(seen)) == len(seen):
                    self.longest[key] = seen
        for number, reads in enumerate(outside):
            for key, seen in reads.items():
                self.report.tally("list reads")
                if self._makes_sense(number, key, seen):
                    self.reads[number][key] = len(seen)

    def _outside(self, number: int, t: Transaction) -> Iterator[tuple[str, tuple[str, ...]]]:
        """What was seen of others per key: the first read without own appends."""
        own: dict[str, tuple[str, ...]] = {}
        first: dict[str, tuple[str, ...]] = {}
        for operation in t.operations:
            if isinstance(operation, Append):
                own[operation.key] = (*own.get(operation.key, ()), operation.value)
            elif isinstance(operation, ReadList):
                key, seen = operation.key, operation.seen
                mine = own.get(key, ())
                others = seen[: len(seen) - len(mine)]
                if others + mine != seen:
                    self.report.add(
                        "internal", f"{key}: own {mine} not at the end of {seen}", number
                    )
                elif first.setdefault(key, others) != others:
                    self.report.add("internal", f"{key}: {first[key]}, then {others}", number)
        yield from first.items()

    def _makes_sense(self, number: int, key: str, seen: tuple[str, ...]) -> bool:
        add = self.report.add
        if len(set(seen)) < len(seen):
            add("duplicate value", f"{key}: {seen}", number)
            return False
        sound = True
        for value in seen:
            writer = self.writer.get((key, value))
            if writer is None:
                add("unwritten value", f"{key}: {value}", number)
                sound = False
            elif self.history[writer].outcome == "aborted":
                add("G1a", f"{key}: read {value} of an aborted transaction", number, writer)
                sound = False
            else:
                self.seen_writers.add(writer)
        if not sound:
            return False
        if seen != self.longest.get(key, ())[: len(seen)]:
            add("incompatible order", f"{key}: {seen} and {self.longest.get(key)}", number)
            return False
        if seen:
            writer = self.writer[key, seen[-1]]
            if writer != number and self.appended[writer][key][-1] != seen[-1]:
                add("G1b", f"{key}: {seen[-1]} is not the last of its transaction", number, writer)
                return False
        return True


@dataclass(slots=True)
class _Edges:
    """Edges between transactions by kind; nodes past the transactions stand for "all who read the
    whole of a list", on the way to appends that nobody saw."""

    ww: Edges
    wr: Edges
    so: Edges
    rw: Edges
    keys: dict[tuple[int, int], set[str]] = field(default_factory=dict)


def _none(nodes: int) -> Edges:
    return [[] for _ in range(nodes)]


class _Order:
    """What must have come before what."""

    def __init__(self, history: Sequence[Transaction], lists: _Lists) -> None:
        self.history = history
        self.lists = lists
        self.transactions = len(history)
        self.size = self.transactions
        self.edges = _Edges(_none(n := len(history)), _none(n), _none(n), _none(n))
        self.unseen: dict[str, list[int]] = {}
        """Per list who appended to it, committed, without anybody having seen it: they come after
        all that was seen, since a list only grows at its end."""

    def build(self) -> None:
        """All edges."""
        lists = self.lists
        seen = {(key, value) for key, values in lists.longest.items() for value in values}
        for number, mine in enumerate(lists.appended):
            if lists.committed(number):
                for key, values in mine.items():
                    if (key, values[-1]) not in seen:
                        self.unseen.setdefault(key, []).append(number)
        self._versions()
        self._reads()
        self._sessions()

    def _writer(self, key: str, value: str) -> int | None:
        """Who appended it, None for one that must not have been seen (reported already)."""
        number = self.lists.writer.get((key, value))
        return number if number is not None and self.lists.committed(number) else None

    def _versions(self) -> None:
        for key, values in self.lists.longest.items():
            writers = [self._writer(key, value) for value in values]
            for before, after in itertools.pairwise(writers):
                if before is not None and after is not None and before != after:
                    self.edges.ww[before].append(after)
            last = writers[-1] if writers else None
            if last is not None:
                self.edges.ww[last] += [u for u in self.unseen.get(key, ()) if u != last]

    def _reads(self) -> None:
        lists = self.lists
        gates: dict[str, int] = {}
        for number, reads in enumerate(lists.reads):
            for key, length in reads.items():
                values = lists.longest.get(key, ())
                if length:
                    writer = self._writer(key, values[length - 1])
                    if writer is not None and writer != number:
                        self.edges.wr[writer].append(number)
                if length < len(values):
                    after = self._writer(key, values[length])
                    if after is not None and after != number:
                        self._overwrote(number, after, key)
                    continue
                unseen = self.unseen.get(key, [])
                if number in unseen:  # direct edges: a way through the gate would lead to itself
                    for other in unseen:
                        if other != number:
                            self._overwrote(number, other, key)
                elif unseen:
                    if key not in gates:
                        gates[key] = self._gate(unseen)
                    self.edges.rw[number].append(gates[key])

    def _overwrote(self, reader: int, writer: int, key: str) -> None:
        self.edges.rw[reader].append(writer)
        self.edges.keys.setdefault((reader, writer), set()).add(key)

    def _gate(self, unseen: list[int]) -> int:
        gate = self.size
        self.size += 1
        for kind in (self.edges.ww, self.edges.wr, self.edges.so):
            kind.append([])
        self.edges.rw.append(list(unseen))
        return gate

    def _sessions(self) -> None:
        """Each transaction after the one that its session had an answer to before."""
        last: dict[str, int] = {}
        for number in sorted(range(self.transactions), key=lambda n: self.history[n].begin):
            t = self.history[number]
            if t.as_of:
                continue  # asked for the past
            before = last.get(t.session)
            if before is not None and self.history[before].end <= t.begin:
                self.edges.so[before].append(number)
            if t.outcome != "unknown":  # may take place at any later time
                last[t.session] = number


class _Cycles:
    """Finds cycles and names them, each component once, by its narrowest class."""

    def __init__(self, report: Report, order: _Order) -> None:
        self._report = report
        self._order = order
        self._named: set[int] = set()

    def unseen_updates(self) -> None:
        """Two that read the whole of a list and appended to it, unseen: whichever came first, the
        other lost it. No edge tells, since their order is not known."""
        order = self._order
        for key, unseen in order.unseen.items():
            whole = len(order.lists.longest.get(key, ()))
            both = [n for n in unseen if order.lists.reads[n].get(key) == whole]
            if len(both) > 1:
                self._add("lost update", both, set(both))

    def snapshot_isolation(self) -> None:
        """D + (D;rw): each transaction is two nodes, 2n reached by D and 2n + 1 reached by rw; only
        the first goes on by rw, so that no cycle has two rw in a row."""
        order, edges = self._order, self._order.edges
        split: Edges = []
        for node in range(order.size):
            by_d = [2 * m for kind in (edges.ww, edges.wr, edges.so) for m in kind[node]]
            if node < order.transactions:
                split.append(by_d + [2 * m + 1 for m in edges.rw[node]])
                split.append(by_d)
            else:
                split.append([])
                split.append([2 * m + 1 for m in edges.rw[node]])
        for component in components(split):
            members = {node // 2 for node in component}
            name, cycle = self._name(members)
            if name is None:
                inside = set(component)
                start = min(inside)
                found = path(split.__getitem__, start, start, inside) or component
                name, cycle = "long fork", [node // 2 for node in found]
            self._add(name, cycle, members)

    def serializability(self) -> None:
        """D + rw, with the rw of the transactions that promised to be serializable: only their
        reads have to hold where they committed."""
        order, edges = self._order, self._order.edges
        every: Edges = []
        for node in range(order.size):
            bound = node >= order.transactions or self._reads_hold(node)
            every.append(
                edges.ww[node] + edges.wr[node] + edges.so[node] + (edges.rw[node] if bound else [])
            )
        for component in components(every):
            members = set(component)
            if members & self._named:
                continue
            start = min(members)
            cycle = path(every.__getitem__, start, start, members) or component
            self._add("write skew", cycle, members)

    def _reads_hold(self, node: int) -> bool:
        t = self._order.history[node]
        return t.isolation == "serializable" and self._order.lists.committed(node)

    def _add(self, name: str, cycle: Sequence[int], members: set[int]) -> None:
        self._named |= members
        real = [n for n in cycle if n < self._order.transactions]
        told = " -> ".join(f"{n}@{self._order.history[n].session}" for n in real)
        self._report.add(name, told, *dict.fromkeys(real))

    def _name(self, members: set[int]) -> tuple[str | None, list[int]]:
        """The narrowest class with a cycle among `members`; None: two rw apart from each other."""
        e = self._order.edges
        for session in ([], [e.so]):
            suffix = " in session" if session else ""
            for name, kinds in (("G0", [e.ww]), ("G1c", [e.ww, e.wr])):
                kinds = kinds + session
                cycle = self._cycle(kinds, members)
                if cycle:
                    return name + suffix, cycle
            single = self._single([e.ww, e.wr, *session], members)
            if single:
                name, cycle = single
                return name + suffix, cycle
        return None, []

    def _cycle(self, kinds: list[Edges], members: set[int]) -> list[int] | None:
        nodes = sorted(members)
        number = {node: i for i, node in enumerate(nodes)}
        inner = [[number[m] for kind in kinds for m in kind[n] if m in number] for n in nodes]
        for component in components(inner):
            start = min(component)
            steps = path(inner.__getitem__, start, start, set(component)) or component
            return [nodes[i] for i in steps]
        return None

    def _single(self, kinds: list[Edges], members: set[int]) -> tuple[str, list[int]] | None:
        """A cycle with exactly one rw: lost update if its reader went on to write the same list."""
        order = self._order

        def forward(node: int) -> Iterator[int]:
            for kind in kinds:
                yield from kind[node]

        skew: list[int] | None = None
        for _, (reader, writer) in zip(
            range(SEARCHES_MAX), self._overwritten(members), strict=False
        ):
            back = path(forward, writer, reader, members)
            if back is None:
                continue
            keys = order.edges.keys.get((reader, writer), set()) or set(order.unseen)
            mine, its = order.lists.appended[reader], order.lists.appended[writer]
            if order.lists.committed(reader) and any(k in mine and k in its for k in keys):
                return "lost update", [reader, *back]
            skew = skew or [reader, *back]
        return None if skew is None else ("read skew", skew)

    def _overwritten(self, members: set[int]) -> Iterator[tuple[int, int]]:
        order = self._order
        for reader in sorted(m for m in members if m < order.transactions):
            for node in order.edges.rw[reader]:
                if node >= order.transactions:
                    yield from ((reader, w) for w in order.edges.rw[node] if w in members)
                elif node in members:
                    yield reader, node
