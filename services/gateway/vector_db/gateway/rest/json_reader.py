"""JSON bodies as simdjson sees them: parsed once, numbers copied out as columns.

Owns the invariant that no lazily parsed value outlives the call that parsed it, so that one parser
(and its buffers) serves all requests of the event loop. A float array becomes NumPy without a
Python object a number; everything else becomes plain Python only when a model asks for it.
"""

from __future__ import annotations

import binascii
from typing import Any, TypeAlias

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray

from vector_db.common.model.errors import InvalidArgument
from vector_db.common.model.limits import Limits
from vector_db.common.model.rows import F32
from vector_db.gateway.core.rows import check_dimension

Lazy: TypeAlias = Any
"""What simdjson hands out: `simdjson.Object`, `simdjson.Array` or a plain scalar."""

Floats: TypeAlias = NDArray[np.float64] | F32

_SHARED_PARSER_BYTES_MAX = 1 << 20
"""A parser keeps buffers of several times its largest document: larger ones get their own."""

FILTER_BYTES_MAX = 1 << 20
"""Largest filter, as JSON text, that becomes Python objects at all."""


class JsonReader:
    """Parses request bodies; one per event loop."""

    def __init__(self) -> None:
        self._parser = simdjson.Parser()

    def parse_object(self, body: bytes) -> Lazy:
        """The `simdjson.Object` of `body`; drop it, and all taken from it, before the next call.

        :raises InvalidArgument: not JSON (NaN, numbers beyond double or 64 bits, invalid UTF-8 and
            over 1,024 levels included), or not an object.
        """
        document = self._parse(body)
        if not isinstance(document, simdjson.Object):
            raise InvalidArgument("body: must be a JSON object")
        return document

    def _parse(self, body: bytes) -> Lazy:
        small = len(body) <= _SHARED_PARSER_BYTES_MAX
        parser = self._parser if small else simdjson.Parser()
        try:
            return parser.parse(body)
        except (ValueError, RuntimeError) as error:
            if "re-use" in str(error):
                # A traceback still holds a value of an earlier body: let it have that parser.
                self._parser = simdjson.Parser()
                return self._parse(body)
            reason = explain_bad_json(body, error)
        raise InvalidArgument(f"body: not valid JSON ({reason})")


def explain_bad_json(body: bytes, error: Exception) -> str:
    """Why `body` is no JSON, with line and column where a second parser can tell."""
    if not body.strip():
        return "it is empty"
    if "BIGINT" in str(error):
        return "an integer beyond 64 bits"
    if len(body) <= _SHARED_PARSER_BYTES_MAX:
        try:
            orjson.loads(body)
        except orjson.JSONDecodeError as second:
            return str(second)
    return str(error).rsplit(": ", 1)[-1][:200]


def to_plain(value: Lazy) -> Any:
    """`value` as plain Python, recursively."""
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    if isinstance(value, simdjson.Array):
        return value.as_list()
    return value


def bounded_plain(value: Lazy, where: str, bytes_max: int) -> Any:
    """`to_plain`, refusing what is larger than `bytes_max` of JSON text before it is built.

    :raises InvalidArgument: it is larger.
    """
    if isinstance(value, (simdjson.Object, simdjson.Array)) and len(value.mini) > bytes_max:
        raise InvalidArgument(f"{where}: over {bytes_max} bytes of JSON")
    return to_plain(value)


def read_vector(value: Lazy, where: str, limits: Limits, flat: bool = False) -> F32:
    """float32[d] from a list of numbers or a base64 string of little-endian float32.

    A number beyond float32 becomes infinite, which the finiteness check then names.

    :param flat: the caller knows that the array holds no array.
    :raises InvalidArgument: anything else, no number, more than `dimension_max`.
    """
    return narrow([read_numbers(value, where, limits, flat)])


def narrow(parts: list[Floats]) -> F32:
    """float32 of all parts, one after another."""
    with np.errstate(over="ignore"):
        return np.concatenate(parts, dtype=np.float32, casting="same_kind")


def read_numbers(value: Lazy, where: str, limits: Limits, flat: bool) -> Floats:
    """float64[d] from a list of numbers, float32[d] from a base64 string.

    :raises InvalidArgument: anything else, no number, more than `dimension_max`.
    """
    if isinstance(value, str):
        return _read_base64(value, where, limits)
    if not isinstance(value, simdjson.Array):
        raise InvalidArgument(f"{where}: must be a list of numbers or a base64 string")
    check_dimension(len(value), limits, where)
    if not flat:
        _check_no_nesting(value, where)
    try:
        return np.frombuffer(value.as_buffer(of_type="d"), dtype=np.float64)
    except TypeError:
        pass
    _check_no_nesting(value, where)
    raise InvalidArgument(f"{where}: must be a list of numbers")


def _check_no_nesting(array: Lazy, where: str) -> None:
    """`as_buffer` flattens nested arrays, so they are refused before it is asked."""
    plain = array.as_list()
    if set(map(type, plain)) <= {int, float}:
        return
    place = next(i for i, item in enumerate(plain) if type(item) not in (int, float))
    raise InvalidArgument(f"{where}[{place}]: must be a number")


def _read_base64(text: str, where: str, limits: Limits) -> F32:
    """float32[d] from a base64 string of little-endian float32.

    :raises InvalidArgument: not base64, not a whole number of floats, over `dimension_max`.
    """
    try:
        raw = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise InvalidArgument(f"{where}: not valid base64 ({error})") from None
    if len(raw) % 4:
        raise InvalidArgument(
            f"{where}: {len(raw)} bytes of base64, float32 numbers take 4 bytes each"
        )
    check_dimension(len(raw) // 4, limits, where)
    return np.frombuffer(raw, dtype="<f4").astype(np.float32, copy=False)
