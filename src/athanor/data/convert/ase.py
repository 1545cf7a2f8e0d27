"""Between ASE atoms and `AtomicData`, both ways.

No number changes at this border: ASE's energies are eV, lengths Å, masses amu, and its velocity unit √(eV/amu) is our
internal one. Only ASE's ``units.fs`` (CODATA 2014) differs from ours (CODATA 2022), by 4e-9 of itself; times in
``info`` are taken as fs. ASE's stress is tensile positive, as ours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from athanor._optional import OptionalDependency
from athanor._values import check_state_dtype, is_real, usable_device
from athanor.data.convert._common import leftover_tensors, one_hot_attributes, per_atom, system_row, whole_sum
from athanor.data.elements import AtomicNumberTable
from athanor.data.fields import FIELDS, IDENTITY
from athanor.errors import ArgumentError, InputError

if TYPE_CHECKING:
    from ase import Atoms
    from ase.cell import Cell

OPEN_MARGIN = 3.0
"""Å beyond the atoms of a sheet or tube that count as its own where its cell says nothing."""

PROPERTIES: dict[str, tuple[str, ...]] = {
    "energy": ("free_energy", "energy"),
    "forces": ("forces",),
    "stress": ("stress",),
    "charges": ("charges",),
    "magmoms": ("magmoms",),
    "atomic_energies": ("energies",),
    "dipole": ("dipole",),
}
"""Field -> what ASE's calculators call it. Of two energies the first is the one whose derivative the forces are."""

Data = TypeVar("Data")


