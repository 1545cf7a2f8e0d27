"""Read stores with zarr and numpy alone, and compare with what was written: ``python with_zarr.py FOLDER ...``.

Beside each store is a file of what was written, frame by frame: `LEVEL/FIELD` -> rows, and `node_counts`.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr


def written(store: Path) -> dict[str, np.ndarray]:
    """What was written to a store."""
    with np.load(store.with_suffix(".npz")) as file:
        return dict(file)


def parts_of(rows: np.ndarray, counts: np.ndarray, level: str) -> list[np.ndarray]:
    """Rows of each frame."""
    ends = np.cumsum(counts) if level == "node" else np.arange(1, len(counts) + 1)
    return np.split(rows, ends[:-1])


def check(store: Path, given: dict[str, np.ndarray] | None = None) -> str:
    """Compare all rows that the arrays say they have; those of frames that are only in the log are not for zarr."""
    wanted = written(store) if given is None else given
    counts = wanted.pop("node_counts")
    group = zarr.open_group(store, mode="r")
    closed = not store.name.startswith("open")

    def index(name: str) -> np.ndarray:
        return group[f"index/{name}"][:] if closed or f"index/{name}" in group else np.empty(0, np.int64)

    sequence, structure, ends, structure_ends = map(index, ("sequence", "structure", "node_end", "structure_end"))
    assert not closed or len(sequence) == len(ends) == len(structure) == len(counts), "not all frames are there"
    compared = 0
    for key, rows in wanted.items():
        level, name = key.split("/")
        frames = parts_of(rows, counts, level)
        is_shared = f"structures/{name}" in group
        if not closed and not is_shared and f"data/{name}" not in group:
            continue
        found = group[f"structures/{name}" if is_shared else f"data/{name}"][:]
        assert found.dtype == rows.dtype, f"{name} is {found.dtype}, and was {rows.dtype}"
        stops = structure_ends if is_shared else ends
        for place in range(min(len(sequence), len(ends), len(structure))):
            row = structure[place] if is_shared else place
            if level == "node" and row >= len(stops):
                continue
            stop = stops[row] if level == "node" else row + 1
            start = (stops[row - 1] if row else 0) if level == "node" else row
            if stop > len(found):
                assert not closed, f"{name} has {len(found)} rows, not {stop}"
                continue
            frame = frames[sequence[place]]
            np.testing.assert_array_equal(found[start:stop], frame, err_msg=f"{name} of frame {sequence[place]}")
            compared += 1
    assert compared >= len(wanted if closed else "node") * len(counts) // 3, "too little was compared"
    return "equal"


def outcome(look: Callable[[Path], str], store: Path) -> str:
    """What came of a comparison."""
    try:
        return look(store)
    except Exception as error:
        return f"{''.join(traceback.format_exception(error)[-3:])}"


def main(look: Callable[[Path], str], folders: list[str]) -> None:
    """Compare the stores of several folders; print the version of zarr, and by folder and store what came of it."""
    found: dict[str, Any] = {}
    for folder in map(Path, folders):
        stores = sorted(path for path in folder.iterdir() if path.is_dir())
        found[folder.name] = {store.name: outcome(look, store) for store in stores}
    print(json.dumps({"zarr": zarr.__version__, "python": sys.version.split()[0], "found": found}))


if __name__ == "__main__":
    main(check, sys.argv[1:])
