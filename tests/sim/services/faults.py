"""What goes wrong in a run: a seeded choice of faults, then one after another, then all is healed.

Each seed enables some kinds of faults only, so that runs differ in kind and not in timing alone.
Owns the invariant that `heal` leaves nothing broken: what fails after it is the product's fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from tests.sim.services.bus import Copy, Weather
from tests.sim.services.cluster import Cluster, Node

Fault = Callable[[], Awaitable[None]]


class Faults:
    """The faults of one run."""

    def __init__(self, cluster: Cluster, random: Random) -> None:
        self._cluster = cluster
        self._random = random
        self._copies: list[Copy] = []
        self.kinds: dict[str, Fault] = {
            "crash": self.crash,
            "power cut": self.power_cut,
            "power cut in a disk operation": self.cut_in_operation,
            "fsync error": self.sync_error,
            "disk full": self.disk_full,
            "restart": self.restart,
            "partition": self.partition,
            "broker bounce": self.bounce,
            "broker wiped": self.wipe,
            "broker rolled back": self.roll_back,
            "broker damaged": self.damage,
            "record spoiled": self.spoil,
            "clock jump": self.clock_jump,
            "bad weather": self.bad_weather,
        }
        names = list(self.kinds)
        self.enabled = [n for n in names if random.random() < 0.4] or [random.choice(names)]
        self.pause_s = random.choice([0.3, 0.8, 2.0])

    async def run(self, duration_s: float) -> None:
        """Faults until the time is over."""
        loop = asyncio.get_running_loop()
        until = loop.time() + duration_s
        while loop.time() < until:
            await asyncio.sleep(self.pause_s * self._random.random() * 2)
            self._copies = [*self._copies[-3:], self._cluster.broker.copy()]
            name = self._random.choice(self.enabled)
            self._cluster.trace.note(f"fault {name}")
            self._cluster.count(f"fault: {name}")
            await self.kinds[name]()

    def heal(self) -> None:
        """End every fault."""
        cluster = self._cluster
        cluster.trace.note("heal")
        cluster.broker.weather = Weather()
        for node in cluster.nodes:
            node.disk.faults.cut_after = None
            node.disk.faults.sync_error_after = None
            node.disk.faults.full = False
            node.cut_off = False
            node.start()
        if not cluster.broker.up:
            cluster.broker.start()
        for node in cluster.nodes:
            if node.life is not None and node.life.bus is not None:
                node.life.bus.regain()

    # --- nodes --------------------------------------------------------------------------------

    def _node(self) -> Node:
        return self._random.choice(self._cluster.nodes)

    def _shard(self) -> Node:
        return self._random.choice(self._cluster.shards)

    async def crash(self) -> None:
        """SIGKILL; its supervisor starts it anew."""
        self._node().crash(power=False)

    async def power_cut(self) -> None:
        nodes = self._random.sample(self._cluster.nodes, self._random.randint(1, 2))
        for node in nodes:
            node.crash(power=True)

    async def cut_in_operation(self) -> None:
        self._shard().disk.faults.cut_after = self._random.randint(0, 30)

    async def sync_error(self) -> None:
        self._shard().disk.faults.sync_error_after = self._random.randint(0, 20)

    async def disk_full(self) -> None:
        node = self._shard()
        node.disk.faults.full = True
        self._later(self._random.random() * 3, lambda: _not_full(node))

    async def restart(self) -> None:
        """An orderly stop, then a start."""
        node = self._node()
        await node.stop()
        await asyncio.sleep(self._random.random() * 0.5)
        node.start()

    # --- the network --------------------------------------------------------------------------

    async def partition(self) -> None:
        """A node loses the broker, and finds out at once or later."""
        node = self._node()
        if node.life is None or node.life.bus is None or node.cut_off:
            return
        node.cut_off = True
        node.life.bus.lose(self._random.choice([0.0, self._random.random() * 2.0]))
        self._later(self._random.random() * 4, lambda: _join(node))

    async def bad_weather(self) -> None:
        weather = self._cluster.broker.weather
        weather.loss = self._random.choice([0.0, 0.01, 0.1])
        weather.repeat = self._random.choice([0.0, 0.05])
        weather.slow = self._random.choice([0.0, 0.1, 0.5])
        weather.slow_s = self._random.choice([0.02, 0.3])
        self._later(self._random.random() * 3, self._fair)

    def _fair(self) -> None:
        self._cluster.broker.weather = Weather()

    async def clock_jump(self) -> None:
        node = self._node()
        scale_ms = self._random.choice([1_000, 60_000, 7_200_000])
        node.clock.skew_ms += self._random.randint(-scale_ms, scale_ms)

    # --- the broker ---------------------------------------------------------------------------

    async def _while_down(self, act: Callable[[], object]) -> None:
        broker = self._cluster.broker
        if not broker.up:
            return
        broker.stop()
        await asyncio.sleep(self._random.random() * 2)
        self._cluster.trace.note(f"broker {act()}")
        broker.start()

    async def bounce(self) -> None:
        await self._while_down(lambda: "unharmed")

    async def wipe(self) -> None:
        await self._while_down(lambda: self._cluster.broker.replace({}))

    async def roll_back(self) -> None:
        copy = self._random.choice(self._copies)
        await self._while_down(lambda: self._cluster.broker.replace(copy))

    async def damage(self) -> None:
        await self._while_down(self._cluster.broker.damage)

    async def spoil(self) -> None:
        self._cluster.trace.note(f"broker spoiled {self._cluster.broker.spoil()}")

    def _later(self, delay_s: float, act: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(delay_s, act)


def _not_full(node: Node) -> None:
    node.disk.faults.full = False


def _join(node: Node) -> None:
    node.cut_off = False
    if node.life is not None and node.life.bus is not None:
        node.life.bus.regain()
