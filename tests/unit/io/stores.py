"""Small rows for store tests, and stores that fail on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr.storage

from athanor.data.fields import FIELDS, FieldSpec
from athanor.io.store.config import Durability, TrajectoryConfig
from athanor.io.store.folder import Disk, Folder
from athanor.io.store.layout import StoredField, to_numpy
from athanor.io.store.medium import Medium
from athanor.io.store.places import open_medium
from athanor.io.store.rows import Rows
from athanor.io.store.writer import TrajectoryWriter

NAMES = ("atomic_numbers", "positions", "cell", "pbc", "energy", "system_id", "step")


def make_rows(
    step: int, sizes: tuple[int, ...] = (2, 3), names: tuple[str, ...] = NAMES, dtype: torch.dtype = torch.float64
) -> tuple[Rows, list[StoredField]]:
    """Rows whose every value tells step, system and place; those of a field called `filled` are its fill value."""
    rows = Rows(np.array(sizes))
    fields = []
    for number, name in enumerate(names):
        spec = FIELDS.get(name) or FieldSpec(name, "system", (1,), "integer" if name == "filled" else "float")
        count = rows.count(spec.level)
        shape = (count, *(size or 4 for size in spec.shape))
        values = torch.arange(int(np.prod(shape)), dtype=torch.float64).reshape(shape) + 1000 * step + 100_000 * number
        if spec.kind == "integer":
            values = values.long()
        elif spec.kind == "boolean":
            values = (values.long() + step) % 2 == 0
        else:
            values = values.to(dtype)
        if name == "filled":
            values = torch.full((count, 1), -1)
        if name == "system_id":
            values = torch.arange(count)[:, None]
        if name == "step":
            values = torch.full((count, 1), step)
        rows.columns[name] = to_numpy(values)
        fields.append(StoredField.of(spec, values.dtype, tuple(values.shape[1:])))
    return rows, fields


def writer(store: object, durability: str = "frame", mode: str = "a", **config: int) -> TrajectoryWriter:
    when = Durability.parse(durability)
    medium = store if isinstance(store, Medium) else open_medium(store, synced=False)  # as only a power cut would tell
    return TrajectoryWriter(medium, mode=mode, durability=when, config=TrajectoryConfig(**config))


class Fault(Exception):
    """The store was told to fail here."""


class FailingStore(zarr.storage.WrapperStore):
    """A memory store that counts writes and deletions, and fails before number `fail_at` and for ever after."""

    def __init__(self, store: zarr.storage.MemoryStore, fail_at: int | None = None) -> None:
        super().__init__(store)
        self.fail_at = fail_at
        self.operations = 0

    def _count(self) -> None:
        self.operations += 1
        if self.fail_at is not None and self.operations >= self.fail_at:
            raise Fault(f"operation {self.operations}")

    async def set(self, key, value):
        self._count()
        await super().set(key, value)

    async def delete(self, key):
        self._count()
        await super().delete(key)


class StoppingDisk(Disk):
    """A disk that does no more from operation `fail_at` on, of which a write may have been done in part.

    Parameters
    ----------
    fail_at
        Number of the operation; None counts only.
    part
        How much of the write that fails is done.
    error
        What is raised; with an OSError the disk works again afterwards.
    """

    def __init__(self, fail_at: int | None = None, part: float = 0.0, error: BaseException | None = None) -> None:
        self.fail_at, self.part, self.error = fail_at, part, error
        self.operations: list[str] = []

    def _count(self, name: str) -> bool:
        self.operations.append(name)
        return self.fail_at is not None and len(self.operations) >= self.fail_at

    def _fail(self) -> None:
        if self.error is not None:
            self.fail_at = None
            raise self.error
        raise Fault(self.operations[-1])

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        if self._count("write"):
            if self.part and len(self.operations) == self.fail_at:
                super().write(descriptor, data[: int(len(data) * self.part)], offset)
            self._fail()
        super().write(descriptor, data, offset)


def _counted(name: str) -> Any:
    def method(self: StoppingDisk, *arguments: Any) -> Any:
        if self._count(name):
            self._fail()
        return None if name.startswith("sync") else getattr(Disk, name)(self, *arguments)  # only a power cut would tell

    return method


for each in ("create", "truncate", "rename", "remove", "make_folder", "sync", "sync_folder"):
    setattr(StoppingDisk, each, _counted(each))


def folder(path: Path, disk: Disk | None = None) -> Folder:
    return Folder(path, disk=disk)
