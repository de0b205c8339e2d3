"""Messages to bytes and back. Owns the wire format: ``VD | version u8 | kind u8 | msgpack``.

Kind 0 is as it says; kind 1, for what goes into logs, has a crc32c (u32, little-endian) of the rest
before it: logs pass through the hands of a broker whose store may be damaged. A newer version is
refused by name; large binary columns are decoded as views, not copies.
"""

from __future__ import annotations

import google_crc32c
import msgspec

from vector_db.common.core.messages import AnyMessage
from vector_db.common.core.messages.decisions import DecisionRecord
from vector_db.common.core.messages.transactions import Prepare, Stage
from vector_db.common.model.errors import NewerFormat

MESSAGE_VERSION = 1
_PLAIN, _CHECKED = 0, 1
_HEADER = bytes((0x56, 0x44, MESSAGE_VERSION, _PLAIN))
_CHECKED_HEADER = bytes((0x56, 0x44, MESSAGE_VERSION, _CHECKED))
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


class BadMessage(Exception):
    """Bytes that are no message of ours."""


def encode(message: AnyMessage) -> bytes:
    """The framed bytes of `message`."""
    if isinstance(message, Prepare | Stage | DecisionRecord):
        body = _encoder.encode(message)
        crc: int = google_crc32c.value(body)
        return b"".join((_CHECKED_HEADER, crc.to_bytes(4, "little"), body))
    buffer = bytearray(_HEADER)
    _encoder.encode_into(message, buffer, len(_HEADER))
    return bytes(buffer)


def decode(data: bytes | memoryview) -> AnyMessage:
    """The message in `data`; binary columns are views into it.

    :raises NewerFormat: the format version is newer than this program's.
    :raises BadMessage: not a message of ours.
    """
    view = memoryview(data)
    if len(view) < 4 or view[0] != 0x56 or view[1] != 0x44 or view[2] == 0:
        raise BadMessage("not a vector-db message")
    if view[2] > MESSAGE_VERSION:
        raise NewerFormat(f"message format {view[2]}, this program knows up to {MESSAGE_VERSION}")
    body = view[4:]
    if view[3] == _CHECKED:
        body = view[8:]
        if google_crc32c.value(bytes(body)) != int.from_bytes(view[4:8], "little"):
            raise BadMessage("a record of a log does not match its checksum")
    elif view[3] != _PLAIN:
        raise BadMessage(f"a message of unknown kind {view[3]}")
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(str(error)) from error
