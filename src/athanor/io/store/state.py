"""What is in a store as of one commit, read from its logs: for the reader, and for the writer that goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from athanor.data._levels import gather_rows
from athanor.errors import StorageError
from athanor.io._replace import PARTIAL
from athanor.io._store_lock import LOCK_KEY
from athanor.io.store.layout import (
    COMMITS_KEY,
    FORMAT_KEY,
    KEYS_OF_GROUPS,
    TAIL_PREFIX,
    Commit,
    StoredField,
    StoreNotFoundError,
    array_spec,
    check_format,
    fields_from_json,
    fields_to_json,
    level_of,
)
from athanor.io.store.medium import LogContent, Medium, Source
from athanor.io.store.packing import Packing, unpack_arrays
from athanor.io.store.records import crc32c, frame, records
from athanor.io.store.rows import Rows, merge_rows
from athanor.io.store.shards import ShardReader

COMMIT, REMAINDER, FRAMES, SEAL, MARK = 1, 2, 3, 4, 5
"""Kinds of records."""
_REPAIR = "`athanor store repair` keeps what can be read"
_ATTEMPTS = 1000
_BELIEVED_BYTES = 1 << 22
_USUAL_ROW_BYTES = 1 << 10
_NOTHING = LogContent(b"", 0)


@dataclass(slots=True)
class Frames:
    """Frames as one record of a log holds them: rows, the structure of each, and the structures that are new."""

    packing: Packing
    payload: bytes
    systems: int
    nodes: int
    structures: int = 0
    structure_nodes: int = 0

    @classmethod
    def of(cls, rows: Rows, structure: np.ndarray, new: Rows | None, new_fields: Sequence[StoredField] = ()) -> Frames:
        """Copy rows; with the fields that no earlier record has."""
        arrays = {"nodes": rows.node_counts, "structure": structure}
        for name, value in rows.columns.items():
            arrays[f"data/{name}"] = value
        if new is not None:
            arrays["structure_nodes"] = new.node_counts
            arrays |= {f"structures/{name}": value for name, value in new.columns.items()}
        packing = Packing.of(arrays, fields_to_json(new_fields))
        return cls(packing, packing.pack(arrays), *_counts(rows), *_counts(new))

    def to_record(self) -> bytes:
        """The record."""
        return frame(FRAMES, self.payload)


def _counts(rows: Rows | None) -> tuple[int, int]:
    return (0, 0) if rows is None else (len(rows), rows.num_nodes)


def _parts(arrays: Iterable[tuple[str, np.ndarray]]) -> tuple[Rows, np.ndarray, Rows | None]:
    """Rows of frames, the structure of each, and the new structures, by the names that they have in a record."""
    rows, new = Rows(np.empty(0, np.int64)), Rows(np.empty(0, np.int64))
    structure, has_new = np.empty(0, np.int64), False
    for name, value in arrays:
        group, _, field_name = name.partition("/")
        if field_name:
            (new if group == "structures" else rows).columns[field_name] = value
        elif name == "nodes":
            rows.node_counts = value
        elif name == "structure":
            structure = value
        else:
            new.node_counts, has_new = value, True
    return rows, structure, new if has_new else None


def merge_frames(frames: Sequence[Frames], fields: Sequence[StoredField]) -> tuple[Rows, np.ndarray, Rows]:
    """Put frames behind one another: their rows, the structure of each, and the structures that are new."""
    alike: dict[Packing, list[int]] = {}
    for number, each in enumerate(frames):
        alike.setdefault(each.packing, []).append(number)
    parts = [_parts(packing.unpack([frames[one].payload for one in chosen])) for packing, chosen in alike.items()]
    data, constants = ([item for item in fields if item.constant is once] for once in (False, True))
    rows = merge_rows([part[0] for part in parts], data)
    structure = np.concatenate([np.empty(0, np.int64), *(part[1] for part in parts)])
    new = merge_rows([part[2] for part in parts if part[2] is not None], constants)
    if len(alike) > 1:
        order = np.array([number for chosen in alike.values() for number in chosen])
        back = _in_order(order, np.array([each.systems for each in frames]))
        rows, structure = rows.take(back, data), structure[back]
        new = new.take(_in_order(order, np.array([each.structures for each in frames])), constants)
    return rows, structure, new


def _in_order(order: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Places of the rows of records 0, 1, ..., of which there are `counts`, where the records stand as `order` says."""
    starts = np.empty_like(counts)
    starts[order] = np.cumsum(counts[order]) - counts[order]
    return gather_rows(starts, counts)


