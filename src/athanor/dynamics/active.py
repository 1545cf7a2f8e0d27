"""Which systems move in an update, and what is done for engines that do not ask.

An engine that *selects active* systems itself reads the `ActiveSet` and selects, never multiplies by zero (0 x NaN is
NaN). Around the ``pre_update`` and ``post_update`` of any other, the fields that it may change are saved and put back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from athanor.data.batch import Batch


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
def restored_where_inactive(batch: Batch, active: ActiveSet, fields: tuple[str, ...]) -> Iterator[None]:
    """Undo what the body does to `fields` of systems and atoms that must not move.

    The body may also replace a field by assignment. Unmoved rows keep their bits.
    """
    atoms = active.atoms
    saved = {} if active.all and atoms is None else {n: batch[n].clone() for n in fields if n in batch}
    yield
    for name, before in saved.items():
        now = batch[name]
        if batch.field_spec(name).level == "node":
            mask = None if atoms is None else atoms[:, :1].reshape(-1, *([1] * (now.ndim - 1)))
        else:
            mask = active.systems.reshape(-1, *([1] * (now.ndim - 1)))
        if mask is not None:
            now.copy_(torch.where(mask, now, before))
