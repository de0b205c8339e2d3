"""The sequencer of each domain: 2PC decisions, the clock, catalog, placement."""
