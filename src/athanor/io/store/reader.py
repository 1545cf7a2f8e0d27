"""Read a store of version 1 as of one commit: rows of fields, gathered from shards and from the log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from athanor.data._levels import gather_rows
from athanor.errors import StorageError
from athanor.io.store.layout import (
    COMMITS_KEY,
    STRUCTURE_INDEX,
    SYSTEM_INDEX,
    StoredField,
    array_spec,
    level_of,
)
from athanor.io.store.medium import Medium
from athanor.io.store.rows import Rows
from athanor.io.store.shards import ShardReader
from athanor.io.store.state import Frames, State, load_state, merge_frames

NODE_END, STRUCTURE, SEQUENCE = SYSTEM_INDEX


class StoredFrames:
    """The frames of a store, as of the moment it is made; by number in the order of writing.

    Parameters
    ----------
    medium
        The store.
    state
        What is in it; looked up if it is not given.

    Raises
    ------
    StoreNotFoundError
        If there is no store.
    StorageError
        If it is damaged.
    """

    def __init__(self, medium: Medium, state: State | None = None) -> None:
        self._medium = medium
        state = load_state(medium) if state is None else state
        self._history = state.history
        self._commit, self.fields = state.commit, state.fields
        self._remainder = state.remainder
        self._shards = ShardReader(medium)
        self._specs = {path: array_spec(path, stored, self.fields) for path, stored in state.commit.arrays.items()}
        self._late, self._late_structure, self._late_structures = merge_frames(state.frames, self.fields)
        self._places: np.ndarray | None = None
        self._known: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return self._commit.systems + len(self._late)

    @property
    def commit(self) -> tuple[int, int]:
        """What changes whenever there is something new to read."""
        return self._commit.number, len(self)

    def node_counts(self, chosen: np.ndarray) -> np.ndarray:
        """Atoms of chosen frames."""
        with self._of_one_history():
            return self._sizes(self._places_of(chosen))[1]

    def column(self, item: StoredField, chosen: np.ndarray) -> np.ndarray:
        """Rows of one field for chosen frames."""
        with self._of_one_history():
            return self._column(item, self._places_of(chosen))

    def rows(self, chosen: np.ndarray) -> Rows:
        """Rows of every field for chosen frames."""
        with self._of_one_history():
            places = self._places_of(chosen)
            return Rows(self._sizes(places)[1], {item.name: self._column(item, places) for item in self.fields})

    def release(self) -> None:
        """Keep no file open; what is read later opens them again."""
        self._shards.forget()
        if self._history is not None:
            self._history.close()

    @contextmanager
    def _of_one_history(self) -> Iterator[None]:
        """Refuse what the block read if the store was emptied or cut back: files are other ones then, by old names."""
        try:
            yield
        except StorageError:
            self._check_history()
            raise
        self._check_history()

    def _check_history(self) -> None:
        if self._history is not None and self._medium.identity(COMMITS_KEY) != self._history.identity:
            raise StorageError(f"{self._medium.where} was emptied or cut back meanwhile; open it again.")

    def _column(self, item: StoredField, places: np.ndarray) -> np.ndarray:
        return self._constant(item, places) if item.constant else self._rows(item, places)

    def first(self, count: int) -> State:
        """The store as it was when it held its first `count` frames: commit, and what the log is to hold behind it.

        Rows of the arrays are kept up to where they hold exactly the first so many frames; the rest goes to the log.
        """
        commit = self._commit
        sequence = self._index(SEQUENCE)
        whole = np.flatnonzero(np.maximum.accumulate(sequence) == np.arange(len(sequence))) + 1
        folded = int(whole[whole <= count].max(initial=0))
        nodes = int(self._ends(NODE_END, self._late)[folded - 1]) if folded else 0
        cut = replace(commit, systems=folded, nodes=nodes)
        arrays = {
            path: replace(item, rows=min(item.rows, cut.rows(level_of(path, self.fields))))
            for path, item in commit.arrays.items()
        }
        state = State(replace(cut, arrays=arrays), self.fields)
        for path, item in arrays.items():
            wanted = cut.rows(level_of(path, self.fields))
            if item.rows < wanted:
                state.remainder[path] = self._remainder[path][: wanted - commit.arrays[path].rows]
        chosen = np.arange(folded, count)
        rows = Rows(self.node_counts(chosen), {
            item.name: self.column(item, chosen) for item in self.fields if not item.constant
        })  # fmt: skip
        late = self._late_structures if len(self._late_structures) else None
        if len(chosen) or late is not None:
            state.frames.append(Frames.of(rows, self._structures()[self._places_of(chosen)], late))
        return state

    def _places_of(self, chosen: np.ndarray) -> np.ndarray:
        """Places in the arrays of frames by their numbers; those in the log stand behind, in order."""
        folded = self._commit.systems
        if self._places is None:
            sequence = self._index(SEQUENCE)
            self._places = np.full(folded, -1, dtype=np.int64)
            if sequence.size and not (sequence.min() >= 0 and sequence.max() < folded):
                raise self._damaged(SEQUENCE)
            self._places[sequence] = np.arange(folded)
            if folded and self._places.min() < 0:
                raise self._damaged(SEQUENCE)
        late = chosen >= folded
        if not late.any():
            return self._places[chosen]
        return np.where(late, chosen, self._places[np.where(late, 0, chosen)] if folded else 0)

    def _damaged(self, path: str) -> StorageError:
        return StorageError(f"`{path}` of {self._medium.where} is damaged: it says what can not be. Do not use it.")

    def _index(self, path: str) -> np.ndarray:
        """A whole index array."""
        if path not in self._known:
            self._known[path] = self._array(path, np.arange(self._commit.rows(level_of(path, self.fields))))
        return self._known[path]

    def _ends(self, path: str, late: Rows) -> np.ndarray:
        """End pointers, of the arrays and the log together."""
        key = f"{path} all"
        if key not in self._known:
            ends = self._index(path)
            last = self._commit.nodes if path == NODE_END else self._commit.structure_nodes
            if ends.size and ((np.diff(ends, prepend=0) < 0).any() or ends[-1] != last):
                raise self._damaged(path)
            self._known[key] = np.concatenate([ends, np.cumsum(late.node_counts) + last])
        return self._known[key]

    def _sizes(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First atom and number of atoms of frames by place."""
        ends = self._ends(NODE_END, self._late)
        starts = np.where(places > 0, ends[places - 1], 0) if len(ends) else np.zeros_like(places)
        return starts, ends[places] - starts

    def _structures(self) -> np.ndarray:
        """Number of the structure of every frame, by place."""
        if "structures" not in self._known:
            found = np.concatenate([self._index(STRUCTURE), self._late_structure])
            if found.size and not (
                found.min() >= 0 and found.max() < len(self._ends(STRUCTURE_INDEX, self._late_structures))
            ):
                raise self._damaged(STRUCTURE)
            self._known["structures"] = found
        return self._known["structures"]

    def _rows(self, item: StoredField, places: np.ndarray) -> np.ndarray:
        numbers = places
        if item.level == "node":
            numbers = gather_rows(*self._sizes(places))
        return self._gather(item, numbers, self._commit.rows(item.level), self._late)

    def _constant(self, item: StoredField, places: np.ndarray) -> np.ndarray:
        structure = self._structures()[places]
        numbers, before = structure, self._commit.structures
        if item.level == "node":
            ends = self._ends(STRUCTURE_INDEX, self._late_structures)
            starts = np.where(structure > 0, ends[structure - 1], 0) if len(ends) else structure
            counts = ends[structure] - starts
            if not np.array_equal(counts, self._sizes(places)[1]):
                raise self._damaged(STRUCTURE)
            numbers, before = gather_rows(starts, counts), self._commit.structure_nodes
        return self._gather(item, numbers, before, self._late_structures)

    def _gather(self, item: StoredField, numbers: np.ndarray, folded: int, late: Rows) -> np.ndarray:
        """Rows of one field, from its array and from the log behind it."""
        is_late = numbers >= folded
        if not is_late.any():
            return self._array(item.path, numbers, item)
        if is_late.all():
            return late.column(item)[numbers - folded]
        out = np.empty((len(numbers), *item.shape), dtype=item.numpy_dtype)
        out[~is_late] = self._array(item.path, numbers[~is_late], item)
        out[is_late] = late.column(item)[numbers[is_late] - folded]
        return out

    def _array(self, path: str, numbers: np.ndarray, item: StoredField | None = None) -> np.ndarray:
        """Rows of an array, from shards and from what stands first in the log."""
        spec = self._specs.get(path)
        if spec is None:  # the field came later than every row of the arrays
            return np.empty(0, np.int64) if item is None else item.missing_rows(len(numbers))
        stored = self._commit.arrays[path].rows
        behind = numbers >= stored
        if not behind.any():
            return self._shards.read(spec, numbers, stored)
        out = np.empty((len(numbers), *spec.shape), dtype=spec.dtype)
        out[~behind] = self._shards.read(spec, numbers[~behind], stored)
        out[behind] = self._remainder[path][numbers[behind] - stored]
        return out
