"""Fields that are looked at and copied in every step, as cheaply as that can be done.

On a CPU both go through a flat view of a tensor's memory, made once: torch's own calls would cost more than the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from athanor.kernels import all_below

if TYPE_CHECKING:
    from athanor.data.batch import Batch


class FlatView:
    """A tensor and, where it is contiguous memory of the CPU, that memory as a flat array."""

    __slots__ = ("_pointer", "array", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.array: np.ndarray[Any, Any] | None = None
        if tensor.is_cpu and tensor.is_contiguous():
            self.array = tensor.detach().numpy().reshape(-1)
        self._pointer = tensor.data_ptr()

    def add_(self, amount: float | Tensor, moved: Tensor | None) -> None:
        """Add a number, or one number per row [B], to the rows that moved (bool [B]; None: all), in place."""
        if self.array is not None and moved is None and not isinstance(amount, Tensor):
            np.add(self.array, amount, out=self.array)
            return
        rows = amount[:, None].to(self.tensor.dtype) if isinstance(amount, Tensor) else amount
        if moved is None:
            self.tensor.add_(rows)
        else:
            self.tensor.copy_(torch.where(moved[:, None], self.tensor + rows, self.tensor))

    def is_of(self, tensor: Tensor) -> bool:
        """Whether this is still the view of `tensor`, whose memory a user may have exchanged."""
        return self.tensor is tensor and self._pointer == tensor.data_ptr()


class WatchedField:
    """A floating field of a batch, and a copy of what it held when all was well.

    Parameters
    ----------
    tensor
        The field, any shape and unit; changed in place by others.
    limit
        Magnitude, in its unit, that no number of it may reach.
    """

    __slots__ = ("_sound", "kept", "limit", "view")

    def __init__(self, tensor: Tensor, limit: float) -> None:
        self.view, self.limit = FlatView(tensor), limit
        self.kept: FlatView | None = None
        self._sound = -1  # torch's version of the tensor when it was last found sound

    def is_sound(self, *, written: bool = False) -> bool:
        """Whether every number is finite and within the limit.

        Looks only if torch says that the tensor has changed since, or (`written`) others may have written to its
        memory behind torch's back, through ``numpy()`` or ``data``.
        """
        tensor = self.view.tensor
        version = -1 if tensor.is_inference() else tensor._version
        if not written and version >= 0 and version == self._sound:
            return True
        sound = all_below(tensor if self.view.array is None else self.view.array, self.limit)
        self._sound = version if sound else -1
        return sound

    def keep(self, rows: Tensor | None = None) -> None:
        """Copy the present numbers, of the `rows` of a mask [rows of the field] only if one is given."""
        present = self.view.tensor.detach()
        if self.kept is None:
            self.kept = FlatView(present.clone())
        elif rows is not None:
            self.kept.tensor.copy_(torch.where(rows, present, self.kept.tensor))
        elif self.view.array is not None and self.kept.array is not None:
            np.copyto(self.kept.array, self.view.array)
        else:
            self.kept.tensor.copy_(present)


class StepCounter:
    """Advances `step`, `stage_step` and `time` of the systems that moved."""

    __slots__ = ("_views",)

    def __init__(self) -> None:
        self._views: list[FlatView] = []

    def count_(self, batch: Batch, moved: Tensor | None, time_step: float | Tensor | None) -> None:
        """Count one step, in place.

        Parameters
        ----------
        batch
            Holds the counters [B, 1].
        moved
            bool [B]; None for all systems.
        time_step
            fs, a number or [B]; None for optimizers, which do not advance time.
        """
        counters = (batch.step, batch.stage_step, batch.time)
        if not self._views or not all(view.is_of(tensor) for view, tensor in zip(self._views, counters, strict=True)):
            self._views = [FlatView(tensor) for tensor in counters]
        for view in self._views[:2]:
            view.add_(1, moved)
        if time_step is not None:
            self._views[2].add_(time_step, moved)
