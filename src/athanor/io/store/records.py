"""Records of a log: framed and checksummed, so that the first one that is not whole ends what counts."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from athanor.errors import StorageError

_FRAME = struct.Struct("<4sIQI")
"""Magic, kind, length of the payload, CRC32C of the payload; the CRC32C of these follows."""
_MAGIC = b"ATR1"
_FRAME_BYTES = _FRAME.size + 4
_HEADER = struct.Struct("<16sQ")
_HEADER_MAGIC = b"athanor log 1\n\0\0"
LOG_HEADER_BYTES = _HEADER.size + 4


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
