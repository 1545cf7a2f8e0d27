"""What becomes of frames when they move from the log into the arrays: their order there, and the commit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from athanor.io.store.buffer import ArrayBuffer
from athanor.io.store.layout import STRUCTURE_INDEX, SYSTEM_INDEX, Commit, array_spec, level_of, tail_key
from athanor.io.store.medium import Medium
from athanor.io.store.shards import ArraySpec, ShardReader
from athanor.io.store.state import State, merge_frames


def buffers_of(medium: Medium, state: State) -> dict[str, ArrayBuffer]:
    """Read the end of each array; of a part-filled shard as well, which a longer one is to replace."""
    buffers = {}
    shards = ShardReader(medium)
    for path, stored in state.commit.arrays.items():
        spec = array_spec(path, stored, state.commit.fields)
        buffer = buffers[path] = ArrayBuffer(spec, stored.rows - stored.rows % spec.shard_rows)
        buffer.add(shards.read(spec, np.arange(buffer.base, stored.rows), stored.rows))
        buffer.stored = stored.rows
        buffer.add(state.remainder.get(path, buffer.rows[:0]))
    shards.forget()
    return buffers


def with_frames(buffers: Mapping[str, ArrayBuffer], state: State, shard_bytes: int) -> dict[str, ArrayBuffer]:
    """Return the ends of the arrays with the frames of the log behind them; those given stay as they are.

    Frames of one system are put together. A field that came later gets the missing value for frames before it.
    """
    commit, fields = state.commit, state.fields
    filled = {path: buffer.copy() for path, buffer in buffers.items()}
    if not state.frames:
        return filled
    data = [item for item in fields if not item.constant]
    rows, structure, new = merge_frames(state.frames, fields)
    identity = rows.columns.get("system_id")
    order = np.arange(len(rows)) if identity is None else np.argsort(identity.reshape(-1), kind="stable")
    if (np.diff(order) != 1).any():
        rows = rows.take(order, data)

    def end_of(path: str, values: np.ndarray) -> ArrayBuffer:
        if path not in filled:
            per_atom = level_of(path, fields) in ("node", "structure_node")
            spec = ArraySpec.sized(path, values.dtype, values.shape[1:], shard_bytes, per_atom=per_atom)
            filled[path] = ArrayBuffer(spec)
        return filled[path]

    index = np.cumsum(rows.node_counts) + commit.nodes, structure[order], order + commit.systems
    for path, values in zip(SYSTEM_INDEX, index, strict=True):
        end_of(path, values).add(values)
    ends = np.cumsum(new.node_counts) + commit.structure_nodes
    end_of(STRUCTURE_INDEX, ends).add(ends)
    for item in fields:
        values, is_new = (new if item.constant else rows).column(item), item.path not in filled
        buffer = end_of(item.path, values)
        if is_new:
            buffer.add(item.missing_rows(commit.rows(level_of(item.path, fields))))
        buffer.add(values)
    return filled


def next_commit(state: State, buffers: Mapping[str, ArrayBuffer], mark: str) -> Commit:
    """Return the commit that counts the frames of the log among the rows of the arrays; `mark` names its own log."""
    commit = state.commit
    return Commit(
        number=commit.number + 1,
        systems=state.systems,
        nodes=commit.nodes + sum(each.nodes for each in state.frames),
        structures=commit.structures + sum(each.structures for each in state.frames),
        structure_nodes=commit.structure_nodes + sum(each.structure_nodes for each in state.frames),
        fields=state.fields,
        arrays={path: buffer.to_commit() for path, buffer in buffers.items()},
        tail=tail_key(commit.number + 1, mark),
        previous=state.checksum,
    )
