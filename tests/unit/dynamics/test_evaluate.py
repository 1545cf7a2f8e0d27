"""A model works on a view: whatever it flags or assigns in a forward, the state of a run stays as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from athanor.data.batch import Batch
from athanor.dynamics import NVE
from athanor.models.base import BaseModelMixin, ModelConfig
from athanor.testing.systems import standard_systems


class Spring(nn.Module, BaseModelMixin):
    """A wrapper in the style of the models guide: it differentiates ``data.positions`` itself."""

    embedding_shapes: dict[str, tuple[int, ...]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.model_config = ModelConfig(outputs={"energy", "forces"}, autograd_outputs={"forces"})

    def compute_embeddings(self, data, **kwargs):
        raise NotImplementedError

    def forward(self, data, **kwargs):
        inputs = self.adapt_input(data, **kwargs)
        energy = 0.1 * inputs["positions"].square().sum()
        (gradient,) = torch.autograd.grad(energy, data.positions)
        return self.adapt_output({"energy": energy.reshape(1, 1), "forces": -gradient}, data)


class SinglePrecision(Spring):
    """Converts where the guide's authors would: on the data it is given."""

    def forward(self, data, **kwargs):
        data["positions"] = data.positions.float()
        return super().forward(data, **kwargs)


class Untidy(Spring):
    """Leaves flags, results, new names and a graph on the data; fails at the third call."""

    calls = 0

    def forward(self, data, **kwargs):
        self.calls += 1
        data.positions.requires_grad_(True)
        data.cell = torch.eye(3).expand(1, 3, 3).requires_grad_(True)
        data.forces = torch.full((data.num_nodes, 3), 7.0)
        data.velocities = data.velocities + 1.0
        data.my_features = data.positions * 2.0
        del data["atomic_masses"]
        if self.calls == 3:
            raise FloatingPointError("in the middle")
        outputs = super().forward(data, **kwargs)
        data.positions = data.positions * 2.0
        return outputs


def cluster() -> Batch:
    return Batch.from_data_list([standard_systems()["cluster"]])


def state_of(batch: Batch) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in batch}


def assert_equal_states(one: Batch, two: Batch, **tolerance: float) -> None:
    assert one.to_dict().keys() == two.to_dict().keys()
    for name, tensor in one:
        torch.testing.assert_close(tensor, two[name], **{"rtol": 0.0, "atol": 0.0, **tolerance})
        assert not tensor.requires_grad
        assert not two[name].requires_grad


def test_a_model_that_converts_the_positions_it_is_given() -> None:
    plain, converting = cluster(), cluster()
    NVE(Spring(), dt=0.5).run(plain, 20)
    NVE(SinglePrecision(), dt=0.5).run(converting, 20)
    assert converting.positions.dtype == torch.float64
    assert_equal_states(converting, plain, rtol=1e-5, atol=1e-5)
    assert not torch.equal(converting.positions, cluster().positions)


def test_an_untidy_model_gives_the_run_of_a_tidy_one() -> None:
    tidy, untidy = cluster(), cluster()
    NVE(Spring(), dt=0.5).run(tidy, 1)
    NVE(Untidy(), dt=0.5).run(untidy, 1)
    assert_equal_states(untidy, tidy)


def test_a_model_that_raises_in_the_middle_leaves_the_state_alone() -> None:
    model, batch = Untidy(), cluster()
    model.calls = 2
    before, version = state_of(batch), batch.version
    engine = NVE(model, dt=0.5)
    with pytest.raises(FloatingPointError):
        engine.compute(batch)
    assert batch.version == version
    assert batch.to_dict().keys() == before.keys()
    for name, tensor in batch:
        assert torch.equal(tensor, before[name])
        assert not tensor.requires_grad


@pytest.mark.parametrize("kind", [Spring, SinglePrecision, Untidy])
def test_a_direct_call_leaves_the_callers_batch_alone(kind) -> None:
    model, batch = kind(), cluster()
    before = batch.to_dict()
    model(batch)
    assert batch.to_dict().keys() == before.keys()
    for name, tensor in batch:
        assert tensor is before[name]
        assert not tensor.requires_grad
    data = standard_systems()["cluster"]
    Spring()(data)
    assert not data.positions.requires_grad


def test_gradient_keys_flag_the_tensors_of_who_calls_the_model() -> None:
    """They are what a caller wants to differentiate by afterwards; in a run nobody does."""
    model, batch = Spring(), cluster()
    model.model_config.gradient_keys = {"positions"}
    model.model_config.active_outputs = {"energy"}
    model.forward = lambda data: {"energy": model.adapt_input(data)["positions"].square().sum().reshape(1, 1)}
    energy = model(batch)["energy"]
    (gradient,) = torch.autograd.grad(energy, batch.positions)
    torch.testing.assert_close(gradient, 2.0 * batch.positions.detach())

    model, batch = Spring(), cluster()
    model.model_config.gradient_keys = {"positions", "velocities"}
    NVE(model, dt=0.5).run(batch, 2)
    assert not batch.positions.requires_grad
    assert not batch.velocities.requires_grad


@pytest.mark.parametrize("leaf", [True, False])
def test_a_batch_that_carries_a_graph_can_be_run(leaf: bool) -> None:
    plain, attached = cluster(), cluster()
    NVE(Spring(), dt=0.5).run(plain, 3)
    attached.positions.requires_grad_(True)
    if not leaf:
        attached.positions = attached.positions * 1.0
    NVE(Spring(), dt=0.5).run(attached, 3)
    assert_equal_states(attached, plain)
    attached.positions.requires_grad_(True)
    NVE(Spring(), dt=0.5).run(attached, 3)
    NVE(Spring(), dt=0.5).run(plain, 3)
    assert_equal_states(attached, plain)
