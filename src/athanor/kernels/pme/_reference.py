"""The mesh sum in torch: any device, the oracle and the explanation. An energy, of which autograd makes the rest."""

from __future__ import annotations

import math
from itertools import pairwise

import torch

from athanor.errors import InputError


def pme_reciprocal(positions, cell, segment_ptr, charges, included, screening, mesh, order, derivatives):
    """Spread the charges of each system over its mesh, transform, and sum over the half of the vectors that say all."""
    energies = [positions.double().new_zeros(0)]
    for b, (first, last) in enumerate(pairwise(segment_ptr.tolist())):
        if not included[b]:
            energies.append(positions.double().new_zeros(1))
            continue
        sizes = mesh[b].tolist()
        check_mesh(sizes, order, b)
        h = cell[b].double()
        q = charges[first:last].double()
        density = _spread(positions[first:last].double(), torch.linalg.inv(h), q, sizes, order)
        amplitudes = torch.fft.rfftn(density)
        power = amplitudes.real**2 + amplitudes.imag**2
        axes = [torch.fft.fftfreq(n, 1.0 / n, dtype=h.dtype, device=h.device) for n in sizes[:2]]
        axes.append(torch.arange(sizes[2] // 2 + 1, dtype=h.dtype, device=h.device))
        k = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) @ (2.0 * math.pi * torch.linalg.inv(h).mT)
        square = (k * k).sum(-1)
        weights = [_weights(n, order, h) for n in sizes]
        weight = weights[0][:, None, None] * weights[1][:, None] * weights[2][: sizes[2] // 2 + 1]
        weight[:, :, 1:] *= 2.0
        weight[0, 0, 0] = 0.0
        square = torch.where(weight > 0.0, square, 1.0)
        green = 2.0 * math.pi * weight * torch.exp(-square / (4.0 * screening**2)) / square
        energies.append(((green * power).sum() / torch.linalg.det(h).abs())[None])
    return torch.cat(energies)


def check_mesh(sizes, order, b):
    """Raise InputError if splines are longer than the mesh of system b."""
    if min(sizes) < order:
        raise InputError(
            f"`mesh` of system {b} is {tuple(sizes)}; splines of order {order} need at least {order} points in each "
            f"direction."
        )


def _spread(positions, inverse, charges, sizes, order):
    """Return the charges on the mesh, by cardinal B-splines."""
    counts = torch.tensor(sizes, device=positions.device)
    turns = positions @ inverse
    turns = turns - turns.detach().floor()
    scaled = turns * counts
    base = scaled.detach().floor()
    splines = b_splines(scaled - base, order)
    places = (base.long()[..., None] + torch.arange(order, device=positions.device)) % counts[:, None]
    strides = torch.tensor([sizes[1] * sizes[2], sizes[2], 1], device=positions.device)
    x, y, z = (places * strides[:, None]).unbind(1)
    at = x[:, :, None, None] + y[:, None, :, None] + z[:, None, None, :]
    a, b, c = splines.unbind(1)
    values = charges[:, None, None, None] * a[:, :, None, None] * b[:, None, :, None] * c[:, None, None, :]
    density = charges.new_zeros(math.prod(sizes)).index_add(0, at.flatten(), values.flatten())
    return density.reshape(sizes)


def b_splines(t, order):
    """Return the weights of the `order` mesh points around a charge, as [..., order], for t from 0 to 1 past one."""
    weights = [1.0 - t, t]
    for n in range(3, order + 1):
        before, after = [torch.zeros_like(t), *weights], [*weights, torch.zeros_like(t)]
        weights = [((t + (n - 1 - j)) * before[j] + ((1 + j) - t) * after[j]) / (n - 1) for j in range(n)]
    return torch.stack(weights, -1)


def _weights(size, order, like):
    """Return 1 / |sum of M(j + 1) exp(2 pi i m j / size)|^2 for each m; 0 where m and -m are one point of the mesh."""
    spline = b_splines(torch.zeros((), dtype=torch.float64), order)
    waves = torch.outer(torch.arange(size), torch.arange(order)).double() * (2.0 * math.pi / size)
    moduli = (torch.cos(waves) @ spline) ** 2 + (torch.sin(waves) @ spline) ** 2
    weights = 1.0 / moduli
    if size % 2 == 0:
        weights[size // 2] = 0.0
    return weights.to(like.device)
