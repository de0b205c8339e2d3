"""What a backup command tells its operator in one line."""

from __future__ import annotations


class BackupError(Exception):
    """It cannot be done; the message is the one line that the operator sees."""


class Unfinished(BackupError):
    """A directory without a manifest: its backup was never finished, and is none."""


class Damaged(BackupError):
    """A file of the backup is missing or not what it was; the message names it."""
