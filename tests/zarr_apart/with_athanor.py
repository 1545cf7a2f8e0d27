"""Write stores with athanor, and read them: ``python with_athanor.py write FOLDER`` and ``... read FOLDER ...``."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr.storage
from ase.build import bulk, molecule

from athanor import AtomicData, Batch
from athanor.data.fields import FIELDS, FieldSpec
from athanor.io.store.check import check_store
from athanor.io.store.config import Durability, TrajectoryConfig
from athanor.io.store.layout import StoredField, to_numpy
from athanor.io.store.places import open_medium
from athanor.io.store.rows import Rows
from athanor.io.store.writer import TrajectoryWriter
from athanor.io.trajectory import TrajectoryReader
from athanor.sinks import ZarrData

from . import with_zarr

os.fsync = os.fdatasync = lambda descriptor: None  # nothing here is about power cuts
SIZES = (5, 1, 3)
SMALL = {"shard_bytes": 1024, "buffer_bytes": 9000}
DTYPES = {
    "float64": "float", "float32": "float", "float16": "float", "bfloat16": "float", "int64": "integer",
    "int32": "integer", "int16": "integer", "int8": "integer", "uint8": "integer", "bool": "boolean",
    "complex64": "any", "complex128": "any",
}  # fmt: skip
STANDARD = ("atomic_numbers", "pbc", "atomic_masses", "positions", "cell", "energy", "system_id", "step")
CONSTANT = ("atomic_numbers", "pbc", "atomic_masses")


def fields() -> list[FieldSpec]:
    """Fields of the table, and of every dtype one of each level that somebody invented."""
    own = [
        FieldSpec(f"{level}_{dtype}", level, shape, kind)
        for dtype, kind in DTYPES.items()
        for level, shape in (("node", (2,)), ("system", ()))
    ]
    return [*(FIELDS[name] for name in STANDARD), *own]


def values(spec: FieldSpec, step: int, chance: np.random.Generator) -> torch.Tensor:
    """Rows of a field for one step; constants depend on the system only."""
    count = sum(SIZES) if spec.level == "node" else len(SIZES)
    shape = (count, *(size or 4 for size in spec.shape))
    name = spec.name.partition("_")[2] if spec.name not in FIELDS else ""
    dtype = getattr(torch, name) if name else {"integer": torch.int64, "boolean": torch.bool}.get(
        spec.kind, torch.float64
    )  # fmt: skip
    if spec.name == "system_id":
        return torch.arange(count)[:, None]
    if spec.name == "step":
        return torch.full(shape, step)
    raw = torch.from_numpy(chance.integers(-100, 100, shape) * 0.37)
    if spec.kind == "boolean":
        return raw > 0
    raw = raw.abs() if dtype == torch.uint8 or spec.name == "atomic_numbers" else raw
    if dtype.is_floating_point and not spec.name.startswith("system_id"):
        raw[raw > 36] = float("nan")
    return raw.to(dtype)


def write_rows(store: Path, steps: int, closes: tuple[int, ...], medium: Any = None, **config: int) -> None:
    """Frames of every field, some of them closed over; what was written goes beside it."""
    place = open_medium(store if medium is None else medium)
    target = TrajectoryWriter(place, durability=Durability.parse("every:3"), config=TrajectoryConfig(**config))
    columns: dict[str, list[np.ndarray]] = {}
    for step in range(steps):
        rows, described = Rows(np.array(SIZES)), []
        for number, spec in enumerate(fields()):
            seed = [number] if spec.name in CONSTANT else [number, step]
            given = values(spec, step, np.random.default_rng(seed))
            rows.columns[spec.name] = to_numpy(given)
            described.append(StoredField.of(spec, given.dtype, tuple(given.shape[1:])))
            columns.setdefault(f"{spec.level}/{spec.name}", []).append(rows.columns[spec.name])
        target.append(rows, tuple(described))
        if step in closes:
            target.close()
    target.end()
    remember(store, columns, np.tile(SIZES, steps))


def remember(store: Path, columns: dict[str, list[np.ndarray]], counts: np.ndarray) -> None:
    """Put what was written beside a store."""
    whole = {key: np.concatenate(parts) for key, parts in columns.items()}
    np.savez(store.with_suffix(".npz"), node_counts=counts, **whole)


def write_masked(store: Path, dtype: torch.dtype) -> None:
    """A sink, from which systems of other sizes drop out one after the other."""
    atoms = [bulk("Cu", cubic=True), molecule("H2O"), bulk("NaCl", "rocksalt", a=5.6, cubic=True), molecule("CH4")]
    batch = Batch.from_data_list([AtomicData.from_atoms(each, dtype=dtype) for each in atoms])
    batch.system_id = torch.arange(len(atoms))[:, None]
    names = ("atomic_numbers", "positions", "cell", "pbc", "system_id", "step", "velocities")
    columns: dict[str, list[np.ndarray]] = {}
    counts: list[int] = []
    sizes = torch.tensor(batch.num_nodes_list)
    with ZarrData(store, durability="every:5", config=SMALL) as sink:
        for step in range(40):
            batch.step = torch.full((len(atoms), 1), step)
            batch.velocities = torch.sin(batch.positions * (step + 1))
            mask = torch.tensor([step < 10, True, step % 3 == 0, step > 5])
            sink.write(batch, mask)
            counts += sizes[mask].tolist()
            for name in names:
                value = getattr(batch, name)
                chosen = value[mask.repeat_interleave(sizes) if len(value) == sizes.sum() else mask]
                level = "node" if len(value) == sizes.sum() else "system"
                columns.setdefault(f"{level}/{name}", []).append(chosen.numpy().copy())
    remember(store, columns, np.array(counts))


def objects(store: Path) -> Any:
    """The folder as a store of objects of zarr, so that its code writes and reads."""
    return zarr.storage.WrapperStore(zarr.storage.LocalStore(store))


def write(folder: Path) -> None:
    """Every kind of store."""
    write_rows(folder / "closed", 40, (39,), **SMALL)
    write_rows(folder / "closed_twice", 20, (7, 19), shard_bytes=4096)
    write_rows(folder / "open", 60, (), **SMALL)
    write_rows(folder / "open_again", 70, (9,), **SMALL)
    write_rows(folder / "closed_objects", 12, (4, 11), objects(folder / "closed_objects"), **SMALL)
    write_masked(folder / "closed_float32", torch.float32)
    write_masked(folder / "closed_float64", torch.float64)


def compare(place: Any, wanted: dict[str, np.ndarray]) -> TrajectoryReader:
    """All rows of all fields have the bits with which they were written, and every checksum is right."""
    reader = TrajectoryReader(place)
    rows = reader.all_rows(slice(None))
    np.testing.assert_array_equal(rows.node_counts, wanted["node_counts"])
    for key in wanted.keys() - {"node_counts"}:
        name = key.partition("/")[2]
        assert rows.columns[name].dtype == wanted[key].dtype, name
        assert rows.columns[name].tobytes() == wanted[key].tobytes(), name
    assert check_store(open_medium(place)).problems == []
    return reader


def read(store: Path) -> str:
    """Compare a store; go on with a copy of it, and compare that, by zarr alone as well."""
    wanted = with_zarr.written(store)
    compare(store, wanted)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / store.name.replace("open", "closed")
        shutil.copytree(store, copy)
        place = objects(copy) if "objects" in store.name else copy
        reader = compare(place, wanted)
        target = TrajectoryWriter(open_medium(place), durability=Durability(), config=TrajectoryConfig(**SMALL))
        first = reader.all_rows(np.arange(3))
        target.append(first, tuple(reader.fields))
        target.close()
        for key in wanted:
            new = first.node_counts if key == "node_counts" else first.columns[key.partition("/")[2]]
            wanted[key] = np.concatenate([wanted[key], new])
        compare(place, wanted)
        return with_zarr.check(copy, wanted)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "write": lambda folders: [write(Path(each)) for each in folders],  # type: ignore[dict-item, return-value]
    "read": lambda folders: with_zarr.main(read, folders),
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](sys.argv[2:])
