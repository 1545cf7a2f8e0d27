"""What statistical mechanics says of the models of `athanor.testing.exact_models`, and systems drawn from it.

Systems that start in the exact ensemble need no time to settle, and an engine that samples it leaves it as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from athanor.data.atomic_data import AtomicData
from athanor.testing.exact_models import CosineBox, Wells
from athanor.units import BOLTZMANN

MASSES = (4.0, 12.0)
"""Masses of atoms in turn, amu: averages of places do not depend on them."""
COUPLINGS = ("isotropic", "anisotropic", "triclinic")


class Moments(NamedTuple):
    """Mean and variance of a quantity."""

    mean: float
    variance: float


def batch_of(
    positions: Tensor, temperature: float, generator: torch.Generator, cells: Tensor | None = None
) -> list[AtomicData]:
    """Return systems of atoms of two masses, with velocities of the canonical ensemble.

    Parameters
    ----------
    positions
        [S, N, 3], Å, float64.
    temperature
        K.
    generator
        Of the velocities.
    cells
        [S, 3, 3], Å, if they are periodic.
    """
    count = positions.shape[1]
    masses = torch.tensor([MASSES[atom % 2] for atom in range(count)], dtype=torch.float64)
    widths = (BOLTZMANN * temperature / masses).sqrt()[:, None]
    velocities = widths * torch.randn(positions.shape, generator=generator, dtype=torch.float64)
    periodic = torch.ones(1, 3, dtype=torch.bool)
    fields: list[dict[str, Any]] = [{}] * len(positions)
    if cells is not None:
        fields = [{"cell": cell[None], "pbc": periodic} for cell in cells]
    return [
        AtomicData(
            positions=places,
            atomic_numbers=torch.full((count,), 2),
            atomic_masses=masses,
            velocities=velocities[number],
            **fields[number],
        )
        for number, places in enumerate(positions)
    ]


def kinetic_moments(dof: float, temperature: float) -> Moments:
    """Return the moments of the kinetic energy of `dof` degrees of freedom: Gamma(dof/2, kT)."""
    kT = BOLTZMANN * temperature
    return Moments(0.5 * dof * kT, 0.5 * dof * kT**2)


def metropolis(
    log_density: Callable[[Tensor], Tensor], start: Tensor, width: float, n_steps: int, generator: torch.Generator
) -> Tensor:
    """Return one sample of a density for each row of `start` [S, ...], after `n_steps` moves of that width."""
    now, density = start.clone(), log_density(start)
    shape = (len(start), *[1] * (start.ndim - 1))
    for _ in range(n_steps):
        move = torch.randn(start.shape, generator=generator, dtype=start.dtype)
        trial = now + width * move
        wanted = log_density(trial)
        accepted = torch.rand(len(start), generator=generator, dtype=start.dtype).log() < wanted - density
        now = torch.where(accepted.view(shape), trial, now)
        density = torch.where(accepted, wanted, density)
    return now


# -------------------------------------------------------------------------------------------------------------- wells


def well_energy(model: Wells, temperature: float) -> Moments:
    """Return the moments of the potential energy of one atom, eV, by quadrature over the octant of a cube."""
    kT = BOLTZMANN * temperature
    line = torch.linspace(0.0, 9.0, 91, dtype=torch.float64) * math.sqrt(kT / model.k)
    half = torch.where(line == 0.0, 0.5, 1.0)
    energy = model.energy_of(torch.cartesian_prod(line, line, line))
    weight = torch.cartesian_prod(half, half, half).prod(1) * torch.exp(-energy / kT)
    mean = float((weight * energy).sum() / weight.sum())
    return Moments(mean, float((weight * (energy - mean) ** 2).sum() / weight.sum()))


def well_systems(model: Wells, temperature: float, count: int, atoms: int, seed: int = 1) -> list[AtomicData]:
    """Return `count` systems of `atoms` atoms each, drawn from the canonical ensemble."""
    kT = BOLTZMANN * temperature
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(count * atoms, 3, generator=generator, dtype=torch.float64) * math.sqrt(kT / model.k)
    if model.quartic:
        width = 0.8 * math.sqrt(kT / model.k)
        start = metropolis(lambda x: -model.energy_of(x) / kT, start, width, 100, generator)
    return batch_of(start.view(count, atoms, 3), temperature, generator)


# ---------------------------------------------------------------------------------------------------------- cosine box


class BoxEnsemble(NamedTuple):
    r"""The isobaric ensemble of a cosine box, for a scalar pressure.

    With the invariant measure of cells, and every orientation as likely as any other, its density is

    .. math:: V^{N + 1} e^{-PV/kT} \prod_a \left[e^{-x_a} I_0(x_a)\right]^N, \qquad x_a = \frac{k L_a^2}{4\pi^2 kT}

    in every coupling, which only says which cells there are: cubes, boxes, or all.

    Parameters
    ----------
    model
        The box; with k = 0 its shape knows no bounds, and only its volume has a density.
    temperature
        K.
    pressure
        eV/Å³.
    atoms
        Number of atoms N.
    coupling
        One of `COUPLINGS`.
    """

    model: CosineBox
    temperature: float
    pressure: float
    atoms: int = 8
    coupling: str = "isotropic"

    @property
    def kT(self) -> float:
        """Thermal energy, eV."""
        return BOLTZMANN * self.temperature

    def _log_well(self, square: Tensor) -> Tensor:
        """Logarithm of the factor that a lattice vector of that squared length brings for each atom."""
        return torch.special.i0e(self.model.k * square / (4.0 * math.pi**2 * self.kT)).log()

    def density(self) -> tuple[Tensor, Tensor]:
        """Return volumes, Å³, and their probability density, 1/Å³, on a grid, by quadrature."""
        n, half = self.atoms, 2**14
        expected = math.log((n + 1) * self.kT / self.pressure)
        log = torch.arange(-half, half, dtype=torch.float64) * (24.0 / half)  # of a volume, an edge, or a sine
        if self.coupling == "isotropic" or self.model.k == 0:
            volumes = log + expected
            log_density = (n + 1) * volumes + 3 * n * self._log_well((2.0 * volumes / 3.0).exp())
        else:
            edges = log + expected / 3.0
            one = torch.exp(n * log + n * self._log_well((2.0 * edges).exp()))
            product = _convolve(_convolve(one, one), one)
            if self.coupling == "triclinic":  # the sine is the volume over the product of the edges
                sine = log.exp()
                bent = torch.where(sine < 1.0, sine ** (n - 2) * torch.acos(sine.clamp(max=1.0)), 0.0)
                product = _convolve(product, bent)
            volumes = log + expected
            log_density = volumes + product.clamp_min(1e-300).log()
        weight = log_density - self.pressure * volumes.exp() / self.kT
        weight = (weight - weight.max()).exp()
        return volumes.exp(), weight / (weight.sum() * (24.0 / half) * volumes.exp())

    def volume(self) -> Moments:
        """Return the moments of the volume, Å³ and Å⁶: those of Gamma(N + 1, kT/P) if k is 0."""
        volumes, density = self.density()
        weight = density * volumes
        mean = float((weight * volumes).sum() / weight.sum())
        return Moments(mean, float((weight * (volumes - mean) ** 2).sum() / weight.sum()))

    def cells(self, count: int, generator: torch.Generator) -> Tensor:
        """Return `count` cells of the ensemble, [count, 3, 3]: turned at random if triclinic, and cubes if k is 0."""
        size = math.log((self.atoms + 1) * self.kT / self.pressure)
        free = 1 if self.coupling == "isotropic" or self.model.k == 0 else COUPLINGS.index(self.coupling) * 3
        start = torch.zeros(count, free, dtype=torch.float64)
        start[:, :3] = size if free == 1 else size / 3.0
        cells = _cells(metropolis(self._log_density, start, 0.3 if free == 1 else 0.15, 600, generator))
        return torch.bmm(cells, _turns(count, generator)) if free > 3 else cells

    def _log_density(self, shapes: Tensor) -> Tensor:
        cells = _cells(shapes)
        log_volume = cells.diagonal(dim1=1, dim2=2).log().sum(1)
        wells = self._log_well(cells.square().sum(2)).sum(1)
        return (self.atoms + 1) * log_volume - self.pressure * log_volume.exp() / self.kT + self.atoms * wells

    def systems(self, count: int, seed: int = 1) -> list[AtomicData]:
        """Return `count` systems drawn from the ensemble."""
        generator, random = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
        cells = self.cells(count, generator)
        concentration = self.model.k * cells.square().sum(2) / (4.0 * math.pi**2 * self.kT)
        angles = random.vonmises(0.0, concentration[:, None, :].expand(-1, self.atoms, -1).numpy())
        return batch_of(torch.from_numpy(angles) / (2.0 * math.pi) @ cells, self.temperature, generator, cells)


def _cells(shapes: Tensor) -> Tensor:
    """Return lower triangular cells from the logarithms of one volume, or of three edges, and three slopes."""
    if shapes.shape[1] == 1:
        return (shapes / 3.0).exp()[:, :, None] * torch.eye(3, dtype=shapes.dtype)
    edges = shapes[:, :3].exp()
    lower = torch.eye(3, dtype=shapes.dtype).repeat(len(shapes), 1, 1)
    if shapes.shape[1] > 3:
        lower[:, 1, 0], lower[:, 2, 0], lower[:, 2, 1] = shapes[:, 3:].unbind(1)
    return edges[:, :, None] * lower


def _turns(count: int, generator: torch.Generator) -> Tensor:
    """Return rotations, each direction as likely as any other, [count, 3, 3]."""
    random = torch.randn(count, 3, 3, generator=generator, dtype=torch.float64)
    turn, triangle = torch.linalg.qr(random)
    turn = turn * triangle.diagonal(dim1=1, dim2=2).sign()[:, None, :]
    return turn * torch.linalg.det(turn)[:, None, None]


def _convolve(one: Tensor, other: Tensor) -> Tensor:
    """Convolve two functions on the grid -n..n-1, and return the result on it, up to a factor."""
    size = len(one)
    one, other = one / one.max(), other / other.max()
    whole = torch.fft.irfft(torch.fft.rfft(one, 2 * size) * torch.fft.rfft(other, 2 * size), 2 * size)
    middle = whole[size // 2 : size // 2 + size]
    return middle / middle.max()
