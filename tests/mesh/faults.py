"""Which faults there are, and when they come: all drawn from the seed before a run begins.

Owns the fairness of a run: every kind of fault on every kind of process comes once before any comes
again, so that ten minutes have met them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random

from tests.mesh.links import Weather

LEADER = "leader"
"""A target: the coordinator that leads when the fault comes."""
NETWORK: tuple[str, ...] = ("cut", "cut up", "cut down", "delay", "loss", "reset")
ANYONE: tuple[str, ...] = ("kill", "pause", *NETWORK)
OUTAGE_S_MAX = 10.0


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one process, and for how long.

    `kind`: kill (started again after `lasts_s`), lose (killed, and its disk is empty), pause
    (SIGSTOP), what becomes of all links of a service to the brokers, or of a broker to the services
    (cut: nothing passes, or nothing one way; delay; loss; reset), slow disk.
    """

    kind: str
    target: str
    lasts_s: float
    weather: Weather = field(default_factory=Weather)
    sync_ms: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind} {self.target} for {self.lasts_s:.1f} s"

    @property
    def name(self) -> str:
        """Kind and kind of process: what figures count."""
        return f"{self.kind} {self.target.rstrip('0123456789')}"


def schedule(seed: int, counts: Mapping[str, int], brokers: int) -> Iterator[Fault]:
    """Faults without end, for so many services of each kind and so many brokers.

    A lone broker is killed and started again at once: while it is away nobody can answer.
    """
    random = Random(f"faults-{seed}")
    while True:
        deck = [(kind, which) for which in counts for kind in ANYONE]
        deck += [("slow disk", "shard"), ("lose", "shard")] * ("shard" in counts)
        deck += [(kind, "broker") for kind in (ANYONE if brokers > 1 else ("kill",))]
        random.shuffle(deck)
        for kind, which in deck:
            yield _fault(random, kind, which, counts, brokers)


def _fault(random: Random, kind: str, which: str, counts: Mapping[str, int], brokers: int) -> Fault:
    count = brokers if which == "broker" else counts[which]
    target = f"{which}{random.randrange(count)}"
    if which == "coordinator" and random.random() < 0.8:
        target = LEADER
    lasts_s = random.uniform(1.0, OUTAGE_S_MAX)
    match kind:
        case "kill":
            alone = which == "broker" and brokers == 1
            return Fault(kind, target, 0.0 if alone else random.choice((0.0, lasts_s / 2)))
        case "cut":
            return Fault(kind, target, lasts_s, Weather(blocked=("up", "down")))
        case "cut up":
            return Fault(kind, target, lasts_s, Weather(blocked=("up",)))
        case "cut down":
            return Fault(kind, target, lasts_s, Weather(blocked=("down",)))
        case "delay":
            low = random.uniform(50, 200)
            return Fault(kind, target, lasts_s, Weather(delay_ms=(low, low + 100)))
        case "loss":
            return Fault(kind, target, lasts_s, Weather(stall_share=0.05))
        case "reset":
            return Fault(kind, target, 0.0, Weather(reset=True))
        case "slow disk":
            return Fault(kind, target, lasts_s, sync_ms=random.uniform(50, 300))
        case _:
            return Fault(kind, target, lasts_s)
