"""Some systems of a batch in a batch of their own, and the way back.

What is done to the part is done to the whole when `Part.write_back` is called. Tensors of both keep their identity, so
that what was computed from them stays valid, and nobody outside sees an exchange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from athanor.data import _membership
from athanor.data._levels import Arrangement, LevelStorage
from athanor.data.fields import Level

if TYPE_CHECKING:
    from athanor.data.batch import Batch

_LEVELS: tuple[Level, ...] = ("node", "system")


class Part:
    """The systems of a batch that are worked on.

    Parameters
    ----------
    whole
        The batch.
    chosen
        bool [B]; which systems. If it is all of them, or none, the part is the batch itself, and nothing is copied.

    Attributes
    ----------
    batch
        The chosen systems, in their order.
    """

    def __init__(self, whole: Batch, chosen: torch.Tensor) -> None:
        self.whole, self.batch = whole, whole
        self.is_whole = bool(chosen.all()) or not bool(chosen.any())
        if self.is_whole:
            return
        places = chosen.nonzero().flatten()
        self._places = places.cpu().numpy()
        self._rows = {"node": chosen[whole.batch_idx].nonzero().flatten(), "system": places}
        self.batch = whole.index_select(places)
        self._lists, self._lists_of_whole = self.batch.pair_lists, whole.pair_lists

    def to_whole(self, mask: torch.Tensor) -> torch.Tensor:
        """Return a mask of systems of the part as one of the whole batch."""
        if self.is_whole:
            return mask
        return torch.zeros(len(self.whole), dtype=torch.bool, device=mask.device).index_copy_(
            0, self._rows["system"], mask
        )

    def of_whole(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows, one for each system of the whole batch, that belong to the part."""
        return rows if self.is_whole else rows.index_select(0, self._rows["system"])

    def write_back(self, *, with_pairs: bool = True) -> None:
        """Write what the part holds over the rows of its systems in the whole batch, in place.

        Parameters
        ----------
        with_pairs
            Also the neighbour lists, if they were changed; who does not look at them can leave them for later.
        """
        if self.is_whole:
            return
        for level in _LEVELS:
            rows = self._rows[level]
            theirs, mine = self.whole._level(level), self.batch._level(level)
            for name in mine.tensors:
                if name in theirs.tensors:
                    theirs.tensors[name].index_copy_(0, rows, mine.tensors[name])
                else:
                    self.whole._custom |= {name: self.batch._custom[name]} if name in self.batch._custom else {}
                    theirs.tensors[name] = _spread(mine.tensors[name], rows, theirs.rows, unknown=True)
            for name in theirs.tensors.keys() - mine.tensors.keys():  # dropped: what is not known any more is NaN
                if theirs.tensors[name].is_floating_point():
                    theirs.tensors[name][rows] = float("nan")
            for key, tensor in mine.state.items():
                there = theirs.state.get(key)
                if there is not None and there.shape[1:] == tensor.shape[1:]:
                    there.index_copy_(0, rows, tensor)
                else:
                    theirs.state[key] = _spread(tensor, rows, theirs.rows, unknown=False)
        self.whole._exchanged()
        if with_pairs and self.batch.pair_lists != self._lists:
            self._write_pairs()

    def _write_pairs(self) -> None:
        whole, part = self.whole, self.batch
        arrangement = Arrangement.replacing(len(whole), self._places)
        rows = {level: arrangement.rows(whole._level(level), part._level(level)) for level in _LEVELS}
        nodes = (whole._node, part._node)
        whole._pair_lists = _membership.joined_lists(part.pair_lists, whole, part, arrangement, nodes, rows)
        whole._edge, whole._edge_rows_of = LevelStorage.empty(len(whole)), None
        self._lists, self._lists_of_whole = part.pair_lists, whole.pair_lists

    def read_again(self) -> None:
        """Take up what was changed in the whole batch, in place."""
        if self.is_whole:
            return
        for level in _LEVELS:
            theirs, mine, rows = self.whole._level(level), self.batch._level(level), self._rows[level]
            for name, tensor in theirs.tensors.items():
                found = tensor.index_select(0, rows)
                if name in mine.tensors and mine.tensors[name].shape == found.shape:
                    mine.tensors[name].copy_(found)
                else:
                    mine.tensors[name] = found
            for name in mine.tensors.keys() - theirs.tensors.keys():
                del mine.tensors[name]
            for key, tensor in mine.state.items():
                tensor.copy_(theirs.state[key].index_select(0, rows))
        self.batch._custom = dict(self.whole._custom)
        self.batch._exchanged()
        if self.whole.pair_lists != self._lists_of_whole:  # somebody assigned another list
            self.batch.pair_lists = self.whole.index_select(self._places).pair_lists
            self._lists, self._lists_of_whole = self.batch.pair_lists, self.whole.pair_lists


def _spread(tensor: torch.Tensor, rows: torch.Tensor, count: int, *, unknown: bool) -> torch.Tensor:
    """Return `tensor` at `rows` of a new one; elsewhere NaN if that says `unknown`, else zeros."""
    fill = float("nan") if unknown and tensor.is_floating_point() else 0
    return tensor.new_full((count, *tensor.shape[1:]), fill).index_copy_(0, rows, tensor)
