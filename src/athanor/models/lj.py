r"""LennardJonesModelWrapper: the Lennard-Jones potential behind the common interface.

The formula stands in ``kernels/pairs/forms``; here are its parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch

from athanor.data.elements import number_of_element
from athanor.errors import InputError
from athanor.models.pair_model import PairModel, as_float, checked_range

Parameter = float | Mapping[int | str, float]
Mixing = Literal["lorentz-berthelot", "geometric"]


class LennardJonesModelWrapper(PairModel):
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

    _settled = ("epsilon", "sigma", "mixing")

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
        cutoff, switch_width = checked_range(cutoff, switch_width)
        elements = _elements(epsilon, sigma)
        super().__init__(
            "lennard-jones",
            _mixed(_values("epsilon", epsilon, elements), _values("sigma", sigma, elements), mixing),
            elements,
            name="Lennard-Jones",
            citation="doi:10.1098/rspa.1924.0082",
            cutoff=cutoff,
            switch_width=switch_width,
            shift=shift,
            half_list=half_list,
            argument="`epsilon` and `sigma`",
        )
        self.__dict__.update(epsilon=epsilon, sigma=sigma, mixing=mixing)


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


def _values(name: str, parameter: Parameter, elements: list[int]) -> torch.Tensor:
    """Return the checked values in the order of `elements`, or the single one; float64."""
    if isinstance(parameter, Mapping):
        by_number = {number_of_element(key): as_float(name, value) for key, value in parameter.items()}
        values = [by_number[number] for number in elements]
    else:
        values = [as_float(name, parameter)] * max(len(elements), 1)
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
