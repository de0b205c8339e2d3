"""Other databases on the same rows and the same machine: `make bench-peers`."""
