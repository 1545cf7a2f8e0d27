"""A model works on a view: whatever it flags or assigns in a forward, the state of a run stays as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from athanor.data import AtomicData, Batch
from athanor.dynamics import NVE, FailureCode, HostMemory, ZarrData
from athanor.dynamics.hooks import SnapshotHook
from athanor.errors import AthanorWarning, ModelOutputError
from athanor.models.base import BaseModelMixin, ModelConfig
from athanor.testing.dynamics_contract import argon_cluster
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
    batch = Batch.from_data_list([standard_systems()["cluster"]])
    batch.velocities = torch.zeros_like(batch.positions)
    return batch


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


class Uncertain(Spring):
    """Also tells how sure it is, of each atom and of each system, and what it learned."""

    def __init__(self, **config) -> None:
        nn.Module.__init__(self)
        names = {"energy", "forces", "spread", "doubt", "features", "loss", "volume", "pair_weights", "edge_embeddings"}
        self.model_config = ModelConfig(outputs=names, **config)

    def forward(self, data, **kwargs):
        positions = data.positions
        energy = (
            torch.zeros(data.num_graphs, 1).double().index_add(0, data.batch_idx, positions.square().sum(1)[:, None])
        )
        atoms = positions.square().sum(1).float()
        outputs = {"energy": 0.1 * energy, "forces": -0.2 * positions}
        outputs |= {"spread": atoms, "features": atoms[:, None] * torch.ones(3)}
        outputs |= {"loss": atoms.sum(), "volume": torch.ones(data.num_graphs)}
        outputs |= {"doubt": torch.zeros(data.num_graphs).index_add(0, data.batch_idx, atoms)}
        outputs |= {"pair_weights": torch.zeros(1000), "edge_embeddings": torch.zeros(1000, 2), "unasked": atoms}
        return outputs


def three_systems() -> Batch:
    return Batch.from_data_list([argon_cluster(count, count) for count in (2, 3, 5)])


def per_atom(batch: Batch) -> torch.Tensor:
    return batch.positions.square().sum(1).float()


def test_outputs_that_no_field_is_for_are_stored_as_declared_fields() -> None:
    batch = three_systems()
    NVE(Uncertain(), dt=1.0).run(batch, 3)
    assert torch.equal(batch.spread, per_atom(batch))
    assert batch.features.shape == (batch.num_nodes, 3)
    assert batch.field_spec("doubt").level == "system"
    assert batch.field_spec("spread").role == "result"
    names = {*batch.field_names("node"), *batch.field_names("system")}
    assert names.isdisjoint({"loss", "volume", "pair_weights", "edge_embeddings", "unasked"})
    assert set(NVE(Uncertain(), dt=1.0).compute(three_systems())) >= {"loss", "pair_weights"}
    assert torch.equal(batch[1].spread, per_atom(batch)[batch.batch_idx == 1])


def test_they_are_in_fused_runs_with_finished_systems_and_in_frames(tmp_path) -> None:
    model, sink = Uncertain(), ZarrData(tmp_path / "frames.zarr")
    memory = HostMemory(100)
    fused = NVE(model, dt=1.0, n_steps=2) + NVE(model, dt=0.5, n_steps=2)
    for store in (sink, memory):
        fused.register_hook(SnapshotHook(store))
    batch = three_systems()
    batch.status = torch.tensor([0, 1, 2])  # in the first stage, in the second, finished
    fused.run(batch)
    moved = batch.batch_idx < 2
    assert torch.equal(batch.spread[moved], per_atom(batch)[moved])
    assert batch.spread[~moved].isnan().all()  # never computed
    sink.close()
    for frames in (sink.read(), memory.read()):
        assert frames.field_spec("spread").level == "node"
        assert frames.field_spec("doubt").level == "system"
        moved = frames.batch_idx % 3 < 2
        assert torch.equal(frames.spread[moved], per_atom(frames)[moved])


@pytest.mark.filterwarnings("ignore:`(spread|features)` of Uncertain is left out")
def test_the_level_may_be_named_and_is_asked_for_where_rows_do_not_tell() -> None:
    single = Batch.from_data_list([one_atom(), one_atom()])
    with pytest.warns(
        AthanorWarning, match=r"`doubt` of Uncertain is left out: with 2 atoms in as many systems.*output"
    ) as said:
        NVE(Uncertain(), dt=1.0).run(single, 1)
    assert {one.filename for one in said} == {__file__}
    assert "doubt" not in single
    named = Uncertain(output_levels={"spread": "atom", "doubt": "system", "features": "node", "pair_weights": "edge"})
    NVE(named, dt=1.0).run(single, 1)
    assert (single.field_spec("spread").level, single.field_spec("doubt").level) == ("node", "system")


def one_atom() -> AtomicData:
    return AtomicData(atomic_numbers=torch.tensor([18]), positions=torch.ones(1, 3, dtype=torch.float64))


def test_an_output_that_is_not_asked_for_any_more_is_dropped_and_a_given_field_keeps_its_declaration() -> None:
    class Moody(Uncertain):
        says = True

        def forward(self, data, **kwargs):
            outputs = super().forward(data, **kwargs)
            return outputs if self.says else {name: outputs[name] for name in ("energy", "forces")}

    batch, model = three_systems(), Moody()
    batch.add_key("spread", [torch.zeros(count) for count in batch.num_nodes_list])
    NVE(model, dt=1.0).run(batch, 1)
    assert batch.spread.any()
    model.says = False
    NVE(model, dt=1.0).run(batch, 1)
    assert "doubt" not in batch
    assert "spread" in batch  # declared by the user as a property, which is kept


def test_an_output_of_the_wrong_shape_is_refused() -> None:
    class Wrong(Uncertain):
        def forward(self, data, **kwargs):
            return super().forward(data, **kwargs) | {"spread": torch.zeros(5, 5)}

    with pytest.raises(ModelOutputError, match=r"`spread` from Wrong has shape \(5, 5\); expected"):
        NVE(Wrong(output_levels={"spread": "node"}), dt=1.0).run(three_systems(), 1)


def test_results_of_a_failed_system_are_those_of_its_last_good_state_all_of_them() -> None:
    class Breaks(Uncertain):
        calls = 0

        def forward(self, data, **kwargs):
            self.calls += 1
            outputs = super().forward(data, **kwargs)
            if self.calls == 3:
                outputs["energy"] = outputs["energy"] + torch.tensor([[0.0], [torch.nan], [0.0]])[: data.num_graphs]
                outputs["spread"] = torch.full_like(outputs["spread"], 7.0)
            return outputs

    batch = three_systems()
    NVE(Breaks(), dt=1.0).run(batch, 5)
    assert batch.failure_code.flatten().tolist() == [0, FailureCode.ENERGY_NOT_FINITE, 0]
    assert torch.equal(batch.spread, per_atom(batch))
