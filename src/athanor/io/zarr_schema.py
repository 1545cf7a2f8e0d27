"""What a trajectory store looks like: the only module that knows names, chunks, fill values and the commit record.

A store holds system-level rows, and node-level (edge-level) rows concatenated over systems with one end pointer per
system. Layout of format ``athanor-trajectory`` version 0, all inside one Zarr 3 group:

========================  ======================================================================================
``format.json``           name and version of the format; written once
``head.json``             the commit record: row counts, fields, blocks, checksum; written last, trusted alone
``tail/<commit>``         committed rows that are not in the arrays yet, one immutable checksummed block per commit
``data/<field>``          one array per field, rows along the first axis
``index/node_end``        row after the last atom of each system; ``np.split(positions, node_end[:-1])`` works
``index/edge_end``        the same for edge-level rows; only if there are any
``presence/<field>``      whether a system has the field; absent means that all have it
========================  ======================================================================================

Rows beyond the counts of ``head.json`` are leftovers of an interrupted write: readers ignore them, the next writer cuts
them off.
"""

from __future__ import annotations

import functools
import json
import re
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from athanor.data.fields import FIELDS, FieldSpec, Level
from athanor.errors import StorageError

FORMAT = "athanor-trajectory"
VERSION = 0
FORMAT_KEY = "format.json"
HEAD_KEY = "head.json"
TAIL_PREFIX = "tail"
GROUPS = ("", "data", "index", "presence")
JOINS_LATER = frozenset({"dof"} | {name for name, spec in FIELDS.items() if spec.default is not None})
"""Fields that may first appear after the first write; earlier frames get the default of the field table."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\Z")
_BLOCK_MAGIC = b"ATHB"
_MAX_HEADER_BYTES = 16 * 1024 * 1024
_DTYPES = frozenset({
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.complex128,
})  # fmt: skip


class StoreNotFoundError(StorageError, FileNotFoundError):
    """There is no trajectory store at the given place."""


class StoreExistsError(StorageError, FileExistsError):
    """A store that was to be created exists already."""


@dataclass(frozen=True, slots=True)
class StoredField:
    """One field of a store: what the field table says, and the dtype and trailing shape that were written."""

    name: str
    level: Level
    dtype: str
    shape: tuple[int, ...]
    kind: str = "any"
    unit: str = ""
    meaning: str = ""
    default: float | int | bool | None = None
    declared_shape: tuple[int | None, ...] | None = None

    @classmethod
    def of(cls, spec: FieldSpec, tensor: torch.Tensor) -> StoredField:
        """Describe `tensor`, a value of the field `spec`.

        Raises
        ------
        StorageError
            If the name can not be a key of a store, or the dtype has no place in one.
        """
        return _describe(spec, tensor.dtype, tuple(tensor.shape[1:]))

    @property
    def numpy_dtype(self) -> np.dtype:
        """Dtype of the array; bfloat16 is kept as the bits of an int16."""
        return np.dtype("int16" if self.dtype == "bfloat16" else self.dtype)

    @property
    def missing_value(self) -> float | int | bool:
        """What a system that lacks the field gets: the default of the field table, else NaN, -1 or False."""
        if self.default is not None:
            return self.default
        return fill_value(self.numpy_dtype)

    def spec(self) -> FieldSpec:
        """Row of the field table for this field."""
        shape = self.shape if self.declared_shape is None else self.declared_shape
        return FieldSpec(self.name, self.level, shape, self.kind, self.unit, self.meaning, self.default)  # type: ignore[arg-type]

    def missing_rows(self, rows: int) -> np.ndarray:
        """`rows` rows for systems that lack the field."""
        if self.dtype == "bfloat16":
            return to_numpy(torch.full((rows, *self.shape), float(self.default or "nan"), dtype=torch.bfloat16))
        return np.full((rows, *self.shape), self.missing_value, dtype=self.numpy_dtype)


@functools.lru_cache(maxsize=1024)
def _describe(spec: FieldSpec, dtype: torch.dtype, shape: tuple[int, ...]) -> StoredField:
    if dtype not in _DTYPES:
        raise StorageError(f"`{spec.name}` has dtype {dtype}, which a trajectory store can not hold.")
    return StoredField(
        check_name(spec.name),
        spec.level,
        str(dtype).removeprefix("torch."),
        shape,
        spec.kind,
        spec.unit,
        spec.meaning,
        spec.default,
        spec.shape,
    )


@dataclass(frozen=True, slots=True)
class TailBlock:
    """A block of committed rows: where it is, how long it is, and its checksum."""

    key: str
    systems: int
    nodes: int
    edges: int
    nbytes: int
    crc32: int


@dataclass(frozen=True, slots=True)
class Head:
    """The commit record. `systems`, `nodes`, `edges` count rows inside `arrays` (paths); blocks come behind them."""

    commit: int = 0
    systems: int = 0
    nodes: int = 0
    edges: int = 0
    fields: tuple[StoredField, ...] = ()
    arrays: tuple[str, ...] = ()
    tail: tuple[TailBlock, ...] = ()

    @property
    def total_systems(self) -> int:
        """Systems in the arrays and in the blocks."""
        return self.systems + sum(block.systems for block in self.tail)

    def field(self, name: str) -> StoredField | None:
        """The stored field called `name`, if there is one."""
        return next((item for item in self.fields if item.name == name), None)

    def rows(self, level: str) -> int:
        """Rows of one level inside the arrays."""
        return {"system": self.systems, "node": self.nodes, "edge": self.edges}[level]

    def to_bytes(self) -> bytes:
        """JSON with a checksum."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        plain["fields"] = [_plain(item) for item in self.fields]
        plain["tail"] = [_plain(block) for block in self.tail]
        body = json.dumps(plain, sort_keys=True)
        return json.dumps({"crc32": zlib.crc32(body.encode()), "record": body}, indent=1).encode()

    @classmethod
    def from_bytes(cls, raw: bytes, where: str) -> Head:
        """Read a commit record and check it.

        Raises
        ------
        StorageError
            If it is damaged.
        """
        try:
            outer = json.loads(raw)
            body = outer["record"]
            if zlib.crc32(body.encode()) != outer["crc32"]:
                raise ValueError("checksum differs")
            values = json.loads(body)
            fields = tuple(_stored_field(item) for item in values.pop("fields"))
            tail = tuple(TailBlock(**item) for item in values.pop("tail"))
            arrays = values.pop("arrays")
            head = cls(**values, arrays=tuple(arrays), fields=fields, tail=tail)
            if min(head.commit, head.systems, head.nodes, head.edges) < 0:
                raise ValueError("negative count")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(
                f"The commit record `{HEAD_KEY}` of {where} is damaged ({error}). The arrays beside it are untouched."
            ) from error
        for item in head.fields:
            check_name(item.name)
        return head