@dataclass(slots=True)
class State:
    """A commit, and what its log holds behind it."""

    commit: Commit = field(default_factory=Commit)
    fields: tuple[StoredField, ...] = ()
    """Those of the commit, and those that came with later frames."""
    remainder: dict[str, np.ndarray] = field(default_factory=dict)
    """By array: the rows that the commit counts and no shard holds."""
    frames: list[Frames] = field(default_factory=list)
    checksum: int = 0
    """Of the commit record."""
    commits_size: int = 0
    tail_size: int = 0
    """Bytes of the two logs that count."""
    history: Source | None = None
    """The log of commits, held open so that no other file gets its number; another one begins another history."""
    sealed: int | None = None
    """If no frame may come behind those of the log, as they are being moved: the `shard_bytes` of who began."""
    lost: list[str] = field(default_factory=list)
    """What can not be read of it, one line each; empty unless that was asked for."""
    has_log: bool = True
    """Whether the rows that no shard holds are there; of a store that has lost them only those in shards are left."""

    @property
    def systems(self) -> int:
        """Frames in all."""
        return self.commit.systems + sum(each.systems for each in self.frames)


def load_state(medium: Medium, *, all_of_it: bool = True) -> State:
    """Read the last commit and what its log holds.

    Parameters
    ----------
    medium
        The store.
    all_of_it
        Refuse a store of which acknowledged records can not be read; False takes what is left, and says what is not.

    Raises
    ------
    StoreNotFoundError
        If there is no store.
    StorageError
        If it is of another format, or damaged.
    """
    found = medium.read(FORMAT_KEY)
    if found is None:
        raise StoreNotFoundError(f"{medium.where} holds no trajectory (no `{FORMAT_KEY}` there). Check the path.")
    check_format(found, medium.where)
    before: object = None
    for _ in range(_ATTEMPTS):  # a writer may go on between two looks
        history = medium.open(COMMITS_KEY)
        begun = None if history is None else history.identity
        state, failed = State(), None
        try:
            state = _load(medium, all_of_it)
        except StorageError as error:
            failed = error
        if medium.identity(COMMITS_KEY) != begun:
            continue
        wrong = state.lost if failed is None else str(failed)
        seen = wrong, begun, None if history is None else history.size
        if wrong and seen != before:
            before = seen
            continue
        if failed is not None:
            raise failed
        state.history = history
        return state
    raise StorageError(f"{medium.where} is emptied and cut back faster than it can be read. Try again later.")


def _load(medium: Medium, all_of_it: bool) -> State:
    state = State()
    log = medium.read_log(COMMITS_KEY)
    if log is None:
        _check_new(medium)
        return state
    payload = None
    for kind, each, end in records(log.raw):
        if kind == COMMIT:
            payload, state.commits_size = each, end
    faults = [_fault(log, state.commits_size, COMMITS_KEY, medium)]
    _tell(faults, state, all_of_it)
    if payload is None:
        _check_new(medium)
        return state
    state.commit, state.checksum = Commit.from_bytes(payload, medium.where), crc32c(payload)
    state.fields = state.commit.fields
    commit = state.commit
    tail = medium.read_log(commit.tail)
    if tail is None:
        faults = [f"`{commit.tail}` of {medium.where} is missing; the commit record names it."]
    else:
        _take(tail, state, medium.where)
        faults = [_fault(tail, state.tail_size, commit.tail, medium)]
    lacking = [path for path, item in commit.arrays.items() if item.rows < commit.rows(level_of(path, commit.fields))]
    _check_room(medium, state)
    _check_widths(medium, state)
    state.has_log = tail is not None and not set(lacking) - state.remainder.keys()
    if tail is not None and not state.has_log and not any(faults):
        faults = [f"`{commit.tail}` of {medium.where} does not begin with the rows that no shard holds."]
    _tell(faults, state, all_of_it)
    return state


def _take(tail: LogContent, state: State, where: str) -> None:
    """Read the records of a log, up to the first that is not whole."""
    structures = state.commit.structures
    for kind, each, end in records(tail.raw):
        if kind == REMAINDER:
            state.remainder = _remainder(each, state.commit, where)
        elif kind == FRAMES:
            frames, state.fields = _frames(each, state.fields, structures, where)
            structures += frames.structures
            state.frames.append(frames)
        elif kind == SEAL and state.sealed is None:
            state.sealed = _shard_bytes(each, where)
        state.tail_size = end


def _check_room(medium: Medium, state: State) -> None:
    """Refuse many rows of which there can not be files, before anything is made in their size."""
    commit, levels = state.commit, set()
    for path, stored in commit.arrays.items():
        level = level_of(path, state.fields)
        levels.add(level)
        spec = array_spec(path, stored, state.fields)
        if stored.rows * max(spec.row_bytes, 8) > _BELIEVED_BYTES:
            room = medium.room(path)
            if room is not None and room < spec.least_bytes(stored.rows):
                raise StorageError(f"`{path}` of {medium.where} has no files for its {stored.rows} rows. {_REPAIR}.")
    wanted = {level_of(item.path, state.fields) for item in state.fields} - levels
    if any(commit.rows(level) * 8 > _BELIEVED_BYTES for level in wanted):
        raise _impossible(medium.where, "many atoms, and no array of them")


