"""The real world behind the ports: NATS, the local loopback, POSIX files."""
