"""Backups of a whole cluster: made from running workers, listed, verified, and written into another
cluster. A command line beside the worker: nothing of the worker imports it."""
