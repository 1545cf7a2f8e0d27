"""Arrays of a store: their Zarr metadata, and shards, files of many small compressed chunks that end with an index.

What is written here is what ``sharding_indexed``, ``blosc`` and ``crc32c`` of Zarr 3 say
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/), so that every Zarr reads it. It is done here
and not by zarr because a frame is then read by one look at each of its chunks, without an event loop, and because
checksums are looked at before anything is made of the bytes.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from athanor.errors import StorageError
from athanor.io.store.medium import Medium, Source
from athanor.io.store.records import crc32c

INNER_BYTES = 1 << 15
MOST_SYSTEM_ROWS = 1 << 14
_ABSENT = np.uint64(2**64 - 1)
_BLOSC_HEADER = 16
_OPEN_SHARDS = 48


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
    def sized(cls, path: str, dtype: np.dtype, shape: tuple[int, ...], shard_bytes: int, *, per_atom: bool) -> ArraySpec:
        """Choose powers of two: chunks of some 32 kB, shards of some `shard_bytes`, or 16,384 rows of systems."""
        row = max(1, dtype.itemsize * int(np.prod(shape, dtype=np.int64)))
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

    def key(self, shard: int) -> str:
        """Key of a shard."""
        return f"{self.path}/c.{shard}" + ".0" * len(self.shape)

    def metadata(self, rows: int, level: int) -> bytes:
        """Content of ``zarr.json`` of an array of `rows` rows."""
        trailing = list(self.shape)
        fill: Any = fill_value(self.dtype)
        if self.dtype.kind == "f":
            fill = "NaN"
        elif self.dtype.kind == "c":
            fill = ["NaN", "NaN"]
        checked = {"name": "crc32c"}
        little = {"name": "bytes", "configuration": {"endian": "little"}} if self.dtype.itemsize > 1 else {"name": "bytes"}
        blosc = {
            "cname": "zstd", "clevel": level, "shuffle": "shuffle", "typesize": self.dtype.itemsize, "blocksize": 0,
        }  # fmt: skip
        sharding = {
            "chunk_shape": [self.inner_rows, *trailing],
            "codecs": [little, {"name": "blosc", "configuration": blosc}, checked],
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, checked],
            "index_location": "end",
        }
        document = {
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
        return json.dumps(document, indent=1).encode()

    def encode(self, rows: np.ndarray, level: int) -> bytes:
        """Bytes of a shard that begins with `rows`; those that it lacks are not stored."""
        from numcodecs.blosc import SHUFFLE, Blosc

        blosc = Blosc(cname="zstd", clevel=level, shuffle=SHUFFLE)
        parts, index, place = [], np.full((self._chunks, 2), _ABSENT, dtype="<u8"), 0
        for number, start in enumerate(range(0, len(rows), self.inner_rows)):
            chunk = rows[start : start + self.inner_rows]
            if len(chunk) < self.inner_rows:
                whole = np.full(self._inner_shape, fill_value(self.dtype), dtype=self.dtype)
                whole[: len(chunk)] = chunk
                chunk = whole
            packed = blosc.encode(np.ascontiguousarray(chunk, dtype=self.dtype.newbyteorder("<")))
            parts += [packed, crc32c(packed).to_bytes(4, "little")]
            index[number] = place, len(packed) + 4
            place += len(packed) + 4
        listing = index.tobytes()
        return b"".join((*parts, listing, crc32c(listing).to_bytes(4, "little")))


def _power_of_two(number: int) -> int:
    return 1 << max(0, int(number).bit_length() - 1)


def groups_metadata() -> bytes:
    """Content of ``zarr.json`` of a group."""
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}, indent=1).encode()


class ShardReader:
    """Rows of the arrays of one store. Keeps some shards open, which stay what they were if others take their place."""

    def __init__(self, medium: Medium) -> None:
        self._medium = medium
        self._open: OrderedDict[str, tuple[Source, np.ndarray]] = OrderedDict()

    def forget(self) -> None:
        """Close what is open."""
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
        out = np.empty((len(numbers), *spec.shape), dtype=spec.dtype)
        if not len(numbers):
            return out
        if numbers.min() < 0 or numbers.max() >= stored:
            raise StorageError(f"`{spec.path}` of {self._medium.where} has {stored} rows; row {numbers.max()} was looked for.")
        chunks = numbers // spec.inner_rows
        is_sorted = len(numbers) < 2 or bool((np.diff(numbers) >= 0).all())
        order = np.arange(len(numbers)) if is_sorted else np.argsort(chunks, kind="stable")
        chunks = chunks[order]
        starts = np.flatnonzero(np.diff(chunks, prepend=-1))
        for first, last in zip(starts.tolist(), [*starts[1:].tolist(), len(order)], strict=True):
            number = int(chunks[first])
            chunk, places = self._chunk(spec, number), order[first:last]
            if is_sorted and numbers[last - 1] - numbers[first] == last - 1 - first:
                start = int(numbers[first]) - number * spec.inner_rows
                out[first:last] = chunk[start : start + last - first]
            else:
                out[places] = chunk[numbers[places] - number * spec.inner_rows]
        return out

    def _chunk(self, spec: ArraySpec, number: int) -> np.ndarray:
        shard, inner = divmod(number, spec.shard_rows // spec.inner_rows)
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
        wanted = spec.inner_rows * spec.dtype.itemsize * int(np.prod(spec.shape, dtype=np.int64))
        if int.from_bytes(packed[4:8], "little") != wanted or int.from_bytes(packed[12:16], "little") != len(packed):
            raise StorageError(f"{name} does not hold {spec.inner_rows} rows. It is damaged; do not use it.")
        from numcodecs.blosc import decompress

        try:
            plain = decompress(packed)
        except (RuntimeError, ValueError) as error:
            raise StorageError(f"{name} can not be unpacked ({error}). It is damaged; do not use it.") from error
        return np.frombuffer(plain, dtype=spec.dtype.newbyteorder("<")).reshape(spec._inner_shape)

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
