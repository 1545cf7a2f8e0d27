"""What structures must be, checked for all systems of a batch at once, and how a bad system is named.

One pass per field; per-system work happens only to write the message.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from athanor.data.elements import MAX_ATOMIC_NUMBER
from athanor.errors import InputError

MAX_SYSTEM_ID = 2**32
"""Ids are one 32-bit word of the noise counter."""

_SINGULAR = 1e-7
"""Volume over the product of the edge lengths below which a cell spans no volume."""


def system_name(fields: Mapping[str, torch.Tensor], index: int) -> str:
    """Return how messages name a system: its id if it has one, and its index."""
    ids = fields.get("system_id")
    number = int(ids.reshape(-1)[index]) if ids is not None and ids.numel() > index else -1
    return f"system_id {number} (index {index})" if number >= 0 else f"system {index}"


def check_structures(fields: Mapping[str, torch.Tensor], starts: np.ndarray) -> None:
    """Raise unless positions, atomic numbers, cells and ids of all systems are usable.

    Parameters
    ----------
    fields
        Name -> tensor of node and system fields.
    starts
        int64 [B+1] on the host; first atom of each system.

    Raises
    ------
    InputError
        Naming the system, at most three atoms, and the values.
    """
    if fields["positions"].is_meta:  # has shapes but no values
        return
    empty = np.flatnonzero(np.diff(starts) == 0)
    if len(empty):
        raise InputError(f"{_title(fields, int(empty[0]))} has no atoms. Remove it, or give it at least one atom.")
    check_finite(fields, starts)
    _check_numbers(fields, starts)
    _check_masses(fields, starts)
    _check_cells(fields)
    _check_whole(fields, "charge", -math.inf, "the total charge in e; partial charges go into `charges`")
    _check_whole(fields, "spin", 1.0, "the multiplicity 2S+1, at least 1 (a singlet)")
    _check_ids(fields)


def _title(fields: Mapping[str, torch.Tensor], index: int) -> str:
    name = system_name(fields, index)
    return name[0].upper() + name[1:] if name.startswith("system ") else name


def check_finite(fields: Mapping[str, torch.Tensor], starts: np.ndarray) -> None:
    """Raise InputError unless positions, velocities and cells are finite; the text names system and atoms."""
    for name in ("positions", "velocities"):
        value = fields.get(name)
        # the sum of finite numbers is finite but for overflow, and one reduction is cheaper than a mask
        if value is None or bool(value.detach().sum().isfinite()) or bool(value.isfinite().all()):
            continue
        system, atoms = _first_bad_system(~value.isfinite().all(dim=1), starts)
        shown = ", ".join(f"atom {a} {value[a + int(starts[system])].tolist()}" for a in atoms[:3])
        raise InputError(
            f"`{name}` of {system_name(fields, system)} are not finite: {shown}"
            f"{' and others' if len(atoms) > 3 else ''}. Correct or remove this system."
        )
    cell = fields.get("cell")
    if cell is not None and not bool(cell.detach().isfinite().all()):
        system = int((~cell.detach().isfinite()).flatten(1).any(dim=1).nonzero()[0])
        raise InputError(f"`cell` of {system_name(fields, system)} is not finite: {cell[system].tolist()}. Correct it.")


def _first_bad_system(bad: torch.Tensor, starts: np.ndarray) -> tuple[int, list[int]]:
    """Return the first system that has a bad row, and its bad atoms."""
    rows = bad.nonzero().flatten().tolist()
    system = int(np.searchsorted(starts, rows[0], side="right")) - 1
    return system, [row - int(starts[system]) for row in rows if row < starts[system + 1]]


def _check_numbers(fields: Mapping[str, torch.Tensor], starts: np.ndarray) -> None:
    numbers = fields.get("atomic_numbers")  # absent in batches of plain dictionaries
    if numbers is None:
        return
    low, high = torch.aminmax(numbers)
    if int(low) >= 0 and int(high) <= MAX_ATOMIC_NUMBER:
        return
    system, atoms = _first_bad_system((numbers < 0) | (numbers > MAX_ATOMIC_NUMBER), starts)
    raise InputError(
        f"`atomic_numbers` of {system_name(fields, system)} holds {int(numbers[atoms[0] + int(starts[system])])} at "
        f"atom {atoms[0]}; allowed are 0 to {MAX_ATOMIC_NUMBER}. No element has this number; correct it."
    )


def _check_masses(fields: Mapping[str, torch.Tensor], starts: np.ndarray) -> None:
    masses = fields.get("atomic_masses")
    if masses is None:
        return
    low, high = torch.aminmax(masses.detach())
    if float(low) > 0.0 and float(high) < math.inf:
        return
    system, atoms = _first_bad_system(~((masses > 0) & masses.isfinite()), starts)
    raise InputError(
        f"`atomic_masses` of {system_name(fields, system)} is {float(masses[atoms[0] + int(starts[system])]):g} amu at "
        f"atom {atoms[0]}; a mass is positive and finite. Leave `atomic_masses` out to get those of the elements."
    )


def _check_whole(fields: Mapping[str, torch.Tensor], name: str, least: float, meaning: str) -> None:
    value = fields.get(name)
    if value is None:
        return
    good = value.isfinite() & (value == value.round()) & (value >= least)
    bad = ~(good | value.isnan()).reshape(-1)  # NaN: the system has none
    if bool(bad.any()):
        system = int(bad.nonzero()[0])
        raise InputError(
            f"`{name}` of {system_name(fields, system)} is {float(value[system]):g}; it is a whole number, {meaning}."
        )


def _check_cells(fields: Mapping[str, torch.Tensor]) -> None:
    pbc = fields.get("pbc")
    if pbc is None:
        return
    periodic = pbc.any(dim=1)
    cell = fields.get("cell")
    if cell is None:
        if bool(periodic.any()):
            system = int(periodic.nonzero()[0])
            raise InputError(
                f"`pbc` of {system_name(fields, system)} is {pbc[system].tolist()} but there is no `cell`. "
                f"Pass `cell`, shape (1, 3, 3), or set `pbc` to False."
            )
        return
    wide = cell.detach().double()
    a, b, c = wide.unbind(dim=1)
    volume = (a * torch.linalg.cross(b, c)).sum(dim=1).abs()
    flat = (volume <= _SINGULAR * (wide * wide).sum(dim=2).prod(dim=1).sqrt()) & periodic
    if bool(flat.any()):
        system = int(flat.nonzero()[0])
        raise InputError(
            f"`cell` of {system_name(fields, system)} is periodic along {pbc[system].tolist()} and spans a volume of "
            f"{float(volume[system]):.3g} Å³: {cell[system].tolist()}. Give every lattice vector a length and a "
            f"direction of its own, also those of non-periodic axes."
        )


def _check_ids(fields: Mapping[str, torch.Tensor]) -> None:
    ids = fields.get("system_id")
    if ids is None:
        return
    bad = (ids < -1) | (ids >= MAX_SYSTEM_ID)
    if bool(bad.any()):
        system = int(bad.reshape(-1).nonzero()[0])
        raise InputError(
            f"`system_id` {int(ids.reshape(-1)[system])} at index {system} is not usable; ids are 0 to 2^32 - 1, "
            f"and -1 means not set. Leave it out to have systems numbered by the run."
        )


def check_one_device(fields: Mapping[str, torch.Tensor], device: torch.device, what: str) -> None:
    """Raise unless every tensor is on `device`."""
    for name, tensor in fields.items():
        if tensor.device != device:
            raise InputError(
                f"`{name}` of {what} is on {tensor.device} but `positions` is on {device}. "
                f"Move it first: `{name}.to('{device}')`."
            )
