"""Pure machinery that two services need. No clock, no randomness, no I/O."""
