"""`AthanorCalculator` and `calculator`: any wrapped model as a calculator of ASE, one structure at a time.

ASE's own rules hold: results are kept while the atoms stay the same, and only what is asked for is computed. The other
way round, a calculator of ASE as a model of athanor, is `athanor.models.ase_model`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from athanor._values import is_real
from athanor.data.convert.ase import PROPERTIES, as_property
from athanor.dynamics.arguments import check_model
from athanor.dynamics.in_use import in_use, of_model, taking_turns
from athanor.errors import InputError, NotAvailableError
from athanor.workflows.build import build_model
from athanor.workflows.kept_structure import KeptStructure, bytes_of, name_of
from athanor.workflows.plan import find_device, spec_of_call
from athanor.workflows.spec import CalculationSpec

if TYPE_CHECKING:
    from ase import Atoms

    from athanor.models.mixin import BaseModelMixin

_FIELD_OF = {name: field for field, names in PROPERTIES.items() for name in names}
"""What ASE calls a result -> the field of a model that it is."""


class PropertyNotAvailableError(NotAvailableError, PropertyNotImplementedError):
    """A property that the model does not compute, or not for these atoms; also ASE's PropertyNotImplementedError."""


class AthanorCalculator(Calculator):
    """Any wrapped model as a calculator of ASE: for its optimizers, NEB, vibrations, phonons and what builds on them.

    Parameters
    ----------
    model
        A wrapped model; `athanor.calculator` takes a name as well.
    skin
        Å by which neighbours are searched further than the model needs, so that the list serves many calls; 0 searches
        at every call. By default that of the model, or 0.5.
    device
        Where to compute; by default where the model is, else the CPU. The model is moved there.
    dtype
        Precision of positions, cell and results: ``"float64"`` or ``"float32"``, or torch's name of it. The model has
        its own beside it.
    silence
        Warnings to leave out: ``"non-periodic"``, ``"elements"``.

    Attributes
    ----------
    implemented_properties
        ``energy`` and ``free_energy`` (the same number, eV), and what the model has of ``forces`` (eV/Å), ``stress``
        (eV/Å³, six numbers in the order xx, yy, zz, yz, xz, xy, tensile positive), ``charges`` (e), ``magmoms`` (µB),
        ``energies`` (of each atom, eV) and ``dipole`` (e·Å).

    Raises
    ------
    ContractError
        If `model` is no wrapped model.
    InputError
        If an argument is not usable; in a calculation, if the structure is not: an element that the model does not
        know, atoms too close or too dense, a cell without volume.
    CalculationFailedError
        In a calculation, if atoms came too close or a cell collapsed on the way, or a result is not finite. It is ASE's
        `CalculationFailed` too.
    PropertyNotAvailableError
        If a property is asked for that there is not, such as the stress of a molecule. It is ASE's
        `PropertyNotImplementedError` too.
    SimulationError
        If the model is in use by a run in another thread. Calculators in several threads wait for each other.

    Warns
    -----
    AthanorWarning
        For what can be computed but is probably not meant, when new atoms are met.

    Notes
    -----
    The energy alone takes one forward pass and no derivative. Any other question is answered in one pass together with
    what was asked about the atoms before, so that a relaxation of the cell costs one pass a step. Neighbours are kept
    while elements, periodicity and labels (charge, spin, initial charges and moments, as far as the model reads them)
    stay the same; positions and cell may change in any way, wrapping included. Give every image of a NEB a calculator
    of its own, `copy.copy(calculator)`, which shares the model: a shared one searches neighbours anew at each image. A
    copy or pickle leaves the neighbours behind, and a deep copy has a model of its own. After the parameters of the
    model have changed, call `reset`.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from athanor import AthanorCalculator
    >>> from athanor.models import LennardJonesModelWrapper
    >>> atoms = bulk("Ar", "fcc", a=5.3)
    >>> atoms.calc = AthanorCalculator(LennardJonesModelWrapper(epsilon=0.0104, sigma=3.4, cutoff=8.5))
    >>> round(atoms.get_potential_energy(), 4)
    -0.0841
    """

    def __init__(
        self,
        model: BaseModelMixin,
        *,
        skin: float | None = None,
        device: str | None = None,
        dtype: str | torch.dtype = "float64",
        silence: Sequence[str] = (),
    ) -> None:
        check_model(model)
        super().__init__()
        self._spec, _ = spec_of_call(CalculationSpec, locals())
        self._device = find_device(self._spec.device, self._spec.dtype)
        if isinstance(model, torch.nn.Module):
            model.to(self._device)
        self._model, self._skin = model, _checked_skin(skin)
        self._kept = self._new_kept()
        self._asked, self._asked_before = set[str](), set[str]()  # fields, of these atoms and of those before
        self.ignored_changes = {"initial_charges", "initial_magmoms"}.difference(self._kept.labels)
        outputs = model.model_config.outputs
        self.implemented_properties = [name for name, field in _FIELD_OF.items() if field in outputs]
        self.parameters.update(model=name_of(model), skin=self._skin, dtype=self._spec.dtype)

    @property
    def model(self) -> BaseModelMixin:
        """The model; another one needs another calculator."""
        return self._model

    def _new_kept(self) -> KeptStructure:
        return KeptStructure(self._model, self._spec, self._device, self._skin)

    def _get_name(self) -> str:
        return "athanor"

    def __repr__(self) -> str:
        return f"AthanorCalculator({name_of(self._model)}, skin={self._skin}, dtype={self._spec.dtype!r})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"results": {**self.results}, "_kept": self._new_kept()}

    # -- what ASE calls

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what has changed since the last calculation, as ASE names it; ``info`` for a charge or spin there."""
        changes = super().check_state(atoms, tol)
        known = {} if self.atoms is None else self.atoms.info
        labels = [name for name in self._kept.labels if name in ("charge", "spin")]
        has_changed = any(bytes_of(known.get(name)) != bytes_of(atoms.info.get(name)) for name in labels)
        return changes or ["info"] * has_changed

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Return a result, computed unless it is there; see `ase.calculators.calculator.Calculator`.

        Raises
        ------
        PropertyNotAvailableError
            If the model does not compute it, or not for these atoms.
        """
        with taking_turns():
            self._check_available(name, self.atoms if atoms is None else atoms)
            result = super().get_property(name, atoms, allow_calculation)
            if allow_calculation:  # who writes files looks at whatever there is
                self._asked.add(_FIELD_OF[name])
            return result

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute `properties` of `atoms` into ``results``, those that there are; called by ASE.

        Raises
        ------
        InputError, CalculationFailedError
            As the class says.
        """
        with taking_turns(), in_use(*of_model(self._model)), torch.inference_mode(False):
            super().calculate(atoms, properties, system_changes)
            if self.atoms is None:
                raise InputError("There are no atoms to calculate: pass some, `calc.calculate(atoms, ['energy'])`.")
            if system_changes:
                self.results, self._asked, self._asked_before = {}, set(), self._asked
            outputs = self._kept.evaluate(self.atoms, self._fields_for(self.atoms, properties))
            found = {name: as_property(field, outputs[field]) for name, field in _FIELD_OF.items() if field in outputs}
            self.results = found | self.results  # what was told of these atoms keeps its bits

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Refuse to change what is settled when a calculator is made.

        Raises
        ------
        NotAvailableError
            If anything is to be set.
        """
        if kwargs:
            raise NotAvailableError(
                f"{', '.join(f'`{name}`' for name in kwargs)}: an AthanorCalculator stays as it was made. "
                f"Make another one, such as `AthanorCalculator(calc.model, skin=1.0)`."
            )
        return {}

    def reset(self) -> None:
        """Forget atoms, results and neighbours."""
        super().reset()
        self._kept.forget()
        self._asked, self._asked_before = set(), set()

    def _check_available(self, name: str, atoms: Atoms | None) -> None:
        if name not in self.implemented_properties:
            raise PropertyNotAvailableError(
                f"{name_of(self._model)} does not compute `{name}`. It computes "
                f"{', '.join(self.implemented_properties)}; `athanor.models.available()` lists other models."
            )
        if name == "stress" and atoms is not None and not _has_volume(atoms):
            raise PropertyNotAvailableError(
                f"{atoms.get_chemical_formula()} has no `stress`: `pbc` is {atoms.pbc.tolist()} and the cell has "
                f"{atoms.cell.rank} of 3 vectors. Give it a cell with a volume and make a direction periodic."
            )

    def _fields_for(self, atoms: Atoms, properties: Collection[str]) -> frozenset[str]:
        """Return what to compute when asked for `properties`, and remember what was asked for."""
        asked = {_FIELD_OF[name] for name in properties if name in self.implemented_properties}
        self._asked |= asked
        if asked - {"energy"}:
            asked |= self._asked_before
        possible = self._model.model_config.outputs
        return possible & (asked | {"energy"}) - (set() if _has_volume(atoms) else {"stress"})


