"""The state at the end of the last whole step: what a failed system, or a step that was cut short, goes back to.

Everything that a step changes is kept: fields, counters, and what engines remember. Copies are state rows of the batch,
so they follow their systems; of a history nothing is copied, because the slot that a step writes was free before
(`StateVariable.is_history`), and a neighbour list is never changed in place, so keeping it is keeping the object.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.data._followers import new_key, take_key
from athanor.data.fields import GIVEN, Level
from athanor.dynamics.evaluate import present_results
from athanor.dynamics.rows import SavedRows, mask_of_rows, put_saved, save_rows
from athanor.kernels import KeptTensors

if TYPE_CHECKING:
    from athanor.data.batch import Batch

FAR_AWAY = 1e8
"""Å. Beyond it a double can not place an atom to better than 1e-8 Å: the system has exploded."""
CHECKED = ("positions", "velocities", "cell", "energy", "forces", "stress")
"""Fields whose numbers must stay finite."""
MOVED = ("positions", "velocities", "cell")
"""What an engine or a hook moves; the rest follows from it."""
_COUNTERS = (
    "step", "stage_step", "time", "status", "failure_code", "failure_step", "dof", "velocities_present", "retries",
)  # fmt: skip

Variables = Mapping[tuple[str, str], tuple[Level, Tensor]]
"""(key of the owner, name) -> level and rows of what is remembered."""


class LastGood:
    """Keeps the last good state of a batch, on the batch.

    Parameters
    ----------
    counters
        Counters that are kept with the rest.
    """

    def __init__(self, counters: tuple[str, ...] = _COUNTERS) -> None:
        self.key, self._counters = new_key(self), counters
        self._batch: Batch | None = None
        self._layout = self._membership = -1
        self._table: KeptTensors | None = None
        self._variables: Variables = {}
        self.fields: frozenset[str] = frozenset()
        self.computed: frozenset[str] = frozenset()
        self._tensors: dict[str, tuple[Level, Tensor, Tensor]] = {}
        self._levels: dict[str, Level] = {}
        self._pair_lists: Any = ()
        self.checked: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return _of_key, (self.key, self._counters)

    def follow(self, batch: Batch, variables: Variables, computed: frozenset[str]) -> None:
        """Keep `batch` and what is remembered of it from now on; copies that ride on it stay.

        Parameters
        ----------
        batch
            The systems that move.
        variables
            What engines remember of them.
        computed
            Results that the model computes: a label that came with a structure may be NaN.
        """
        self._batch, self._variables, self._layout = batch, variables, -1
        self.checked = tuple(name for name in CHECKED if name in MOVED or name in computed)
        self.fields, self.computed = frozenset((*self.checked, *self._counters)) | computed, computed - GIVEN
        self._membership = batch.membership
        self._pair_lists = batch.pair_lists
        self._refresh()

    def _refresh(self) -> None:
        """Look up the tensors again if one was exchanged, by an assignment or a hook."""
        batch = self._batch
        assert batch is not None
        if batch.layout == self._layout:
            return
        fields = [(name, batch.get(name)) for name in sorted(self.fields)]
        found = {name: (batch.field_spec(name).level, tensor) for name, tensor in fields if tensor is not None}
        named: dict[str, tuple[Level, Tensor]] = dict(found)
        named |= {f"{key}/{name}": entry for (key, name), entry in self._variables.items()}
        riding, known = batch.state_rows(self.key), batch.known_to(self.key)
        tensors: dict[str, tuple[Level, Tensor, Tensor]] = {}
        for name, (level, tensor) in named.items():
            present, copy = tensor.detach(), riding.get(name)
            if copy is None or copy.shape != present.shape or copy.dtype != present.dtype:
                copy = present.clone()
            elif known is not None and not bool(known.all()):
                copy = torch.where(mask_of_rows(batch, known, level, copy), copy, present)
            tensors[name] = (level, tensor, copy)
        batch.set_state_rows(self.key, {name: (level, copy) for name, (level, _, copy) in tensors.items()})
        limits = {
            index: FAR_AWAY if name == "positions" else math.inf
            for index, name in enumerate(tensors)
            if name in self.checked
        }
        entries = tensors.values()
        self._table = KeptTensors([entry[1] for entry in entries], [entry[2] for entry in entries], limits)
        self._levels = {name: level for name, (level, _, _) in tensors.items()}
        self._tensors, self._layout = tensors, batch.layout  # a signal may come anywhere above

    def is_sound(self) -> bool:
        """Whether every number of the checked fields is finite and within its limit. Waits for the device."""
        self._refresh()
        assert self._table is not None
        return self._table.all_below()

    def keep_if_sound(self) -> bool:
        """Take the present state as good, in place, if it is sound; return whether it is. Waits for the device."""
        self._refresh()
        assert self._table is not None
        assert self._batch is not None
        is_sound = self._table.keep_if_below()
        self._pair_lists = self._batch.pair_lists
        return is_sound

    def keep(self, systems: Tensor) -> None:
        """Take the present state of the `systems` of a mask [B] as good, in place."""
        self._refresh()
        assert self._batch is not None
        assert self._table is not None
        if bool(systems.all()):
            self._table.keep()
            return
        atoms = systems[self._batch.batch_idx].nonzero().flatten()
        rows = {"system": systems.nonzero().flatten(), "node": atoms}
        for level, tensor, copy in self._tensors.values():
            copy.index_copy_(0, rows[level], tensor.detach().index_select(0, rows[level]))

    def keep_variables(self, names: Iterable[tuple[str, str]]) -> None:
        """Take present variables as good: (key of the owner, name) of each."""
        for key, name in names:
            _, tensor, copy = self._tensors[f"{key}/{name}"]
            copy.copy_(tensor)

    def put_back(self, systems: Tensor | None = None, *, counters: bool = True) -> None:
        """Bring back what was kept, in place: of all, or of the `systems` of a mask [B]; with or without `counters`."""
        self._refresh()
        for name, (level, tensor, copy) in self._tensors.items():
            if not counters and name in self._counters:
                continue
            target = tensor.detach()
            target.copy_(copy if systems is None else torch.where(self._rows(level, systems, copy), copy, target))
        assert self._batch is not None
        if systems is not None:  # of what is not kept, as somebody only looked at it, nothing is known there
            for name in present_results(self._batch):
                if name not in self._tensors and self._batch[name].is_floating_point():
                    tensor = self._batch[name]
                    tensor.masked_fill_(self._rows(self._batch.field_spec(name).level, systems, tensor), torch.nan)
        if systems is None and self._batch.pair_lists != self._pair_lists:
            self._batch.pair_lists = self._pair_lists

    def saved_from(self, batch: Batch) -> SavedRows:
        """Return what is kept of a batch."""
        return save_rows(batch, self.key, self._levels)

    def take_up(self, saved: SavedRows) -> None:
        """Take what was saved as what is kept, of the systems of the batch that are in it; in place."""
        self._refresh()
        assert self._batch is not None
        there = {name: entry for name, entry in self._tensors.items() if name in saved.rows}
        rows = {name: copy.clone() for name, (_, _, copy) in there.items()}
        saved = saved._replace(rows={name: saved.rows[name] for name in there})
        put_saved(self._batch, saved, rows, {name: level for name, (level, _, _) in there.items()})
        for name, (_, _, copy) in there.items():
            copy.copy_(rows[name])

    def changed_since(self) -> Tensor:
        """Return which systems somebody has moved since their state was kept, bool [B]."""
        self._refresh()
        batch = self._batch
        assert batch is not None
        changed = torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
        for name in MOVED:
            if name in self._tensors:
                _, tensor, copy = self._tensors[name]
                changed |= systems_where(batch, name, ~((tensor == copy) | (tensor.isnan() & copy.isnan())))
        return changed

    def copies_of_computed(self, batch: Batch) -> dict[str, Tensor]:
        """Return copies of the floating fields that the model computes, as they stand on `batch`."""
        found = {name: batch[name] for name in sorted(self.computed) if name in batch}
        return {name: tensor.clone() for name, tensor in found.items() if tensor.is_floating_point()}

    def forget_results(self, systems: Tensor) -> None:
        """Set what the model would have computed of the `systems` of a mask [B] to NaN, unknown, in place."""
        if not bool(systems.any()):
            return
        self._refresh()
        for name, (level, tensor, copy) in self._tensors.items():
            if name in self.computed and tensor.is_floating_point():
                for rows in (tensor.detach(), copy):
                    rows.masked_fill_(self._rows(level, systems, rows), torch.nan)

    @property
    def is_of_same_systems(self) -> bool:
        """Whether the batch holds the systems of which something is kept."""
        return self._batch is not None and self._batch.membership == self._membership

    def release(self) -> None:
        """Let go of the batch; the copies stay on it."""
        self._batch, self._table, self._tensors, self._pair_lists, self._variables = None, None, {}, (), {}

    def _rows(self, level: Level, systems: Tensor, like: Tensor) -> Tensor:
        assert self._batch is not None
        return mask_of_rows(self._batch, systems, level, like)


def systems_where(batch: Batch, name: str, marked: Tensor) -> Tensor:
    """Systems with a marked number in a field, bool [B]; `marked` is bool, of the shape of the field."""
    bad = marked.flatten(1).any(dim=1)
    if batch.field_spec(name).level == "system":
        return bad
    counts = torch.zeros(batch.num_graphs, dtype=torch.long, device=batch.device)
    return counts.index_add_(0, batch.batch_idx, bad.long()) > 0


def _of_key(key: str, counters: tuple[str, ...]) -> LastGood:
    """Return one whose copies ride on a batch under `key`, such as one that was pickled together with it."""
    result = LastGood(counters)
    result.key = key
    take_key(result, key)
    return result
