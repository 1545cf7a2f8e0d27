r"""DSFModelWrapper: electrostatics by pairs within a cutoff."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from athanor.kernels import charge_corrections, screened_coulomb
from athanor.models.card import ModelCard
from athanor.models.coulomb import Boundary, ChargeTable, CoulombModel, positive

if TYPE_CHECKING:
    from collections.abc import Sequence


class DSFModelWrapper(CoulombModel):
    r"""Electrostatic energy of point charges by the damped shifted force: pairs within a cutoff, nothing beyond.

    .. math:: E = k_e \sum_{\text{pairs}} q_i q_j \left[ \frac{\operatorname{erfc}(\alpha r)}{r} - c_0 + c_1 (r - r_c)
              \right] - k_e \left( \frac{c_0}{2} + \frac{\alpha}{\sqrt{\pi}} \right) \sum_i q_i^2

    with :math:`c_0` the first term at the cutoff and :math:`-c_1` its slope there: each sphere is neutralized on its
    surface, and energy and force go to zero.

    It is no Ewald sum and has no accuracy to ask for: what is beyond the cutoff is assumed to be screened. With the
    defaults and 12 Å its forces in rock salt are off by some 5 % (root mean square, against Ewald) where it is molten
    and by 15 % near the crystal; fields of polar surfaces are missing. Use it for a first look, or for finite systems
    too large for all pairs. Bonded atoms interact like others: no pairs are excluded.

    Parameters
    ----------
    cutoff
        Å; 10 to 15.
    alpha
        1/Å, the damping; 0 is the shifted force of plain Coulomb pairs. Larger ones need smaller cutoffs.
    coulomb_constant
        eV Å/e²; ``None``: CODATA 2022, see `athanor.units`.
    hybrid_forces
        Forces and stress at fixed charges, without graph; a pipeline adds what acts through charges either way.
    charges
        Charge of each element in e, such as ``{"Na": 1.0, "Cl": -1.0}``; by default those of the batch.
    half_list
        Ask for a list with each pair once, as a partner in a sum may do.

    Raises
    ------
    InputError
        If a parameter is out of range.

    References
    ----------
    .. [1] C. J. Fennell, J. D. Gezelter, J. Chem. Phys. 124, 234104 (2006). doi:10.1063/1.2206581

    Examples
    --------
    >>> from athanor.models.dsf import DSFModelWrapper
    >>> DSFModelWrapper(cutoff=12.0, charges={"Na": 1.0, "Cl": -1.0}).alpha
    0.2
    """

    def __init__(
        self,
        cutoff: float,
        alpha: float = 0.2,
        coulomb_constant: float | None = None,
        hybrid_forces: bool = False,
        *,
        charges: ChargeTable | None = None,
        half_list: bool = False,
    ) -> None:
        super().__init__(
            cutoff,
            coulomb_constant=coulomb_constant,
            charges=charges,
            needs_pbc=False,
            hybrid_forces=hybrid_forces,
            half_list=half_list,
        )
        self.alpha = float(alpha) if alpha == 0.0 else positive("alpha", alpha, "1/Å")
        self.model_card = ModelCard(
            name="Damped shifted force",
            elements=None if self._charge_table is None else self._charge_table.elements,
            conservative=True,
            equivariant=True,
            batch_invariance="verified",
            stress_keeps_forces=True,
            licence="Apache-2.0",
            citation="doi:10.1063/1.2206581",
        )

    def _terms(
        self, inputs: dict[str, Any], boundary: Boundary, derivatives: bool
    ) -> Sequence[tuple[torch.Tensor, ...]]:
        alpha, cutoff = self.alpha, self.cutoff
        everyone = torch.ones_like(boundary.periodic)
        shift = math.erfc(alpha * cutoff) / cutoff
        tilt = shift / cutoff + 2.0 * alpha / math.sqrt(math.pi) * math.exp(-((alpha * cutoff) ** 2)) / cutoff
        pairs = screened_coulomb(
            **inputs, included=everyone, screening=alpha, cutoff=cutoff, taper_start=cutoff, shift=shift, tilt=tilt
        )
        atoms = {name: inputs[name] for name in ("positions", "cell", "segment_ptr", "charges")}
        self_energy = charge_corrections(
            **atoms,
            included=everyone,
            open_axis=torch.full_like(boundary.open_axis, -1),
            self_term=0.5 * shift + alpha / math.sqrt(math.pi),
            background=0.0,
        )
        return [pairs, self_energy]