def _check_widths(medium: Medium, state: State) -> None:
    """Refuse wide rows of which there is none, before frames that lack the field are filled with such."""
    commit = state.commit
    held = {path for path, rows in state.remainder.items() if rows.size}
    for packing in {each.packing for each in state.frames}:
        held |= {place.name for place in packing.places if place.end > place.start}
    for item in state.fields:
        if item.row_bytes <= _USUAL_ROW_BYTES or item.path in held:
            continue
        stored = commit.arrays.get(item.path)
        if stored is not None and stored.rows:
            if state.frames:
                ShardReader(medium).check(array_spec(item.path, stored, state.fields), 0)
        elif state.systems:
            raise _impossible(medium.where, f"rows of {item.row_bytes} bytes for `{item.name}`, and no such row")


def _check_new(medium: Medium) -> None:
    """A store that is being made has no commit record, and nothing else that a writer would drop or overwrite."""
    ours = {LOCK_KEY, FORMAT_KEY, *KEYS_OF_GROUPS}
    others = {key for key in medium.list_keys() if key not in ours and not key.endswith(PARTIAL)}
    logs = {key.partition(".log")[0] + ".log" for key in others if key.startswith((TAIL_PREFIX, COMMITS_KEY))}
    empty = {key for key in logs if _says_nothing(medium.read_log(key) or _NOTHING)}
    if any(not key.startswith(tuple(empty)) for key in others):
        raise StorageError(
            f"`{COMMITS_KEY}` of {medium.where} is missing or empty, and there are other files of a store. Copy it "
            f"again, whole."
        )


def _says_nothing(log: LogContent) -> bool:
    """Whether a log has no records but marks."""
    kinds = [(kind, end) for kind, _, end in records(log.raw)]
    return all(kind == MARK for kind, _ in kinds) and (kinds[-1][1] if kinds else 0) == len(log.raw)


def _fault(log: LogContent, good: int, key: str, medium: Medium) -> str | None:
    """What is wrong with a log of which so many bytes can be read."""
    if log.fault is None and good < log.acknowledged:
        return (
            f"`{key}` of {medium.where} is damaged behind byte {good:,}, of {log.acknowledged:,} that were written "
            f"safely."
        )
    return log.fault


def _tell(faults: list[str | None], state: State, all_of_it: bool) -> None:
    found = [each for each in faults if each is not None]
    if found and all_of_it:
        raise StorageError(f"{found[0]} {_REPAIR}.")
    state.lost += found


def _shard_bytes(payload: bytes, where: str) -> int:
    try:
        found = json.loads(payload)["shard_bytes"]
        if type(found) is not int or not 0 < found < 1 << 32:
            raise ValueError(f"{found!r} bytes")
        return found
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _impossible(where, f"a seal that can not be read ({error})") from error


def _remainder(payload: bytes, commit: Commit, where: str) -> dict[str, np.ndarray]:
    arrays, _ = unpack_arrays(payload, where)
    for path, array in arrays.items():
        stored = commit.arrays.get(path)
        if stored is None:
            raise _impossible(where, f"rows of `{path}`, which the commit record does not know")
        spec = array_spec(path, stored, commit.fields)
        rows = commit.rows(level_of(path, commit.fields)) - stored.rows
        if array.shape != (rows, *spec.shape) or array.dtype != spec.dtype:
            raise _impossible(where, f"{array.shape} {array.dtype} as the end of `{path}`")
    return arrays


def _frames(
    payload: bytes, fields: tuple[StoredField, ...], structures: int, where: str
) -> tuple[Frames, tuple[StoredField, ...]]:
    packing = Packing.read(payload, where)
    arrays = dict(packing.unpack([payload]))
    try:
        fields = (*fields, *fields_from_json(packing.more or ()))
        rows = Rows(arrays.pop("nodes"))
        structure = arrays.pop("structure")
        new = Rows(arrays.pop("structure_nodes")) if "structure_nodes" in arrays else None
        by_path = {item.path: item for item in fields}
        if len({item.name for item in fields}) != len(fields):
            raise ValueError("a field twice")
        for each in filter(None, (rows, new)):
            counts = each.node_counts
            if counts.dtype != np.int64 or counts.ndim != 1 or (counts < 0).any():
                raise ValueError("impossible numbers of atoms")
            if counts.sum(dtype=np.float64) > len(payload):
                raise ValueError("more atoms than bytes")
        for path, array in arrays.items():
            item = by_path[path]
            owner = new if item.constant else rows
            if (
                owner is None
                or array.shape != (owner.count(item.level), *item.shape)
                or array.dtype != item.numpy_dtype
            ):
                raise ValueError(f"{array.shape} {array.dtype} for `{path}`")
            owner.columns[item.name] = array
        most = structures + (0 if new is None else len(new))
        if (
            structure.dtype != np.int64
            or structure.shape != (len(rows),)
            or ((structure < 0) | (structure >= most)).any()
        ):
            raise ValueError("structures that are not there")
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise _impossible(where, str(error)) from error
    return Frames(packing, payload, *_counts(rows), *_counts(new)), fields


def _impossible(where: str, what: str) -> StorageError:
    return StorageError(f"A record of {where} has {what}. It is damaged; do not use it.")
