"""CoulombModel: what the models of charges have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from athanor import units
from athanor._values import is_real
from athanor.data._stamp import ComputedFrom
from athanor.data.elements import number_of_element
from athanor.errors import InputError, MissingFieldError
from athanor.models.analytic import AnalyticModel
from athanor.models.config import ModelConfig
from athanor.models.element_table import ElementTable
from athanor.models.stored_list import require_batch, require_pairs
from athanor.neighbors.config import NeighborConfig, NeighborListFormat

if TYPE_CHECKING:
    from athanor._typing import ModelOutputs
    from athanor.data.atomic_data import AtomicData
    from athanor.data.batch import Batch

ChargeTable = Mapping[int | str, float]
Term = tuple[torch.Tensor, ...]
"""Energy [B], forces [N, 3], virial [B, 3, 3] and potential [N] in e²/Å and the like."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """Which systems of a batch are periodic, and where slabs are open.

    Parameters
    ----------
    periodic, finite
        bool [B]; a system is one or the other.
    open_axis
        int64 [B]: the lattice vector of a slab without periodicity, -1 for others.
    any_periodic, any_finite
        Whether there is one.
    """

    periodic: torch.Tensor
    finite: torch.Tensor
    open_axis: torch.Tensor
    any_periodic: bool
    any_finite: bool


class CoulombModel(AnalyticModel):
    """Base of models whose energy comes from the charges of atoms.

    A model sums its terms in `_terms`; all else is here. Energies in e²/Å become eV by `coulomb_constant`.

    Parameters
    ----------
    cutoff
        Å.
    coulomb_constant
        eV Å/e²; ``None``: that of `athanor.units`.
    charges
        Charge of each element in e, such as ``{"Na": 1.0, "Cl": -1.0}``. By default those of the batch are read, or of
        a model before this one in a pipeline.
    needs_pbc
        Whether systems have to be periodic.
    hybrid_forces
        Whether forces and stress are given at fixed charges and carry no graph.
    slab_correction
        Whether systems may be periodic in two directions.
    """

    def __init__(
        self,
        cutoff: float,
        *,
        coulomb_constant: float | None,
        charges: ChargeTable | None,
        needs_pbc: bool,
        hybrid_forces: bool,
        slab_correction: bool = False,
    ) -> None:
        super().__init__()
        self.cutoff = positive("cutoff", cutoff, "Å")
        constant = units.COULOMB_CONSTANT if coulomb_constant is None else coulomb_constant
        self.coulomb_constant = positive("coulomb_constant", constant, "eV Å/e²")
        self.charges = None if charges is None else dict(charges)
        self.hybrid_forces, self.slab_correction = hybrid_forces, slab_correction
        self._charge_table = None if charges is None else self._table_of(charges)
        self._whole_charges = ComputedFrom()
        self._boundary_of: tuple[ComputedFrom, Boundary | None] = (ComputedFrom(), None)
        by_autograd = {"forces"} if hybrid_forces else {"forces", "stress"}
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", "forces", "stress"}),
            autograd_outputs=frozenset(by_autograd),
            required_inputs=frozenset({"charges"} if charges is None else ()),
            supports_pbc=True,
            needs_pbc=needs_pbc,
            neighbor_config=NeighborConfig(cutoff=self.cutoff, format=NeighborListFormat.MATRIX),
            active_outputs={"energy", "forces"},
        )

    @abstractmethod
    def _terms(
        self, inputs: dict[str, Any], boundary: Boundary, derivatives: bool
    ) -> Sequence[tuple[torch.Tensor, ...]]:
        """Return what kernels give for each term of the energy: energy, forces, virial and potential, in e²/Å.

        Parameters
        ----------
        inputs
            What `adapt_input` returns.
        boundary
            Of the systems.
        derivatives
            Whether more than the energy is wanted.
        """

    def input_data(self) -> set[str]:
        """Names of the inputs: elements are needed only if they say what the charges are."""
        names = super().input_data() - {"atomic_numbers", "pbc"}
        if self.slab_correction:
            names.add("pbc")
        return names | ({"atomic_numbers"} if self.charges is not None else set())

    def direct_derivative_keys(self) -> set[str]:
        """Forces and stress at fixed charges, if they are given by themselves."""
        return {"forces", "stress"} if self.hybrid_forces else set()

    def adapt_input(self, data: AtomicData | Batch, **kwargs: Any) -> dict[str, Any]:
        """Return positions, cells, charges and the stored pair list, as kernels take them.

        Raises
        ------
        ContractError
            A `TypeError`, if `data` is not a Batch.
        MissingFieldError
            A `KeyError`, if there are no charges or there is no neighbour list.
        InputError
            A `ValueError`, if cells are missing, a system is periodic in a way that the model does not take, the list
            was searched too short, or an element has no charge.
        """
        batch = require_batch(self, data)
        self._check_cells(batch)
        pairs = require_pairs(self, batch, self.cutoff)
        positions, cell = batch.positions, batch.cell_or_zeros
        if self.hybrid_forces:
            positions, cell = positions.detach(), cell.detach()
        return {
            "positions": positions,
            "cell": cell,
            "segment_ptr": batch.batch_ptr,
            "row_ptr": pairs.row_ptr,
            "neighbors": pairs.neighbors,
            "images": pairs.images,
            "wrap_offsets": pairs.wrap_offsets,
            "half": pairs.half,
            "charges": self._charges(batch),
        }

    def forward(self, data: AtomicData | Batch, **kwargs: Any) -> ModelOutputs:
        """Return the active outputs of a batch that has a neighbour list."""
        inputs = self.adapt_input(data, **kwargs)
        variables = (inputs["positions"], inputs["cell"], inputs["charges"])
        attached = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in variables)
        derivatives = attached or not self.output_data() <= {"energy"}
        terms = self._terms(inputs, self._boundary(require_batch(self, data)), derivatives)
        energy, forces, virial = (self.coulomb_constant * _sum(part) for part in list(zip(*terms, strict=True))[:3])
        if self.hybrid_forces:
            forces, virial = forces.detach(), virial.detach()
        return self.adapt_output({"energy": energy, "forces": forces, "virial": virial}, data)

    def _check_cells(self, batch: Batch) -> None:
        """Refuse a batch without cells."""

    def _check_boundary(self, batch: Batch, count: torch.Tensor) -> None:
        """Refuse systems by `count`, the number of their periodic directions, int64 [B]."""

    def _boundary(self, batch: Batch) -> Boundary:
        """Return which systems are periodic, kept while `pbc` stays."""
        pbc = batch.pbc_or_false
        computed_from, boundary = self._boundary_of
        if boundary is not None and computed_from.holds(pbc):
            return boundary
        count = pbc.sum(1)
        self._check_boundary(batch, count)
        open_axis = torch.where(count == 2, (~pbc).int().argmax(1), -1)
        periodic = count > 0
        boundary = Boundary(periodic, ~periodic, open_axis, bool(periodic.any()), not bool(periodic.all()))
        self._boundary_of = (ComputedFrom(pbc), boundary)
        return boundary

    def _table_of(self, charges: ChargeTable) -> ElementTable:
        for element, charge in charges.items():
            if not is_real(charge) or not math.isfinite(charge):
                raise InputError(
                    f"`charges` gives {element!r} a charge of {charge!r}; it must be a finite number, in e."
                )
        values = {number_of_element(element): float(charge) for element, charge in charges.items()}
        return ElementTable(values, torch.float64, type(self).__name__, "`charges`")

    def _check_charges(self, charges: torch.Tensor, batch: Batch) -> None:
        """Refuse charges of which some are missing: where only some systems of a batch have any, others have NaN."""
        missing = ~charges.reshape(-1).isfinite()
        if bool(missing.any()):
            systems = batch.batch_idx[missing].unique().tolist()
            raise MissingFieldError(
                f"`charges` is missing, or not finite, in systems {systems[:5]} of the batch; {type(self).__name__} "
                f"needs a number for each atom, in e. Set it for them too."
            )
        self._whole_charges = ComputedFrom(charges)

    def _charges(self, batch: Batch) -> torch.Tensor:
        """Return the charge of each atom, [N], in the dtype of the positions."""
        positions = batch.positions
        if self._charge_table is None:
            charges = batch.get("charges")
            if charges is None:
                raise MissingFieldError(
                    f"`charges` is missing from the batch; {type(self).__name__} needs it. Set `batch.charges`, one "
                    f"number for each atom in e, or give `charges={{'Na': 1.0, 'Cl': -1.0}}` to the model."
                )
            if not charges.requires_grad and not self._whole_charges.holds(charges):
                self._check_charges(charges, batch)
            return charges.reshape(-1).to(positions.dtype)
        return self._charge_table.of(batch.atomic_numbers).to(positions.dtype)


def positive(name: str, value: Any, unit: str) -> float:
    """Return `value` as a float, or refuse it by name."""
    if not is_real(value) or not 0.0 < value < math.inf:
        raise InputError(f"`{name}` is {value!r}; it must be a positive number ({unit}).")
    return float(value)


def _sum(terms: Sequence[torch.Tensor]) -> torch.Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
