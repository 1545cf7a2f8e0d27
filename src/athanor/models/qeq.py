"""QEqModelWrapper: charges that equilibrate, as one model that predicts charges and their energy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from athanor import units
from athanor.data.elements import SYMBOLS
from athanor.data.fields import assume_what_is_absent
from athanor.errors import InputError
from athanor.kernels.neighbor_list._reference import pair_vectors
from athanor.models.analytic import AnalyticModel
from athanor.models.card import ModelCard
from athanor.models.config import ModelConfig
from athanor.models.coulomb import positive
from athanor.models.derivatives import strained_view
from athanor.models.element_table import ElementTable, by_element
from athanor.models.equilibration import energy_of, finite_matrices, least_energy, periodic_matrices
from athanor.models.splitting import check_accuracy, splitting_for
from athanor.models.stored_list import require_batch, require_pairs
from athanor.neighbors.config import NeighborConfig, NeighborListFormat

if TYPE_CHECKING:
    from collections.abc import Iterator, Set

    from athanor._typing import ModelOutputs
    from athanor.data.atomic_data import AtomicData
    from athanor.data.batch import Batch

ElementValues = Mapping[int | str, float]


class QEqModelWrapper(AnalyticModel):
    r"""Charges by equilibration (QEq): those of least energy at the total charge of each system.

    .. math:: E(q) = \sum_i \chi_i q_i
              + \frac{1}{2} \sum_i \left( \eta_i + \frac{k_e}{\sqrt{\pi} \sigma_i} \right) q_i^2
              + \frac{k_e}{2} \sum_{i,j,S} \frac{q_i q_j}{r} \operatorname{erf}
              \frac{r}{\sqrt{2 (\sigma_i^2 + \sigma_j^2)}}

    of Gaussian charges, over all pairs of finite systems and all images of periodic ones. The total is the ``charge``
    of the system, 0 where there is none; that of a periodic system is neutralized by a uniform background, as
    `EwaldModelWrapper` has it. Equations of each system are solved directly: time grows with the cube of the number of
    atoms, memory with the square, which suits some hundred atoms.

    Parameters
    ----------
    electronegativity
        :math:`\chi` of each element, eV/e, such as ``{"Na": 2.8, "Cl": 8.6}``: what a unit charge costs.
    hardness
        :math:`\eta` of each element, eV/e². The self energy of the Gaussian comes on top, so it may be small, or even
        negative, as long as there is a least energy.
    width
        :math:`\sigma` of each element, Å.
    cutoff
        Å, of sums over pairs in periodic systems. Gaussians have to be points beyond it: wide ones need a larger one.
    accuracy
        Relative RMS error of forces of point charges, as for `EwaldModelWrapper`.
    coulomb
        Whether the energy holds that of the charges as points. With ``False`` it is left to another model, of which
        charges, total energy and forces are the same: a pipeline of this and `EwaldModelWrapper` of equal cutoff and
        accuracy equals this alone.
    coulomb_constant
        eV Å/e²; ``None``: CODATA 2022, see `athanor.units`.

    Raises
    ------
    InputError
        If a parameter is out of range, or an element lacks some.

    Notes
    -----
    Outputs are ``energy``, ``forces``, ``stress`` and ``charges`` [N] in e. Charges are attached to positions and cell,
    so that forces of models which read them in a pipeline contain what acts through them. The energy can be
    differentiated as often as wanted. Charge flows over any distance: also between molecules far apart, and where it
    should not.

    Sums are in float64, results in the dtype of the positions. A system gets equal bits alone and among others at a
    given number of threads; another number may change last ones, as torch solves equations.

    A system whose energy has no minimum is refused; where :math:`\eta > 0` there always is one. Systems periodic in one
    or two directions are refused. Bonded atoms interact like others: no pairs are excluded.

    References
    ----------
    .. [1] A. K. Rappé, W. A. Goddard, J. Phys. Chem. 95, 3358 (1991). doi:10.1021/j100161a070
    .. [2] T. W. Ko, J. A. Finkler, S. Goedecker, J. Behler, Nat. Commun. 12, 398 (2021).
       doi:10.1038/s41467-020-20427-2

    Examples
    --------
    >>> from athanor.models import EwaldModelWrapper, PipelineGroup, PipelineModelWrapper, QEqModelWrapper
    >>> parameters = {"Na": 2.8, "Cl": 8.6}, {"Na": 4.6, "Cl": 9.9}, {"Na": 1.0, "Cl": 0.7}
    >>> qeq = QEqModelWrapper(*parameters, cutoff=9.0, coulomb=False)
    >>> pipeline = PipelineModelWrapper([PipelineGroup([qeq, EwaldModelWrapper(9.0)], use_autograd=True)])
    >>> sorted(pipeline.model_config.outputs)
    ['charges', 'energy', 'forces', 'stress']
    """

    def __init__(
        self,
        electronegativity: ElementValues,
        hardness: ElementValues,
        width: ElementValues,
        cutoff: float,
        accuracy: float = 1e-6,
        *,
        coulomb: bool = True,
        coulomb_constant: float | None = None,
    ) -> None:
        super().__init__()
        self.cutoff = positive("cutoff", cutoff, "Å")
        self.accuracy = check_accuracy(accuracy, 1e-12, " Double precision has no more digits.")
        constant = units.COULOMB_CONSTANT if coulomb_constant is None else coulomb_constant
        self.coulomb_constant = positive("coulomb_constant", constant, "eV Å/e²")
        self.coulomb = bool(coulomb)
        self.splitting = splitting_for(self.cutoff, self.accuracy)
        self.electronegativity, self.hardness, self.width = electronegativity, hardness, width
        self._tables = self._checked_tables()
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", "forces", "stress", "charges"}),
            autograd_outputs=frozenset({"forces", "stress"}),
            optional_inputs=frozenset({"charge"}),
            supports_pbc=True,
            neighbor_config=NeighborConfig(cutoff=self.cutoff, format=NeighborListFormat.MATRIX),
            active_outputs={"energy", "forces", "charges"},
        )
        self.model_card = ModelCard(
            name="Charge equilibration",
            elements=self._tables["width"].elements,
            conservative=True,
            equivariant=True,
            smooth=True,
            short_ranged=False,
            batch_invariance="verified",
            stress_keeps_forces=True,
            licence="Apache-2.0",
            citation="doi:10.1021/j100161a070; doi:10.1038/s41467-020-20427-2",
        )

    def adapt_input(self, data: AtomicData | Batch, **kwargs: Any) -> dict[str, Any]:
        """Return what the charges follow from, float64: parameters and total charges, geometry, and the pairs in it.

        Raises
        ------
        ContractError
            A `TypeError`, if `data` is not a Batch.
        MissingFieldError
            A `KeyError`, if there is no neighbour list.
        InputError
            If the list was searched too short, an element has no parameters, or a system is a slab or a chain.
        """
        batch = require_batch(self, data)
        pairs = require_pairs(self, batch, self.cutoff)
        directions = batch.pbc_or_false.sum(1).tolist()
        for system, count in enumerate(directions):
            if count in (1, 2):
                raise InputError(
                    f"System {system} of the batch is periodic in {count} of 3 directions, which {type(self).__name__} "
                    f"does not sum. Make it periodic in all three, with vacuum around it, or in none."
                )
        positions, cell, ptr = batch.positions.double(), batch.cell_or_zeros.double(), batch.batch_ptr
        names = ("row_ptr", "neighbors", "images", "wrap_offsets")
        _, i, vectors, j = pair_vectors(positions, cell, ptr, *(getattr(pairs, name) for name in names))
        labels = {"charge": batch.get("charge")}
        assume_what_is_absent(labels)
        charge = cell.new_zeros(len(cell)) if labels["charge"] is None else labels["charge"].detach().view(-1).double()
        return {
            "chi": self._tables["electronegativity"].of(batch.atomic_numbers),
            "eta": self._tables["hardness"].of(batch.atomic_numbers),
            "width": self._tables["width"].of(batch.atomic_numbers),
            "charge": charge,
            "positions": positions,
            "cell": cell,
            "pairs": (i, j, vectors),
            "half": pairs.half,
            "num_nodes": ptr.diff().tolist(),
            "num_pairs": pairs.row_ptr[ptr.long()].diff().tolist(),
            "periodic": [count == 3 for count in directions],
        }

    def forward(self, data: AtomicData | Batch, **kwargs: Any) -> ModelOutputs:
        """Return the active outputs of a batch that has a neighbour list."""
        return self.outputs_by_autograd(require_batch(self, data))

    def attached_energy(
        self, data: AtomicData | Batch, strain: torch.Tensor | None, wanted: Set[str]
    ) -> dict[str, torch.Tensor]:
        """Return energy and charges, attached; see `BaseModelMixin.attached_energy`."""
        batch = strained_view(require_batch(self, data), strain)
        energies, charges, found = zip(*self._systems(self.adapt_input(batch)), strict=True)
        _check_found(torch.stack(found))
        dtype = batch.positions.dtype
        return {"energy": torch.stack(energies).to(dtype).unsqueeze(1), "charges": torch.cat(charges).to(dtype)}

    def _systems(self, inputs: dict[str, Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield energy, charges, and whether they are the least, of each system by itself: numbers know no others."""
        atoms = zip(
            *(inputs[name].split(inputs["num_nodes"]) for name in ("positions", "chi", "eta", "width")), strict=True
        )
        pairs = zip(*(each.split(inputs["num_pairs"]) for each in inputs["pairs"]), strict=True)
        first = 0
        for (positions, chi, eta, width), (i, j, vectors), cell, total, periodic in zip(
            atoms, pairs, inputs["cell"].unbind(), inputs["charge"].unbind(), inputs["periodic"], strict=True
        ):
            positions = positions.clone()  # where memory starts decides about last bits of products
            if periodic:
                local = (i - first, j - first, vectors)
                point, smear = periodic_matrices(positions, cell, local, inputs["half"], width, self.splitting)
            else:
                point, smear = finite_matrices(positions, width)
            first += len(positions)
            own = torch.diag(eta + self.coulomb_constant / (math.sqrt(math.pi) * width))
            short = own + self.coulomb_constant * smear
            energy, charges, found = least_energy(short + self.coulomb_constant * point, chi, total)
            yield energy if self.coulomb else energy_of(short, chi, charges), charges, found

    def _checked_tables(self) -> dict[str, ElementTable]:
        """Return the parameters by name.

        Raises
        ------
        InputError
            If one is no number, or out of range, an element lacks some, or a Gaussian is too wide for the cutoff.
        """
        units_of = {"electronegativity": "eV/e", "hardness": "eV/e²", "width": "Å"}
        values = {
            name: by_element(name, getattr(self, name), unit, positive=name == "width")
            for name, unit in units_of.items()
        }
        known = set.union(*(set(found) for found in values.values()))
        for name, found in values.items():
            if lacking := sorted(known - found.keys()):
                raise InputError(
                    f"`{name}` has nothing for {', '.join(SYMBOLS[number] for number in lacking)}, which others have. "
                    f"Give `electronegativity`, `hardness` and `width` of the same elements."
                )
        widest = max(values["width"].values())
        needed = 2.0 * widest * self.splitting.screening * self.cutoff  # beyond it, the widest pair is one of points
        if self.cutoff < needed:
            raise InputError(
                f"`cutoff` is {self.cutoff:g} Å; a `width` of {widest:g} Å needs {needed:.1f} Å for "
                f"`accuracy` {self.accuracy:g}. Enlarge the cutoff, or ask for less accuracy."
            )
        argument = "`electronegativity`, `hardness` and `width`"
        return {
            name: ElementTable(found, torch.float64, type(self).__name__, argument) for name, found in values.items()
        }


def _check_found(found: torch.Tensor) -> None:
    """Raise InputError for systems without charges of least energy."""
    wrong = (~found).nonzero().flatten().tolist()
    if wrong:
        raise InputError(
            f"The energy of system {wrong[0]} of the batch has no minimum in its charges: it falls as they grow, for "
            f"the hardness is too small at the distances of its atoms. Give `hardness` above 0, or look for atoms on "
            f"top of each other."
        )
