"""Batches as buffers: systems are put in, taken out and thrown away in memory that is taken once.

Short methods that delegate to `_put`; the memory itself is in `_room`.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch

from athanor.data import _membership, _put
from athanor.data._storage import BatchStorage


class Buffer(BatchStorage):
    """Room for systems: any batch can be given some. Made empty by `Batch.empty`."""

    __slots__ = ()

    def reserve(self, num_systems: int = 0, num_nodes: int = 0, num_edges: int = 0) -> None:
        """Take memory for so many systems, atoms and pairs in all, which makes this batch a buffer.

        What it holds stays. Its tensors are the beginning of that memory; sizes count what it holds, never the room. A
        copy has as much room, a selection none. There is never less room than systems, so one that holds more than its
        room grows.

        Parameters
        ----------
        num_systems, num_nodes
            Systems and atoms.
        num_edges
            Pairs. At 0, systems are put in without their pairs, which follow from positions.

        Raises
        ------
        InputError
            If a size is negative.
        """
        _put.reserve(self, num_systems, num_nodes, num_edges)

    def put(
        self,
        src_batch: BatchStorage,
        mask: torch.Tensor,
        *,
        copied_mask: torch.Tensor | None = None,
        dest_mask: torch.Tensor | None = None,
    ) -> None:
        """Copy systems of `src_batch` into free places of this buffer, in place and in the memory that it has.

        Systems are taken in order, up to the first for which there is no room: of that one and those behind it nothing
        is copied, which is no error. Every field, dtype and row that engines remember comes with a system, and pairs if
        there is room for any; those are joined in new memory, as a pair list is a value. Fields that one side lacks
        follow the rule of `from_data_list`; one of another dtype or trailing shape is refused.

        Parameters
        ----------
        src_batch
            Not changed. May be on another device.
        mask
            bool [B] of `src_batch`; which systems are wanted. Where it is not on the host, it is waited for, once.
        copied_mask
            bool [B] of `src_batch`; is filled with what was copied. Without it, `src_batch` itself remembers that for
            its own `defrag` and `trim`.
        dest_mask
            bool [`system_capacity`]; which places are taken. Systems in the others are written over, first place
            first, and those that nothing is written over stay. Is updated. Without it, all systems stay.

        Raises
        ------
        InputError
            If both share memory, or a place without a system is called taken; `ShapeError` for a mask of another
            length, `DtypeError` for a field of another dtype.
        MissingFieldError
            If one side lacks a field that can not be filled.
        """
        _put.put(self, src_batch, mask, copied_mask, dest_mask)

    def defrag(self, copied_mask: torch.Tensor | None = None) -> Self:
        """Take systems out of this batch and close the gaps, in place; the room stays as it is. Returns the batch.

        Parameters
        ----------
        copied_mask
            bool [B]; which systems go. Without it, those that the last `put` copied out of this batch.

        Raises
        ------
        InputError
            If there is neither; `ShapeError` for a mask of another length.
        """
        _put.defragment(self, _put.copied_systems(self, copied_mask, "defrag"))
        return self

    def trim(self, copied_mask: torch.Tensor | None = None) -> Self | None:
        """Return a new batch, without room, of the systems that stay; None if there is none. This one is not changed.

        Parameters
        ----------
        copied_mask
            bool [B]; which systems go, as in `defrag`.

        Raises
        ------
        InputError
            As in `defrag`.
        """
        staying = np.flatnonzero(~_put.copied_systems(self, copied_mask, "trim"))
        return self._pass_freshness_to(_membership.select(self, staying)) if len(staying) else None

    def zero(self) -> None:
        """Throw all systems away and set the memory to zero, in place; the room stays as it is."""
        _put.zero(self)
