"""A run changes fields in place, so those that can not be changed row by row are copied before it starts."""

from __future__ import annotations

import pytest
import torch

from athanor.data import Batch
from athanor.dynamics import NVE
from athanor.testing.dynamics_contract import argon_crystal, argon_model, with_neighbor_hooks


def _run(change):
    batch = Batch.from_data_list([argon_crystal(2, 1), argon_crystal(2, 2)])
    change(batch)
    return with_neighbor_hooks(NVE(argon_model(), dt=2.0)).run(batch, 5)


def _plain(batch):
    batch.velocities = torch.zeros_like(batch.positions)


def _expanded(batch):
    batch.velocities = torch.zeros(1, 3, dtype=torch.float64).expand(batch.num_nodes, 3)


def _one_tensor_twice(batch):
    batch.velocities = torch.zeros_like(batch.positions)
    batch.forces = batch.velocities


@pytest.mark.parametrize("change", [_expanded, _one_tensor_twice])
def test_shared_rows_and_tensors_are_parted(change):
    assert torch.equal(_run(change).positions, _run(_plain).positions)


def test_without_parting_one_tensor_under_two_names_gives_another_path(monkeypatch):
    monkeypatch.setattr(Batch, "separate_memory", lambda self: None)
    assert not torch.equal(_run(_one_tensor_twice).positions, _run(_plain).positions)


def test_inference_mode_makes_no_difference():
    with torch.inference_mode():
        inside = _run(_plain)
    assert torch.equal(inside.positions, _run(_plain).positions)
