"""A stored pair list of a batch: sorted packed rows, from which COO and MATRIX views are made on access.

One row per atom holds its neighbours as indices inside the own system and one packed image shift each. Images count
from wrapped positions; whole lattice vectors between an atom and its wrapped image are kept apart in
``wrap_offsets``, so moving an atom by lattice vectors never makes a list stale. The pair vector is

    r_j - r_i + (S - w_j + w_i) @ cell

with the stored image S and wrap offsets w; the bracket is what views call the shift, for positions as they stand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from athanor.data._levels import Arrangement, LevelStorage, Rows
from athanor.data.fields import Level
from athanor.data.pair_request import PairRequest, PairUsage
from athanor.kernels.neighbor_list.packing import pack_images, unpack_images

_OF_PAIRS = ("neighbors", "images")
_OF_ATOMS = ("wrap_offsets", "reference_positions")
_OF_SYSTEMS = ("reference_cell", "reference_pbc", "valid")
TENSORS = ("row_ptr", *_OF_PAIRS, *_OF_ATOMS, *_OF_SYSTEMS)


Nodes = tuple[LevelStorage, LevelStorage | None]
"""Atoms of each system of a batch, and of another one that joins it."""


class PairIndex(NamedTuple):
    """Pairs in stored order: ``i``, ``j`` int64 [E] as batch-wide atom indices and ``shifts`` int32 [E, 3]."""

    i: torch.Tensor
    j: torch.Tensor
    shifts: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PairList:
    """Pairs of every system of a batch, with what tells when they must be searched again.

    Parameters
    ----------
    row_ptr
        int64 [N+1]; first pair of each atom.
    neighbors
        int32 [E]; neighbour as an index inside the own system, rows sorted by (neighbour, image).
    images
        int8 or int32 [E]; packed image shifts, see `athanor.kernels.neighbor_list`.
    wrap_offsets
        int32 [N, 3]; whole lattice vectors between an atom and its wrapped image.
    reference_positions
        [N, 3], Å; positions at the last search of each system.
    reference_cell
        [B, 3, 3], Å; cell at the last search of each system.
    reference_pbc
        bool [B, 3]; what was periodic at the last search of each system.
    valid
        bool [B]; False where the system must be searched again whatever its motion.
    cutoff
        Å; what the list is complete for, NaN if unknown.
    radius
        Å; what was searched (cutoff and skin), NaN if unknown.
    half
        Whether each pair stands once instead of in both directions.
    min_width
        Smallest width of the MATRIX view.
    order
        int64 [E] or None; stored pairs as places in the list that a user assigned.
    requests
        What the list is kept up to date for; none if nobody does, as after `athanor.neighbors.compute_neighbors`.
    usage
        Who reads it.

    Notes
    -----
    A value: nothing of it changes once it is made, so a list that was kept can be put back. `replace` makes another one
    that shares the tensors.
    """

    row_ptr: torch.Tensor
    neighbors: torch.Tensor
    images: torch.Tensor
    wrap_offsets: torch.Tensor
    reference_positions: torch.Tensor
    reference_cell: torch.Tensor
    reference_pbc: torch.Tensor
    valid: torch.Tensor
    cutoff: float = math.nan
    radius: float = math.nan
    half: bool = False
    min_width: int = 0
    order: torch.Tensor | None = None
    requests: tuple[PairRequest, ...] = ()
    usage: PairUsage = field(default_factory=PairUsage)
    _cache: dict[Any, Any] = field(default_factory=dict, init=False)

    def __reduce__(self) -> tuple[Any, ...]:
        kept = (item.name for item in fields(self) if item.name not in ("usage", "_cache"))
        return type(self), tuple(getattr(self, name) for name in kept)

    def replace(self, **changes: Any) -> Self:
        """Return a list with other values of the named attributes; it shares the others."""
        return replace(self, **changes)

    @property
    def skin(self) -> float:
        """How much further than `cutoff` was searched, Å; the very number that was asked for, if it was."""
        if len(self.requests) == 1:
            return self.requests[0].skin
        return max((request.skin for request in self.requests), default=self.radius - self.cutoff)

    @property
    def num_pairs(self) -> int:
        """Number of stored pairs."""
        return self.neighbors.shape[0]

    @property
    def num_neighbors(self) -> torch.Tensor:
        """Pairs of each atom, int32 [N]."""
        return self.row_ptr.diff().to(torch.int32)

    @property
    def all_valid(self) -> bool:
        """Whether no system has to be searched again whatever its motion; cached, as asking waits for the device."""
        found = self._cache.get("all_valid")
        if found is None:
            found = self._cache["all_valid"] = bool(self.valid.all())
        return found

    # ------------------------------------------------------------------------------------------------------- views
    def pair_index(self, batch: Any) -> PairIndex:
        """Return the pairs in stored order with batch-wide indices and shifts for positions as they stand.

        Cached; the tensors must not be changed.
        """
        found = self._cache.get("index")
        if found is None:
            lengths = self.row_ptr.diff()
            i = torch.repeat_interleave(lengths, output_size=self.num_pairs)
            j = self.neighbors.long() + batch.batch_ptr.long()[batch.batch_idx[i]]
            shifts = unpack_images(self.images) + self.wrap_offsets[i] - self.wrap_offsets[j]
            found = self._cache["index"] = PairIndex(i, j, shifts)
        return found

    def coo(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``neighbor_list`` int32 [E, 2], batch-wide, and integer shifts int32 [E, 3].

        Pairs stand in stored order; a list that a user assigned is given back in the user's order. Cached.
        """
        found = self._cache.get("coo")
        if found is None:
            i, j, shifts = self.pair_index(batch)
            pairs = torch.stack((i, j), dim=1).to(torch.int32)
            if self.order is not None:
                pairs, shifts = _scatter(pairs, self.order), _scatter(shifts, self.order)
            found = self._cache["coo"] = (pairs, shifts)
        return found

    def matrix(self, batch: Any, width: int | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return padded rows: neighbours int32 [N, K], their number int32 [N] and shifts int32 [N, K, 3].

        Parameters
        ----------
        batch
            The batch that holds this list.
        width
            Smallest K, `min_width` of the list unless given; the longest row decides if it is longer.

        Returns
        -------
        tuple of torch.Tensor
            Empty entries of the first hold N, those of the third 0. Cached.
        """
        key = ("matrix", width)
        found = self._cache.get(key)
        if found is None:
            i, j, shifts = self.pair_index(batch)
            atoms, counts = self.row_ptr.shape[0] - 1, self.num_neighbors
            longest = int(counts.max()) if atoms else 0
            columns = max(longest, width or self.min_width)
            slot = torch.arange(self.num_pairs, device=i.device) - self.row_ptr[i]
            dense = torch.full((atoms, columns), atoms, dtype=torch.int32, device=i.device)
            dense[i, slot] = j.to(torch.int32)
            dense_shifts = torch.zeros((atoms, columns, 3), dtype=torch.int32, device=i.device)
            dense_shifts[i, slot] = shifts
            found = self._cache[key] = (dense, counts, dense_shifts)
        return found

    def within(self, reach: float, batch: Any) -> PairList:
        """Return the list of those pairs that are closer than `reach`, Å, as the atoms of `batch` stand now."""
        i, j, shifts = self.pair_index(batch)
        positions = batch.positions.detach()
        vectors = positions[j] - positions[i]
        if "cell" in batch:
            cell = batch.cell.detach()[batch.batch_idx[i]]
            vectors = vectors + torch.einsum("ea,eac->ec", shifts.to(cell.dtype), cell)
        keep = (vectors * vectors).sum(dim=1) < reach * reach
        row_ptr = torch.zeros_like(self.row_ptr)
        torch.cumsum(torch.bincount(i[keep], minlength=len(row_ptr) - 1), 0, out=row_ptr[1:])
        kept = {name: getattr(self, name)[keep] for name in _OF_PAIRS}
        return self.replace(row_ptr=row_ptr, cutoff=reach, radius=reach, order=None, usage=PairUsage(), **kept)

    # ------------------------------------------------------------------------------------------------- membership
    def arranged(
        self, arrangement: Arrangement, nodes: Nodes, rows: Mapping[Level, Rows], other: PairList | None = None
    ) -> PairList:
        """Return the list of the systems of an arrangement.

        Parameters
        ----------
        arrangement
            Which systems, of this list and of `other`.
        nodes
            How many atoms each system has: in the batch of this list, and in the other one.
        rows
            How the rows of atoms and systems are moved.
        other
            List of the systems that join. If it was searched differently, they are still to be searched.
        """
        if other is not None and not self.is_searched_as(other):
            other = self.blank_for(other.reference_positions, other.reference_cell, other.reference_pbc)
        if other is not None and other.images.dtype != self.images.dtype:
            return self.widened().arranged(arrangement, nodes, rows, other.widened())
        device = self.row_ptr.device
        theirs = None if other is None or nodes[1] is None else other._level_of_pairs(nodes[1])
        moves = dict.fromkeys(_OF_PAIRS, arrangement.rows(self._level_of_pairs(nodes[0]), theirs))
        moves |= dict.fromkeys(_OF_ATOMS, rows["node"]) | dict.fromkeys(_OF_SYSTEMS, rows["system"])
        row_ptr = torch.zeros(int(rows["node"].counts.sum()) + 1, dtype=torch.int64, device=device)
        lengths = rows["node"].move(self.row_ptr.diff(), None if other is None else other.row_ptr.diff())
        torch.cumsum(lengths, 0, out=row_ptr[1:])
        moved = {
            name: move.move(getattr(self, name), None if other is None else getattr(other, name))
            for name, move in moves.items()
        }
        return self.replace(row_ptr=row_ptr, order=None, usage=PairUsage(), **moved)

    @classmethod
    def behind(cls, lists: Sequence[PairList]) -> PairList:
        """Return the list of the systems of several, which were searched alike, one behind the other."""
        row_ptr = lists[0].row_ptr.new_zeros(sum(len(pairs.row_ptr) - 1 for pairs in lists) + 1)
        torch.cumsum(torch.cat([pairs.row_ptr.diff() for pairs in lists]), 0, out=row_ptr[1:])
        rest = {name: torch.cat([getattr(pairs, name) for pairs in lists]) for name in TENSORS[1:]}
        return lists[0].replace(row_ptr=row_ptr, order=None, usage=PairUsage(), **rest)

    def between(self, begin: int, end: int, nodes: LevelStorage) -> PairList:
        """Return the list of the systems from `begin` to before `end`, of views; `nodes` are all atoms of its batch."""
        atoms = slice(int(nodes.starts[begin]), int(nodes.starts[end]))
        row_ptr = self.row_ptr[atoms.start : atoms.stop + 1]
        first, last = (int(place) for place in row_ptr[[0, -1]])
        rows = dict.fromkeys(_OF_PAIRS, slice(first, last)) | dict.fromkeys(_OF_ATOMS, atoms)
        rows |= dict.fromkeys(_OF_SYSTEMS, slice(begin, end))
        parts = {name: getattr(self, name)[where] for name, where in rows.items()}
        return self.replace(row_ptr=row_ptr - first, order=None, usage=PairUsage(), **parts)

    def blank_for(self, positions: torch.Tensor, cell: torch.Tensor, pbc: torch.Tensor) -> PairList:
        """Return a list for other systems, all still to be searched, for what this one is for; see `blank`."""
        return PairList.blank(positions, cell, pbc, self.cutoff, self.radius, self.half, self.min_width, self.requests)

    def widened(self) -> PairList:
        """Return this list with room for shifts of any size: a list of small cells needs more than an int8 holds."""
        if self.images.dtype == torch.int32:
            return self
        return self.replace(images=pack_images(unpack_images(self.images)))

    def is_searched_as(self, other: PairList) -> bool:
        """Whether both lists were searched for the same cutoff, radius and kind of pairs."""
        return self.half == other.half and _is_same(self.radius, other.radius) and _is_same(self.cutoff, other.cutoff)

    def _level_of_pairs(self, nodes: LevelStorage) -> LevelStorage:
        return LevelStorage(np.diff(self.row_ptr.cpu().numpy()[nodes.starts]))

    @classmethod
    def blank(
        cls,
        positions: torch.Tensor,
        cell: torch.Tensor,
        pbc: torch.Tensor,
        cutoff: float,
        radius: float,
        half: bool,
        min_width: int = 0,
        requests: tuple[PairRequest, ...] = (),
    ) -> PairList:
        """Return a list without pairs in which every system is still to be searched.

        Parameters
        ----------
        positions, cell, pbc
            [N, 3] and [B, 3, 3], Å, and bool [B, 3]; copied as references.
        cutoff, radius, half, min_width, requests
            As in the class.
        """
        device, atoms = positions.device, positions.shape[0]
        return cls(
            torch.zeros(atoms + 1, dtype=torch.int64, device=device),
            torch.zeros(0, dtype=torch.int32, device=device),
            torch.zeros(0, dtype=torch.int8, device=device),
            torch.zeros((atoms, 3), dtype=torch.int32, device=device),
            positions.detach().clone(),
            cell.detach().clone(),
            pbc.clone(),
            torch.zeros(cell.shape[0], dtype=torch.bool, device=device),
            cutoff,
            radius,
            half,
            min_width,
            requests=requests,
        )

    def move_by_lattice_vectors(self, offsets: torch.Tensor, batch_idx: torch.Tensor) -> PairList:
        """Return the list for atoms that were moved by ``-offsets @ cell``, as complete as this one.

        Parameters
        ----------
        offsets
            int [N, 3]; whole lattice vectors that were subtracted from each position.
        batch_idx
            int64 [N]; system of each atom.

        Returns
        -------
        PairList
            Shares every tensor with this one but the wrap offsets and the reference positions.
        """
        offsets = offsets.to(torch.int32)
        cell = self.reference_cell[batch_idx]
        moved = torch.einsum("na,nac->nc", offsets.to(cell.dtype), cell)
        return self.replace(
            wrap_offsets=self.wrap_offsets - offsets, reference_positions=self.reference_positions - moved
        )

    def map(self, function: Callable[[str, torch.Tensor], torch.Tensor]) -> PairList:
        """Return a list with `function(name, tensor)` in place of every tensor."""
        moved = {name: function(name, getattr(self, name)) for name in TENSORS}
        order = None if self.order is None else function("order", self.order)
        return self.replace(order=order, usage=PairUsage(), **moved)

    def __repr__(self) -> str:
        return (
            f"PairList(num_pairs={self.num_pairs}, cutoff={self.cutoff:g}, radius={self.radius:g}, half={self.half}, "
            f"systems={self.valid.shape[0]})"
        )


def _is_same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def _scatter(values: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Undo ``values = original[order]``."""
    original = torch.empty_like(values)
    original[order] = values
    return original
