"""Sizes, pointers and simple geometry of a batch: what follows from how many rows each system has."""

from __future__ import annotations

import torch

from athanor.data._levels import LevelStorage
from athanor.data._mixin import DataMixin
from athanor.data._room import Room
from athanor.data.fields import Fields, PairViews
from athanor.data.pair_list import PairList


class BatchSizes(DataMixin, Fields[torch.Tensor], PairViews[torch.Tensor]):
    """Read-only part of `Batch`; the storage below it has the attributes declared here."""

    __slots__ = ()

    _node: LevelStorage
    _edge: LevelStorage
    _system: LevelStorage
    _pair_lists: tuple[PairList, ...]
    _room: Room | None
    _device: torch.device

    def _edges(self) -> LevelStorage:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._system.counts)

    @property
    def num_graphs(self) -> int:
        """Number of systems."""
        return len(self._system.counts)

    num_systems = num_graphs
    batch_size = num_graphs

    @property
    def system_capacity(self) -> int:
        """Number of systems that there is room for without new memory; their number unless the batch is a buffer."""
        return max(len(self), 0 if self._room is None else self._room.rows["system"])

    @property
    def num_nodes(self) -> int:
        """Number of atoms."""
        return self._node.rows

    num_atoms = num_nodes

    @property
    def num_edges(self) -> int:
        """Number of pairs."""
        return self._pair_lists[0].num_pairs if self._pair_lists else self._edge.rows

    @property
    def max_num_nodes(self) -> int:
        """Atoms of the largest system; 0 without systems."""
        return int(self._node.counts.max(initial=0))

    @property
    def num_nodes_list(self) -> list[int]:
        """Atoms of each system."""
        return self._node.counts.tolist()

    @property
    def num_edges_list(self) -> list[int]:
        """Pairs of each system; empty if the batch has no pairs and no edge fields."""
        edges = self._edges()
        return edges.counts.tolist() if self._pair_lists or edges.tensors else []

    @property
    def num_nodes_per_graph(self) -> torch.Tensor:
        """Atoms of each system, int32 [B]."""
        return self.batch_ptr.diff()

    @property
    def num_edges_per_graph(self) -> torch.Tensor:
        """Pairs of each system, int32 [B]."""
        return self._edges().ptr(self._device).diff()

    @property
    def batch_idx(self) -> torch.Tensor:
        """System of each atom, int64 [N]; cached."""
        return self._node.idx(self._device)

    @property
    def batch_ptr(self) -> torch.Tensor:
        """First atom of each system and the number of atoms, int32 [B+1]; cached."""
        return self._node.ptr(self._device)

    @property
    def edge_ptr(self) -> torch.Tensor:
        """First stored pair of each atom and the number of pairs, int32 [N+1]; zeros without a list."""
        if not self._pair_lists:
            return torch.zeros(self.num_nodes + 1, dtype=torch.int32, device=self._device)
        return self._pair_lists[0].row_ptr.to(torch.int32)

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self._device

    @property
    def dtype(self) -> torch.dtype | None:
        """State dtype: that of ``positions``."""
        positions = self._node.tensors.get("positions")
        return None if positions is None else positions.dtype

    @property
    def cell_or_zeros(self) -> torch.Tensor:
        """Cell of each system, Å, [B, 3, 3]; zeros in the state dtype if the batch has none."""
        cell = self._system.tensors.get("cell")
        if cell is None:
            return torch.zeros((len(self), 3, 3), dtype=self.dtype, device=self._device)
        return cell

    @property
    def pbc_or_false(self) -> torch.Tensor:
        """What is periodic in each system, bool [B, 3]; False if the batch does not say."""
        pbc = self._system.tensors.get("pbc")
        if pbc is None:
            return torch.zeros((len(self), 3), dtype=torch.bool, device=self._device)
        return pbc

    @property
    def volume(self) -> torch.Tensor:
        """Volume of each cell, Å³, [B]; 0 for a system without a cell."""
        return torch.linalg.det(self.cell_or_zeros).abs()

    @property
    def has_cell(self) -> torch.Tensor:
        """Whether each system has a cell that spans a volume, bool [B]."""
        return self.volume.detach() > 0
