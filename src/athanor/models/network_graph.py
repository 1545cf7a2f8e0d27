"""NetworkGraph: the pairs of a batch within the cutoff of a network, and what of them and of the atoms it reads."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch

from athanor.data.fields import FIELDS
from athanor.errors import InputError
from athanor.models.derivatives import strained_view
from athanor.models.pair_vectors import attached_vectors
from athanor.models.prepared import prepared
from athanor.models.stored_list import require_pairs

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.models.mixin import BaseModelMixin


class NetworkGraph:
    r"""Atoms and pairs of a batch as networks read them; each tensor is made when it is asked for first.

    Pair u is :math:`v_u = r_j - r_i + S_u h`, both directions stand in the list, and none is longer than the cutoff.

    Parameters
    ----------
    model
        Whose list is read, for its messages.
    batch
        A view of a batch with a full neighbour list; positions and cell may require grad.
    cutoff
        Å; pairs at or beyond it are left out.
    dtype
        Of the network.
    strain
        [B, 3, 3], as `BaseModelMixin.attached_energy` gets it.

    Raises
    ------
    MissingFieldError
        A `KeyError`, if there is no neighbour list.
    InputError
        If the list is half, too short or out of date.

    Notes
    -----
    Geometry is computed in the dtype of the positions and then rounded to that of the network, so that a gradient is
    summed over pairs in the former. Integers and flags are copies, as what a run in inference mode made could not be
    saved for a backward pass.
    """

    def __init__(
        self,
        model: BaseModelMixin,
        batch: Batch,
        cutoff: float,
        dtype: torch.dtype,
        strain: torch.Tensor | None = None,
    ) -> None:
        self.batch, self.dtype, self._strain = batch, dtype, strain
        pairs = require_pairs(model, batch, cutoff)
        if pairs.half:
            raise InputError(
                f"The neighbour list is half; {type(model).__name__} needs both directions. "
                f"Build it with `compute_neighbors(batch, config=model.model_config.neighbor_config)`."
            )
        within = None if pairs.radius <= cutoff else cutoff  # that of a list which somebody assigned is unknown, NaN
        cells = (batch.cell, batch.batch_idx) if "cell" in batch else ()
        found = prepared(_pairs_within, batch.positions, *pairs.pair_index(batch), *cells, cutoff=within)
        self._geometry, self.edge_index, self.images = found

    edge_index: torch.Tensor
    """int64 [2, E], the atoms i and j of each pair; sorted by i."""
    images: torch.Tensor
    """int [E, 3], S."""

    @property
    def num_graphs(self) -> int:
        """Systems, B."""
        return self.batch.num_graphs

    @property
    def num_nodes(self) -> int:
        """Atoms, N."""
        return self.batch.num_nodes

    @cached_property
    def atomic_numbers(self) -> torch.Tensor:
        """int64 [N]."""
        return self.batch.atomic_numbers.to(torch.int64, copy=True)

    @cached_property
    def batch_idx(self) -> torch.Tensor:
        """int64 [N], system of each atom."""
        return self.batch.batch_idx.to(torch.int64, copy=True)

    @cached_property
    def ptr(self) -> torch.Tensor:
        """int64 [B+1], first atom of each system."""
        return self.batch.batch_ptr.to(torch.int64, copy=True)

    @cached_property
    def pbc(self) -> torch.Tensor:
        """bool [B, 3], periodic axes; none where there is no cell."""
        return self.batch.pbc_or_false.clone()

    @cached_property
    def vectors(self) -> torch.Tensor:
        """[E, 3], v, Å; attached to positions, cell and strain if these are differentiated by."""
        attached = attached_vectors(self._geometry, self.edge_index.T, self.batch, self._strain)
        return attached.to(self.dtype)

    @cached_property
    def positions(self) -> torch.Tensor:
        """[N, 3], Å; attached to positions and strain."""
        return self._strained.positions.to(self.dtype)

    @cached_property
    def local_positions(self) -> torch.Tensor:
        """[N, 3], Å, from the first atom of each system on: rounding is then the same wherever a system stands.

        For networks to which a translation is nothing. Attached to positions and strain.
        """
        origin = self.batch.positions.detach()[self.ptr[:-1]]
        return (self._strained.positions - origin[self.batch_idx]).to(self.dtype)

    @cached_property
    def cell(self) -> torch.Tensor:
        """[B, 3, 3], Å; unit vectors where there is none. Attached to cell and strain."""
        return self._cell.to(self.dtype)

    @cached_property
    def unit_shifts(self) -> torch.Tensor:
        """[E, 3], S, as floating-point numbers."""
        return self.images.to(self.dtype)

    @cached_property
    def shifts(self) -> torch.Tensor:
        """[E, 3], S h, Å; attached to cell and strain."""
        cell = self._cell[self.batch_idx[self.edge_index[0]]]
        return torch.einsum("ea,eac->ec", self.images.to(cell.dtype), cell).to(self.dtype)

    def label(self, name: str) -> torch.Tensor:
        """Return ``charge`` or ``spin`` [B] of each system, in the dtype of the network; assumed where it is absent."""
        assumed, value = FIELDS[name].assumed, self.batch.get(name)
        if assumed is None:
            raise InputError(f"`{name}` is no label that is assumed where it is absent.")
        if value is None:
            return torch.full((self.num_graphs,), assumed, dtype=self.dtype, device=self.batch.device)
        return value.view(-1).nan_to_num(assumed).to(self.dtype)

    def system_sums(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sums of the rows [N, ...] of each system, added in order, float64 [B, ...]."""
        return system_sums(values, self.batch)

    @cached_property
    def _cell(self) -> torch.Tensor:
        """[B, 3, 3], in the dtype of the positions."""
        cell = self._strained.cell_or_zeros
        return torch.where(self.batch.has_cell.view(-1, 1, 1), cell, torch.eye(3).to(cell))

    @cached_property
    def _strained(self) -> Batch:
        return strained_view(self.batch, self._strain)


def system_sums(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the sums of the rows [N, ...] of each system of a batch, added in order, float64 [B, ...]."""
    sums = values.new_zeros((batch.num_graphs, *values.shape[1:]), dtype=torch.float64)
    return sums.index_add(0, batch.batch_idx.to(torch.int64, copy=True), values.to(torch.float64))


@torch.no_grad()
def _pairs_within(
    positions: torch.Tensor,
    i: torch.Tensor,
    j: torch.Tensor,
    images: torch.Tensor,
    cell: torch.Tensor | None = None,
    batch_idx: torch.Tensor | None = None,
    *,
    cutoff: float | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return vectors [E, 3], ends [2, E] and images [E, 3] of the pairs within `cutoff`; of all if it is None."""
    vectors = positions[j] - positions[i]
    if cell is not None and batch_idx is not None:
        vectors = vectors + torch.einsum("ea,eac->ec", images.to(cell.dtype), cell[batch_idx[i]])
    if cutoff is not None:
        inside = (vectors * vectors).sum(1) < cutoff * cutoff
        i, j, images, vectors = i[inside], j[inside], images[inside], vectors[inside]
    return vectors, torch.stack((i, j)), images
