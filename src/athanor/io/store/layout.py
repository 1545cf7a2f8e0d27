"""What a store of format version 1 looks like: names, fields, the arrays that they make, and the commit record.

========================  ======================================================================================
``LOCK``                  locked by the one writer, see `athanor.io._store_lock`
``format.json``           name and version of the format; written once
``commits.log``           one record per commit; the last whole one says what the arrays hold and which log goes on
``tail/<commit>.log``     rows that no shard holds yet; a frame counts from the moment its record stands here
``data/<field>``          one array per field, rows of systems or of atoms along the first axis
``structures/<field>``    what seldom changes of a system (elements, masses, ...), once for all frames that share it
``index/structure``       which row of ``structures`` a frame has
``index/node_end``        row after the last atom of each frame; ``np.split(positions, node_end[:-1])`` works
``index/sequence``        place of each frame in the order of writing; frames of a system stand together in the arrays
``index/structure_end``   row after the last atom of each structure
========================  ======================================================================================

Arrays are Zarr 3, in shards that are written once, when they are full; `close` adds a last one that is not, which is
replaced by a longer one that begins with the same rows. What ``zarr.json`` says is for other programs: ours reads the
commit record and clips to it. A system that lacks a field has its default there, or NaN.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from athanor.data.fields import ASSUMED_FIELDS, FIELDS, FieldSpec, Level, names_of
from athanor.errors import StorageError
from athanor.io.store.shards import ArraySpec, fill_value

FORMAT = "athanor-trajectory"
VERSION = 1
FORMAT_KEY = "format.json"
COMMITS_KEY = "commits.log"
TAIL_PREFIX = "tail/"
GROUPS = ("", "data", "structures", "index")
KEYS_OF_GROUPS = tuple(f"{group}/zarr.json".lstrip("/") for group in GROUPS)
CONSTANTS = frozenset(names_of("structure")) - {"positions", "cell"}
"""Fields that are kept once for all frames of a system that share them."""
JOINS_LATER = frozenset({"dof", *ASSUMED_FIELDS} | {name for name, spec in FIELDS.items() if spec.default is not None})
"""Fields that may first appear after the first write; earlier frames get the default of the field table, or NaN."""

MOST_ROW_BYTES = 1 << 26
MOST_CHUNK_BYTES = 1 << 16
"""Bounds on what one row and one chunk of many rows may hold, so that no declared size is ever waited for."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\Z")
_DTYPES = frozenset({
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.complex128,
})  # fmt: skip


_DTYPE_NAMES = frozenset(str(dtype).removeprefix("torch.") for dtype in _DTYPES)


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
    constant: bool = False
    """Whether it is kept once for all frames that share it."""

    @classmethod
    def of(cls, spec: FieldSpec, dtype: torch.dtype, shape: tuple[int, ...]) -> StoredField:
        """Describe values of the field `spec`, of a dtype and trailing shape.

        Raises
        ------
        StorageError
            If the name can not be a key of a store, or the dtype has no place in one.
        """
        if math.prod(shape) * dtype.itemsize > MOST_ROW_BYTES:
            raise StorageError(f"`{spec.name}` has {shape} numbers per {spec.level}, more than a store takes.")
        if dtype not in _DTYPES:
            raise StorageError(f"`{spec.name}` has dtype {dtype}, which a trajectory store can not hold.")
        return cls(
            check_name(spec.name),
            spec.level,
            str(dtype).removeprefix("torch."),
            shape,
            spec.kind,
            spec.unit,
            spec.meaning,
            spec.default,
            spec.shape,
            spec.name in CONSTANTS,
        )

    @property
    def path(self) -> str:
        """Its array."""
        return f"{'structures' if self.constant else 'data'}/{self.name}"

    @property
    def numpy_dtype(self) -> np.dtype:
        """Dtype of the array; bfloat16 is kept as the bits of an int16."""
        return np.dtype("int16" if self.dtype == "bfloat16" else self.dtype)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.numpy_dtype.itemsize * math.prod(self.shape)

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


@dataclass(frozen=True, slots=True)
class Stored:
    """How many rows of an array stand in shards, and how it is cut."""

    rows: int
    inner_rows: int
    shard_rows: int


