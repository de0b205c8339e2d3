"""Vector indexes over one segment. Never awaits."""
