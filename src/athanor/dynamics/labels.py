"""Labels that only some systems have: what nobody reads must not keep a system from running."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from math import nan
from typing import TYPE_CHECKING

from athanor import _runtime
from athanor.errors import AthanorWarning

if TYPE_CHECKING:
    from athanor.data.batch import Batch

_ABSENT = -1
"""What a whole number is where a system has none."""


class Labels:
    """Makes systems fit to a batch as far as their labels go.

    Parameters
    ----------
    read
        Labels that the model reads; they are not touched.
    """

    def __init__(self, read: Collection[str]) -> None:
        self._read = frozenset(read)
        self._told: set[str] = set()

    def fit(self, newcomers: Batch, batch: Batch) -> bool:
        """Give newcomers the custom fields that a batch has, as it has them, in place; return whether any differed.

        Whole numbers that newcomers lack become -1 and floats NaN; those that the batch lacks, and ones of other shapes
        or levels, are left out.
        """
        found = self._clashing(newcomers, batch)
        for name in found:
            if name in newcomers:
                del newcomers[name]
            newcomers._custom = {key: row for key, row in newcomers.custom_fields.items() if key != name}
            if name in batch:
                row, like = batch.custom_fields[name], batch[name]
                fill = nan if like.is_floating_point() else like.new_tensor(_ABSENT).item()
                rows = newcomers.num_nodes if row.level == "node" else len(newcomers)
                newcomers.register_field(row)
                newcomers.set_field(name, like.new_full((rows, *like.shape[1:]), fill))
        new = set(found) - self._told
        if new:
            self._told |= new
            names = ", ".join(f"`{name}`" for name in sorted(new))
            text = (
                f"Not every system has the labels {names} alike, and the model does not read them. They are kept as "
                f"the first systems have them: left out of others, and {_ABSENT} or NaN where a system has none."
            )
            warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())
        return bool(found)

    def _clashing(self, newcomers: Batch, batch: Batch) -> list[str]:
        """Return the custom fields, not read by anybody, because of which two batches can not be joined."""
        found = []
        for name in sorted((batch.custom_fields.keys() | newcomers.custom_fields.keys()) - self._read):
            rows = [row for part in (batch, newcomers) if (row := part.custom_fields.get(name)) is not None]
            values = [tensor for part in (batch, newcomers) if (tensor := part.get(name)) is not None]
            differ = len({(row.level, row.shape, row.kind) for row in rows}) > 1
            if any(row.level == "edge" for row in rows):
                continue
            if differ or (len(values) == 1 and not values[0].is_floating_point()):
                found.append(name)
        return found
