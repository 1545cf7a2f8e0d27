"""The twin of `NPT` that mutants change follows its path, in every coupling and in sheared cells."""

from __future__ import annotations

import pytest
import torch

from athanor.data import Batch
from athanor.dynamics import NPT
from athanor.testing.dynamics_contract import argon_model, with_neighbor_hooks
from athanor.testing.exact_answers import COUPLINGS

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
