"""One array of a store of format version 0: chunks that are files of their own, each ``bytes``, ``zstd``, ``crc32c``.

Read here and not by zarr, because nothing of what a file says of itself is believed: a size is compared with what the
writers of that version made, and a checksum is looked at before anything is made of the bytes.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from athanor.errors import StorageError
from athanor.io._replace import PARTIAL
from athanor.io.store.medium import Medium
from athanor.io.store.records import crc32c
from athanor.io.store.shards import fill_value

MOST_CHUNK_BYTES = 1 << 22
"""Of a chunk that is unpacked; writers made some of 1 MiB."""
_LEAST_CHUNK_BYTES = 8
_CODECS = ["bytes", "zstd", "crc32c"]


class OldArray:
    """An array, as its ``zarr.json`` says, which must be what the commit record says of its field.

    Parameters
    ----------
    medium
        The store.
    path
        Where it is.
    dtype, shape
        Of a row.
    is_whole
        Whether a chunk that is missing is damage; else it held nothing but fill values.

    Raises
    ------
    StorageError
        If it is missing, damaged or another one.
    """

    def __init__(self, medium: Medium, path: str, dtype: np.dtype, shape: tuple[int, ...], *, is_whole: bool) -> None:
        self._medium, self._path, self._dtype, self._is_whole = medium, path, dtype, is_whole
        self._name = f"Array `{path}` of {medium.where}"
        found = medium.read(f"{path}/zarr.json")
        try:
            said: dict[str, Any] = json.loads(found or b"null")
            rows, *_ = said["chunk_grid"]["configuration"]["chunk_shape"]
            wanted = {
                "data_type": dtype.name,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [rows, *shape]}},
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            }
            if any(said[key] != value for key, value in wanted.items()) or said["shape"][1:] != list(shape):
                raise ValueError("another dtype or shape than the commit record says")
            if [codec["name"] for codec in said["codecs"]] != _CODECS:
                raise ValueError("other codecs than those of this version")
            if type(rows) is not int or rows < 1:
                raise ValueError(f"chunks of {rows!r} rows")
            self.rows: int = said["shape"][0]
            if type(self.rows) is not int or not 0 <= self.rows < 1 << 62:
                raise ValueError(f"{self.rows!r} rows")
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise StorageError(f"{self._name} is missing or damaged ({str(error)[:200]}).") from error
        self.chunk_rows, self._shape = rows, (rows, *shape)
        self._chunk_bytes = dtype.itemsize * int(np.prod(self._shape, dtype=object))
        if self._chunk_bytes > MOST_CHUNK_BYTES:
            raise StorageError(f"{self._name} has chunks of {self._chunk_bytes:,} bytes, more than is read.")
        self._suffix = "/0" * len(shape)

    def most_rows(self) -> int:
        """How many rows there can be, by the chunks that are there."""
        prefix = f"{self._path}/c/"
        numbers = [key.removeprefix(prefix).partition("/")[0] for key in self._medium.list_keys(prefix)
                   if not key.endswith(PARTIAL)]  # fmt: skip
        return self.chunk_rows * len(numbers)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Gather rows; no chunk is read twice.

        Raises
        ------
        StorageError
            If a chunk is missing or damaged; it is named.
        """
        out = np.empty((len(numbers), *self._shape[1:]), dtype=self._dtype)
        if not len(numbers):
            return out
        if numbers.max() >= self.rows:
            raise StorageError(f"{self._name} is shorter than the commit record says.")
        chunks = numbers // self.chunk_rows
        for number in np.unique(chunks).tolist():
            here = chunks == number
            out[here] = self._chunk(number)[numbers[here] - number * self.chunk_rows]
        return out

    def _chunk(self, number: int) -> np.ndarray:
        name = f"Chunk {number} of array `{self._path}` of {self._medium.where}"
        raw = self._medium.read(f"{self._path}/c/{number}{self._suffix}")
        if raw is None:
            if self._is_whole:
                raise StorageError(f"{name} is missing.")
            return np.full(self._shape, fill_value(self._dtype), dtype=self._dtype)
        packed = raw[:-4]
        if len(raw) < _LEAST_CHUNK_BYTES or crc32c(packed) != int.from_bytes(raw[-4:], "little"):
            raise StorageError(f"{name} is damaged: its checksum differs.")
        from numcodecs.zstd import decompress

        plain = np.zeros(self._chunk_bytes, dtype=np.uint8)
        try:
            decompress(packed, plain)  # into so many bytes and no more
        except (RuntimeError, ValueError) as error:
            raise StorageError(f"{name} can not be unpacked ({error}). It is damaged; do not use it.") from error
        return plain.view(self._dtype.newbyteorder("<")).reshape(self._shape)