def calculator(
    model: Any,
    *,
    skin: float | None = None,
    device: str | None = None,
    dtype: str | torch.dtype = "float64",
    silence: Sequence[str] = (),
    **options: Any,
) -> AthanorCalculator:
    """Return a calculator of ASE that asks a model.

    Parameters
    ----------
    model
        Name of a model (see `athanor.models.available`), a mapping of its name and arguments such as ``{"name":
        "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}``, ``"a + b"`` or a list for a sum, or a
        wrapped model.
    skin, device, dtype, silence
        As in `AthanorCalculator`. Arguments of a model that are called so go into the mapping.
    **options
        Arguments of a model by name.

    Raises
    ------
    InputError
        If there is no such model, or an argument is not usable.
    OptionalDependencyError
        If the package of the model is not installed; the text names the command that installs it.

    Examples
    --------
    >>> import athanor
    >>> from ase.build import bulk
    >>> atoms = bulk("Ar", "fcc", a=5.3)
    >>> atoms.calc = athanor.calculator("lennard-jones", epsilon=0.0104, sigma=3.4, cutoff=8.5)
    >>> round(atoms.get_potential_energy(), 4)
    -0.0841
    """
    if options:
        if not isinstance(model, str):
            raise InputError(
                f"{', '.join(f'`{name}`' for name in options)}: arguments of a model go with its name, as in "
                f'`athanor.calculator("lennard-jones", epsilon=0.0104, sigma=3.4, cutoff=8.5)`. Leave them out.'
            )
        model = {"name": model, "options": options}
    if isinstance(model, str | dict | list | tuple):
        spec, _ = spec_of_call(CalculationSpec, {"model": model, "device": device, "dtype": dtype})
        assert spec.model is not None
        model = build_model(spec.model)
    return AthanorCalculator(model, skin=skin, device=device, dtype=dtype, silence=silence)


def _checked_skin(skin: Any) -> float | None:
    if skin is None:
        return None
    if not is_real(skin) or not 0.0 <= skin < math.inf:
        raise InputError(f"`skin` is {skin!r} Å; it must not be negative, and finite. 0.5 to 2 is usual.")
    return float(skin)


def _has_volume(atoms: Atoms) -> bool:
    return bool(atoms.pbc.any()) and atoms.cell.rank == 3
