"""From pymatgen structures and molecules to `AtomicData`.

Sites must be whole and ordered. Lengths are Å and masses amu in both, so no number changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

from athanor._values import check_state_dtype, usable_device
from athanor.data.convert._common import leftover_tensors, one_hot_attributes, per_atom, system_row, whole_sum
from athanor.data.elements import MAX_ATOMIC_NUMBER, AtomicNumberTable
from athanor.errors import ArgumentError, InputError

Data = TypeVar("Data")


def from_structure(
    structure: Any,
    energy_key: str = "energy",
    forces_key: str = "forces",
    stress_key: str = "stress",
    virials_key: str = "virials",
    dipole_key: str = "dipole",
    charges_key: str = "charges",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    z_table: AtomicNumberTable | None = None,
    *,
    system_id: int | None = None,
    data_class: Callable[..., Data],
) -> Data:
    """Make a structure of a pymatgen Structure or Molecule, which is not changed.

    Parameters
    ----------
    structure
        The structure.
    energy_key, stress_key, virials_key, dipole_key
        Names in ``structure.properties``.
    forces_key, charges_key
        Names in ``structure.site_properties``; ``"velocities"`` there is taken over too, and atoms without a free
        direction in ``"selective_dynamics"`` are `fixed`.
    device, dtype, z_table, system_id, data_class
        As in `athanor.data.convert.ase.from_atoms`.

    Raises
    ------
    InputError
        If sites are partly occupied, the charge is not within 0.01 of a whole number, or an atom is free along some
        directions only.
    """
    if not hasattr(structure, "site_properties"):
        raise ArgumentError(
            f"`structure` is a {type(structure).__name__}; pass a pymatgen Structure or Molecule. "
            f"`AtomicData.from_atoms` takes ASE atoms."
        )
    check_state_dtype(dtype)
    device = usable_device(device)
    if not getattr(structure, "is_ordered", True):
        raise InputError(
            "The structure has partly occupied sites. Build an ordered one first, for example with pymatgen's "
            "OrderDisorderedStructureTransformation."
        )
    elements = [site.specie for site in structure]
    unknown = [str(entry) for entry in elements if not 0 < entry.Z <= MAX_ATOMIC_NUMBER]
    if unknown:
        raise InputError(f"The structure has sites of {unknown[0]}, which is no element. Replace or remove them.")
    numbers = np.asarray([entry.Z for entry in elements], dtype=np.int32)
    properties = dict(getattr(structure, "properties", None) or {})
    sites = structure.site_properties
    fields: dict[str, torch.Tensor] = {
        "atomic_numbers": torch.from_numpy(numbers),
        "positions": per_atom("cart_coords", structure.cart_coords, dtype),
    }
    fields.update(_cell(structure, dtype))
    fields.update(_fixed(sites))
    if any(getattr(entry, "element", entry).name in ("D", "T") for entry in elements):
        fields["atomic_masses"] = per_atom("atomic_mass", [float(entry.atomic_mass) for entry in elements], dtype)
    for name, key in (("energy", energy_key), ("stress", stress_key), ("virial", virials_key), ("dipole", dipole_key)):
        if properties.get(key) is not None:
            fields[name] = system_row(name, f"properties['{key}']", properties[key], dtype)
    for name, key in (("forces", forces_key), ("charges", charges_key), ("velocities", "velocities")):
        if key in sites and all(value is not None for value in sites[key]):
            fields[name] = per_atom(f"site_properties['{key}']", sites[key], dtype)
    charge = _charge(structure, fields)
    if charge is not None:
        fields["charge"] = torch.tensor([[charge]], dtype=dtype)
    multiplicity = getattr(structure, "spin_multiplicity", None)
    if multiplicity is not None:
        fields["spin"] = torch.tensor([[float(multiplicity)]], dtype=dtype)
    if system_id is not None:
        fields["system_id"] = torch.tensor([[int(system_id)]])
    if z_table is not None:
        fields["node_attrs"] = one_hot_attributes(numbers, z_table, dtype)
    extra = leftover_tensors(properties, {energy_key, stress_key, virials_key, dipole_key}, dtype)
    placed = {name: value.to(device) for name, value in fields.items()}
    return data_class(**placed, info={name: value.to(device) for name, value in extra.items()})


def _cell(structure: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    lattice = getattr(structure, "lattice", None)
    if lattice is None:
        return {}
    pbc = np.array(lattice.pbc, dtype=bool)
    if not pbc.any():
        return {}
    cell = torch.from_numpy(np.array(lattice.matrix, dtype=np.float64)).to(dtype)
    return {"cell": cell.unsqueeze(0), "pbc": torch.from_numpy(pbc).unsqueeze(0)}


def _fixed(sites: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Atoms that ``selective_dynamics`` holds; None there leaves an atom free."""
    rows = sites.get("selective_dynamics")
    if rows is None:
        return {}
    free = np.array([(True,) * 3 if row is None else row for row in rows], dtype=bool)
    partly = free.any(axis=1) & ~free.all(axis=1)
    if partly.any():
        atom = int(partly.argmax())
        raise InputError(
            f"`selective_dynamics` of atom {atom} is {free[atom].tolist()}; an atom is fixed or free as a whole. Make "
            f"the three equal, or remove the property."
        )
    return {} if free.all() else {"fixed": torch.from_numpy(~free[:, 0])}


def _charge(structure: Any, fields: dict[str, torch.Tensor]) -> float | None:
    explicit = getattr(structure, "_charge", None)
    if explicit is not None:
        if abs(explicit - round(explicit)) > 1e-2:
            raise InputError(f"`charge` of the structure is {explicit}; it must be a whole number.")
        return float(round(explicit))
    return whole_sum(fields["charges"].double().numpy(), "charges") if "charges" in fields else None
