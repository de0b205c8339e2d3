"""What every message is, and the reply that any request may get."""

from __future__ import annotations

from typing import Any

import msgspec


class Message(msgspec.Struct, frozen=True, tag=True):
    """Base of all messages; the tag is the class name."""


class ErrorReply(Message, frozen=True):
    """The far side's `VectorDBError`."""

    code: str
    message: str
    details: dict[str, Any]
