"""The slope test: how the ratio of two distributions depends on the energy, or on the volume, is known exactly.

Whatever the system, two canonical ensembles differ by ln p₂(U)/p₁(U) = const + (β₁ - β₂) U. It needs no exact answer,
and is the test of the package physical_validation, with which `tests/validation/test_slopes.py` compares this one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Slope(NamedTuple):
    """A slope and its standard error."""

    value: float
    error: float


def likeliest_slope(one: Tensor, other: Tensor, blocks: int = 20) -> Slope:
    r"""Return the maximum-likelihood b in :math:`\ln p_2(x)/p_1(x) = a + b x`, from samples of both [1]_.

    Parameters
    ----------
    one, other
        Samples of x in the two ensembles, [n, S]: n of each of S independent systems. Those of one system may be
        correlated; system s of both may share its random numbers.
    blocks
        Into so many blocks the systems are split for the standard error, by the jackknife.

    Returns
    -------
    Slope
        In the inverse unit of x.

    References
    ----------
    .. [1] M. R. Shirts, J. Chem. Theory Comput. 9, 909 (2013). doi:10.1021/ct300688p
    """
    both = torch.cat([one, other])
    center, width = both.mean(), both.std()
    one, other = (one - center) / width, (other - center) / width
    whole = _slope(one, other)
    systems = torch.arange(one.shape[1]) * blocks // one.shape[1]
    left_out = [_slope(one[:, systems != block], other[:, systems != block]) for block in range(blocks)]
    spread = torch.tensor(left_out, dtype=torch.float64).var(unbiased=False)
    return Slope(whole / float(width), float(((blocks - 1) * spread).sqrt() / width))


def _slope(one: Tensor, other: Tensor) -> float:
    """Logistic regression on which of two sets a sample belongs to, by Newton's method."""
    x = torch.cat([one.flatten(), other.flatten()])
    design = torch.stack([torch.ones_like(x), x], dim=1)
    belongs = torch.cat([torch.zeros(one.numel()), torch.ones(other.numel())]).to(x)
    solution = x.new_zeros(2)
    for _ in range(12):
        expected = torch.sigmoid(design @ solution)
        curvature = (design * (expected * (1.0 - expected))[:, None]).T @ design
        solution = solution + torch.linalg.solve(curvature, design.T @ (belongs - expected))
    return float(solution[1])
