"""Records of a log: framed and checksummed, so that the first one that is not whole ends what counts."""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from athanor.errors import StorageError

_FRAME = struct.Struct("<4sIQI")
"""Magic, kind, length of the payload, CRC32C of the payload; the CRC32C of these follows."""
_MAGIC = b"ATR1"
_FRAME_BYTES = _FRAME.size + 4
_HEADER = struct.Struct("<16sQ")
_HEADER_MAGIC = b"athanor log 1\n\0\0"
LOG_HEADER_BYTES = _HEADER.size + 4
MOST_DIMENSIONS = 8
_DTYPE_KINDS = "fiubc"


def crc32c(data: bytes | memoryview) -> int:
    """CRC-32C (Castagnoli) of bytes, as the codec of Zarr computes it."""
    import google_crc32c

    return int(google_crc32c.value(bytes(data) if isinstance(data, memoryview) else data))


def frame(kind: int, payload: bytes) -> bytes:
    """A record: its frame, then the payload."""
    head = _FRAME.pack(_MAGIC, kind, len(payload), crc32c(payload))
    return b"".join((head, crc32c(head).to_bytes(4, "little"), payload))


def records(raw: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield kind, payload and end of every whole record from the start on, up to the first that is not."""
    place = 0
    while place + _FRAME_BYTES <= len(raw):
        head = raw[place : place + _FRAME.size]
        magic, kind, length, checksum = _FRAME.unpack(head)
        end = place + _FRAME_BYTES + length
        known = magic == _MAGIC and crc32c(head) == int.from_bytes(
            raw[place + _FRAME.size : place + _FRAME_BYTES], "little"
        )
        if not known or end > len(raw):
            return
        payload = raw[place + _FRAME_BYTES : end]
        if crc32c(payload) != checksum:
            return
        yield kind, payload, end
        place = end


def log_header(acknowledged: int) -> bytes:
    """First bytes of a log that is a file: how many bytes behind them are acknowledged."""
    head = _HEADER.pack(_HEADER_MAGIC, acknowledged)
    return head + crc32c(head).to_bytes(4, "little")


def acknowledged_length(raw: bytes, where: str) -> int:
    """Acknowledged bytes of a log, by its header.

    Raises
    ------
    StorageError
        If the header is damaged.
    """
    head, checksum = raw[: _HEADER.size], raw[_HEADER.size : LOG_HEADER_BYTES]
    if len(checksum) < 4 or crc32c(head) != int.from_bytes(checksum, "little"):
        raise StorageError(f"The first bytes of {where} are damaged.")
    magic, acknowledged = _HEADER.unpack(head)
    if magic != _HEADER_MAGIC:
        raise StorageError(f"{where} is not a log of a trajectory store.")
    return int(acknowledged)


def encode_arrays(arrays: dict[str, np.ndarray], more: Any = None) -> bytes:
    """Payload of arrays by name and some JSON: length of the JSON header, header, arrays one behind another."""
    listing = tuple((name, value.dtype.str, value.shape) for name, value in arrays.items())
    header = _header(listing) if not more else json.dumps([listing, more]).encode()
    parts: list[Any] = [np.ascontiguousarray(value) for value in arrays.values()]
    return b"".join((struct.pack("<Q", len(header)), header, *parts))


@functools.lru_cache(maxsize=256)
def _header(listing: tuple[tuple[str, str, tuple[int, ...]], ...]) -> bytes:
    return json.dumps([listing, None]).encode()


def decode_arrays(payload: bytes, where: str) -> tuple[dict[str, np.ndarray], Any]:
    """Inverse of `encode_arrays`; the arrays are views of `payload`.

    Raises
    ------
    StorageError
        If the header can not be: its checksum was right, so somebody wrote it so.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        (length,) = struct.unpack_from("<Q", payload, 0)
        if length > len(payload) - 8:
            raise ValueError("the header is longer than the record")
        listing, more = json.loads(payload[8 : 8 + length])
        offset = 8 + length
        for name, dtype, shape in listing:
            kind = np.dtype(str(dtype))
            if kind.kind not in _DTYPE_KINDS or len(shape) > MOST_DIMENSIONS or kind.itemsize == 0:
                raise ValueError(f"`{name}` is {dtype} of {len(shape)} dimensions")
            count = 1
            for size in shape:  # as Python integers, which do not overflow
                if not isinstance(size, int) or size < 0:
                    raise ValueError(f"`{name}` has a size {size!r}")
                count *= size
            if count * kind.itemsize > len(payload) - offset:
                raise ValueError(f"`{name}` is longer than the record")
            arrays[str(name)] = np.frombuffer(payload, kind, count, offset).reshape(shape)
            offset += count * kind.itemsize
    except (ValueError, TypeError, KeyError, struct.error, RecursionError) as error:
        raise StorageError(
            f"A record of {where} has an impossible header ({error}). It is damaged; do not use it."
        ) from error
    return arrays, more
