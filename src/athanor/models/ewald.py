r"""EwaldModelWrapper: electrostatics of charges, exact to an asked accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from athanor.errors import InputError
from athanor.kernels import charge_corrections, ewald_reciprocal, finite_coulomb, screened_coulomb, segment_max
from athanor.kernels.segment._reference import segment_index
from athanor.models.card import ModelCard
from athanor.models.coulomb import Boundary, ChargeTable, CoulombModel, Term
from athanor.models.splitting import check_accuracy, splitting_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from athanor.data.batch import Batch

_BEST = 1e-12


class EwaldModelWrapper(CoulombModel):
    r"""Electrostatic energy of point charges in periodic systems, by Ewald summation.

    .. math:: E = k_e \left[ \frac{1}{2} \sum_{i,j,S} q_i q_j \frac{\operatorname{erfc}(\alpha r)}{r}
              + \frac{1}{2V} \sum_{k \neq 0} \frac{4\pi}{k^2} e^{-k^2/4\alpha^2} |\rho(k)|^2
              - \frac{\alpha}{\sqrt{\pi}} \sum_i q_i^2 - \frac{\pi Q^2}{2 \alpha^2 V} \right]

    with :math:`\rho(k) = \sum_i q_i e^{i k \cdot r_i}` and conducting surroundings; a net charge :math:`Q` is
    neutralized by a uniform background. Time grows with the square of the number of atoms at a fixed cutoff; beyond
    some three hundred atoms `PMEModelWrapper` is faster.

    Parameters
    ----------
    cutoff
        Å, of the sum over pairs. It decides the time, not the accuracy: 8 to 12 for a few hundred atoms.
    accuracy
        Relative RMS error of forces, from 1e-12 to 0.1, reached at every cutoff; energies are more accurate.
    coulomb_constant
        eV Å/e²; ``None``: CODATA 2022, see `athanor.units`.
    hybrid_forces
        Forces and stress at fixed charges, without graph; a pipeline adds what acts through charges either way.
    slab_correction
        Whether systems may be periodic in two directions, with vacuum along the third. The field between images along
        the normal is taken away; what is left falls exponentially with the vacuum, see Notes.
    rtol, atol
        Accepted for compatibility: nothing that depends on the cell is kept between calls.
    charges
        Charge of each element in e, such as ``{"Na": 1.0, "Cl": -1.0}``; by default those of the batch.
    half_list
        Ask for a list with each pair once, as a partner in a sum may do.

    Raises
    ------
    InputError
        If a parameter is out of range.

    Notes
    -----
    Both sums reach their ends smoothly, so energy, forces and stress are smooth functions of positions and cell, and
    forces and stress are exact derivatives of the energy, at every accuracy. Systems that are periodic in no direction
    are summed over all pairs without cutoff, if the batch has cells at all; one direction is refused.
    For slabs with a vacuum v and sides up to w, an error near exp(-2 pi v / w) is left: 2.3 w gives six digits.

    The energy can be differentiated by positions, cells and charges, as often as wanted.
    Bonded atoms interact like others: no pairs are excluded.

    References
    ----------
    .. [1] P. P. Ewald, Ann. Phys. 369, 253 (1921). doi:10.1002/andp.19213690304
    .. [2] I.-C. Yeh, M. L. Berkowitz, J. Chem. Phys. 111, 3155 (1999). doi:10.1063/1.479595
    .. [3] V. Ballenegger, A. Arnold, J. J. Cerdà, J. Chem. Phys. 131, 094107 (2009). doi:10.1063/1.3216473

    Examples
    --------
    >>> from athanor.models.ewald import EwaldModelWrapper
    >>> ewald = EwaldModelWrapper(cutoff=10.0, charges={"Na": 1.0, "Cl": -1.0})
    >>> ewald.model_config.neighbor_config.cutoff
    10.0
    """

    def __init__(
        self,
        cutoff: float,
        accuracy: float = 1e-6,
        coulomb_constant: float | None = None,
        hybrid_forces: bool = False,
        slab_correction: bool = False,
        rtol: float = 1e-5,
        atol: float | None = None,
        *,
        charges: ChargeTable | None = None,
        half_list: bool = False,
    ) -> None:
        super().__init__(
            cutoff,
            coulomb_constant=coulomb_constant,
            charges=charges,
            needs_pbc=True,
            hybrid_forces=hybrid_forces,
            half_list=half_list,
            slab_correction=slab_correction,
        )
        self.accuracy = check_accuracy(accuracy, _BEST, " Double precision has no more digits.")
        self.rtol, self.atol = rtol, atol
        self.splitting = splitting_for(self.cutoff, self.accuracy)
        self.model_card = ModelCard(
            name="Ewald sum",
            elements=None if self._charge_table is None else self._charge_table.elements,
            conservative=True,
            equivariant=True,
            smooth=True,
            short_ranged=False,
            batch_invariance="verified",
            stress_keeps_forces=True,
            licence="Apache-2.0",
            citation="doi:10.1002/andp.19213690304",
        )

    def invalidate_cache(self) -> None:
        """Accepted for compatibility: nothing that depends on the cell is kept between calls."""

    def _terms(
        self, inputs: dict[str, Any], boundary: Boundary, derivatives: bool
    ) -> Sequence[tuple[torch.Tensor, ...]]:
        atoms = {name: inputs[name] for name in ("positions", "cell", "segment_ptr", "charges")}
        terms: list[Term] = []
        if boundary.any_periodic:
            terms += periodic_terms(inputs, boundary, self)
            split = self.splitting
            terms.append(
                ewald_reciprocal(
                    **atoms,
                    included=boundary.periodic,
                    screening=split.screening,
                    taper_start=split.radius_start,
                    radius=split.radius,
                    derivatives=derivatives,
                )
            )
        if boundary.any_finite or not terms:
            terms.append(finite_coulomb(**atoms, included=boundary.finite))
        return terms

    def _check_cells(self, batch: Batch) -> None:
        check_periodic_batch(self, batch)

    def _check_boundary(self, count: torch.Tensor) -> None:
        check_directions(self, count)


def periodic_terms(inputs: dict[str, Any], boundary: Boundary, model: Any) -> list[Term]:
    """Return the sum over pairs and the corrections, of an Ewald sum in whatever way its reciprocal part is done."""
    if boundary.any_slab:
        _check_vacuum(inputs, boundary, model)
    split = model.splitting
    pairs = screened_coulomb(
        **inputs,
        included=boundary.periodic,
        screening=split.screening,
        cutoff=split.cutoff,
        taper_start=split.taper_start,
        shift=0.0,
        tilt=0.0,
    )
    corrections = charge_corrections(
        **{name: inputs[name] for name in ("positions", "cell", "segment_ptr", "charges")},
        included=boundary.periodic,
        open_axis=boundary.open_axis,
        self_term=split.self_term,
        background=split.background,
    )
    return [pairs, corrections]


def check_periodic_batch(model: CoulombModel, batch: Batch) -> None:
    """Raise InputError unless a batch has cells, and says what is periodic if there are slabs."""
    if batch.get("cell") is None:
        raise InputError(
            f"{type(model).__name__} requires periodic boundary conditions, and no system of this batch has a cell. "
            f"Set `cell` and `pbc`; zeros and False sum a finite system over all pairs. Or use `DSFModelWrapper`."
        )
    if model.slab_correction and batch.get("pbc") is None:
        raise InputError(
            f"{type(model).__name__}: data.pbc must be present for `slab_correction`. Set it to True along the slab "
            f"and to False along its normal."
        )


def check_directions(model: CoulombModel, count: torch.Tensor) -> None:
    """Raise InputError for systems that are periodic in one direction, or in two without `slab_correction`."""
    wrong = ((count == 1) | ((count == 2) & (not model.slab_correction))).nonzero().flatten().tolist()
    if not wrong:
        return
    directions = int(count[wrong[0]])
    remedy = "Use `slab_correction=True`" if directions == 2 else "Make it periodic in all three, with vacuum around it"
    raise InputError(
        f"System {wrong[0]} of the batch is periodic in {directions} of 3 directions, which {type(model).__name__} "
        f"does not sum. {remedy}, or in none."
    )


def _check_vacuum(inputs: dict[str, Any], boundary: Boundary, model: Any) -> None:
    """Raise InputError if a slab sees its image across the vacuum: pairs are not searched there."""
    with torch.no_grad():
        positions, cell, segment_ptr = (inputs[name].detach() for name in ("positions", "cell", "segment_ptr"))
        is_slab, rows = boundary.open_axis >= 0, torch.arange(len(cell), device=cell.device)
        axis = boundary.open_axis.clamp(min=0)
        h = torch.where(is_slab[:, None, None], cell.double(), torch.eye(3, dtype=torch.float64, device=cell.device))
        normal = torch.nn.functional.normalize(torch.linalg.inv_ex(h).inverse.mT[rows, axis], dim=-1)
        height = (h[rows, axis] * normal).sum(-1)
        z = (positions.double() * normal[segment_index(segment_ptr, len(positions))]).sum(-1)
        vacuum = height - segment_max(z, segment_ptr) - segment_max(-z, segment_ptr)
        wrong = (is_slab & (vacuum < model.cutoff)).nonzero().flatten().tolist()
    if wrong:
        raise InputError(
            f"System {wrong[0]} of the batch is a slab with {float(vacuum[wrong[0]]):.1f} Å of vacuum along its "
            f"lattice vector {int(axis[wrong[0]])}; {type(model).__name__} needs {model.cutoff:g} Å, its cutoff, and "
            f"gives six digits with 2.3 times the longer side of the slab. Make the cell higher; if the slab reaches "
            f"across the end of its cell, shift its atoms until it does not."
        )
