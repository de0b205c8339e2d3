"""Messages to bytes and back. Owns the wire format: ``VD | version u8 | 0 | msgpack``.

A newer version is refused by name; large binary columns are decoded as views, not copies.
"""

from __future__ import annotations

import msgspec

from vector_db.common.core.messages import AnyMessage
from vector_db.common.model.errors import NewerFormat

MESSAGE_VERSION = 1
_HEADER = bytes((0x56, 0x44, MESSAGE_VERSION, 0))
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


class BadMessage(Exception):
    """Bytes that are no message of ours."""


def encode(message: AnyMessage) -> bytes:
    """The framed bytes of `message`."""
    buffer = bytearray(_HEADER)
    _encoder.encode_into(message, buffer, len(_HEADER))
    return bytes(buffer)


def decode(data: bytes | memoryview) -> AnyMessage:
    """The message in `data`; binary columns are views into it.

    :raises NewerFormat: the format version is newer than this program's.
    :raises BadMessage: not a message of ours.
    """
    view = memoryview(data)
    if len(view) < 4 or view[0] != 0x56 or view[1] != 0x44:
        raise BadMessage("not a vector-db message")
    if view[2] > MESSAGE_VERSION:
        raise NewerFormat(f"message format {view[2]}, this program knows up to {MESSAGE_VERSION}")
    try:
        return _decoder.decode(view[4:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(str(error)) from error
