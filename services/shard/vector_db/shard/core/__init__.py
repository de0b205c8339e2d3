"""Pure machines of the shard worker: participant, visibility, planning."""
