"""How far the members of a committee disagree: formulas, on tensors of each member.

Sums over members run in the order of the members, one operation each, so that a system gets the same bits alone and
among others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import torch

DEVIATIONS = frozenset({"energy_deviation", "force_deviation", "max_force_deviation"})
"""Outputs that a committee gives beyond those of its members."""
OF_FORCES = frozenset({"force_deviation", "max_force_deviation"})
"""Those that need forces of each member."""


def mean_of(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the mean over members of tensors of one shape."""
    return reduce(add, values) / len(values)


def energy_deviation(energies: Sequence[torch.Tensor]) -> torch.Tensor:
    r"""Return the standard deviation of the energy among members.

    .. math:: \sigma_E = \Big[\frac{1}{M} \sum_m (E_m - \langle E\rangle)^2\Big]^{1/2}

    The squares are divided by M, not by M - 1 (``ddof`` is 0), as for the forces.

    Parameters
    ----------
    energies
        [B, 1] of each member, eV.

    Returns
    -------
    torch.Tensor
        [B, 1], eV.
    """
    return (_summed_squares(energies) / len(energies)).sqrt()


def force_deviation(forces: Sequence[torch.Tensor]) -> torch.Tensor:
    r"""Return how far members disagree about the force on each atom.

    .. math:: \epsilon_i = \Big[\frac{1}{M} \sum_m |F_{m,i} - \langle F_i\rangle|^2\Big]^{1/2}

    The norm is that of the difference of vectors, so that members which agree on the size of a force and not on its
    direction disagree.

    Parameters
    ----------
    forces
        [N, 3] of each member, eV/Å.

    Returns
    -------
    torch.Tensor
        [N], eV/Å.

    References
    ----------
    .. [1] Y. Zhang et al., Comput. Phys. Commun. 253, 107206 (2020). doi:10.1016/j.cpc.2020.107206
    """
    x, y, z = _summed_squares(forces).unbind(1)
    return ((x + y + z) / len(forces)).sqrt()


def _summed_squares(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the sum over members of the squared difference from their mean."""
    mean = mean_of(values)
    total = torch.zeros_like(mean)
    for value in values:
        difference = value - mean
        total = torch.addcmul(total, difference, difference)
    return total
