"""`make bench-write`, `bench-query`, `bench-txn`: each prints what it compares itself with."""
