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
from athanor.errors import InputError, MissingFieldError, NotAvailableError
from athanor.kernels._library import no_second_derivative
from athanor.models.analytic import AnalyticModel
from athanor.models.config import ModelConfig
from athanor.models.derivatives import strained_view
from athanor.models.element_table import ElementTable, by_element
from athanor.models.stored_list import list_inputs, require_batch
from athanor.neighbors.config import NeighborConfig, NeighborListFormat

if TYPE_CHECKING:
    from collections.abc import Set

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
    any_periodic, any_finite, any_slab
        Whether there is one.
    """

    periodic: torch.Tensor
    finite: torch.Tensor
    open_axis: torch.Tensor
    any_periodic: bool
    any_finite: bool
    any_slab: bool


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
    half_list
        Whether to ask for a list with each pair once, as a partner in a sum may; either kind is read.
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
        half_list: bool = False,
    ) -> None:
        super().__init__()
        self.cutoff = positive("cutoff", cutoff, "Å")
        constant = units.COULOMB_CONSTANT if coulomb_constant is None else coulomb_constant
        self.coulomb_constant = positive("coulomb_constant", constant, "eV Å/e²")
        self._charge_table = None
        if charges is not None:
            values = by_element("charges", charges, "e")
            self._charge_table = ElementTable(values, torch.float64, type(self).__name__, "`charges`")
        self.charges = None if charges is None else dict(charges)
        for name, flag in (
            ("hybrid_forces", hybrid_forces), ("slab_correction", slab_correction), ("half_list", half_list)
        ):  # fmt: skip
            if not isinstance(flag, bool):
                raise InputError(f"`{name}` is {flag!r}; it must be True or False.")
        self.hybrid_forces, self.slab_correction = hybrid_forces, slab_correction
        self._whole_charges = ComputedFrom()
        self._boundary_of: tuple[ComputedFrom, Boundary | None] = (ComputedFrom(), None)
        by_autograd = {"forces"} if hybrid_forces else {"forces", "stress"}
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", "forces", "stress"}),
            autograd_outputs=frozenset(by_autograd),
            required_inputs=frozenset({"charges"} if charges is None else ()),
            supports_pbc=True,
            needs_pbc=needs_pbc,
            neighbor_config=NeighborConfig(cutoff=self.cutoff, format=NeighborListFormat.MATRIX, half_list=half_list),
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
        return {**list_inputs(self, batch, self.cutoff), "charges": self._charges(batch)}

    def forward(self, data: AtomicData | Batch, **kwargs: Any) -> ModelOutputs:
        """Return the active outputs of a batch that has a neighbour list."""
        inputs = self.adapt_input(data, **kwargs)
        variables = (inputs["positions"], inputs["cell"], inputs["charges"])
        attached = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in variables)
        derivatives = attached or not self.output_data() <= {"energy"}
        terms = self._terms(inputs, self._boundary(require_batch(self, data)), derivatives)
        energy, forces, virial = (self.coulomb_constant * _sum(part) for part in list(zip(*terms, strict=True))[:3])
        if self.hybrid_forces:
            forces, virial = (_at_fixed_charges(self, each, *variables[:2]) for each in (forces, virial))
        return self.adapt_output({"energy": energy, "forces": forces, "virial": virial}, data)

    def attached_energy(
        self, data: AtomicData | Batch, strain: torch.Tensor | None, wanted: Set[str]
    ) -> dict[str, torch.Tensor]:
        """Return the energy, attached to the charges only where forces are given beside it.

        See `BaseModelMixin.attached_energy`.
        """
        if not self.hybrid_forces:
            return super().attached_energy(data, strain, wanted)
        strained = strained_view(data, strain)
        view = strained.shallow_view(())
        view.positions = strained.positions.detach()
        if "cell" in strained:
            view.cell = strained.cell.detach()
        outputs = super().attached_energy(view, None, wanted)
        geometry = (strained.positions, strained.cell_or_zeros)
        if any(tensor.requires_grad for tensor in geometry):
            outputs["energy"] = _OnceOnly.apply(outputs["energy"], _no_graph(self), *geometry)
        return outputs

    def _check_cells(self, batch: Batch) -> None:
        """Refuse a batch without cells."""

    def _check_boundary(self, count: torch.Tensor) -> None:
        """Refuse systems by `count`, the number of their periodic directions, int64 [B]."""

    def _boundary(self, batch: Batch) -> Boundary:
        """Return which systems are periodic, kept while `pbc` stays."""
        pbc = batch.pbc_or_false
        computed_from, boundary = self._boundary_of
        if boundary is not None and computed_from.holds(pbc):
            return boundary
        with torch.inference_mode(False):  # kept for calls that may be differentiated
            count = pbc.sum(1)
            open_axis = torch.where(count == 2, (~pbc).int().argmax(1), -1)
            periodic = count > 0
        self._check_boundary(count)
        boundary = Boundary(
            periodic, ~periodic, open_axis, bool(periodic.any()), not bool(periodic.all()), bool((count == 2).any())
        )
        self._boundary_of = (ComputedFrom(pbc), boundary)
        return boundary

    def _check_charges(self, charges: torch.Tensor, batch: Batch) -> None:
        """Refuse charges of which some are missing: where only some systems of a batch have any, others have NaN."""
        missing = ~charges.reshape(-1).isfinite()
        if bool(missing.any()):
            systems = batch.batch_idx[missing].unique().tolist()
            raise InputError(
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


class _OnceOnly(torch.autograd.Function):
    """An energy whose derivatives by positions and cell are given beside it: zero here, and not to be derived again."""

    @staticmethod
    def forward(ctx: Any, energy: torch.Tensor, error: Exception, *geometry: torch.Tensor) -> torch.Tensor:
        ctx.error = error
        ctx.save_for_backward(*geometry)
        return energy.view_as(energy)

    @staticmethod
    def backward(ctx: Any, by_energy: torch.Tensor) -> Any:
        geometry = ctx.saved_tensors
        zeros = [torch.zeros_like(each) for each in geometry]
        if torch.is_grad_enabled():  # forces may be kept with their graph by who never differentiates them
            zeros = [no_second_derivative(each, ctx.error, *geometry) for each in zeros]
        return by_energy, None, *zeros


def _no_graph(model: CoulombModel) -> NotAvailableError:
    return NotAvailableError(
        f"Forces and stress of {type(model).__name__} with `hybrid_forces=True` carry no graph, so that derivatives of "
        f"them, as in a Hessian or in training by forces, would lack their part. Use `hybrid_forces=False`."
    )


def _at_fixed_charges(model: CoulombModel, derivative: torch.Tensor, *geometry: torch.Tensor) -> torch.Tensor:
    """Return a derivative without its graph; who differentiates it by positions or cell is told."""
    derivative = derivative.detach()
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in geometry)):
        return derivative
    return no_second_derivative(derivative, _no_graph(model), *geometry)


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
