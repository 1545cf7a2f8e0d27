"""Motion of cells in torch: any device, the oracle and the explanation."""

from __future__ import annotations

import torch

TERMS = 12
"""Terms of a series: exact to double precision for norms below 0.3."""


def barostat_kick(momentum, flow, stress, volume, pressure, dof, mass, dt, coupling):
    """Kick by the pressure difference, projected on the rates that may differ from zero."""
    eye = torch.eye(3, dtype=torch.float64, device=momentum.device)
    heat = _trace(flow.double()) / torch.where(dof > 0, dof.double(), 1.0)
    pull = flow.double() - volume.double()[:, None, None] * (_symmetric(stress.double()) + pressure.double())
    pull = pull + heat[:, None, None] * eye
    if coupling == 0:
        pull = (_trace(pull) / 3.0)[:, None, None] * eye
    elif coupling == 1:
        pull = pull * eye
    return momentum.double() + (dt.double() / torch.sqrt(mass.double()))[:, None, None] * pull


def barostat_maps(momentum, mass, dof, dt, dt_kick):
    """Exponentials of what a cell does in a kick and in a drift, and their means over it."""
    rate = momentum.double() / torch.sqrt(mass.double())[:, None, None]
    eye = torch.eye(3, dtype=rate.dtype, device=rate.device)
    trace = _trace(rate)
    drag = rate + (trace / torch.where(dof > 0, dof.double(), 1.0))[:, None, None] * eye
    length = dt.double()
    volume = torch.ones_like(trace)
    for order in range(TERMS, 0, -1):
        volume = 1.0 + trace * length * volume / (order + 1)
    return (
        *exponential_and_mean(-drag * dt_kick.double()[:, None, None]),
        *exponential_and_mean(rate * length[:, None, None]),
        length * volume,
    )


def exponential_and_mean(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the exponential of matrices [B, 3, 3] and its mean over the unit of time, by Horner's rule.

    ``torch.linalg.matrix_exp`` gives a matrix other bits in another batch; this does not.
    """
    eye = torch.eye(3, dtype=x.dtype, device=x.device).expand_as(x)
    whole = mean = eye
    for order in range(TERMS, 0, -1):
        whole = eye + torch.bmm(x, whole) / order
        mean = eye + torch.bmm(x, mean) / (order + 1)
    return whole, mean


def _trace(matrices: torch.Tensor) -> torch.Tensor:
    return matrices[:, 0, 0] + matrices[:, 1, 1] + matrices[:, 2, 2]


def _symmetric(matrices: torch.Tensor) -> torch.Tensor:
    return 0.5 * (matrices + matrices.mT)
