"""How large the compressed buffers of an Arrow IPC stream will become, read from its headers alone.

Arrow allocates what a compressed buffer claims to expand to, so 64 MB could ask for terabytes. This
walks the stream's messages (Arrow columnar format, "Encapsulated message format" and `Message.fbs`)
without decompressing anything. Every read is bounds-checked by `struct`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from vector_db.common.model.errors import InvalidArgument, TooLarge
from vector_db.common.model.limits import Limits

_CONTINUATION = 0xFFFFFFFF
_SCHEMA, _RECORD_BATCH = 1, 3
# Positions of fields in their flatbuffers tables.
_MESSAGE_HEADER_TYPE, _MESSAGE_HEADER, _MESSAGE_BODY_LENGTH = 1, 2, 3
_BATCH_BUFFERS, _BATCH_COMPRESSION = 2, 3
_BUFFERS_MAX = 16
"""More than the four columns that are understood could have."""


def check_expansion(body: bytes, limits: Limits) -> None:
    """Refuse a stream whose compressed buffers claim more than `body_bytes_max` in all.

    :raises TooLarge: they do.
    :raises InvalidArgument: the stream's framing is malformed, or holds dictionaries.
    """
    total = 0
    try:
        for number, (header_type, header, start, length) in enumerate(_messages(body)):
            if number > limits.rows_per_batch_max:
                raise TooLarge(
                    "more record batches than rows are allowed "
                    f"(the limit rows_per_batch_max is {limits.rows_per_batch_max})"
                )
            if header_type not in (_SCHEMA, _RECORD_BATCH):
                raise InvalidArgument("body: an Arrow stream with dictionaries is not understood")
            if header_type == _RECORD_BATCH:
                total += _expanded_bytes(body, header, start, length)
    except struct.error:
        raise InvalidArgument("body: not a valid Arrow IPC stream (broken framing)") from None
    if total > limits.body_bytes_max:
        raise TooLarge(
            f"the body expands to over {limits.body_bytes_max} bytes (the limit body_bytes_max)"
        )


def _messages(body: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(header type, position of the header table, start and length of the message's body)."""
    at = 0
    while at < len(body):
        (size,) = struct.unpack_from("<I", body, at)
        at += 4
        if size == _CONTINUATION:
            (size,) = struct.unpack_from("<I", body, at)
            at += 4
        if size == 0:
            return
        message = at + _u32(body, at)
        kind = _field(body, message, _MESSAGE_HEADER_TYPE)
        header = _field(body, message, _MESSAGE_HEADER)
        length_at = _field(body, message, _MESSAGE_BODY_LENGTH)
        length = struct.unpack_from("<q", body, length_at)[0] if length_at else 0
        start = at + size
        if not kind or not header or length < 0 or start + length > len(body):
            raise struct.error
        (header_type,) = struct.unpack_from("<B", body, kind)
        yield header_type, header + _u32(body, header), start, length
        at = start + length


def _expanded_bytes(body: bytes, batch: int, start: int, length: int) -> int:
    if not _field(body, batch, _BATCH_COMPRESSION):
        return 0
    vector_at = _field(body, batch, _BATCH_BUFFERS)
    if not vector_at:
        return 0
    vector = vector_at + _u32(body, vector_at)
    total = 0
    count = _u32(body, vector)
    if count > _BUFFERS_MAX:
        raise struct.error
    for i in range(count):
        offset, size = struct.unpack_from("<qq", body, vector + 4 + 16 * i)
        if size == 0:
            continue
        if offset < 0 or size < 8 or offset + size > length:
            raise struct.error
        (expanded,) = struct.unpack_from("<q", body, start + offset)
        if expanded < -1:
            raise struct.error
        total += size if expanded == -1 else expanded
    return total


def _u32(body: bytes, at: int) -> int:
    value: int = struct.unpack_from("<I", body, at)[0]
    return value


def _field(body: bytes, table: int, index: int) -> int:
    """Where a table's field lies, 0 when it is absent."""
    vtable = table - struct.unpack_from("<i", body, table)[0]
    if vtable < 0:
        raise struct.error
    (size,) = struct.unpack_from("<H", body, vtable)
    place = 4 + 2 * index
    if place + 2 > size:
        return 0
    (offset,) = struct.unpack_from("<H", body, vtable + place)
    return table + offset if offset else 0
