"""The protocol's pure machines over simulated logs: thousands of seeds in minutes."""
