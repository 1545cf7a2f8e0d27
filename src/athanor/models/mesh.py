r"""Which mesh and which splines reach an asked accuracy of a particle-mesh Ewald sum.

A wave :math:`k` on a mesh of spacing h is mistaken for those with :math:`k + G`, :math:`G = 2 \pi m / h`. B-splines of
order p damp them by :math:`(k / (k + G))^p` [1]_, and as forces are derivatives of the energy of the mesh, they enter
forces with :math:`k + G` instead of k. With the weight :math:`e^{-k^2/4\alpha^2}/k^2` of a wave, and what is beyond the
end of the mesh,

.. math:: \delta_p(\alpha h)^2 = \int_0^{\pi/\alpha h} w(u) \sum_{m \neq 0} \left(\frac{u}{u + g_m}\right)^{2p}
          (u + g_m)^2\,du + \int_{\pi/\alpha h}^{\infty} w(u)\, u^2\,du,
          \qquad w(u) = \frac{e^{-u^2/2}}{u^2 (1 + u^2/2)}

with :math:`u = k / \alpha` and :math:`g_m = 2 \pi m / \alpha h`. Root mean square errors of forces that were measured,
relative to the forces, are :math:`C (\alpha d)^2 \delta_p(\alpha h)` for orders 4 to 12 from 1e-1 to 1e-11, where d is
the mean distance of ions: the square is that of the force of an ion on itself. C is about 1 in molten salts, dense or
dilute, and up to 25 in rock salt rattled by 0.05 Å, whose forces are small.

References
----------
.. [1] U. Essmann, L. Perera, M. L. Berkowitz, T. Darden, H. Lee, L. G. Pedersen, J. Chem. Phys. 103, 8577 (1995).
   doi:10.1063/1.470117
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from athanor.errors import InputError

ORDERS = (4, 6, 8, 10, 12)
"""Orders that are chosen from."""

_DISORDER = 25.0
_VOLUME = 33.0
"""Å³ of an atom, not less than in most condensed matter: dilute systems get a finer mesh."""

_POINT_OF_SPLINE, _POINT_OF_MESH = 1.0, 20.0
"""Time for one point of an atom's splines, and for one of the mesh and its Fourier transforms, in about ns."""

_LARGEST = 8192
_FACTORS = (2, 3, 5, 7)


@cache
def mesh_error(order: int, scaled: float) -> float:
    r"""Return :math:`\delta_p` for splines of an order and a spacing times the screening, about 1 % exact."""
    end = math.pi / scaled
    u = (np.arange(512) + 0.5) * (min(end, 12.0) / 512)
    weight = np.exp(-0.5 * u * u) / (u * u * (1.0 + 0.5 * u * u))
    others = [u + 2.0 * end * m for m in (-2, -1, 1, 2)]
    aliases = sum((u / other) ** (2 * order) * other**2 for other in others)
    v = end + (np.arange(512) + 0.5) * (12.0 / 512)
    beyond = np.exp(-0.5 * v * v) / (1.0 + 0.5 * v * v)
    return math.sqrt(float((weight * aliases).sum()) * (u[1] - u[0]) + float(beyond.sum()) * (12.0 / 512))


def reached(order: int, spacing: float, screening: float) -> float:
    """Return the relative RMS error of forces that splines on a mesh may leave in condensed matter."""
    return _DISORDER * screening**2 * _VOLUME ** (2.0 / 3.0) * mesh_error(order, spacing * screening)


@cache
def largest_spacing(order: int, screening: float, accuracy: float) -> float:
    """Return the largest spacing that reaches an accuracy in condensed matter, Å."""
    low, high = 1e-3 / screening, 2.0 / screening
    for _ in range(30):
        middle = math.sqrt(low * high)
        if reached(order, middle, screening) < accuracy:
            low = middle
        else:
            high = middle
    return low


def cheapest_order(screening: float, accuracy: float) -> int:
    """Return the order that is fastest in condensed matter, with the spacing that it needs."""

    def cost(order: int) -> float:
        points = _VOLUME / largest_spacing(order, screening, accuracy) ** 3
        return _POINT_OF_MESH * points + _POINT_OF_SPLINE * order**2 * (-(-order // 4) * 4)

    return min(ORDERS, key=cost)


def smallest_order(spacing: float, screening: float, accuracy: float) -> int:
    """Return the lowest order that reaches an accuracy with a given spacing; else the highest."""
    return next((order for order in ORDERS if reached(order, spacing, screening) < accuracy), ORDERS[-1])


def spacings(
    cell: torch.Tensor, segment_ptr: torch.Tensor, order: int, screening: float, accuracy: float
) -> torch.Tensor:
    """Return the spacing for each system, Å, [B]: smaller the more dilute it is."""
    volume = torch.linalg.det(cell.detach().double()).abs()
    atoms = (segment_ptr[1:] - segment_ptr[:-1]).clamp(min=1)
    dilution = (volume / (atoms * _VOLUME)).clamp(min=1.0) ** (2.0 / 3.0)
    # errors grow with the spacing at least to the power order - 1
    return largest_spacing(order, screening, accuracy) * dilution ** (-1.0 / (order - 1))


def meshes(cell: torch.Tensor, spacing: torch.Tensor, order: int, included: torch.Tensor) -> torch.Tensor:
    """Return the points along each lattice vector, int64 [B, 3]: products of 2, 3, 5 and 7, at least `order`.

    Parameters
    ----------
    cell
        [B, 3, 3], Å.
    spacing
        Å, the largest, [B].
    order
        Of the splines.
    included
        bool [B]; others get what is not used.

    Raises
    ------
    InputError
        If a mesh would have more than 8192 points along a lattice vector.
    """
    lengths = torch.linalg.vector_norm(cell.detach().double(), dim=-1)
    wanted = lengths / spacing[:, None]
    # rounding of a cell that was turned or moved must not add points
    wanted = torch.where(included[:, None], wanted * (1.0 - 1e-9), 0.0).clamp(min=float(order))
    if bool((wanted > _LARGEST).any()):
        raise InputError(
            f"A cell of this batch is {float(lengths.max()):.0f} Å long and needs more than {_LARGEST} mesh points "
            f"along a lattice vector. Use a larger `cutoff`, or give `mesh_spacing`."
        )
    sizes = torch.tensor(good_sizes(), dtype=torch.float64, device=cell.device)
    return sizes[torch.searchsorted(sizes, wanted)].long()


@cache
def good_sizes() -> Sequence[int]:
    """Return the numbers of points whose Fourier transforms are fast, in order."""
    sizes = [1]
    for factor in _FACTORS:
        powers = [factor**n for n in range(_LARGEST.bit_length())]
        sizes = [size * power for size in sizes for power in powers if size * power <= _LARGEST]
    return tuple(sorted(sizes))
