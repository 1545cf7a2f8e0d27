"""Some systems of a batch in a batch of their own, and the way back.

What is done to the part is done to the whole when `Part.write_back` is called. Tensors of both keep their identity, so
that what was computed from them stays valid, and nobody outside sees an exchange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from athanor.data import _membership
from athanor.data._levels import Arrangement, LevelStorage
from athanor.data._stamp import ComputedFrom
from athanor.data._structure import same_tensor
from athanor.data.fields import FIELDS, Level

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
        self._groups_of_whole = whole._groups
        self._memberships = (whole.membership, self.batch.membership)
        self._note_seen()

    def to_whole(self, mask: torch.Tensor) -> torch.Tensor:
        """Return a mask of systems of the part as one of the whole batch."""
        if self.is_whole:
            return mask
        return torch.zeros(len(self.whole), dtype=torch.bool, device=mask.device).index_copy_(
            0, self._rows["system"], mask
        )

    def of_whole(self, values: torch.Tensor) -> torch.Tensor:
        """Return the rows of its systems if `values` has one for each system of the whole batch; else `values`."""
        is_of_whole = not self.is_whole and values.ndim > 0 and values.shape[0] == len(self.whole)
        return values.index_select(0, self._rows["system"]) if is_of_whole else values

    @property
    def is_intact(self) -> bool:
        """Whether the part and the whole still hold the systems that they held when it was made."""
        return self.is_whole or self._memberships == (self.whole.membership, self.batch.membership)

    def write_back(self) -> None:
        """Write what the part holds over the rows of its systems in the whole batch, in place, if it is intact."""
        if self.is_whole or not self.is_intact:
            return
        for level in _LEVELS:
            rows = self._rows[level]
            theirs, mine = self.whole._level(level), self.batch._level(level)
            for name, tensor in mine.tensors.items():
                if name not in theirs.tensors:
                    if name in self.batch._custom:
                        self.whole._custom = {**self.whole._custom, name: self.batch._custom[name]}
                    theirs.tensors[name] = _spread(tensor, rows, theirs.rows, unknown=True)
                elif name not in self._seen or not self._seen[name].holds(tensor):
                    theirs.tensors[name] = _written(theirs.tensors[name], rows, tensor)
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
        self._note_seen()
        if self.batch.pair_lists != self._lists:
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
        """Take up what was changed in the whole batch, in place; what was not keeps its version, and results theirs."""
        if self.is_whole:
            return
        exchanged = False
        for level in _LEVELS:
            theirs, mine, rows = self.whole._level(level), self.batch._level(level), self._rows[level]
            for name, tensor in theirs.tensors.items():
                found, present = tensor.detach().index_select(0, rows), mine.tensors.get(name)
                if present is None or present.shape != found.shape or present.dtype != found.dtype:
                    mine.tensors[name], exchanged = found, True
                elif not same_tensor(present, found):
                    present.copy_(found)
            for name in mine.tensors.keys() - theirs.tensors.keys():
                del mine.tensors[name]
                exchanged = True
            for key, tensor in mine.state.items():
                found = theirs.state[key].index_select(0, rows)
                if not torch.equal(tensor, found):
                    tensor.copy_(found)
        if exchanged:
            self.batch._custom = dict(self.whole._custom)
            self.batch._exchanged()
        self._note_seen()
        if self.whole._groups is not self._groups_of_whole:
            self.batch._groups = self.whole.index_select(self._places)._groups
            self._groups_of_whole = self.whole._groups
        if self.whole.pair_lists != self._lists_of_whole:  # somebody assigned another list
            self.batch.pair_lists = self.whole.index_select(self._places).pair_lists
            self._lists, self._lists_of_whole = self.batch.pair_lists, self.whole.pair_lists

    def _note_seen(self) -> None:
        """Note fields as they are, to write only what was changed: others may share memory with something.

        What moves is written in any case, as torch does not see what is done through a NumPy view.
        """
        fields = [entry for level in _LEVELS for entry in self.batch._level(level).tensors.items()]
        self._seen = {
            name: ComputedFrom(tensor) for name, tensor in fields if name not in FIELDS or FIELDS[name].kind != "state"
        }


def _written(target: torch.Tensor, rows: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Return `target` with `rows` set to `tensor`: in place, unless its rows are one row expanded."""
    if 0 in target.stride() and target.numel():
        target = target.clone(memory_format=torch.contiguous_format)
    target.detach().index_copy_(0, rows, tensor.detach())
    return target


def _spread(tensor: torch.Tensor, rows: torch.Tensor, count: int, *, unknown: bool) -> torch.Tensor:
    """Return `tensor` at `rows` of a new one; elsewhere NaN if that says `unknown`, else zeros."""
    fill = float("nan") if unknown and tensor.is_floating_point() else 0
    return tensor.new_full((count, *tensor.shape[1:]), fill).index_copy_(0, rows, tensor)
