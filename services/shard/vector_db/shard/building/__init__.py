"""Merges and index builds, done apart from the worker in niced processes. Never awaits."""
