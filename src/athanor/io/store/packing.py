"""Arrays in a payload: a header that names them, and their bytes one behind another.

Most frames of a run are packed alike: what a header says is worked out once, and such payloads are unpacked together.
"""

from __future__ import annotations

import functools
import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from athanor.errors import StorageError

MOST_DIMENSIONS = 8
_DTYPE_KINDS = "fiubc"
_LENGTH = struct.Struct("<Q")
_MOST_KEPT_BYTES = 1 << 13


class Place(NamedTuple):
    """One array of a payload."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class Packing:
    """How arrays lie in a payload.

    Parameters
    ----------
    header
        JSON of names, dtypes and shapes, and of anything more that is said.

    Raises
    ------
    ValueError, TypeError
        If the header can not be.
    """

    def __init__(self, header: bytes) -> None:
        self._begin = _LENGTH.pack(len(header)) + header
        listing, self.more = json.loads(header)
        self.places: list[Place] = []
        self.nbytes = len(self._begin)
        for name, dtype, shape in listing:
            kind = np.dtype(str(dtype))
            if kind.kind not in _DTYPE_KINDS or len(shape) > MOST_DIMENSIONS or kind.itemsize == 0:
                raise ValueError(f"`{name}` is {dtype} of {len(shape)} dimensions")
            size = kind.itemsize
            for rows in shape:  # as Python integers, which do not overflow
                if type(rows) is not int or rows < 0:
                    raise ValueError(f"`{name}` has a size {rows!r}")
                size *= rows
            start, self.nbytes = self.nbytes, self.nbytes + size
            self.places.append(Place(str(name), kind, tuple(shape), start, self.nbytes))

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], more: Any = None) -> Packing:
        """Packing of arrays like these."""
        listing = tuple([(name, value.dtype, value.shape) for name, value in arrays.items()])
        return _make(listing, more) if more else _known(listing)

    @classmethod
    def read(cls, payload: bytes, where: str) -> Packing:
        """Packing by the header of a payload, whose checksum was right: somebody wrote it so.

        Raises
        ------
        StorageError
            If the header can not be.
        """
        try:
            (length,) = _LENGTH.unpack_from(payload, 0)
            if length > len(payload) - _LENGTH.size:
                raise ValueError("the header is longer than the record")
            header = payload[_LENGTH.size : _LENGTH.size + length]
            packing = _parsed(header) if length < _MOST_KEPT_BYTES else cls(header)
            if packing.nbytes != len(payload):
                raise ValueError(f"its arrays are {packing.nbytes:,} bytes long, the record {len(payload):,}")
        except (ValueError, TypeError, KeyError, struct.error, RecursionError) as error:
            raise StorageError(
                f"A record of {where} has an impossible header ({error}). It is damaged; do not use it."
            ) from error
        return packing

    def pack(self, arrays: Mapping[str, np.ndarray]) -> bytes:
        """Payload of the arrays that the packing was made for."""
        parts: list[Any] = [self._begin, *map(np.ascontiguousarray, arrays.values())]
        return b"".join(parts)

    def unpack(self, payloads: Sequence[bytes]) -> Iterator[tuple[str, np.ndarray]]:
        """Yield each array of payloads that are packed so, its rows behind one another; views if there is one."""
        if len(payloads) == 1:
            for name, dtype, shape, start, _ in self.places:
                count = math.prod(shape)
                yield name, np.frombuffer(payloads[0], dtype, count, start).reshape(shape)
            return
        table = np.frombuffer(b"".join(payloads), np.uint8).reshape(len(payloads), -1)
        for name, dtype, shape, start, end in self.places:
            rows = np.ascontiguousarray(table[:, start:end]).view(dtype)
            yield name, rows.reshape(len(payloads) * shape[0], *shape[1:])


def _make(listing: tuple[tuple[str, np.dtype, tuple[int, ...]], ...], more: Any) -> Packing:
    return Packing(json.dumps([[(name, dtype.str, shape) for name, dtype, shape in listing], more]).encode())


@functools.lru_cache(maxsize=1024)
def _known(listing: tuple[tuple[str, np.dtype, tuple[int, ...]], ...]) -> Packing:
    return _make(listing, None)


@functools.lru_cache(maxsize=64)
def _parsed(header: bytes) -> Packing:
    return Packing(header)


def pack_arrays(arrays: Mapping[str, np.ndarray], more: Any = None) -> bytes:
    """Payload of arrays by name, and of some JSON."""
    return Packing.of(arrays, more).pack(arrays)


def unpack_arrays(payload: bytes, where: str) -> tuple[dict[str, np.ndarray], Any]:
    """Inverse of `pack_arrays`; the arrays are views of `payload`.

    Raises
    ------
    StorageError
        If its header can not be.
    """
    packing = Packing.read(payload, where)
    return dict(packing.unpack([payload])), packing.more
