"""Arrays of a store: their Zarr metadata, and shards, files of many small compressed chunks that end with an index.

What is written here is what ``sharding_indexed``, ``blosc`` and ``crc32c`` of Zarr 3 say
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/), so that every Zarr reads it. It is done here
and not by zarr because a frame is then read by one look at each of its chunks, without an event loop, and because
checksums are looked at before anything is made of the bytes.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from athanor.errors import StorageError
from athanor.io.store.medium import Medium, ReplacedError, Source
from athanor.io.store.records import crc32c

INNER_BYTES = 1 << 16
MOST_SYSTEM_ROWS = 1 << 14
_ABSENT = np.uint64(2**64 - 1)
_BLOSC_HEADER = 16
_OPEN_SHARDS = 48
_KEPT_CHUNKS = 128
_ATTEMPTS = 10
_AT_ONCE_BYTES = 1 << 26


def fill_value(dtype: np.dtype) -> float | int | bool:
    """NaN for floats, -1 for integers (the largest value if unsigned), False for booleans."""
    if dtype.kind in "fc":
        return float("nan")
    if dtype.kind == "b":
        return False
    return int(np.iinfo(dtype).max) if dtype.kind == "u" else -1


@dataclass(frozen=True)
class ArraySpec:
    """One array: where it is, what a row is, how many rows stand in a chunk and in a shard."""

    path: str
    dtype: np.dtype
    shape: tuple[int, ...]
    inner_rows: int
    shard_rows: int

    @classmethod
    def sized(
        cls, path: str, dtype: np.dtype, shape: tuple[int, ...], shard_bytes: int, *, per_atom: bool
    ) -> ArraySpec:
        """Choose powers of two: chunks of some 64 kB, shards of some `shard_bytes`, or 16,384 rows of systems."""
        row = max(1, dtype.itemsize * math.prod(shape))
        most = _power_of_two(shard_bytes // row)
        shard = most if per_atom else min(most, MOST_SYSTEM_ROWS)
        return cls(path, dtype, shape, min(_power_of_two(INNER_BYTES // row), shard), shard)

    @cached_property
    def _chunks(self) -> int:
        return self.shard_rows // self.inner_rows

    @cached_property
    def _index_bytes(self) -> int:
        return 16 * self._chunks + 4

    @cached_property
    def _inner_shape(self) -> tuple[int, ...]:
        return (self.inner_rows, *self.shape)

    @cached_property
    def stored_dtype(self) -> np.dtype:
        """Dtype of the numbers in a file."""
        return self.dtype.newbyteorder("<")

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.dtype.itemsize * math.prod(self.shape)

    def least_bytes(self, rows: int) -> int:
        """What the files of so many rows have at least: of every chunk a header, a checksum, a place in an index."""
        return -(-rows // self.inner_rows) * (_BLOSC_HEADER + 4 + 16)

    def key(self, shard: int) -> str:
        """Key of a shard."""
        return f"{self.path}/c.{shard}" + ".0" * len(self.shape)

    def document(self, rows: int, level: int) -> dict[str, Any]:
        """Content of ``zarr.json`` of an array of `rows` rows."""
        trailing = list(self.shape)
        fill: Any = fill_value(self.dtype)
        if self.dtype.kind == "f":
            fill = "NaN"
        elif self.dtype.kind == "c":
            fill = ["NaN", "NaN"]
        checked = {"name": "crc32c"}
        little = (
            {"name": "bytes", "configuration": {"endian": "little"}} if self.dtype.itemsize > 1 else {"name": "bytes"}
        )
        blosc = {
            "cname": "lz4", "clevel": level, "shuffle": "bitshuffle", "typesize": self.dtype.itemsize, "blocksize": 0,
        }  # fmt: skip
        sharding = {
            "chunk_shape": [self.inner_rows, *trailing],
            "codecs": [little, {"name": "blosc", "configuration": blosc}, checked],
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, checked],
            "index_location": "end",
        }
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [rows, *trailing],
            "data_type": self.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self.shard_rows, *trailing]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": fill,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "attributes": {},
        }

    def encode(self, rows: np.ndarray, level: int, mark: bytes = b"") -> bytes:
        """Bytes of a shard that begins with `rows`; those that it lacks are not stored. No index points to `mark`."""
        from numcodecs.blosc import BITSHUFFLE, compress

        parts, index, place = [], np.full((self._chunks, 2), _ABSENT, dtype="<u8"), 0
        for number, start in enumerate(range(0, len(rows), self.inner_rows)):
            chunk = rows[start : start + self.inner_rows]
            if len(chunk) < self.inner_rows:
                whole = np.full(self._inner_shape, fill_value(self.dtype), dtype=self.dtype)
                whole[: len(chunk)] = chunk
                chunk = whole
            packed = compress(np.ascontiguousarray(chunk, dtype=self.stored_dtype), b"lz4", level, BITSHUFFLE)
            parts += [packed, crc32c(packed).to_bytes(4, "little")]
            index[number] = place, len(packed) + 4
            place += len(packed) + 4
        listing = index.tobytes()
        return b"".join((*parts, mark, listing, crc32c(listing).to_bytes(4, "little")))


def _power_of_two(number: int) -> int:
    return 1 << max(0, int(number).bit_length() - 1)


def group_document(arrays: Mapping[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """Content of ``zarr.json`` of a group; of the whole store if its arrays are given, which are listed then."""
    group: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    if arrays is None:
        return group
    listing: dict[str, Any] = {"kind": "inline", "must_understand": False, "metadata": {}}
    inner = {path.partition("/")[0]: {**group, "consolidated_metadata": listing} for path in sorted(arrays)}
    return {**group, "consolidated_metadata": {**listing, "metadata": {**inner, **dict(sorted(arrays.items()))}}}


def to_json(document: dict[str, Any]) -> bytes:
    """Bytes of a ``zarr.json``."""
    return json.dumps(document, separators=(",", ":")).encode()


class ShardReader:
    """Rows of the arrays of one store. Keeps some shards open, which stay what they were if others take their place."""

    def __init__(self, medium: Medium) -> None:
        self._medium = medium
        self._open: OrderedDict[str, tuple[Source, np.ndarray]] = OrderedDict()
        self._chunks: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()

    def forget(self) -> None:
        """Close what is open, drop what is kept."""
        self._chunks.clear()
        for source, _ in self._open.values():
            source.close()
        self._open.clear()

    def read(self, spec: ArraySpec, numbers: np.ndarray, stored: int) -> np.ndarray:
        """Gather rows of an array that has `stored` of them; each chunk that holds one is read once.

        Raises
        ------
        StorageError
            If a shard or chunk is missing or damaged; it is named.
        """
        if not len(numbers):
            return np.empty((0, *spec.shape), dtype=spec.dtype)
        first, last = int(numbers[0]), int(numbers[-1])
        if last - first != len(numbers) - 1 or (last - first > 1 and bool((np.diff(numbers) != 1).any())):
            return self._gather(spec, numbers, stored)
        return self._between(spec, first, last, stored)

    def _between(self, spec: ArraySpec, first: int, last: int, stored: int) -> np.ndarray:
        """Rows from `first` to `last`; chunks that lie within are unpacked in place."""
        self._check(spec, first, last, stored)
        out = np.empty((last - first + 1, *spec.shape), dtype=spec.stored_dtype)
        for number in range(first // spec.inner_rows, last // spec.inner_rows + 1):
            start = number * spec.inner_rows
            end = start + spec.inner_rows
            if first <= start and end <= last + 1:
                self._read_chunk(spec, number, out[start - first : end - first])
            else:
                part = self._chunk(spec, number)[max(first - start, 0) : last - start + 1]
                begin = max(start - first, 0)
                out[begin : begin + len(part)] = part
        return out

    def check(self, spec: ArraySpec, number: int) -> None:
        """Read a chunk from the medium, whether it is kept or not; raises as `read`."""
        self._read_chunk(spec, number)

    def _check(self, spec: ArraySpec, first: int, last: int, stored: int) -> None:
        if first < 0 or last >= stored:
            raise StorageError(f"`{spec.path}` of {self._medium.where} has {stored} rows; row {last} was looked for.")

    def _gather(self, spec: ArraySpec, numbers: np.ndarray, stored: int) -> np.ndarray:
        """Rows that do not stand one behind another."""
        first, last = int(numbers.min()), int(numbers.max())
        self._check(spec, first, last, stored)
        if last - first < 2 * len(numbers) and (last - first) * spec.row_bytes < _AT_ONCE_BYTES:
            return self._between(spec, first, last, stored)[numbers - first]
        out = np.empty((len(numbers), *spec.shape), dtype=spec.dtype)
        chunks = numbers // spec.inner_rows
        order = np.argsort(chunks, kind="stable")
        chunks = chunks[order]
        starts = np.flatnonzero(np.diff(chunks, prepend=-1)).tolist()
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
            number, places = int(chunks[start]), order[start:end]
            out[places] = self._chunk(spec, number)[numbers[places] - number * spec.inner_rows]
        return out

    def _chunk(self, spec: ArraySpec, number: int) -> np.ndarray:
        """One chunk; the last ones are kept, as frames that are read one by one share those of systems."""
        key = spec.path, number
        found = self._chunks.get(key)
        if found is None:
            found = self._chunks[key] = self._read_chunk(spec, number)
            if len(self._chunks) > _KEPT_CHUNKS:
                self._chunks.popitem(last=False)
        return found

    def _read_chunk(self, spec: ArraySpec, number: int, out: np.ndarray | None = None) -> np.ndarray:
        """Unpack a chunk, into `out` if that is given."""
        shard, inner = divmod(number, spec.shard_rows // spec.inner_rows)
        for _ in range(_ATTEMPTS):
            try:
                return self._read_part(spec, shard, inner, out)
            except ReplacedError:  # by one that begins with the same rows
                self._open.pop(spec.key(shard), None)
        raise StorageError(f"`{spec.key(shard)}` of {self._medium.where} changes all the time. Try again.")

    def _read_part(self, spec: ArraySpec, shard: int, inner: int, out: np.ndarray | None) -> np.ndarray:
        source, index = self._shard(spec, shard)
        start, count = (int(value) for value in index[inner])
        name = f"Chunk {inner} of `{spec.key(shard)}` of {self._medium.where}"
        if start == int(_ABSENT):
            raise StorageError(f"{name} is missing.")
        if not _BLOSC_HEADER + 4 <= count <= source.size or start > source.size - count:
            raise StorageError(f"{name} is damaged: it would lie outside of its file.")
        raw = source.read(start, count)
        packed = raw[:-4]
        if len(raw) != count or crc32c(packed) != int.from_bytes(raw[-4:], "little"):
            raise StorageError(f"{name} is damaged: its checksum differs. `athanor store verify` lists all that is.")
        wanted = spec.inner_rows * spec.row_bytes
        if int.from_bytes(packed[4:8], "little") != wanted or int.from_bytes(packed[12:16], "little") != len(packed):
            raise StorageError(f"{name} does not hold {spec.inner_rows} rows. It is damaged; do not use it.")
        from numcodecs.blosc import decompress

        try:
            plain = decompress(packed, out)
        except (RuntimeError, ValueError) as error:
            raise StorageError(f"{name} can not be unpacked ({error}). It is damaged; do not use it.") from error
        return np.frombuffer(plain, dtype=spec.stored_dtype).reshape(spec._inner_shape) if out is None else out

    def _shard(self, spec: ArraySpec, shard: int) -> tuple[Source, np.ndarray]:
        key = spec.key(shard)
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key]
        source = self._medium.open(key)
        if source is None:
            raise StorageError(f"`{key}` of {self._medium.where} is missing; the commit record counts its rows.")
        size = spec._index_bytes
        raw = source.read(source.size - size, size) if source.size >= size else b""
        if len(raw) != size or crc32c(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
            source.close()
            raise StorageError(f"The index of `{key}` of {self._medium.where} is damaged or cut off.")
        self._open[key] = source, np.frombuffer(raw[:-4], dtype="<u8").reshape(-1, 2)
        if len(self._open) > _OPEN_SHARDS:
            self._open.popitem(last=False)[1][0].close()
        return self._open[key]