@dataclass(slots=True)
class Rows:
    """Rows of some systems on the host: one numpy array per field, counts per system, presence where it is not all."""

    node_counts: np.ndarray
    edge_counts: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    presence: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each level."""
        return {"system": len(self.node_counts), "node": int(self.node_counts.sum()),
                "edge": int(self.edge_counts.sum())}  # fmt: skip

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(column.nbytes for column in self.columns.values())

    def column(self, item: StoredField) -> np.ndarray:
        """Values of a field; the missing value where these rows lack it."""
        value = self.columns.get(item.name)
        return item.missing_rows(self.counts[item.level]) if value is None else value

    def has(self, item: StoredField) -> np.ndarray:
        """Which of these systems have a field."""
        if item.name in self.presence:
            return self.presence[item.name]
        present = item.name in self.columns or (item.default is not None)
        return np.full(len(self.node_counts), present)


def _plain(item: StoredField | TailBlock) -> dict[str, Any]:
    return {name: getattr(item, name) for name in item.__slots__}


def _stored_field(item: dict[str, Any]) -> StoredField:
    declared = item["declared_shape"]
    shapes = {"shape": tuple(item["shape"]), "declared_shape": None if declared is None else tuple(declared)}
    return StoredField(**{**item, **shapes})


def merge_rows(parts: list[Rows], fields: tuple[StoredField, ...]) -> Rows:
    """Put rows behind one another; what a part lacks is filled and marked."""
    if len(parts) == 1:
        return parts[0]
    merged = Rows(np.concatenate([part.node_counts for part in parts]),
                  np.concatenate([part.edge_counts for part in parts]))  # fmt: skip
    for item in fields:
        if any(item.name in part.columns for part in parts):
            merged.columns[item.name] = np.concatenate([part.column(item) for part in parts])
            present = np.concatenate([part.has(item) for part in parts])
            if not present.all() or any(item.name in part.presence for part in parts):
                merged.presence[item.name] = present
    return merged


def check_name(name: str) -> str:
    """Return `name` if it can be a key of a store.

    Raises
    ------
    StorageError
        If it has other characters than letters, digits, ``_``, ``.`` and ``-``, or begins with a dot.
    """
    if not _NAME.match(name):
        raise StorageError(
            f"`{name}` can not be the name of a stored field. Use letters, digits, `_`, `.` and `-`, "
            f"and do not begin with a dot."
        )
    return name


def field_path(name: str) -> str:
    """Array of a field."""
    return f"data/{check_name(name)}"


def presence_path(name: str) -> str:
    """Array that tells which systems have a field."""
    return f"presence/{check_name(name)}"


def end_path(level: Literal["node", "edge"]) -> str:
    """Array of end pointers."""
    return f"index/{level}_end"


def tail_key(commit: int) -> str:
    """Key of the block that a commit writes."""
    return f"{TAIL_PREFIX}/{commit:010d}"


def fill_value(dtype: np.dtype) -> float | int | bool:
    """NaN for floats, -1 for integers (the largest value if unsigned), False for booleans."""
    if dtype.kind in "fc":
        return float("nan")
    if dtype.kind == "b":
        return False
    return int(np.iinfo(dtype).max) if dtype.kind == "u" else -1


def chunk_shape(dtype: np.dtype, shape: tuple[int, ...], chunk_bytes: int) -> tuple[int, ...]:
    """Chunk of about `chunk_bytes`: many rows, all of the other axes."""
    row_bytes = max(1, dtype.itemsize * int(np.prod(shape, dtype=np.int64)))
    return (max(1, chunk_bytes // row_bytes), *(max(1, size) for size in shape))


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Copy a tensor to a numpy array of its own; bfloat16 becomes the bits of an int16."""
    host = tensor.detach().to("cpu", copy=True).contiguous()
    return host.view(torch.int16).numpy() if host.dtype == torch.bfloat16 else host.numpy()


