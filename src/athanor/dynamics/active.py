"""Which systems move in an update, and what is done for engines that do not ask.

An engine that *selects active* systems itself reads the `ActiveSet` and selects, never multiplies by zero (0 x NaN is
NaN). Around the ``pre_update`` and ``post_update`` of any other, the fields that it may change are saved and put back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.data.fields import Level


class ActiveSet:
    """The systems that move, and the atoms of them that may.

    Parameters
    ----------
    systems
        bool [B].
    batch
        Source of the atom-to-system index and of the `fixed` field.

    Notes
    -----
    Building one waits for the device once; the engine keeps it until a status changes.
    """

    __slots__ = ("_atoms", "_batch_idx", "_fixed", "all", "any", "systems")

    def __init__(self, systems: Tensor, batch: Batch) -> None:
        self.systems = systems
        self.all = bool(systems.all())
        self.any = len(systems) > 0 and (self.all or bool(systems.any()))
        self._batch_idx = batch.batch_idx
        self._fixed: Tensor | None = batch.get("fixed")
        self._atoms: Tensor | None = None

    @property
    def atoms(self) -> Tensor | None:
        """Mask [N, 3] of coordinates that may change, or None if all may."""
        if self._atoms is None and not (self.all and self._fixed is None):
            movable = self.systems[self._batch_idx]
            if self._fixed is not None:
                movable = movable & ~self._fixed
            if not bool(movable.all()):
                self._atoms = movable[:, None].expand(-1, 3).contiguous()
            else:
                self._fixed = None
        return self._atoms

    def select_(self, target: Tensor, value: Tensor) -> None:
        """Write `value` into the system-level `target` [B, ...], in place, where the system is active."""
        if self.all:
            target.copy_(value)
        else:
            rows = self.systems.reshape(-1, *([1] * (target.ndim - 1)))
            target.copy_(torch.where(rows, value, target))


def selects_active(engine: Any) -> bool:
    """Whether `engine` honours the active set itself.

    The flag ``_selects_active`` counts only if the very class that defines the ``pre_update`` and ``post_update`` in
    use sets it, so a subclass that overrides one of them is restored from outside until it says otherwise.
    """
    for half in ("pre_update", "post_update"):
        owner = next(cls for cls in type(engine).__mro__ if half in vars(cls))
        if not vars(owner).get("_selects_active", False):
            return False
    return True


@contextmanager
def restored_where_inactive(
    batch: Batch, active: ActiveSet, fields: tuple[str, ...], state: Mapping[str, tuple[Level, Tensor]]
) -> Iterator[None]:
    """Undo what the body does to systems and atoms that must not move. Their rows keep their bits.

    Parameters
    ----------
    batch
        The batch.
    active
        Systems and atoms that may move.
    fields
        Names of fields that the body may change, also by assignment.
    state
        Name -> level and rows of what an engine remembers, which the body may change in place.
    """
    atoms = active.atoms
    if active.all and atoms is None:
        yield
        return
    levels = {name: batch.field_spec(name).level for name in fields if name in batch}
    before = [(level, batch[name].clone()) for name, level in levels.items()]
    before += [(level, rows.clone()) for level, rows in state.values()]
    yield
    after = [batch[name] for name in levels] + [rows for _, rows in state.values()]
    for (level, old), new in zip(before, after, strict=True):
        mask = active.systems if level == "system" else None if atoms is None else atoms[:, 0]
        if mask is not None:
            new.copy_(torch.where(mask.reshape(-1, *([1] * (new.ndim - 1))), new, old))
