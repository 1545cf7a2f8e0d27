"""What follows the systems of a batch without being one of their fields.

*State rows* are what an engine or a hook remembers of each system or atom, under its own key. *Groups* are sets of
atoms (bonds, rigid molecules, collective variables) that hold atom indices inside their system. Both are selected,
appended, replaced, copied and moved with the fields, by the same code; frames hold neither.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from athanor.data._levels import LevelStorage
from athanor.data._sizes import BatchSizes
from athanor.data.fields import Level
from athanor.errors import InputError, MissingFieldError, ShapeError

KNOWN = "known"
"""Row beside those of each key: whether its owner has written the rows of a system yet."""

_owners: dict[str, list[weakref.ref[Any]]] = {}
_numbers = itertools.count()


def new_key(owner: Any) -> str:
    """Return a key for the state rows of `owner`, unlike every other in this process and in files of others."""
    key = new_name(type(owner).__name__)
    take_key(owner, key)
    return key


def new_name(kind: str) -> str:
    """Return a key that nobody has yet."""
    import uuid

    return f"{kind}-{next(_numbers)}-{uuid.uuid4().hex[:12]}"


def known_keys() -> frozenset[str]:
    """Return the keys of all who are there."""
    _forget_dead_owners()
    return frozenset(_owners)


def take_key(owner: Any, key: str) -> None:
    """Make `owner` one whose rows bear `key`; the one that saved what it loads may be there, too."""
    _owners.setdefault(key, []).append(weakref.ref(owner))


def _forget_dead_owners() -> None:
    for key, owners in list(_owners.items()):
        alive = [owner for owner in owners if owner() is not None]
        _owners[key] = alive
        if not alive:
            del _owners[key]


class Group(NamedTuple):
    """Sets of atoms of one kind, for all systems of a batch.

    Parameters
    ----------
    atoms
        int64 [M, k]; batch-wide indices of the atoms of each set.
    systems
        int64 [M]; system of each set.
    values
        Name -> tensor [M, ...] that was given with the atoms.
    """

    atoms: torch.Tensor
    systems: torch.Tensor
    values: dict[str, torch.Tensor]


class Followers(BatchSizes):
    """State rows and groups of a batch."""

    __slots__ = ("_groups", "_layout", "_membership")

    _groups: dict[str, LevelStorage]
    _layout: int
    _membership: int

    @property
    def layout(self) -> int:
        """Counter of exchanged tensors: assigned fields, and changes of the systems that the batch holds."""
        return self._layout

    @property
    def membership(self) -> int:
        """Counter of changes of the systems that the batch holds: appended, removed, replaced."""
        return self._membership

    # ------------------------------------------------------------------------------------------------- state rows
    @property
    def state_keys(self) -> set[str]:
        """Keys of those who remember something of this batch."""
        return {key for storage in (self._node, self._system) for key, _ in storage.state}

    def state_rows(self, key: str) -> dict[str, torch.Tensor]:
        """Return name -> tensor of what the owner of `key` remembers; empty if it was never here."""
        return {
            name: tensor
            for level in (self._node, self._system)
            for (owner, name), tensor in level.state.items()
            if owner == key and name != KNOWN
        }

    def known_to(self, key: str) -> torch.Tensor | None:
        """Return which systems have rows under `key`, bool [B]; None if none has."""
        return self._system.state.get((key, KNOWN))

    def set_state_rows(self, key: str, rows: Mapping[str, tuple[Level, torch.Tensor]]) -> None:
        """Replace what is remembered under `key`, for all systems; tensors are stored as they are.

        Raises
        ------
        ShapeError
            If a tensor does not have a row for each system, or for each atom.
        """
        storages = {name: self._node if level == "node" else self._system for name, (level, _) in rows.items()}
        for name, (level, tensor) in rows.items():
            storage = storages[name]
            if tensor.ndim == 0 or tensor.shape[0] != storage.rows:
                raise ShapeError(
                    f"State `{name}` has shape {tuple(tensor.shape)}; it needs one row for each of "
                    f"{storage.rows} {'atoms' if level == 'node' else 'systems'}. What an engine remembers of each "
                    f'atom is declared in its class: `{name} = StateVariable("node")`.'
                )
        known = {(key, KNOWN): torch.ones(len(self), dtype=torch.bool, device=self._device)}
        for storage, added in ((self._node, {}), (self._system, known)):
            kept = {name: tensor for name, tensor in storage.state.items() if name[0] != key}
            mine = {(key, name): tensor for name, (_, tensor) in rows.items() if storages[name] is storage}
            storage.state = {**kept, **mine, **added}

    def drop_state_rows(self, keys: Iterable[str]) -> None:
        """Forget what is remembered under `keys`."""
        dropped = set(keys)
        for storage in (self._node, self._system):
            storage.state = {name: tensor for name, tensor in storage.state.items() if name[0] not in dropped}

    def drop_orphaned_state(self) -> None:
        """Forget rows whose owner is gone; what another process saved is kept until its owner was looked for."""
        _forget_dead_owners()
        if orphans := self.state_keys - set(_owners):
            self.drop_state_rows(orphans)

    # ----------------------------------------------------------------------------------------------------- groups
    def add_group(
        self, name: str, atoms: Sequence[torch.Tensor], values: Mapping[str, Sequence[torch.Tensor]] | None = None
    ) -> None:
        """Add sets of atoms to every system, such as its bonds; they follow it through every change of the batch.

        Parameters
        ----------
        name
            What they are called; a group of that name is replaced.
        atoms
            For each system an integer tensor [M, k]: M sets of k atoms, counted inside the system from 0. M may be 0.
        values
            Name -> for each system a tensor [M, ...] that belongs to the sets, such as lengths.

        Raises
        ------
        InputError
            If there is not one tensor for each system, or an index is not that of an atom of its system.
        ShapeError
            If shapes do not fit together.
        """
        if len(atoms) != len(self):
            raise InputError(f"`atoms` of `{name}` has {len(atoms)} tensors; the Batch has {len(self)} systems.")
        counts = np.array([tensor.shape[0] for tensor in atoms], dtype=np.int64)
        if len({tensor.shape[1:] for tensor in atoms}) > 1 or any(tensor.ndim != 2 for tensor in atoms):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in atoms[:3])
            raise ShapeError(
                f"`atoms` of `{name}` have the shapes {shapes}; give (sets, atoms of a set) for each system."
            )
        members = torch.cat([tensor.to(device=self._device, dtype=torch.int64) for tensor in atoms])
        storage = LevelStorage(counts, {_ATOMS: members})
        limits = torch.from_numpy(self._node.counts).to(self._device)[storage.idx(self._device)][:, None]
        wrong = (members < 0) | (members >= limits)
        if bool(wrong.any()):
            row = int(wrong.any(dim=1).nonzero()[0])
            system = int(storage.idx(self._device)[row])
            raise InputError(
                f"`{name}` of system {system} holds the atoms {members[row].tolist()}; the system has "
                f"{int(self._node.counts[system])} atoms, counted from 0."
            )
        for key, given in (values or {}).items():
            if [tensor.shape[0] for tensor in given] != counts.tolist():
                raise ShapeError(f"`{key}` of `{name}` needs one row for each set of atoms of each system.")
            storage.tensors[key] = torch.cat([tensor.to(self._device) for tensor in given])
        self._groups = {**self._groups, name: storage}

    def group(self, name: str) -> Group:
        """Return the sets of atoms called `name`, with batch-wide indices.

        Raises
        ------
        MissingFieldError
            If there is no such group.
        """
        storage = self._groups.get(name)
        if storage is None:
            known = ", ".join(self._groups) or "none"
            raise MissingFieldError(f"The Batch has no group `{name}`; it has {known}. Add it with `add_group`.")
        systems = storage.idx(self._device)
        first = torch.from_numpy(self._node.starts).to(self._device)[systems]
        values = {key: tensor for key, tensor in storage.tensors.items() if key != _ATOMS}
        return Group(storage.tensors[_ATOMS] + first[:, None], systems, values)

    def drop_group(self, name: str) -> None:
        """Remove a group of atoms; one that is not there is no error."""
        self._groups = {key: storage for key, storage in self._groups.items() if key != name}


_ATOMS = "atoms"