@dataclass(frozen=True, slots=True)
class Commit:
    """The commit record. Rows that it counts and no shard holds stand first in the log `tail`, new frames behind them.

    `systems`, `nodes`, `structures` and `structure_nodes` count rows whose place in the arrays is fixed.
    """

    number: int = 0
    systems: int = 0
    nodes: int = 0
    structures: int = 0
    structure_nodes: int = 0
    fields: tuple[StoredField, ...] = ()
    arrays: Mapping[str, Stored] = field(default_factory=dict)
    tail: str = ""
    previous: int = 0

    def rows(self, level: str) -> int:
        """Rows of an array of one level."""
        count: int = getattr(self, _COUNTED[level])
        return count

    def to_bytes(self) -> bytes:
        """JSON."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        plain["fields"] = fields_to_json(self.fields)
        plain["arrays"] = {path: [item.rows, item.inner_rows, item.shard_rows] for path, item in self.arrays.items()}
        return json.dumps(plain, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, raw: bytes, where: str) -> Commit:
        """Read a commit record, whose checksum was right.

        Raises
        ------
        StorageError
            If it says what can not be.
        """
        try:
            values = json.loads(raw)
            fields = fields_from_json(values.pop("fields"))
            arrays = {str(path): Stored(*item) for path, item in values.pop("arrays").items()}
            commit = cls(**values, fields=fields, arrays=arrays)
            counts = [commit.number, *(commit.rows(level) for level in _COUNTED)]
            for item in arrays.values():
                counts += [item.rows, item.inner_rows - 1, item.shard_rows - 1]
            if not all(type(count) is int and 0 <= count < 1 << 62 for count in counts):
                raise ValueError("a count is out of range")
            for path, item in arrays.items():
                chunk = item.inner_rows * array_spec(path, item, fields).row_bytes
                if (
                    item.shard_rows % item.inner_rows
                    or item.rows > commit.rows(level_of(path, fields))
                    or (item.inner_rows > 1 and chunk > MOST_CHUNK_BYTES)
                ):
                    raise ValueError(f"array `{path}` is cut in a way that can not be")
            needed = (*(SYSTEM_INDEX if commit.systems else ()), *((STRUCTURE_INDEX,) if commit.structures else ()))
            if missing := set(needed) - arrays.keys():
                raise ValueError(f"there is no {min(missing)}")
            if not _TAIL_NAME.fullmatch(commit.tail):
                raise ValueError(f"the log is called {commit.tail!r}")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise StorageError(
                f"The last commit record of {where} says what can not be ({error}). It is damaged; do not use it."
            ) from error
        return commit


_COUNTED = {"system": "systems", "node": "nodes", "structure": "structures", "structure_node": "structure_nodes"}
_TAIL_NAME = re.compile(r"tail/\d{10}(-[0-9a-f]{16})?\.log")
SYSTEM_INDEX = ("index/node_end", "index/structure", "index/sequence")
STRUCTURE_INDEX = "index/structure_end"


def level_of(path: str, fields: Iterable[StoredField]) -> str:
    """Level of an array: ``system``, ``node``, ``structure`` or ``structure_node``.

    Raises
    ------
    KeyError
        If no field makes such an array.
    """
    if path in SYSTEM_INDEX:
        return "system"
    if path == STRUCTURE_INDEX:
        return "structure"
    item = {item.path: item for item in fields}[path]
    if item.constant:
        return "structure_node" if item.level == "node" else "structure"
    return item.level


def array_spec(path: str, stored: Stored, fields: Iterable[StoredField]) -> ArraySpec:
    """The array as it was cut."""
    item = next((item for item in fields if item.path == path), None)
    dtype, shape = (np.dtype("int64"), ()) if item is None else (item.numpy_dtype, item.shape)
    return ArraySpec(path, dtype, shape, stored.inner_rows, stored.shard_rows)


def fields_to_json(fields: Iterable[StoredField]) -> list[dict[str, Any]]:
    """Descriptions of fields as JSON takes them."""
    return [{name: getattr(item, name) for name in item.__slots__} for item in fields]


def fields_from_json(plain: Any) -> tuple[StoredField, ...]:
    """Inverse of `fields_to_json`; raises what Python does if it is something else."""
    fields = tuple(_stored_field(item) for item in plain)
    if len({item.name for item in fields}) != len(fields):
        raise ValueError("a field twice")
    return fields


def _stored_field(item: dict[str, Any]) -> StoredField:
    declared = item["declared_shape"]
    shapes = {"shape": tuple(item["shape"]), "declared_shape": None if declared is None else tuple(declared)}
    made = StoredField(**{**item, **shapes})
    good = (
        made.level in ("node", "system")
        and made.dtype in _DTYPE_NAMES
        and isinstance(made.constant, bool)
        and all(isinstance(text, str) for text in (made.name, made.kind, made.unit, made.meaning))
        and (made.default is None or (isinstance(made.default, bool | int | float) and abs(made.default) < 1 << 53))
        and all(type(size) is int and size >= 0 for size in made.shape)
        and all(size is None or type(size) is int for size in made.declared_shape or ())
    )
    if not good or made.row_bytes > MOST_ROW_BYTES:
        raise ValueError(f"the field `{str(made.name)[:60]}` is {made.dtype}, {made.level}-level, {made.shape}")
    check_name(made.name)
    return made


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


def tail_key(commit: int, mark: str = "") -> str:
    """Key of the log that a commit begins; with the mark of its writer, where there may be several."""
    return f"{TAIL_PREFIX}{commit:010d}{mark and '-' + mark}.log"


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Numpy array of a tensor, a view where it is on the host; bfloat16 becomes the bits of an int16."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.detach().contiguous().view(torch.int16)
    array: np.ndarray = tensor.numpy(force=True)
    return array


def to_tensor(array: np.ndarray, item: StoredField) -> torch.Tensor:
    """Inverse of `to_numpy`."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.view(torch.bfloat16) if item.dtype == "bfloat16" else tensor


def check_format(raw: bytes, where: str) -> None:
    """Raise unless `raw` is the ``format.json`` of the version that is written here.

    Raises
    ------
    StorageError
        If it is not, saying which format and version it is.
    """
    version = version_of(raw, where)
    if version < VERSION:
        raise StorageError(f"{where} is of version {version} of the format, which is read and no longer written. "
                           f"`athanor store upgrade` brings it to version {VERSION}.")  # fmt: skip
    if version > VERSION:
        raise StorageError(f"{where} is of version {version} of the format; this athanor knows versions up to "
                           f"{VERSION}. Install a newer one.")  # fmt: skip


def version_of(raw: bytes, where: str) -> int:
    """Version of the format by its ``format.json``.

    Raises
    ------
    StorageError
        If it is no trajectory of athanor, or the file can not be read.
    """
    try:
        found: dict[str, Any] = json.loads(raw)
        name, version = found["format"], found["version"]
        if name != FORMAT or type(version) is not int or version < 0:
            raise ValueError(f"format {name!r}, version {version!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StorageError(f"`{FORMAT_KEY}` of {where} is not that of a trajectory ({error}).") from error
    return version


def format_bytes() -> bytes:
    """Content of ``format.json``."""
    return json.dumps({"format": FORMAT, "version": VERSION}).encode()
