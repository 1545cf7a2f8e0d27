r"""LennardJonesModelWrapper: the Lennard-Jones potential behind the common interface.

The formula stands in ``kernels/pair_potential``; here are its parameters, the choice of outputs and the stress.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch

from athanor.data.batch import Batch
from athanor.data.elements import MAX_ATOMIC_NUMBER, number_of_element
from athanor.errors import InputError
from athanor.kernels.pair_potential import lennard_jones
from athanor.models.analytic import AnalyticModel
from athanor.models.card import ModelCard
from athanor.models.config import ModelConfig
from athanor.models.element_table import ElementTable
from athanor.models.stored_list import require_batch, require_pairs
from athanor.neighbors.config import NeighborConfig, NeighborListFormat

if TYPE_CHECKING:
    from athanor._typing import ModelOutputs
    from athanor.data.atomic_data import AtomicData

Parameter = float | Mapping[int | str, float]
Mixing = Literal["lorentz-berthelot", "geometric"]


class LennardJonesModelWrapper(AnalyticModel):
    r"""Lennard-Jones potential with hard, shifted or tapered cutoff, for one or several elements.

    .. math:: E = \sum_{i<j} \left[4\epsilon\left((\sigma/r)^{12} - (\sigma/r)^6\right) - E_0\right] S(r)

    with :math:`S = 1` up to ``cutoff - switch_width``, then :math:`1 - 10x^3 + 15x^4 - 6x^5` down to 0 at the cutoff,
    and :math:`E_0` the pair energy at the cutoff if `shift`, else 0.

    Use it for noble gases, coarse models and tests of methods. A hard cutoff makes the energy jump by the pair energy
    there: set `switch_width` for dynamics.

    Parameters
    ----------
    epsilon
        Depth of the well in eV: a number, or one per element as ``{"Ar": 0.0104}`` or ``{18: 0.0104}``.
    sigma
        Distance in Å at which the pair energy is zero, likewise.
    cutoff
        Å; 2.5 to 4 times the largest sigma.
    switch_width
        Å over which the energy is tapered to zero; 0 is a hard cutoff. 0.5 to 1 is a good width.
    half_list
        Whether to ask for a list with each pair once.
    shift
        Subtract the pair energy at the cutoff from each pair.
    mixing
        Parameters between elements: epsilon is the geometric mean; sigma the arithmetic mean
        (``"lorentz-berthelot"``) or the geometric one (``"geometric"``).

    Raises
    ------
    InputError
        If a parameter is no number in its range, an element does not exist, or `epsilon` and `sigma` name different
        ones.

    Notes
    -----
    Computes energy and forces unless ``model_config.active_outputs`` says otherwise; stress can be added. Needs a
    neighbour list of at least its cutoff. Sums are in float64, results in the dtype of the positions; a system gets
    the same bits alone and among others, in any slot and at any number of threads.

    References
    ----------
    .. [1] J. E. Jones, Proc. R. Soc. A 106, 463 (1924). doi:10.1098/rspa.1924.0082

    Examples
    --------
    >>> from athanor.models.lj import LennardJonesModelWrapper
    >>> argon = LennardJonesModelWrapper(epsilon=0.0104, sigma=3.4, cutoff=8.5, switch_width=1.0)
    >>> argon.model_config.neighbor_config.cutoff
    8.5
    """

    def __init__(
        self,
        epsilon: Parameter,
        sigma: Parameter,
        cutoff: float,
        switch_width: float = 0.0,
        half_list: bool = False,
        *,
        shift: bool = False,
        mixing: Mixing = "lorentz-berthelot",
    ) -> None:
        super().__init__()
        cutoff, switch_width = _as_float("cutoff", cutoff), _as_float("switch_width", switch_width)
        if not (0.0 < cutoff < math.inf):
            raise InputError(f"`cutoff` is {cutoff} Å; it must be finite and positive.")
        if not (0.0 <= switch_width < math.inf):
            raise InputError(f"`switch_width` is {switch_width} Å; it must be finite and not negative.")
        if switch_width > cutoff:
            raise InputError(
                f"`switch_width` is {switch_width} Å, more than `cutoff` = {cutoff} Å. 0.5 to 1 is a good width."
            )
        self.epsilon, self.sigma = epsilon, sigma
        self.cutoff, self.switch_width = cutoff, switch_width
        self.half_list, self.shift, self.mixing = half_list, shift, mixing
        elements = _elements(epsilon, sigma)
        self._tables = _mixed(_values("epsilon", epsilon, elements), _values("sigma", sigma, elements), mixing)
        types = dict(zip(elements, range(len(elements)), strict=True)) or dict.fromkeys(range(MAX_ATOMIC_NUMBER + 1), 0)
        self._types = ElementTable(types, torch.int32, type(self).__name__, "`epsilon` and `sigma`")
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", "forces", "stress"}),
            supports_pbc=True,
            neighbor_config=NeighborConfig(cutoff=cutoff, format=NeighborListFormat.MATRIX, half_list=half_list),
            active_outputs={"energy", "forces"},
        )
        self.model_card = ModelCard(
            name="Lennard-Jones",
            elements=frozenset(elements) or None,
            conservative=True,
            equivariant=True,
            smooth=switch_width > 0.0,
            batch_invariance="verified",
            stress_keeps_forces=True,
            licence="Apache-2.0",
            citation="doi:10.1098/rspa.1924.0082",
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("epsilon", "sigma", "mixing", "cutoff") and "model_config" in self.__dict__:
            raise InputError(f"`{name}` of a {type(self).__name__} can not be changed. Make another one.")
        super().__setattr__(name, value)

    def adapt_input(self, data: AtomicData | Batch, **kwargs: Any) -> dict[str, Any]:
        """Return the arguments of the operation, read from the stored pair list.

        Raises
        ------
        ContractError
            A `TypeError`, if `data` is not a Batch.
        MissingFieldError
            A `KeyError`, if there is no neighbour list.
        InputError
            If the list was searched too short or before a system joined, or an element has no parameters.
        """
        batch = require_batch(self, data)
        pairs = require_pairs(self, batch, self.cutoff)
        positions = batch.positions
        epsilon, sigma = self._tables
        if epsilon.device != positions.device:
            epsilon, sigma = self._tables = (epsilon.to(positions.device), sigma.to(positions.device))
        return {
            "positions": positions,
            "cell": batch.cell_or_zeros,
            "segment_ptr": batch.batch_ptr,
            "row_ptr": pairs.row_ptr,
            "neighbors": pairs.neighbors,
            "images": pairs.images,
            "wrap_offsets": pairs.wrap_offsets,
            "types": self._types.of(batch.atomic_numbers),
            "epsilon": epsilon,
            "sigma": sigma,
            "cutoff": self.cutoff,
            "switch_width": self.switch_width,
            "shift": self.shift,
            "half": pairs.half,
        }

    def forward(self, data: AtomicData | Batch, **kwargs: Any) -> ModelOutputs:
        """Return the active outputs of a batch that has a neighbour list."""
        energy, forces, virial = lennard_jones(**self.adapt_input(data, **kwargs))
        return self.adapt_output({"energy": energy, "forces": forces, "virial": virial}, data)


def _elements(epsilon: Parameter, sigma: Parameter) -> list[int]:
    """Return the atomic numbers that the tables name, sorted; empty if both are plain numbers."""
    tables = [{number_of_element(key) for key in value} for value in (epsilon, sigma) if isinstance(value, Mapping)]
    if not tables:
        return []
    if any(table != tables[0] for table in tables):
        raise InputError("`epsilon` and `sigma` name different elements; give both for each element.")
    if not tables[0]:
        raise InputError("`epsilon` and `sigma` name no element.")
    return sorted(tables[0])


def _as_float(name: str, value: object) -> float:
    """Return `value` as a float, or refuse it by name."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InputError(f"`{name}` is {value!r}; it must be a number, for example 3.4.") from error


