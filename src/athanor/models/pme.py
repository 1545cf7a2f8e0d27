r"""PMEModelWrapper: electrostatics of charges in large periodic systems, to an asked accuracy."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from athanor import _runtime
from athanor._values import is_real
from athanor.errors import AthanorWarning, InputError
from athanor.kernels import pme_reciprocal
from athanor.models import mesh
from athanor.models.card import ModelCard
from athanor.models.coulomb import Boundary, ChargeTable, CoulombModel, positive
from athanor.models.ewald import check_directions, check_periodic_batch, periodic_terms
from athanor.models.splitting import check_accuracy, pair_error, splitting_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from athanor.data.batch import Batch

_BEST = 1e-8


class PMEModelWrapper(CoulombModel):
    r"""Electrostatic energy of point charges in periodic systems, by smooth particle-mesh Ewald.

    The energy of `EwaldModelWrapper`, whose sum over reciprocal vectors is done with charges spread over a mesh and
    fast Fourier transforms: time grows with the number of atoms, nearly in proportion. Faster than Ewald from some
    three hundred atoms on; for fewer, and for more than eight digits, use Ewald.

    Parameters
    ----------
    cutoff
        Å, of the sum over pairs. It decides the time, not the accuracy: 7 to 10.
    mesh_spacing
        Å, the largest distance of mesh points along lattice vectors; chosen from `accuracy` unless given.
    mesh_dimensions
        Mesh points along the three lattice vectors, for all systems; goes before `mesh_spacing` and is used exactly.
    spline_order
        Of the B-splines, 3 to 16; unless given, what is fastest at this accuracy, or reaches it with a given spacing.
    alpha
        1/Å, the screening; chosen from `cutoff` and `accuracy` unless given, and then used exactly.
    accuracy
        Relative RMS error of forces, from 1e-8 to 0.1, reached at every cutoff.
    coulomb_constant
        eV Å/e²; ``None``: CODATA 2022, see `athanor.units`.
    hybrid_forces
        Forces and stress at fixed charges, without graph; a pipeline adds what acts through charges either way.
    slab_correction
        Whether systems may be periodic in two directions, with vacuum along the third; see `EwaldModelWrapper`.
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

    Warns
    -----
    AthanorWarning
        If `alpha`, or `mesh_spacing` and `spline_order`, are such that `accuracy` is not reached.

    Notes
    -----
    Each system has a mesh of its own, from its own cell: sizes are products of 2, 3, 5 and 7. Energy, forces and stress
    are smooth functions of positions, and forces and stress exact derivatives of the energy at a fixed mesh. Where a
    cell changes so much that another mesh is used, the energy steps by its error; `mesh_dimensions` keeps one. Forces
    add up to zero only within the accuracy, as in every method whose forces are derivatives of the energy of a mesh.

    Splines have ``order - 2`` continuous derivatives: so often the energy can be differentiated by positions and cells.

    References
    ----------
    .. [1] U. Essmann, L. Perera, M. L. Berkowitz, T. Darden, H. Lee, L. G. Pedersen, J. Chem. Phys. 103, 8577 (1995).
       doi:10.1063/1.470117

    Examples
    --------
    >>> from athanor.models.pme import PMEModelWrapper
    >>> pme = PMEModelWrapper(cutoff=9.0, charges={"Na": 1.0, "Cl": -1.0})
    >>> pme.model_config.neighbor_config.cutoff
    9.0
    """

    def __init__(
        self,
        cutoff: float,
        mesh_spacing: float | None = None,
        mesh_dimensions: Sequence[int] | None = None,
        spline_order: int | None = None,
        alpha: float | None = None,
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
        self.accuracy = check_accuracy(accuracy, _BEST, " Use `EwaldModelWrapper` for more, down to 1e-12.")
        self.rtol, self.atol = rtol, atol
        self.alpha = None if alpha is None else positive("alpha", alpha, "1/Å")
        self.splitting = splitting_for(self.cutoff, self.accuracy, self.alpha)
        self.mesh_spacing = None if mesh_spacing is None else positive("mesh_spacing", mesh_spacing, "Å")
        self.mesh_dimensions = None if mesh_dimensions is None else _dimensions(mesh_dimensions)
        self.spline_order = None if spline_order is None else _order(spline_order)
        self.order = self._chosen_order()
        if self.mesh_dimensions is not None and min(self.mesh_dimensions) < self.order:
            raise InputError(
                f"`mesh_dimensions` is {self.mesh_dimensions}; splines of order {self.order} need {self.order} "
                f"points in each direction. Give a larger mesh or a lower `spline_order`."
            )
        self._warn_if_not_reached()
        self.model_card = ModelCard(
            name="Particle-mesh Ewald",
            elements=None if self._charge_table is None else self._charge_table.elements,
            conservative=True,
            equivariant=True,
            smooth=True,
            accuracy=self.accuracy,
            short_ranged=False,
            batch_invariance="verified",
            stress_keeps_forces=True,
            licence="Apache-2.0",
            citation="doi:10.1063/1.470117",
        )

    def invalidate_cache(self) -> None:
        """Accepted for compatibility: nothing that depends on the cell is kept between calls."""

    def mesh_of(self, cell: torch.Tensor, segment_ptr: torch.Tensor, included: torch.Tensor) -> torch.Tensor:
        """Return the mesh points of each system along its lattice vectors, int64 [B, 3].

        Parameters
        ----------
        cell
            [B, 3, 3], Å.
        segment_ptr
            int32 [B + 1], first atom of each system.
        included
            bool [B]; others get what is not used.

        Raises
        ------
        InputError
            If a mesh would be too large.
        """
        if self.mesh_dimensions is not None:
            return torch.tensor(self.mesh_dimensions, device=cell.device).expand(len(cell), 3)
        if self.mesh_spacing is not None:
            spacing = cell.new_full(cell.shape[:1], self.mesh_spacing, dtype=torch.float64)
        else:
            spacing = mesh.spacings(cell, segment_ptr, self.order, self.splitting.screening, self.accuracy)
        return mesh.meshes(cell, spacing, self.order, included)

    def _terms(
        self, inputs: dict[str, Any], boundary: Boundary, derivatives: bool
    ) -> Sequence[tuple[torch.Tensor, ...]]:
        atoms = {name: inputs[name] for name in ("positions", "cell", "segment_ptr", "charges")}
        reciprocal = pme_reciprocal(
            **atoms,
            included=boundary.periodic,
            screening=self.splitting.screening,
            mesh=self.mesh_of(inputs["cell"], inputs["segment_ptr"], boundary.periodic),
            order=self.order,
            derivatives=derivatives,
        )
        return [*periodic_terms(inputs, boundary, self), reciprocal]

    def _check_cells(self, batch: Batch) -> None:
        check_periodic_batch(self, batch)

    def _check_boundary(self, count: torch.Tensor) -> None:
        finite = (count == 0).nonzero().flatten().tolist()
        if finite:
            raise InputError(
                f"System {finite[0]} of the batch is periodic in no direction; {type(self).__name__} requires periodic "
                f"boundary conditions. Use `EwaldModelWrapper`, which sums such systems over all pairs, or set `pbc`."
            )
        check_directions(self, count)

    def _chosen_order(self) -> int:
        if self.spline_order is not None:
            return self.spline_order
        if self.mesh_dimensions is None and self.mesh_spacing is not None:
            return mesh.smallest_order(self.mesh_spacing, self.splitting.screening, self.accuracy)
        return mesh.cheapest_order(self.splitting.screening, self.accuracy)

    def _warn_if_not_reached(self) -> None:
        """Warn of given parameters with which the asked accuracy is not reached; a mesh is known to be only later."""
        found = {"`alpha` and `cutoff`": pair_error(self.splitting)} if self.alpha is not None else {}
        if self.mesh_spacing is not None and self.mesh_dimensions is None:
            error = mesh.reached(self.order, self.mesh_spacing, self.splitting.screening)
            found["`alpha`, `mesh_spacing` and `spline_order`"] = error
        for names, error in found.items():
            if error > 1.05 * self.accuracy:
                text = (
                    f"The given {names} are inconsistent with `accuracy`: relative errors of forces may reach "
                    f"{error:.1e}; {self.accuracy:.1e} was asked for. Leave them out, and they are chosen."
                )
                warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())


def _dimensions(given: Any) -> tuple[int, int, int]:
    numbers = tuple(int(each) for each in given) if isinstance(given, (list, tuple, torch.Tensor)) else ()
    if len(numbers) != 3 or min(numbers) < 1:
        raise InputError(
            f"`mesh_dimensions` is {given!r}; give the numbers of mesh points along the three lattice vectors."
        )
    return numbers


def _order(given: Any) -> int:
    if not is_real(given) or given != int(given) or not 3 <= given <= 16:
        raise InputError(f"`spline_order` is {given!r}; use a whole number from 3 to 16.")
    return int(given)
