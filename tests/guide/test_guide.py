"""The code of the user guide runs here after ``nvalchemi`` is replaced by ``athanor``.

``blocks/*.txt`` holds the code as the guide prints it; a test supplies the names that the page leaves open and checks
the shapes that it states.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from athanor._typing import ModelOutputs
from athanor.data import AtomicData, Batch
from athanor.dynamics import NVE, DemoDynamics
from athanor.hooks import DynamicsStage
from athanor.models.base import BaseModelMixin, ModelConfig
from athanor.models.demo import DemoModel, build_demo_model
from athanor.models.derivatives import strained_view
from athanor.models.ewald import EwaldModelWrapper
from athanor.models.lj import LennardJonesModelWrapper
from athanor.models.pipeline import PipelineGroup, PipelineModelWrapper
from athanor.neighbors import compute_neighbors
from athanor.testing.systems import fcc_crystal

BLOCKS = Path(__file__).parent / "blocks"


def source(name: str) -> str:
    """Return the code of a block, for athanor."""

    text = (BLOCKS / f"{name}.txt").read_text(encoding="utf-8")
    assert "athanor" not in text
    return text.replace("nvalchemi", "athanor")


def run(*names: str, **given: Any) -> dict[str, Any]:
    """Run blocks one after the other in one namespace that starts with `given`, and return it."""
    namespace = dict(given)
    for name in names:
        exec(compile(source(name), f"{name}.txt", "exec"), namespace)
    return namespace


def class_with(*names: str, bases: str, **given: Any) -> type:
    """Return a class whose body is the given blocks."""
    body = "\n".join(textwrap.indent(source(name), "    ") for name in names)
    namespace: dict[str, Any] = {
        "torch": torch,
        "nn": nn,
        "Any": Any,
        "Path": Path,
        "AtomicData": AtomicData,
        "Batch": Batch,
        "ModelOutputs": ModelOutputs,
        "BaseModelMixin": BaseModelMixin,
        "ModelConfig": ModelConfig,
        "DemoModel": DemoModel,
        **given,
    }
    exec(compile(f"class Guide({bases}):\n{body}", "+".join(names), "exec"), namespace)
    return namespace["Guide"]


def molecules(count: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.tensor([6, 6, 8, 1, 1])
    positions = [torch.randn(5, 3, generator=generator) for _ in range(count)]
    return Batch.from_data_list([AtomicData(positions=place, atomic_numbers=numbers) for place in positions])


def crystal() -> Batch:
    return Batch.from_data_list([fcc_crystal(3.8, jitter=0.05, repeat=(2, 2, 2))])


def test_model_config() -> None:
    configs = run("model_config", configs=[])["configs"]
    assert [config.needs_neighborlist for config in configs] == [True, True, True, False]
    for config in configs:
        assert config.active_outputs == config.outputs
        assert ModelConfig.model_validate_json(config.model_dump_json()) == config


def test_active_outputs() -> None:
    returned = []

    class MyWrapper(LennardJonesModelWrapper):
        def __init__(self):
            super().__init__(0.01, 3.4, 6.0)

        def forward(self, data, **kwargs):
            outputs = super().forward(data, **kwargs)
            returned.append(set(outputs))
            return outputs

    batch = crystal()
    compute_neighbors(batch, 6.0)
    model = run("active_outputs", MyWrapper=MyWrapper, batch=batch)["model"]
    assert returned == [{"energy", "forces"}, {"energy"}, {"energy", "forces", "stress"}]
    assert set(model(batch)) == {"energy", "forces", "stress"}


def test_embedding_stubs() -> None:
    kind = class_with("demo_step2_init", "embedding_stubs", bases="nn.Module, BaseModelMixin")
    model = kind(DemoModel())
    assert model.embedding_shapes == {}
    with pytest.raises(NotImplementedError, match="No embeddings"):
        model.compute_embeddings(molecules())
    kind = class_with("demo_step2_init", "demo_step3_shapes", "demo_step6_stub", bases="nn.Module, BaseModelMixin")
    with pytest.raises(NotImplementedError, match="No embeddings"):
        kind(DemoModel()).compute_embeddings(molecules())


def test_demo_wrapper_step_by_step(tmp_path: Path) -> None:
    kind = run("demo_step1_class", DemoModel=DemoModel)["DemoModelWrapper"]
    with pytest.raises(TypeError, match="abstract"):
        kind(DemoModel())

    class Parts(nn.Module):
        """What the page takes for granted: the layers of the model seen on the wrapper."""

        hidden_dim = 64
        dtype = torch.float32
        embedding = property(lambda self: self.model.embedding)
        coord_embedding = property(lambda self: self.model.coord_embedding)
        joint_mlp = property(lambda self: self.model.joint_mlp)

    kind = class_with(
        "demo_step2_init",
        "demo_step3_shapes",
        "demo_step4_input",
        "demo_step5_output",
        "demo_step6_embeddings",
        "demo_step7_forward",
        bases="Parts, BaseModelMixin",
        Parts=Parts,
    )
    model, batch = kind(DemoModel()), molecules(2)
    outputs = model(batch)
    assert outputs["energy"].shape == (2, 1)
    assert outputs["forces"].shape == (10, 3)
    with torch.no_grad():
        assert model.compute_embeddings(batch) is batch
    assert batch.node_embeddings.shape == (10, 64)
    assert batch.graph_embeddings.shape == (2, 64)
    single = molecules().get_data(0)
    assert model(single)["energy"].shape == (1, 1)
    model.model_config.active_outputs = {"energy"}
    assert list(model(batch)) == ["energy"]
    model.model_config.active_outputs = {"energy", "forces"}
    with pytest.raises(KeyError, match="forces"):
        model.adapt_output({"energy": torch.ones(2, 1)}, batch)

    exporting = class_with(
        "demo_step3_shapes", "demo_step6_stub", "demo_step8_export", bases="DemoModel, BaseModelMixin"
    )

    def with_config(self) -> None:
        DemoModel.__init__(self)
        self.model_config = ModelConfig(outputs={"energy", "forces"})

    exporting.__init__ = with_config
    model = exporting()
    for as_state_dict in (True, False):
        model.export_model(tmp_path / "model.pt", as_state_dict=as_state_dict)
        loaded = torch.load(tmp_path / "model.pt", weights_only=as_state_dict)
        weights = loaded if as_state_dict else loaded.state_dict()
        assert torch.equal(weights["projection.weight"], model.projection.weight)


def test_complete_wrapper() -> None:
    names = run("complete_wrapper", "complete_wrapper_usage")
    assert names["outputs"]["energy"].shape == (1, 1)
    assert names["outputs"]["forces"].shape == (5, 3)
    model, batch = names["model"], molecules()
    batch.positions = batch.positions.detach()
    assert model(names["data"])["energy"].shape == (1, 1)
    assert model.compute_embeddings(batch) is batch
    assert batch.node_embeddings.shape == (5, 128)


def test_helpers() -> None:
    names = run("helper_imports")
    assert {"autograd_forces", "autograd_stresses", "prepare_strain", "sum_outputs"} <= set(names)


class Spring(nn.Module):
    """Energy of each system: sum of r⁴, and what volume costs."""

    def forward(self, positions, cell=None, *rest, **others):
        per_atom = positions.square().sum(1).square()
        if cell is None:
            return {"energy": per_atom.sum().reshape(1)}
        return per_atom.sum().reshape(1) + 0.01 * torch.linalg.det(cell).abs()


def test_autograd_forces() -> None:
    kind = class_with("demo_step2_init", "embedding_stubs", "autograd_forces", bases="nn.Module, BaseModelMixin")
    batch = molecules()
    outputs = kind(Spring())(batch)
    assert outputs["energy"].shape == (1, 1)
    r = batch.positions.detach()
    torch.testing.assert_close(outputs["forces"], -4.0 * r * r.square().sum(1, keepdim=True))


def test_prepare_strain() -> None:
    """The page divides by minus the volume: the older sign, compression positive."""
    forward = run("prepare_strain", torch=torch)["forward"]
    kind = class_with("embedding_stubs", bases="nn.Module, BaseModelMixin")

    def init(self) -> None:
        nn.Module.__init__(self)
        self.model = Spring()
        self.model_config = ModelConfig(outputs={"energy", "forces", "stress"}, autograd_outputs={"forces", "stress"})

    kind.__init__, kind.forward = init, forward
    model, batch = kind(), Batch.from_data_list([fcc_crystal(3.8)])
    batch.positions.requires_grad_(True)
    outputs = model(batch)
    assert outputs["forces"].shape == (4, 3)
    assert outputs["stress"].shape == (1, 3, 3)
    cell, step, place = batch.cell, 1e-5, batch.positions.detach()
    for row, column in ((0, 0), (1, 2)):
        energies = []
        for sign in (1.0, -1.0):
            strain = torch.eye(3, dtype=torch.float64)
            strain[row, column] += 0.5 * sign * step
            strain[column, row] += 0.5 * sign * step
            energies.append(float(Spring()(place @ strain, cell @ strain)))
        slope = (energies[0] - energies[1]) / (2 * step) / float(torch.linalg.det(cell[0]))
        assert float(outputs["stress"][0, row, column]) == pytest.approx(-slope, rel=1e-6, abs=1e-7)
    model.model_config.active_outputs = {"energy", "forces"}
    torch.testing.assert_close(model(batch)["forces"], outputs["forces"])


@pytest.mark.parametrize("training", [False, True])
def test_hessian(training: bool) -> None:
    model = build_demo_model(hidden_dim=8).train(training)
    hessian = run("hessian", torch=torch, model=model, data=molecules())["hessian"]
    assert hessian.shape == (5, 3, 5, 3)
    torch.testing.assert_close(hessian, hessian.permute(2, 3, 0, 1), rtol=1e-3, atol=1e-4)


def test_born_charges() -> None:
    data = molecules()
    charges = torch.tensor([0.1, 0.2, -0.5, 0.1, 0.1])

    def model_dipoles(pos):
        return (charges[:, None] * pos).sum(0, keepdim=True)

    def model(batch):
        return {"dipole": model_dipoles(batch.positions)}

    names = run("born_charges", torch=torch, model=model, model_dipoles=model_dipoles, data=data)
    assert names["dipoles"].shape == (1, 3)
    assert names["Z_star"].shape == (1, 3, 5, 3)
    torch.testing.assert_close(names["Z_star"][0, 1, :, 1], charges)


def test_both_ways_to_register_the_neighbor_hook_are_equivalent() -> None:
    found = []
    for block in ("neighbor_hooks_made", "neighbor_hooks_manual"):
        model = LennardJonesModelWrapper(0.0104, 3.4, 6.0, switch_width=1.0)
        batch, dynamics = crystal(), NVE(model, dt=2.0, n_steps=40, start_temperature=30.0)
        run(block, model=model, dynamics=dynamics, DynamicsStage=DynamicsStage)
        dynamics.run(batch)
        found.append((batch.energy.clone(), batch.positions.clone()))
    torch.testing.assert_close(found[0], found[1], rtol=0.0, atol=1e-12)
    hook = LennardJonesModelWrapper(0.0104, 3.4, 6.0).make_neighbor_hooks()[0]
    assert hook.stage is None
    NVE(model, dt=2.0, hooks=[hook])  # its own default does as well


class AIMNet2(nn.Module, BaseModelMixin):
    """Predicts charges, neutral in each system; `tests/models_apart/test_aimnet2.py` has the network of that name."""

    embedding_shapes: ClassVar[dict] = {}

    def __init__(self) -> None:
        super().__init__()
        outputs = {"energy", "forces", "stress", "charges"}
        self.model_config = ModelConfig(
            outputs=outputs,
            autograd_outputs={"forces", "stress"},
            active_outputs=outputs - {"stress"},
            supports_pbc=True,
        )

    def compute_embeddings(self, data, **kwargs):
        raise NotImplementedError

    def forward(self, data, **kwargs):
        return self.outputs_by_autograd(data)

    def attached_energy(self, data, strain, wanted):
        view, system = strained_view(data, strain), data.batch_idx
        charges = view.positions.tanh()[:, 0]
        mean = charges.new_zeros(len(data)).index_add(0, system, charges) / data.num_nodes_per_graph
        energy = charges.new_zeros(len(data)).index_add(0, system, charges.square())
        return {"energy": energy[:, None], "charges": charges - mean[system]}


def test_plus() -> None:
    names, batch = run("plus"), crystal()
    batch.charges = torch.linspace(-1.0, 1.0, batch.num_nodes, dtype=batch.dtype)
    combined = names["combined"]
    (hook,) = combined.make_neighbor_hooks()
    compute_neighbors(batch, config=hook.config)
    outputs = combined(batch)
    for key in ("energy", "forces"):
        assert torch.equal(outputs[key], names["lj"](batch)[key] + names["ewald"](batch)[key])
    assert len((combined + names["lj"]).groups) == 3


def test_autograd_groups() -> None:
    batch = crystal()
    aimnet2, ewald = AIMNet2(), EwaldModelWrapper(8.0)
    compute_neighbors(batch, config=ewald.model_config.neighbor_config)
    given = {"PipelineModelWrapper": PipelineModelWrapper, "PipelineGroup": PipelineGroup, "batch": batch}
    names = run("autograd_group", aimnet2=aimnet2, ewald=ewald, **given)
    assert set(names["out"]) == {"energy", "forces", "stress"}
    assert "charges" not in batch

    def compute_chunked_hessian(energy, positions):
        (slope,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
        return torch.stack([torch.autograd.grad(part, positions, retain_graph=True)[0] for part in slope.reshape(-1)])

    given |= {"torch": torch, "compute_chunked_hessian": compute_chunked_hessian}
    own = run("my_derivatives", "derivative_function", aimnet2=aimnet2, ewald=ewald, **given)
    assert set(own["out"]) == {"energy", "forces", "hessian"}
    torch.testing.assert_close(own["out"]["forces"], names["out"]["forces"], rtol=1e-11, atol=1e-11)
    hessian = own["out"]["hessian"].view(batch.num_nodes * 3, batch.num_nodes * 3)
    torch.testing.assert_close(hessian, hessian.T, rtol=1e-9, atol=1e-9)
    assert float(hessian.abs().max()) > 1e-3


def test_dynamics() -> None:
    names = run("complete_wrapper", "complete_wrapper_usage", "dynamics")
    batch = names["batch"]
    assert batch.forces.shape == (5, 3)
    assert float(batch.forces.abs().max()) > 0.0
    assert batch.step.flatten().tolist() == [1000]
    assert not batch.positions.requires_grad


def test_snapshot_hook() -> None:
    torch.manual_seed(0)
    model = run("complete_wrapper")["MyPotentialWrapper"](hidden_dim=8)
    names = run("snapshot_hook", DemoDynamics=DemoDynamics, model=model, batch=molecules())
    assert names["hook"].stage is DynamicsStage.AFTER_STEP
    assert len(names["sink"]) == 100
    assert names["trajectory"].num_graphs == 100
    assert names["trajectory"].step.flatten().tolist() == list(range(1, 1000, 10))
    kind = names["SnapshotHook"]
    assert (kind(names["sink"], 3).frequency, kind(names["sink"]).frequency) == (3, 1)


def test_every_block_is_used() -> None:
    """Every file of `blocks/` is named in a test of this file."""
    here = Path(__file__).read_text(encoding="utf-8")
    names = {path.stem for path in BLOCKS.glob("*.txt")}
    assert len(names) >= 20
    assert {name for name in names if f'"{name}"' not in here} == set()
