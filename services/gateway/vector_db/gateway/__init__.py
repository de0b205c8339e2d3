"""The edge: REST and gRPC, routing, transactions' client side, scatter-gather and merge."""
