"""Search over segment views: filters, candidates, rescoring, merge. Never awaits."""
