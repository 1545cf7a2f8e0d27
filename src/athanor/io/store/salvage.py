"""What is left of a store whose log is gone: the frames all of whose rows stand in shards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from athanor.io.store.layout import STRUCTURE_INDEX, array_spec, level_of
from athanor.io.store.medium import Medium
from athanor.io.store.reader import NODE_END, SEQUENCE, STRUCTURE, StoredFrames
from athanor.io.store.shards import ShardReader
from athanor.io.store.state import State


def what_is_left(medium: Medium, state: State) -> State:
    """Cut a store to what its shards hold: the commit, and frames that are to stand in the log behind it.

    Rows that no shard holds are the last ones of each array. As frames of a system stand together there, the frames
    that are lost need not be the last that were written; those that are left keep their order.

    Raises
    ------
    StorageError
        If a shard is damaged too.
    """
    commit, shards = state.commit, ShardReader(medium)

    def index(path: str) -> np.ndarray:
        stored = commit.arrays.get(path)
        if stored is None:
            return np.empty(0, np.int64)
        return shards.read(array_spec(path, stored, commit.fields), np.arange(stored.rows), stored.rows)

    rows = {level: commit.rows(level) for level in ("system", "node", "structure", "structure_node")}
    for path, stored in commit.arrays.items():
        level = level_of(path, commit.fields)
        rows[level] = min(rows[level], stored.rows)
    structure_end, node_end = index(STRUCTURE_INDEX)[: rows["structure"]], index(NODE_END)[: rows["system"]]
    structures = int(np.searchsorted(structure_end, rows["structure_node"], side="right"))
    systems = int(np.searchsorted(node_end, rows["node"], side="right"))
    structure = index(STRUCTURE)[:systems]
    systems = int(np.append(np.flatnonzero(structure >= structures), systems)[0])
    shards.forget()
    cut = replace(
        commit,
        systems=systems,
        nodes=int(node_end[systems - 1]) if systems else 0,
        structures=structures,
        structure_nodes=int(structure_end[structures - 1]) if structures else 0,
    )
    arrays = {
        path: replace(stored, rows=min(stored.rows, cut.rows(level_of(path, commit.fields))))
        for path, stored in commit.arrays.items()
    }
    cut = replace(cut, arrays=arrays)
    return _Left(medium, State(cut, cut.fields)).first(systems)


class _Left(StoredFrames):
    """Frames of which others were lost: their numbers are not one behind another, and stand for their order only."""

    def _places_of(self, chosen: np.ndarray) -> np.ndarray:
        if self._places is None:
            self._places = np.argsort(self._index(SEQUENCE), kind="stable")
        return self._places[chosen]