def to_tensor(array: np.ndarray, item: StoredField) -> torch.Tensor:
    """Inverse of `to_numpy`."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.view(torch.bfloat16) if item.dtype == "bfloat16" else tensor


def encode_block(rows: Rows) -> bytes:
    """Bytes of a block: magic, length of the JSON header, header, then the arrays one behind another."""
    arrays = {"node_counts": rows.node_counts, "edge_counts": rows.edge_counts}
    arrays |= {f"data/{name}": value for name, value in rows.columns.items()}
    arrays |= {f"presence/{name}": value for name, value in rows.presence.items()}
    listing = [[key, value.dtype.str, list(value.shape)] for key, value in arrays.items()]
    header = json.dumps(listing).encode()
    parts = [_BLOCK_MAGIC, struct.pack("<Q", len(header)), header]
    parts += [np.ascontiguousarray(value).tobytes() for value in arrays.values()]
    return b"".join(parts)


def decode_block(raw: bytes, block: TailBlock, where: str) -> Rows:
    """Read a block.

    Raises
    ------
    StorageError
        If its length or checksum differs from the commit record.
    """
    if len(raw) != block.nbytes or zlib.crc32(raw) != block.crc32 or raw[:4] != _BLOCK_MAGIC:
        raise StorageError(f"Block `{block.key}` of {where} is damaged: {len(raw)} of {block.nbytes} bytes, "
                           f"or another checksum than the commit record says.")  # fmt: skip
    (length,) = struct.unpack_from("<Q", raw, 4)
    if length > min(len(raw), _MAX_HEADER_BYTES):
        raise StorageError(f"Block `{block.key}` of {where} has an impossible header.")
    offset = 12 + length
    arrays: dict[str, np.ndarray] = {}
    for key, dtype, shape in json.loads(raw[12:offset]):
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(raw, dtype=np.dtype(dtype), count=count, offset=offset).reshape(shape).copy()
        arrays[key] = array
        offset += array.nbytes
    rows = Rows(arrays.pop("node_counts"), arrays.pop("edge_counts"))
    for key, array in arrays.items():
        group, _, name = key.partition("/")
        (rows.columns if group == "data" else rows.presence)[name] = array
    return rows


def check_format(raw: bytes, where: str) -> None:
    """Raise unless `raw` is the ``format.json`` of a version that this module reads.

    Raises
    ------
    StorageError
        If it is not, saying which format and version it is.
    """
    try:
        found: dict[str, Any] = json.loads(raw)
        name, version = found["format"], found["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"`{FORMAT_KEY}` of {where} can not be read ({error}).") from error
    if name != FORMAT or version != VERSION:
        raise StorageError(f"{where} has format {name!r} version {version!r}; this athanor reads "
                           f"{FORMAT!r} version {VERSION}.")  # fmt: skip


def format_bytes() -> bytes:
    """Content of ``format.json``."""
    return json.dumps({"format": FORMAT, "version": VERSION}).encode()
