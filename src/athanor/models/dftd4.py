"""DFTD4ModelWrapper: the D4 dispersion correction, computed by its own library one system after the other."""

from __future__ import annotations

from collections.abc import Set
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from athanor import units
from athanor._optional import OptionalDependency
from athanor.data._stamp import ComputedFrom
from athanor.errors import InputError, NotAvailableError
from athanor.models.analytic import AnalyticModel
from athanor.models.card import ModelCard
from athanor.models.config import ModelConfig
from athanor.models.derivatives import carries_graph
from athanor.models.stored_list import require_batch

if TYPE_CHECKING:
    from athanor._typing import ModelOutputs
    from athanor.data.atomic_data import AtomicData
    from athanor.data.batch import Batch

MAX_ELEMENT = 103


class DFTD4ModelWrapper(AnalyticModel):
    """DFT-D4 dispersion correction by the library dftd4, with its three-body term.

    Its C6 depend on charges by electronegativity equilibration, which D3 does not know. Like D3 it belongs to a
    functional without dispersion. It gains nothing from batches; `DFTD3ModelWrapper` is many times faster.

    Parameters
    ----------
    functional
        Name of the density functional, as the library knows it, such as ``"pbe"``.
    three_body
        Whether to add the Axilrod-Teller-Muto term, which belongs to the published method.

    Raises
    ------
    OptionalDependencyError
        If the package dftd4 is not installed; the text names the command that installs it.
    InputError
        If the library has no parameters for the functional.

    Notes
    -----
    Computes energy and forces unless ``model_config.active_outputs`` says otherwise; stress can be added. A system's
    ``charge`` is passed on. Arithmetic is in float64, results in the dtype of the positions. There are no gradients but
    the forces and stress that the library returns: inside an autograd group of a pipeline, or with positions that
    require grad, it raises `NotAvailableError`. Cutoffs are those of the library.

    References
    ----------
    .. [1] E. Caldeweyher et al., J. Chem. Phys. 150, 154122 (2019). doi:10.1063/1.5090222
    """

    def __init__(self, functional: str = "pbe", *, three_body: bool = True) -> None:
        super().__init__()
        self.functional, self.three_body = functional, three_body
        library = OptionalDependency.DFTD4.load("interface", needed_by=type(self).__name__)
        try:
            library.DampingParam(method=functional, atm=three_body)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise InputError(
                f"The library dftd4 has no parameters for the functional {functional!r} ({error}). Pass a name such as "
                f"'pbe', 'r2scan' or 'b3lyp'."
            ) from error
        self._checked: ComputedFrom = ComputedFrom()
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", "forces", "stress"}),
            optional_inputs=frozenset({"charge"}),
            supports_pbc=True,
            active_outputs={"energy", "forces"},
        )
        self.model_card = ModelCard(
            name="D4",
            kind="any",
            elements=frozenset(range(1, MAX_ELEMENT + 1)),
            conservative=True,
            equivariant=True,
            batch_invariance="verified",
            stress_keeps_forces=True,
            licence="LGPL-3.0-or-later",
            citation="doi:10.1063/1.5090222",
        )

    def forward(self, data: AtomicData | Batch, **kwargs: Any) -> ModelOutputs:
        """Return the active outputs of a batch.

        Raises
        ------
        ContractError
            A `TypeError`, if `data` is not a Batch.
        NotAvailableError
            If positions or cell require grad.
        InputError
            If the library does not know an element, or refuses a structure.
        """
        batch = require_batch(self, data)
        if torch.is_grad_enabled() and carries_graph(batch):
            raise self._has_no_graph()
        self._require_elements(batch)
        library = OptionalDependency.DFTD4.load("interface", needed_by=type(self).__name__)
        damping = library.DampingParam(method=self.functional, atm=self.three_body)
        with_derivatives = bool(self.output_data() - {"energy"})
        positions, cell = (each.detach().double().cpu().numpy() for each in (batch.positions, batch.cell_or_zeros))
        numbers, pbc = batch.atomic_numbers.cpu().numpy(), batch.pbc_or_false.cpu().numpy()
        charges = batch.get("charge")
        bounds = batch.batch_ptr.tolist()
        energy, forces = np.zeros(len(cell)), np.zeros_like(positions)
        virial = np.zeros_like(cell)
        for b, (first, last) in enumerate(pairwise(bounds)):
            if first == last:
                continue
            periodic = bool(pbc[b].any())
            try:
                model = library.DispersionModel(
                    numbers[first:last],
                    positions[first:last] / units.BOHR,
                    charge=None if charges is None else float(charges[b].nan_to_num()),
                    lattice=cell[b] / units.BOHR if periodic else None,
                    periodic=pbc[b] if periodic else None,
                )
                found = model.get_dispersion(damping, grad=with_derivatives)
            except RuntimeError as error:
                raise InputError(f"The library dftd4 refuses the system at index {b}: {error}.") from error
            energy[b] = found["energy"] * units.HARTREE
            if with_derivatives:
                forces[first:last] = -found["gradient"] * (units.HARTREE / units.BOHR)
                virial[b] = -found["virial"] * units.HARTREE
        results = {"energy": energy, "forces": forces, "virial": virial}
        return self.adapt_output({name: torch.from_numpy(v).to(batch.positions) for name, v in results.items()}, batch)

    def _require_elements(self, batch: Batch) -> None:
        numbers = batch.atomic_numbers
        if self._checked.holds(numbers):
            return
        unknown = numbers[(numbers < 1) | (numbers > MAX_ELEMENT)].unique().tolist()
        if unknown:
            raise InputError(
                f"{type(self).__name__} has no references for atomic number {', '.join(map(str, unknown))}; it has "
                f"them up to {MAX_ELEMENT}. Leave these systems out."
            )
        self._checked = ComputedFrom(numbers)

    def attached_energy(
        self, data: AtomicData | Batch, strain: torch.Tensor | None, wanted: Set[str]
    ) -> dict[str, torch.Tensor]:
        """Refuse: what the library returns can not be differentiated."""
        raise self._has_no_graph()

    def _has_no_graph(self) -> NotAvailableError:
        return NotAvailableError(
            f"The energy of {type(self).__name__} can not be differentiated: the library returns numbers, and its "
            f"forces and stress are all the derivatives that there are. Add them to those of other models outside of "
            f"autograd groups, and hand in positions without a graph, `batch.positions.detach()`."
        )
