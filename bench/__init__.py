"""Benchmarks: `make bench-write`, `bench-query`, `bench-txn`. Each prints what it compares itself with."""
