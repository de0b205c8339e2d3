"""Files and memory of the shard worker: WAL, segments, manifest, recovery. Never awaits."""
