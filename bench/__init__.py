"""Benchmarks: `make bench-write`, `make bench-query`. Each prints what it compares itself with."""