def _values(name: str, parameter: Parameter, elements: list[int]) -> torch.Tensor:
    """Return the checked values in the order of `elements`, or the single one; float64."""
    if isinstance(parameter, Mapping):
        by_number = {number_of_element(key): _as_float(name, value) for key, value in parameter.items()}
        values = [by_number[number] for number in elements]
    else:
        values = [_as_float(name, parameter)] * max(len(elements), 1)
    smallest_allowed = 0.0 if name == "epsilon" else math.ulp(0.0)
    for value in values:
        if not smallest_allowed <= value < math.inf:
            sign = "not negative" if name == "epsilon" else "positive"
            raise InputError(f"`{name}` is {value}; it must be finite and {sign}.")
    return torch.tensor(values, dtype=torch.float64)


def _mixed(epsilon: torch.Tensor, sigma: torch.Tensor, mixing: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tables [T, T] between elements."""
    if mixing not in ("lorentz-berthelot", "geometric"):
        raise InputError(f"`mixing` is {mixing!r}; it must be 'lorentz-berthelot' or 'geometric'.")
    geometric_epsilon = (epsilon[:, None] * epsilon[None, :]).sqrt()
    if mixing == "geometric":
        mixed_sigma = (sigma[:, None] * sigma[None, :]).sqrt()
    else:
        mixed_sigma = 0.5 * (sigma[:, None] + sigma[None, :])
    # square roots of squares lose a bit: what was given stands on the diagonal
    geometric_epsilon.diagonal().copy_(epsilon)
    mixed_sigma.diagonal().copy_(sigma)
    return geometric_epsilon, mixed_sigma
