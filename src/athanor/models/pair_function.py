"""PairFunctionModelWrapper: a pair potential that is a function in torch; forces and stress follow from it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import torch

from athanor._values import shown
from athanor.data.elements import MAX_ATOMIC_NUMBER, number_of_element
from athanor.errors import ContractError, ModelOutputError
from athanor.kernels.coulomb._reference import taper
from athanor.kernels.neighbor_list._reference import pair_vectors
from athanor.models.analytic import AnalyticModel
from athanor.models.card import ModelCard
from athanor.models.element_table import ElementTable
from athanor.models.pair_model import analytic_config, checked_range
from athanor.models.pair_vectors import attached_vectors
from athanor.models.stored_list import list_inputs, require_batch

if TYPE_CHECKING:
    from collections.abc import Set

    from athanor._typing import ModelOutputs
    from athanor.data.atomic_data import AtomicData
    from athanor.data.batch import Batch

PairFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Takes distances float64 [P] in Å and atomic numbers int64 [P] of both atoms; returns energies [P] in eV."""


class PairFunctionModelWrapper(AnalyticModel):
    r"""Pair potential with a formula of your own.

    .. math:: E = \sum_{i<j} u(r_{ij}, Z_i, Z_j)\,S(r_{ij})

    with the taper :math:`S` of `LennardJonesModelWrapper`. Forces, stress and second derivatives are made of it by
    automatic differentiation.

    Use it for a formula that has no wrapper, or to fit one: parameters of a function that is an ``nn.Module`` are
    those of the model.

    Parameters
    ----------
    function
        Called as ``function(r, first, second)`` with the distances of all pairs of a batch, float64 [P] in Å, and the
        atomic numbers of both atoms, int64 [P]; returns the energy of each pair, [P] in eV, from torch operations on
        ``r``. Which atom comes first must not matter.
    cutoff
        Å; the function is not called with distances from there on.
    switch_width
        Å over which the energy is tapered to zero; 0 is a hard cutoff.
    half_list
        Whether to ask for a list with each pair once: half the calls of `function`, and no atom is first in both.
    elements
        Those that the function is for, by symbol or number; by default all.

    Raises
    ------
    ContractError
        If `function` can not be called.
    InputError
        If a length is out of range, or an element does not exist.

    Notes
    -----
    Computes energy and forces unless ``model_config.active_outputs`` says otherwise; stress can be added. The sums over
    pairs have a fixed order; whether a function gives a pair the same bits in any batch is its own matter, so that the
    card does not claim it. It costs several times what a potential with a kernel does.

    Examples
    --------
    >>> import torch
    >>> from athanor.models.pair_function import PairFunctionModelWrapper
    >>> def wall(r, first, second):
    ...     return 0.5 * torch.exp(-3.0 * (r - 2.0))
    >>> PairFunctionModelWrapper(wall, cutoff=5.0, switch_width=1.0).cutoff
    5.0
    """

    def __init__(
        self,
        function: PairFunction,
        cutoff: float,
        switch_width: float = 0.0,
        *,
        half_list: bool = False,
        elements: Collection[str | int] | None = None,
    ) -> None:
        super().__init__()
        if not callable(function):
            raise ContractError(f"`function` is {shown(function)}; pass a function of (r, first, second).")
        self.cutoff, self.switch_width = checked_range(cutoff, switch_width)
        self.function = function
        known = range(MAX_ATOMIC_NUMBER + 1) if elements is None else map(number_of_element, elements)
        numbers = {number: number for number in known}
        self._numbers = ElementTable(numbers, torch.int64, type(self).__name__, "`elements`")
        config = analytic_config(self.cutoff, half_list)
        self.model_config = config.model_copy(update={"autograd_outputs": frozenset({"forces", "stress"})})
        self.model_card = ModelCard(
            name=getattr(function, "__name__", type(function).__name__),
            elements=None if elements is None else frozenset(numbers),
            conservative=True,
            equivariant=True,
            batch_invariance="not_verified",
        )

    def forward(self, data: AtomicData | Batch, **kwargs: Any) -> ModelOutputs:
        """Return the active outputs of a batch that has a neighbour list.

        Raises
        ------
        ModelOutputError
            If the function returns something else than an energy for each pair.
        """
        return self.outputs_by_autograd(data)

    def attached_energy(
        self, data: AtomicData | Batch, strain: torch.Tensor | None, wanted: Set[str]
    ) -> dict[str, torch.Tensor]:
        """Return the energy, attached to the vectors between atoms; see `BaseModelMixin.attached_energy`."""
        batch = require_batch(self, data)
        inputs = list_inputs(self, batch, self.cutoff)
        half, numbers = inputs.pop("half"), self._numbers.of(batch.atomic_numbers)
        with torch.no_grad():
            system, i, d, j = pair_vectors(**inputs)
            inside = (d * d).sum(-1) < self.cutoff * self.cutoff
            system, i, d, j = system[inside], i[inside], d[inside], j[inside]
        vectors = attached_vectors(d, torch.stack((i, j), dim=1), batch, strain)
        r = torch.linalg.vector_norm(vectors, dim=-1)
        energies = self._checked(self.function(r, numbers[i], numbers[j]), r).double()
        if self.switch_width > 0.0:
            energies = energies * taper(r, self.cutoff - self.switch_width, self.cutoff)
        total = energies.new_zeros(batch.num_graphs).index_add(0, system, (1.0 if half else 0.5) * energies)
        return {"energy": total.to(batch.positions.dtype).unsqueeze(1)}

    def _checked(self, energies: Any, r: torch.Tensor) -> torch.Tensor:
        if isinstance(energies, torch.Tensor) and energies.is_floating_point() and energies.shape == r.shape:
            return energies
        what = shown(energies)
        if isinstance(energies, torch.Tensor):
            what = f"a tensor of shape {tuple(energies.shape)} and dtype {energies.dtype}"
        raise ModelOutputError(
            f"The function of {type(self).__name__}, `{self.model_card.name}`, returned {what} for {len(r)} pairs; "
            f"return the energy of each pair, a float tensor of shape ({len(r)},)."
        )
