"""Cells move as Martyna, Tobias and Klein's equations say, and the twin of `NPT` for mutants follows its path."""

from __future__ import annotations

import pytest
import torch

from athanor.data import Batch
from athanor.dynamics import NPH, NPT
from athanor.testing.dynamics_contract import argon_model, with_neighbor_hooks
from athanor.testing.exact_answers import COUPLINGS
from athanor.units import BOLTZMANN, fs_to_internal_time

from .textbook import Textbook, sheared_crystal


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("chain_length", [1, 3])
def test_the_twin_follows_the_path_of_npt(coupling, chain_length):
    paths = []
    for engine in (NPT, Textbook):
        batch = Batch.from_data_list([sheared_crystal(1), sheared_crystal(2)])
        made = engine(argon_model(), 8.0, 70.0, 1e-4, 300.0, 100.0, coupling, chain_length, yoshida_order=5)
        with_neighbor_hooks(made).run(batch, 60)
        paths.append((batch.positions, batch.velocities, batch.cell, made.conserved_energy(batch)))
    assert float((paths[0][2] - Batch.from_data_list([sheared_crystal(1), sheared_crystal(2)]).cell).abs().max()) > 0.1
    for one, other in zip(*paths, strict=True):
        assert torch.allclose(one, other, rtol=0.0, atol=1e-9), float((one - other).abs().max())


def derivatives(make, batch, momentum):
    """Time derivatives of positions, velocities, cell and rate by a step forward and one backward, and the engine."""
    found = []
    for sign in (1.0, -1.0):
        moved, engine = batch.clone(), with_neighbor_hooks(make(argon_model()))
        moved.velocities = sign * moved.velocities
        engine.run(moved, 0)
        moved.state_rows(engine.key)["cell_momentum"].copy_(sign * momentum)
        engine.run(moved, 1)
        rate = moved.state_rows(engine.key)["cell_momentum"]
        found.append((moved.positions, sign * moved.velocities, moved.cell, sign * rate))
    step = 2.0 * fs_to_internal_time(DT)
    return [(there - back) / step for there, back in zip(*found, strict=True)]


DT = 0.02  # fs


@pytest.mark.parametrize(
    ("coupling", "mutant"),
    [
        *((coupling, None) for coupling in COUPLINGS),
        *(("triclinic", name) for name in ("scalar", "columns", "one third")),
    ],
)
def test_equations_of_motion(coupling, mutant):
    """Each derivative of NPH in a sheared cell against the equations, written down for one system."""
    pressure, tau, kT = 1e-4, 300.0, BOLTZMANN * 300.0
    batch = Batch.from_data_list([sheared_crystal(1)])
    n, index = 3.0 * batch.num_nodes - 3.0, range(3)
    mass = (n + 3.0) / 3.0 * kT * fs_to_internal_time(tau) ** 2
    kept = {"isotropic": [(i, i) for i in index], "anisotropic": [(i, i) for i in index]}.get(
        coupling, [(i, j) for i in index for j in index]
    )
    drawn = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rate = torch.zeros(3, 3, dtype=torch.float64)
    for i, j in kept:
        rate[i, j] = 2e-3 * (drawn[0, 0] if coupling == "isotropic" else drawn[i, j] + drawn[j, i])

    def make(model):
        return NPH(model, DT, pressure, tau, coupling)

    found = derivatives(make, batch, (mass**0.5 * rate)[None])
    probe = batch.clone()
    with_neighbor_hooks(make(argon_model())).run(probe, 0)
    r, v, h, m = probe.positions, probe.velocities, probe.cell[0], probe.atomic_masses[:, None]
    flow = (m * v).T @ v
    pull = (
        flow - torch.linalg.det(h).abs() * (probe.stress[0] + pressure * torch.eye(3)) + flow.trace() / n * torch.eye(3)
    )
    wanted = torch.zeros(3, 3, dtype=torch.float64)
    for i, j in kept:
        wanted[i, j] = pull.trace() / 3.0 if coupling == "isotropic" or mutant == "scalar" else pull[i, j]
    expected = [
        v + r @ rate,
        probe.forces / m - v @ (rate + rate.trace() / (n if mutant != "one third" else 3.0 * n) * torch.eye(3)),
        rate @ h if mutant == "columns" else h @ rate,
        wanted / mass**0.5,
    ]
    errors = [
        float((one.reshape(other.shape) - other).abs().max() / other.abs().max())
        for one, other in zip(found, expected, strict=True)
    ]
    if mutant is None:
        assert max(errors) < 1e-6, errors
    else:
        assert max(errors) > 1e-4, errors
