"""What two or more vector-db services share: plain values, pure machinery, ports and adapters."""
