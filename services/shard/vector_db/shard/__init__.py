"""The shard worker: WAL, participant, MVCC storage, indexes and search."""
