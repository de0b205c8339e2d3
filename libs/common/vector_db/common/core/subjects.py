"""Names of subjects and streams: who listens where. A term has logs of its own (docs/adr/0003)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogName:
    """A log: the stream that keeps it and the one subject that is published to."""

    stream: str
    subject: str


def shard_log(term: int, shard: int) -> LogName:
    """PREPARE and STAGE records of one shard in one term."""
    return LogName(f"VDB_SHARD_{shard}_{term}", f"vdb.shard.{shard}.{term}.log")


def decision_log(term: int, domain: int = 0) -> LogName:
    """The decision records of one domain in one term."""
    return LogName(f"VDB_TXN_{domain}_{term}", f"vdb.txn.{domain}.{term}.decision")


def votes(domain: int = 0) -> str:
    """Votes and durable cursors, to the sequencer."""
    return f"vdb.txn.{domain}.votes"


def beats(domain: int = 0) -> str:
    """The sequencer's beat to everyone."""
    return f"vdb.txn.{domain}.beat"


def outcomes(gateway: str) -> str:
    """Outcomes to one gateway."""
    return f"vdb.gateway.{gateway}.outcomes"


def gateways() -> str:
    """Work for any one gateway: they share the requests."""
    return "vdb.gateways.requests"


def sequencer(term: int = 0, domain: int = 0) -> str:
    """Catalog, status and strong-read requests to the sequencer of a domain: to that of a term, or
    (0) to whoever serves, which may be one that stands still and does not know that it is over."""
    return f"vdb.txn.{domain}.{term}.sequencer" if term else f"vdb.txn.{domain}.sequencer"


def members() -> str:
    """Heartbeats of shard workers."""
    return "vdb.cluster.members"


def promises(domain: int = 0) -> str:
    """A candidate's promise requests to all workers; they answer on `promise_replies`."""
    return f"vdb.txn.{domain}.promise"


def promise_replies(coordinator: str) -> str:
    """Promises to one candidate."""
    return f"vdb.coordinator.{coordinator}.promises"


def worker(worker_id: str) -> str:
    """Read requests to one shard worker."""
    return f"vdb.worker.{worker_id}.requests"


def log_term(stream: str) -> int:
    """The term of a log by its stream's name; 0 for a stream that is none of ours."""
    kind, _, rest = stream.partition("_")
    number, _, term = rest.removeprefix("SHARD_").removeprefix("TXN_").partition("_")
    return int(term) if kind == "VDB" and number.isdigit() and term.isdigit() else 0
