"""Whatever is done to a store, in whatever order: it holds what a list in memory holds."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.io.store.maintenance import repair_store, rewrite_store
from athanor.io.store.writer import TrajectoryWriter
from athanor.io.trajectory import TrajectoryReader

from .stores import make_rows, writer

NAMES = ("atomic_numbers", "positions", "system_id", "step")
SIZES = ((2, 3), (1,), (4, 0, 2), (2, 3, 2, 3, 2))
WRITES = st.tuples(st.just("write"), st.integers(0, 2 * len(SIZES) - 1))
OTHERS = st.tuples(
    st.sampled_from(["flush", "close", "reopen", "cut", "zero", "repair", "rewrite", "look"]), st.integers(0, 30)
)
Frame = dict[str, np.ndarray]


def frames_of(step: int, sizes: tuple[int, ...], names: tuple[str, ...], dtype: torch.dtype) -> list[Frame]:
    rows, fields = make_rows(step, sizes, names, dtype)
    ends = np.cumsum(rows.node_counts)
    found = []
    for place, (end, count) in enumerate(zip(ends, rows.node_counts, strict=True)):
        here = {"node": slice(end - count, end), "system": slice(place, place + 1)}
        found.append({item.name: rows.columns[item.name][here[item.level]] for item in fields})
    return found


def check(store: object, frames: list[Frame], chosen: np.ndarray) -> None:
    """All of it in the order of writing, and some of it in any order; who lacks velocities has none, or zeros."""
    reader = TrajectoryReader(store)
    assert len(reader) == len(frames)
    if not frames:
        return
    for numbers in (np.arange(len(frames)), chosen % len(frames)):
        rows = reader.all_rows(numbers)
        assert rows.node_counts.tolist() == [len(frames[number]["positions"]) for number in numbers]
        for name, column in rows.columns.items():
            missing = np.zeros_like
            wanted = [frames[n].get(name, missing(frames[n]["positions"], dtype=column.dtype)) for n in numbers]
            np.testing.assert_array_equal(column, np.concatenate(wanted), err_msg=name)
    system = int(chosen[0]) % 2
    rows = [place for place, frame in enumerate(frames) if frame["system_id"].item() == system]
    if rows and len(frames[rows[0]]["positions"]):
        steps = [frames[place]["step"].item() for place in rows]
        assert reader.frames(system).step.flatten().tolist() == steps


@settings(max_examples=25)
@given(
    st.lists(st.one_of(WRITES, OTHERS), min_size=4, max_size=14),
    st.sampled_from([0, 900, 4000, 10**7]),
    st.sampled_from([torch.float64, torch.float32]),
)
def test_a_store_is_a_list_of_frames(operations, buffer_bytes, dtype):
    with tempfile.TemporaryDirectory() as folder:
        store, frames = Path(folder) / "t.zarr", list[Frame]()

        def opened(mode: str = "a") -> TrajectoryWriter:
            return writer(store, "every:2", mode, shard_bytes=1024, buffer_bytes=buffer_bytes)

        target = opened()
        for step, (what, number) in enumerate(operations):
            if what == "write":
                sizes, names = SIZES[number % len(SIZES)], NAMES + ("velocities",) * (number >= len(SIZES))
                target.append(*make_rows(step, sizes, names, dtype))
                frames += frames_of(step, sizes, names, dtype)
            elif what in ("flush", "close"):
                getattr(target, what)()
            elif what == "cut":
                frames = frames[: number % (len(frames) + 1)]
                target.truncate_to(len(frames))
            elif what == "zero":
                target.zero()
                frames = []
            else:
                target.end() if number % 2 else target.close()
                if what == "repair":
                    assert repair_store(store).frames == len(frames)
                elif what == "rewrite":
                    assert rewrite_store(store) == len(frames)
                target = opened()
            if what != "write" or number % 2:
                check(store, frames, np.array([number, 7 * step, 3]))
            assert target.written == len(frames)
        target.close()
        check(store, frames, np.arange(5))
