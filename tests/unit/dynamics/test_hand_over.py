"""Hooks are told which systems their engine moves, and whose results are on a batch."""

from __future__ import annotations

import pytest
import torch

from athanor.data import Batch
from athanor.dynamics import NVE, NVTLangevin
from athanor.errors import ContractError
from athanor.hooks import DynamicsStage
from athanor.testing.dynamics_contract import argon_crystal, argon_model, with_neighbor_hooks


class Told:
    """Notes what it is told, and adds to the energy if it is to."""

    frequency, stage, on_active = 1, DynamicsStage.AFTER_COMPUTE, True

    def __init__(self, name, log, adds=0.0):
        self.name, self.log, self.adds = name, log, adds

    def __call__(self, ctx, stage):
        self.active = ctx.active_mask.tolist()
        ctx.batch.energy.add_(self.adds)

    def take_on(self, batch, systems):
        self.log.append((self.name, "takes on", systems.nonzero().flatten().tolist()))

    def release(self, batch, systems):
        self.log.append((self.name, "releases", systems.nonzero().flatten().tolist()))


def crystals(count):
    return Batch.from_data_list([argon_crystal(1, number) for number in range(count)])


def test_a_plain_engine():
    log = []
    engine = with_neighbor_hooks(NVE(argon_model(), dt=2.0, hooks=[Told("hook", log)]))
    batch = crystals(3)
    batch.status = torch.tensor([[0], [1], [0]])
    engine.run(batch, 2)
    assert log == [("hook", "takes on", [0, 2]), ("hook", "releases", [0, 1, 2])]


def test_stages_hand_systems_on():
    model, log = argon_model(), []
    hooks = {name: Told(name, log) for name in ("first", "second", "owner")}
    first = NVTLangevin(model, dt=2.0, temperature=40.0, friction=0.01, n_steps=2, hooks=[hooks["first"]])
    second = NVE(model, dt=2.0, n_steps=4, hooks=[hooks["second"]])
    fused = with_neighbor_hooks(first + second)
    fused.register_hook(hooks["owner"])
    batch = crystals(2)
    batch.status = torch.tensor([[0], [1]])
    fused.run(batch, 3)
    at_start = [
        ("owner", "takes on", [0]), ("first", "takes on", [0]), ("second", "releases", [0]),
        ("owner", "takes on", [1]), ("first", "releases", [1]), ("second", "takes on", [1]),
    ]  # fmt: skip
    at_change = [("owner", "takes on", [0]), ("first", "releases", [0]), ("second", "takes on", [0])]
    assert log[:9] == at_start + at_change
    assert all(entry[1:] == ("releases", [0, 1]) for entry in log[9:])
    assert {name: hook.active for name, hook in hooks.items()} == {
        "first": [False, False], "second": [True, True], "owner": [True, True],
    }  # fmt: skip


def test_results_of_other_hooks_are_not_taken_over():
    model, calls = argon_model(), []
    model.register_forward_hook(lambda *arguments: calls.append(1))
    batch, hook = crystals(2), Told("hook", [], adds=1.0)
    with_hook = with_neighbor_hooks(NVE(model, dt=2.0, hooks=[hook]))
    without = with_neighbor_hooks(NVE(model, dt=2.0))
    energies = []
    for engine in (without, without, with_hook, with_hook, without):
        engine.run(batch, 0)
        energies.append(float(batch.energy[0]))
    assert len(calls) == 3, "the same engine takes over what is there"
    assert energies == [energies[0]] * 2 + [energies[0] + 1.0] * 2 + [energies[0]]
    with_hook.run(batch, 1)
    with_hook.hooks.remove(hook)
    with_hook.run(batch, 0)
    alone = batch.clone()
    alone.energy = None
    without.run(alone, 0)
    assert torch.equal(batch.energy, alone.energy)


def test_a_member_that_can_not_be_called_is_refused():
    hook = Told("hook", [])
    hook.take_on = True
    with pytest.raises(ContractError, match="`take_on` of Told is a bool"):
        NVE(argon_model(), dt=2.0, hooks=[hook])
