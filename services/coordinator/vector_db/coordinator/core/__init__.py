"""Pure machines of the coordinator: sequencer, takeover, placement of new shards."""
