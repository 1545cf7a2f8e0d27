"""EAMTables: the functions of an embedded-atom potential as numbers, and cubic pieces through them."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class EAMTables:
    """What a file of an embedded-atom potential holds.

    Parameters
    ----------
    elements
        Atomic numbers, in the order of the tables.
    embedding
        float64 [T, n], the energy F at densities 0, `density_step`, ..., eV.
    density
        float64 [T, T, m], the density at an atom of the first element due to one of the second, at distances 0,
        `distance_step`, ...
    pair
        float64 [T, T, m], the energy of a pair times its distance, eV Å.
    density_step, distance_step
        Steps of the tables; that of distances in Å.
    cutoff
        Å.
    comment, digest
        What the file says of itself, and the digest of its bytes.
    """

    elements: tuple[int, ...]
    embedding: torch.Tensor
    density: torch.Tensor
    pair: torch.Tensor
    density_step: float
    distance_step: float
    cutoff: float
    comment: str = ""
    digest: str = ""


def cubic_pieces(values: torch.Tensor) -> torch.Tensor:
    r"""Return cubic polynomials between equidistant values.

    Piece k is :math:`\sum_a c_{ka} p^a` for p from 0 to 1; it has the values and slopes at both ends. Slopes are
    differences of fourth order, of second and first order at the ends of the table, as LAMMPS takes them.

    Parameters
    ----------
    values
        float64 [..., n], n at least 5.

    Returns
    -------
    torch.Tensor
        float64 [..., n, 4]; the last piece is where the table ends, and constant.
    """
    f = values
    slopes = torch.empty_like(f)
    slopes[..., 2:-2] = ((f[..., :-4] - f[..., 4:]) + 8.0 * (f[..., 3:-1] - f[..., 1:-3])) / 12.0
    slopes[..., 1], slopes[..., -2] = 0.5 * (f[..., 2] - f[..., 0]), 0.5 * (f[..., -1] - f[..., -3])
    slopes[..., 0], slopes[..., -1] = f[..., 1] - f[..., 0], f[..., -1] - f[..., -2]
    pieces = torch.zeros(*f.shape, 4, dtype=torch.float64)
    pieces[..., 0], pieces[..., 1] = f, slopes
    rise, here, there = f[..., 1:] - f[..., :-1], slopes[..., :-1], slopes[..., 1:]
    pieces[..., :-1, 2] = 3.0 * rise - 2.0 * here - there
    pieces[..., :-1, 3] = here + there - 2.0 * rise
    return pieces
