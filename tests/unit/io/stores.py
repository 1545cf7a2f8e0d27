"""Small rows for store tests, and stores that fail on purpose."""

from __future__ import annotations

import numpy as np
import torch
import zarr.storage

from athanor.data.fields import FIELDS, FieldSpec
from athanor.io.zarr_config import Durability, TrajectoryConfig
from athanor.io.zarr_rows import Rows
from athanor.io.zarr_schema import StoredField, to_numpy
from athanor.io.zarr_writer import TrajectoryWriter

NAMES = ("atomic_numbers", "positions", "cell", "pbc", "energy", "system_id", "step")


def make_rows(
    step: int, sizes: tuple[int, ...] = (2, 3), names: tuple[str, ...] = NAMES, dtype: torch.dtype = torch.float64
) -> tuple[Rows, list[StoredField]]:
    """Rows whose every value tells step, system and place; those of a field called `filled` are its fill value."""
    rows = Rows(np.array(sizes), np.zeros(len(sizes), dtype=np.int64))
    fields = []
    for number, name in enumerate(names):
        spec = FIELDS.get(name) or FieldSpec(name, "system", (1,), "integer" if name == "filled" else "float")
        count = rows.counts[spec.level]
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
        fields.append(StoredField.of(spec, values))
    return rows, fields


def writer(store: object, durability: str = "frame", mode: str = "a", **config: int) -> TrajectoryWriter:
    return TrajectoryWriter(
        store, mode=mode, durability=Durability.parse(durability), config=TrajectoryConfig(**config)
    )


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

    async def set_if_not_exists(self, key, value):
        self._count()
        await super().set_if_not_exists(key, value)

    async def delete(self, key):
        self._count()
        await super().delete(key)

    async def delete_dir(self, prefix):
        self._count()
        await super().delete_dir(prefix)