def from_atoms(
    atoms: Atoms,
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
    """Make a structure of ASE atoms; the atoms are not changed and nothing is calculated.

    Parameters
    ----------
    atoms
        The atoms. Taken over: numbers, positions, masses, momenta, tags, initial charges (``charges``), initial
        magnetic moments (``magmoms``), `FixAtoms` constraints (``fixed``), and cell and pbc if an axis is periodic;
        zero vectors along open axes get a length, see `completed_cell`.
    energy_key, stress_key, virials_key, dipole_key
        Names in ``atoms.info``. A stress or virial has 9 or 6 (Voigt) entries.
    forces_key, charges_key
        Names in ``atoms.arrays``.
    device, dtype
        Where the tensors are and the state dtype.
    z_table
        Order of elements for one-hot ``node_attrs``; none without it.
    system_id
        Identity of the system; ``atoms.info["system_id"]`` unless given.
    data_class
        Class of the result.

    Returns
    -------
    AtomicData
        Results stored in ``atoms.calc`` count where ``info`` and ``arrays`` lack them, if they are for these positions.
        ``info["charge"]`` and ``info["spin"]`` (multiplicity 2S+1) become fields, as do the names in `IDENTITY`; other
        numbers in ``info`` stay in ``info`` as tensors, text and bools are dropped.

    Raises
    ------
    InputError
        For a constraint other than FixAtoms, a periodic cell without volume, or a charge or spin that is not whole; NaN
        is none.
    """
    if not (hasattr(atoms, "info") and hasattr(atoms, "arrays")):
        raise ArgumentError(
            f"`atoms` is a {type(atoms).__name__}; pass one ase.Atoms. `ase.io.read(path)` reads one from a file; for "
            f"a list, call this for each."
        )
    check_state_dtype(dtype)
    device = usable_device(device)
    info, arrays = atoms.info, atoms.arrays
    results = stored_results(atoms)
    fields: dict[str, Any] = {
        "atomic_numbers": torch.from_numpy(arrays["numbers"].astype(np.int32)),
        "positions": per_atom("positions", arrays["positions"], dtype),
    }
    fields.update(_motion(atoms, dtype))
    fields.update(_cell(atoms, dtype))
    for name, key in (("energy", energy_key), ("stress", stress_key), ("virial", virials_key), ("dipole", dipole_key)):
        value = info.get(key, results.get(name))
        if value is not None:
            fields[name] = system_row(name, f"info['{key}']" if key in info else name, value, dtype)
    for name, keys in (("forces", (forces_key,)), ("charges", (charges_key, "initial_charges")), ("magmoms", ())):
        value = next((arrays[key] for key in keys if key in arrays), results.get(name))
        if value is None and name == "magmoms":
            value = arrays.get("initial_magmoms")
        if value is not None and np.ndim(value):
            fields[name] = per_atom(name, value, dtype)
    fields.update(_charge_and_spin(atoms, fields, dtype))
    fields.update(_identity(info, system_id))
    if z_table is not None:
        fields["node_attrs"] = one_hot_attributes(arrays["numbers"], z_table, dtype)
    used = {energy_key, forces_key, stress_key, virials_key, dipole_key, charges_key, "charge", "spin", *IDENTITY}
    extra = leftover_tensors(info, used, dtype)
    fields = {name: value.to(device) for name, value in fields.items()}
    return data_class(**fields, info={name: value.to(device) for name, value in extra.items()})


def stored_results(atoms: Atoms) -> dict[str, Any]:
    """Results that the calculator holds for these very atoms; nothing is calculated."""
    calc = atoms.calc
    results = getattr(calc, "results", None)
    if not results:
        return {}
    check_state = getattr(calc, "check_state", None)
    if check_state is not None and check_state(atoms):
        return {}
    return dict(results)


def _motion(atoms: Atoms, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    fields = {}
    if "masses" in atoms.arrays:
        fields["atomic_masses"] = per_atom("masses", atoms.get_masses(), dtype)
    if "momenta" in atoms.arrays:
        fields["velocities"] = per_atom("momenta", atoms.get_velocities(), dtype)
    if "tags" in atoms.arrays:
        fields["tags"] = torch.from_numpy(atoms.arrays["tags"].astype(np.int64))
    fixed = np.zeros(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if type(constraint).__name__ != "FixAtoms":
            raise InputError(
                f"The atoms carry the constraint {type(constraint).__name__}; only FixAtoms is known. "
                f"Remove it with `atoms.set_constraint()`, or replace it by FixAtoms."
            )
        fixed[constraint.index] = True
    if fixed.any():
        fields["fixed"] = torch.from_numpy(fixed)
    return fields


def _cell(atoms: Atoms, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    pbc = np.array(atoms.get_pbc(), dtype=bool)
    if not pbc.any():
        return {}
    cell = np.array(completed_cell(atoms).array, dtype=np.float64)
    if not cell.any(axis=1).all():
        raise InputError(
            f"The atoms are periodic along {pbc.tolist()} with undefined (zero) lattice vectors, volume 0 Å³: "
            f"{cell.tolist()}. Give every periodic vector a length, or set `pbc` to False there."
        )
    return {"cell": torch.from_numpy(cell).to(dtype).unsqueeze(0), "pbc": torch.from_numpy(pbc).unsqueeze(0)}


def completed_cell(atoms: Atoms) -> Cell:
    """Return the cell of `atoms` with a length along open directions that have none, as of a sheet or a tube.

    ASE's builders leave such vectors zero. They become vectors at right angles to the others, as long as the atoms
    reach plus `OPEN_MARGIN`; zero vectors along periodic directions stay zero.
    """
    cell = atoms.cell
    missing = ~cell.array.any(axis=1)
    if not missing.any() or not atoms.pbc.any() or (missing & atoms.pbc).any():
        return cell
    full = cell.complete()
    for axis in np.flatnonzero(missing):
        along = atoms.positions @ full.array[axis]
        full.array[axis] *= np.ptp(along) + OPEN_MARGIN
    return full


_MEANINGS = {"charge": "the total charge in e", "spin": "the multiplicity 2S+1"}


def _whole(info: dict[str, Any], name: str) -> float | None:
    value = info.get(name)
    if value is None:
        return None
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, float | np.floating) and np.isnan(value):  # absent, as in a column of a table
        return None
    if not is_real(value) or value % 1 != 0:
        raise InputError(
            f"`info['{name}']` is {value!r}; it must be an integer: {_MEANINGS[name]}. Correct or remove it."
        )
    return float(value)


def _charge_and_spin(atoms: Atoms, fields: dict[str, Any], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    charge, spin = _whole(atoms.info, "charge"), _whole(atoms.info, "spin")
    if charge is None and "charges" in fields:
        charge = whole_sum(fields["charges"].double().numpy(), "charges")
    if spin is not None and spin < 1:
        raise InputError(f"`info['spin']` is {spin:g}; it is the multiplicity 2S+1, at least 1 (a singlet).")
    moments = atoms.arrays.get("initial_magmoms")
    if spin is None and moments is not None and moments.ndim == 1 and not atoms.pbc.any():
        unpaired = abs(float(moments.sum()))
        if abs(unpaired - round(unpaired)) < 1e-2:
            spin = round(unpaired) + 1.0
    found = {"charge": charge, "spin": spin}
    return {name: torch.tensor([[value]], dtype=dtype) for name, value in found.items() if value is not None}


def _identity(info: dict[str, Any], system_id: int | None) -> dict[str, torch.Tensor]:
    given = {name: info[name] for name in IDENTITY if name in info}
    if system_id is not None:
        given["system_id"] = system_id
    fields = {}
    for name, value in given.items():
        dtype = FIELDS[name].dtype_to_make(None)
        try:
            fields[name] = torch.tensor([[np.asarray(value).reshape(-1)[0].item()]]).to(dtype)
        except (AttributeError, IndexError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"`{name}` is {value!r}; it must be a number.") from error
        if dtype == torch.int64 and float(fields[name]) != float(np.asarray(value).reshape(-1)[0]):
            raise InputError(f"`{name}` is {value!r}; it must be an integer.")
    return fields


_SIGNS_OF_MOTION = ("velocities_present", "velocities")


def to_atoms(data: Any, computed: Collection[str] = frozenset()) -> Atoms:
    """Return ASE atoms with everything that ASE has a place for.

    Parameters
    ----------
    data
        The structure.
    computed
        Which of charges and moments a model computed: they are results of the calculator, not initial values.

    Returns
    -------
    ase.Atoms
        With masses, velocities if they are known, tags, initial charges and moments, `FixAtoms`, and a
        `SinglePointCalculator` that holds energy, forces, stress, dipole and energies of atoms. Charge, spin and the
        names in `IDENTITY` are in ``info``, as is the structure's own ``info``; there and in ``arrays`` are all custom
        fields and what else a model computed, by their names, or behind ``model_`` where ASE means something else.
    """
    ase = OptionalDependency.ASE.load(needed_by="AtomicData.to_atoms")
    fields = {name: tensor.detach().cpu() for name, tensor in data}
    atoms = ase.Atoms(
        numbers=fields["atomic_numbers"].numpy(),
        positions=fields["positions"].double().numpy(),
        cell=fields["cell"][0].double().numpy() if "cell" in fields else None,
        pbc=fields["pbc"][0].numpy() if "pbc" in fields else False,
    )
    if "atomic_masses" in fields:
        atoms.set_masses(fields["atomic_masses"].double().numpy())
    if "velocities" in fields and any(bool(fields[name].any()) for name in _SIGNS_OF_MOTION if name in fields):
        atoms.set_velocities(fields["velocities"].double().numpy())
    if "tags" in fields:
        atoms.set_tags(fields["tags"].numpy())
    if "charges" in fields.keys() - computed:
        atoms.set_initial_charges(fields["charges"].double().numpy())
    if "magmoms" in fields.keys() - computed:
        atoms.set_initial_magnetic_moments(fields["magmoms"].double().numpy())
    _set_info(atoms, data, fields)
    _set_others(atoms, data, fields)
    results = _results(fields, computed)
    if results:
        singlepoint = OptionalDependency.ASE.load("calculators.singlepoint")
        atoms.calc = singlepoint.SinglePointCalculator(atoms, **results)
    if "fixed" in fields and bool(fields["fixed"].any()):
        constraints = OptionalDependency.ASE.load("constraints")
        atoms.set_constraint(constraints.FixAtoms(mask=fields["fixed"].numpy()))
    return atoms


def _set_info(atoms: Atoms, data: Any, fields: dict[str, torch.Tensor]) -> None:
    for name in ("charge", "spin"):
        if name in fields and not bool(fields[name].isnan().any()):
            atoms.info[name] = round(float(fields[name]))
    for name in IDENTITY:
        if name in fields and not (name == "system_id" and int(fields[name]) < 0):
            atoms.info[name] = fields[name].reshape(-1)[0].item()
    for name, value in data.info.items():
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
        single = isinstance(array, np.ndarray) and array.shape == (1,)
        atoms.info[name] = array[0].item() if single else array


_PLACED = frozenset({"energy", "forces", "stress", "dipole", "atomic_energies", "charges", "magmoms"})
"""Results and properties of the table for which ASE has a place."""
_OWN_NAMES = frozenset(
    {
        "numbers", "positions", "tags", "momenta", "masses", "initial_magmoms", "initial_charges",
        "energy", "energies", "free_energy", "forces", "stress", "stresses", "dipole", "charges", "magmom", "magmoms",
        "pos", "species", "symbols", "Z", "move_mask", "Lattice", "Properties",
        "name", "reason", "steps", "source_file", "source_index",
    }
)  # fmt: skip
"""What ASE, its extended XYZ and the last structures of a run call something else."""


def place_of(name: str) -> str:
    """Return what a field is called in ``info`` or ``arrays`` that ASE has no place of its own for.

    Examples
    --------
    >>> place_of("uncertainty"), place_of("tags")
    ('uncertainty', 'model_tags')
    """
    return f"model_{name}" if name in _OWN_NAMES else name


def _set_others(atoms: Atoms, data: Any, fields: dict[str, torch.Tensor]) -> None:
    """Set what a model computed, and custom fields, where ASE has no place of its own for them."""
    for name, tensor in fields.items():
        spec = data.field_spec(name)
        known = FIELDS.get(name)
        if spec is None or spec.level == "edge" or name in _PLACED or (known and known.role not in _COMPUTED):
            continue
        if spec.level == "node":
            atoms.set_array(place_of(name), tensor.numpy())
        else:
            atoms.info[place_of(name)] = tensor[0].item() if tensor[0].numel() == 1 else tensor[0].numpy()


_COMPUTED = ("result", "property")
"""Roles of the fields of the table that a model may compute."""


def _results(fields: dict[str, torch.Tensor], computed: Collection[str]) -> dict[str, Any]:
    """Return what a calculator of ASE holds; charges and moments only if a model `computed` them."""
    names = [name for name in PROPERTIES if name in fields and (name in computed or name not in _GIVEN_TOO)]
    return {PROPERTIES[name][-1]: as_property(name, fields[name]) for name in names}


_GIVEN_TOO = ("charges", "magmoms")
"""Properties that may as well be what a user starts from."""


def as_property(field: str, value: torch.Tensor) -> Any:
    """Return what ASE has for a field of one structure: a float, or a new float64 array; stress in Voigt order.

    Parameters
    ----------
    field
        A name of `PROPERTIES`.
    value
        With the leading row of its level.
    """
    numbers = value.detach().cpu().double().numpy().copy()
    if FIELDS[field].level == "node":
        return numbers
    if FIELDS[field].shape == (3, 3):
        full = 0.5 * (numbers[0] + numbers[0].T)
        return full[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    return float(numbers[0, 0]) if FIELDS[field].shape == (1,) else numbers[0]
