"""Looking at and keeping many tensors in one call: the public class.

An engine does both in every step, for a dozen small tensors: a call of torch for each would cost more than the work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from athanor.errors import ShapeError
from athanor.kernels._library import LazyModule
from athanor.kernels.keep import _reference

_cpu = LazyModule("athanor.kernels.keep._cpu")
_COMPILED = (torch.float64, torch.float32)


class KeptTensors:
    r"""Tensors that change in place, a copy of each, and limits for some of them.

    Parameters
    ----------
    tensors
        What is looked at and copied; any shapes, dtypes and units, all on one device.
    copies
        Where copies go: one tensor for each, of its shape and dtype.
    limits
        Index of a floating tensor -> magnitude, in its unit, that no number of it may reach.

    Raises
    ------
    ShapeError
        If a copy differs from its tensor in shape or dtype.

    Notes
    -----
    On a CPU, where all are contiguous, the memory is gone through by one compiled call each; a call is not cut short by
    a signal, so the copies are those of one moment. Elsewhere torch does it, tensor by tensor.
    """

    def __init__(
        self, tensors: Sequence[torch.Tensor], copies: Sequence[torch.Tensor], limits: Mapping[int, float]
    ) -> None:
        for tensor, copy in zip(tensors, copies, strict=True):
            if tensor.shape != copy.shape or tensor.dtype != copy.dtype:
                raise ShapeError(
                    f"The copy of a {tensor.dtype} {tuple(tensor.shape)} is a {copy.dtype} {tuple(copy.shape)}."
                )
        self._tensors, self._copies, self._limits = list(tensors), list(copies), dict(limits)
        everything = [*self._tensors, *self._copies]
        self._compiled = all(tensor.is_cpu and tensor.is_contiguous() for tensor in everything) and all(
            tensors[index].dtype in _COMPILED for index in limits
        )
        if self._compiled:
            self._note_addresses()

    def _note_addresses(self) -> None:
        self._addresses = [tensor.data_ptr() for tensor in self._tensors]
        checked = list(self._limits)
        sizes = [tensor.numel() * tensor.element_size() for tensor in self._tensors]
        addresses = np.array(self._addresses, dtype=np.int64)
        self._to_copy = (
            addresses,
            np.array([copy.data_ptr() for copy in self._copies], dtype=np.int64),
            np.array(sizes, dtype=np.int64),
        )
        self._to_check = (
            addresses[checked],
            np.array([self._tensors[index].numel() for index in checked], dtype=np.int64),
            np.array([self._tensors[index].dtype == torch.float64 for index in checked], dtype=np.bool_),
            np.array([self._limits[index] for index in checked], dtype=np.float64),
        )

    def all_below(self) -> bool:
        """Whether every number of the tensors with a limit is finite and below it. Waits for the device."""
        self._follow_memory()
        if self._compiled:
            return bool(_cpu.all_below(*self._to_check))
        return _reference.all_below([self._tensors[index] for index in self._limits], list(self._limits.values()))

    def keep(self) -> None:
        """Copy every tensor, in place."""
        self._follow_memory()
        if self._compiled:
            _cpu.keep(*self._to_copy)
        else:
            _reference.keep(self._tensors, self._copies)

    def keep_if_below(self) -> bool:
        """Copy every tensor, in place, if `all_below` says so; return whether it did."""
        self._follow_memory()
        if self._compiled:
            return bool(_cpu.keep_if_below(*self._to_check, *self._to_copy))
        sound = self.all_below()
        if sound:
            self.keep()
        return sound

    def _follow_memory(self) -> None:
        """Look addresses up again if somebody exchanged the memory of a tensor (``tensor.data = ...``)."""
        if self._compiled and self._addresses != [tensor.data_ptr() for tensor in self._tensors]:
            self._compiled = all(tensor.is_contiguous() for tensor in self._tensors)
            self._note_addresses()
