"""What a trajectory store looks like: names, chunks, fill values and the commit record; `zarr_rows` has the blocks.

A store holds system-level rows, and node-level (edge-level) rows concatenated over systems with one end pointer per
system. Layout of format ``athanor-trajectory`` version 0, all inside one Zarr 3 group:

========================  ======================================================================================
``LOCK``                  locked by the one writer, see `athanor.io._store_lock`
``format.json``           name and version of the format; written once
``head.json``             the commit record: row counts, fields, blocks, checksum; written last, trusted alone
``tail/<commit>``         committed rows that are not in the arrays yet, one immutable checksummed block per commit
``data/<field>``          one array per field, rows along the first axis
``index/node_end``        row after the last atom of each system; ``np.split(positions, node_end[:-1])`` works
``index/edge_end``        the same for edge-level rows; only if there are any
========================  ======================================================================================

A system that lacks a field has its default there, or NaN. Older stores say so also in ``presence/<field>``, which is
not read.

Rows beyond the counts of ``head.json`` are leftovers of an interrupted write: readers ignore them, the next writer cuts
them off.
"""

from __future__ import annotations

import functools
import json
import re
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from athanor.data.fields import ASSUMED_FIELDS, FIELDS, FieldSpec, Level
from athanor.errors import StorageError

FORMAT = "athanor-trajectory"
VERSION = 0
FORMAT_KEY = "format.json"
HEAD_KEY = "head.json"
TAIL_PREFIX = "tail"
GROUPS = ("", "data", "index")
OLD_GROUP = "presence/"
JOINS_LATER = frozenset({"dof", *ASSUMED_FIELDS} | {name for name, spec in FIELDS.items() if spec.default is not None})
"""Fields that may first appear after the first write; earlier frames get the default of the field table, or NaN."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\Z")
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

    def spec(self) -> FieldSpec:
        """Row of the field table for this field."""
        shape = self.shape if self.declared_shape is None else self.declared_shape
        return FieldSpec(self.name, self.level, shape, self.kind, self.unit, self.meaning, self.default)  # type: ignore[arg-type]

    @property
    def _known_spec(self) -> FieldSpec:
        """Row of today's field table, which older stores differ from; that of the store for a custom field."""
        return FIELDS.get(self.name) or self.spec()

    @property
    def is_float(self) -> bool:
        """Whether NaN has a place in the field."""
        return self.dtype == "bfloat16" or self.numpy_dtype.kind in "fc"

    def is_absent(self, rows: np.ndarray) -> bool:
        """Whether NaN in all of `rows` says that their systems lack the field."""
        if not self._known_spec.may_be_absent or not len(rows):
            return False
        return all(bool(to_tensor(some, self).isnan().all()) for some in (rows[:1], rows))

    def missing_rows(self, rows: int) -> np.ndarray:
        """`rows` rows for systems that lack the field: the default of the field table, else `fill_value`."""
        shape, default = (rows, *self.shape), self._known_spec.default
        if self.dtype == "bfloat16":
            value = float("nan") if default is None else float(default)
            return to_numpy(torch.full(shape, value, dtype=torch.bfloat16))
        return np.full(shape, fill_value(self.numpy_dtype) if default is None else default, dtype=self.numpy_dtype)


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
    """The commit record. `systems`, `nodes`, `edges` count rows inside `arrays` (paths); blocks come behind them.

    `is_whole` says that every chunk of these rows was written, so that a missing one is damage. Older records do not
    say it: their writers left out chunks that hold only the fill value.
    """

    commit: int = 0
    systems: int = 0
    nodes: int = 0
    edges: int = 0
    fields: tuple[StoredField, ...] = ()
    arrays: tuple[str, ...] = ()
    tail: tuple[TailBlock, ...] = ()
    is_whole: bool = True

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
            values = {"is_whole": False} | json.loads(body)
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


def _plain(item: StoredField | TailBlock) -> dict[str, Any]:
    return {name: getattr(item, name) for name in item.__slots__}


def _stored_field(item: dict[str, Any]) -> StoredField:
    declared = item["declared_shape"]
    shapes = {"shape": tuple(item["shape"]), "declared_shape": None if declared is None else tuple(declared)}
    return StoredField(**{**item, **shapes})


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
