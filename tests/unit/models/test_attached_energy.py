"""One backward pass for the energy of one model as for a sum of several, and second derivatives right or refused."""

from __future__ import annotations

import pytest
import torch
from ase.build import bulk
from torch import nn

from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.errors import ContractError, NotAvailableError
from athanor.models import pair_vectors
from athanor.models._utils import autograd_forces_and_stresses, prepare_strain
from athanor.models.base import BaseModelMixin, ModelConfig
from athanor.models.chgnet import CHGNetWrapper, gate
from athanor.models.chgnet.gate import plain_gated_rows
from athanor.models.demo import DemoModelWrapper, build_demo_model
from athanor.models.derivatives import energy_and_derivatives, strained_view
from athanor.models.lj import LennardJonesModelWrapper
from athanor.models.outputs import asking_for
from athanor.models.pipeline import PipelineGroup, PipelineModelWrapper
from athanor.neighbors import compute_neighbors
from athanor.testing.systems import moved, standard_systems

EVERYTHING = {"energy", "forces", "stress"}


class Spring(nn.Module, BaseModelMixin):
    """A spring from each atom to the origin, and a price for volume."""

    embedding_shapes: dict[str, tuple[int, ...]] = {}
    dtype = torch.float64

    def __init__(self) -> None:
        super().__init__()
        self.model_config = ModelConfig(outputs=EVERYTHING | {"charges"}, autograd_outputs={"forces", "stress"})

    def compute_embeddings(self, data, **kwargs):
        raise NotImplementedError

    def forward(self, data, **kwargs):
        return self.outputs_by_autograd(data)

    def attached_energy(self, data, strain, wanted):
        data = strained_view(data, strain)
        squares = data.positions.square().sum(1)
        energy = squares.new_zeros(len(data)).index_add(0, data.batch_idx, squares)
        return {"energy": (energy + 0.1 * data.volume).unsqueeze(1), "charges": data.positions[:, 0]}


class Cut(Spring):
    """A broken twin: its energy has lost its graph."""

    def attached_energy(self, data, strain, wanted):
        return {"energy": super().attached_energy(data, strain, wanted)["energy"].detach()}


def lennard_jones() -> LennardJonesModelWrapper:
    model = LennardJonesModelWrapper(epsilon=0.3, sigma=2.5, cutoff=6.0, switch_width=1.0)
    model.model_config.active_outputs = set(EVERYTHING)
    return model


def salt_batch() -> Batch:
    systems = standard_systems(distance=2.9, elements=(11, 17))
    batch = Batch.from_data_list([systems["left-handed"], systems["tiny cell"], systems["cluster"]])
    compute_neighbors(batch, 6.0)
    return batch


class CountBackward(torch.autograd.Function):
    """The identity; notes each time something is differentiated through it."""

    passes: list[int] = []

    @staticmethod
    def forward(ctx, energy):
        return energy.clone()

    @staticmethod
    def backward(ctx, gradient):
        CountBackward.passes.append(len(gradient))
        return gradient


def counted(model):
    """Return `model` with an energy that notes backward passes."""
    attached = model.attached_energy

    def with_count(data, strain, wanted):
        outputs = attached(data, strain, wanted)
        return {**outputs, "energy": CountBackward.apply(outputs["energy"])}

    model.attached_energy = with_count
    return model


def together(*models) -> PipelineModelWrapper:
    """Return the pipeline that differentiates the summed energy of `models` once."""
    pipeline = PipelineModelWrapper([PipelineGroup([*models], use_autograd=True)])
    pipeline.model_config.active_outputs = set(EVERYTHING)
    return pipeline


def check_sum(*models) -> None:
    """The summed energy, differentiated once, has the summed derivatives of the models by themselves."""
    batch = salt_batch()
    single = [model(batch) for model in models]
    CountBackward.passes.clear()
    total = together(*(counted(model) for model in models))(batch)
    assert CountBackward.passes == [3] * len(models)
    for name in EVERYTHING:
        expected = sum(outputs[name] for outputs in single)
        torch.testing.assert_close(total[name], expected, rtol=1e-11, atol=1e-11, msg=name)
        assert not total[name].requires_grad
    assert float(total["stress"][:2].abs().max()) > 1e-3
    assert torch.equal(total["stress"][2], torch.zeros(3, 3, dtype=torch.float64))
    assert not batch.positions.requires_grad


def test_a_sum_of_two_models_takes_one_backward_pass() -> None:
    check_sum(Spring(), lennard_jones())


def test_other_outputs_come_along() -> None:
    batch = salt_batch()
    pipeline = together(Spring(), lennard_jones())
    pipeline.model_config.active_outputs = {"energy", "charges"}
    total = pipeline(batch)
    assert torch.equal(total["charges"], batch.positions[:, 0])
    assert set(total) == {"energy", "charges"}


@pytest.mark.chgnet
def test_chgnet_in_a_sum() -> None:
    model = CHGNetWrapper.from_checkpoint(dtype=torch.float64)
    model.model_config.active_outputs = set(EVERYTHING)
    check_sum(model, lennard_jones())


def test_the_sum_of_different_precisions_has_the_wider_one() -> None:
    batch = salt_batch()
    models = [build_demo_model(hidden_dim=8), lennard_jones()]
    pipeline = together(*models)
    pipeline.model_config.active_outputs = {"energy", "forces"}
    total = pipeline(batch)
    assert {value.dtype for value in total.values()} == {torch.float64}
    assert models[0](batch)["forces"].dtype == torch.float32


def test_lennard_jones_alone_is_the_derivative_of_its_energy() -> None:
    batch, model = salt_batch(), lennard_jones()
    once = energy_and_derivatives(model, batch, EVERYTHING)
    for name, value in model(batch).items():
        torch.testing.assert_close(once[name], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [Spring, lennard_jones])
def test_positions_and_cells_of_the_caller_may_carry_a_strain(kind) -> None:
    check_callers_strain(kind())


@pytest.mark.chgnet
def test_positions_and_cells_that_chgnet_gets_may_carry_a_strain() -> None:
    model = CHGNetWrapper.from_checkpoint(dtype=torch.float64)
    model.model_config.active_outputs = set(EVERYTHING)
    check_callers_strain(model)


def check_callers_strain(model) -> None:
    """The guide's strain trick, done by the caller, gives the forces and the stress of the model."""
    batch = salt_batch()
    expected = model(batch)
    positions = batch.positions.clone().requires_grad_(True)
    strained, cells, strain = prepare_strain(positions, batch.cell, batch.batch_idx)
    view = batch.shallow_view()
    view.positions, view.cell = strained, cells
    model.model_config.active_outputs = {"energy"}
    energy = model(view)["energy"]
    forces, stress = autograd_forces_and_stresses(energy, strained, strain, batch.cell, 3)
    torch.testing.assert_close(forces, expected["forces"], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(stress, expected["stress"], rtol=1e-11, atol=1e-11)


def test_an_energy_without_graph_is_refused_by_name() -> None:
    batch = salt_batch()
    with pytest.raises(ContractError, match="The energy of Cut is not attached to the positions"):
        together(Spring(), Cut())(batch)
    assert set(energy_and_derivatives(Cut(), batch, {"energy"})) == {"energy"}


def test_a_model_that_leaves_its_derivatives_to_us_must_give_its_energy() -> None:
    class Own(Spring):
        attached_energy = BaseModelMixin.attached_energy

    with pytest.raises(ContractError, match="Own does not define `attached_energy`"):
        Own()(salt_batch())


# --------------------------------------------------------------------------------------------------- second derivatives


def hessian_of(model, batch: Batch) -> torch.Tensor:
    """The guide's recipe."""

    def energy_of(positions: torch.Tensor) -> torch.Tensor:
        batch.positions = positions
        return model(batch)["energy"].sum()

    return torch.autograd.functional.hessian(energy_of, batch.positions)


def slopes_of_forces(model, batch: Batch, step: float = 1e-4) -> torch.Tensor:
    """Minus the derivative of forces by central differences, [N, 3, N, 3] like the Hessian."""
    columns = []
    for place in range(batch.positions.numel()):
        sides = []
        for sign in (1.0, -1.0):
            displaced = batch.clone()
            displaced.positions.view(-1)[place] += sign * step
            sides.append(model(displaced)["forces"].detach())
        columns.append((sides[1] - sides[0]) / (2.0 * step))
    return torch.stack(columns, dim=-1).view(*batch.positions.shape, *batch.positions.shape)


@pytest.mark.parametrize("training", [False, True])
def test_the_hessian_of_the_demo_model_is_right(training: bool) -> None:
    model: DemoModelWrapper = build_demo_model(hidden_dim=8).double().train(training)
    cluster = standard_systems()["cluster"]  # away from the origin, where the model is all but singular
    batch = Batch.from_data_list([moved(cluster, cluster.positions + torch.tensor([2.0, 3.0, 4.0]))])
    expected = slopes_of_forces(model, batch.clone())
    hessian = hessian_of(model, batch)
    assert float(hessian.abs().max()) > 1e-3
    torch.testing.assert_close(hessian, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def chgnet() -> CHGNetWrapper:
    model = CHGNetWrapper.from_checkpoint(dtype=torch.float64)
    model.model_config.active_outputs = set(EVERYTHING)
    return model


CRYSTALS = {"Si2": ("Si", "diamond", 5.43), "NaCl": ("NaCl", "rocksalt", 5.64)}


def crystal(name: str, jitter: float) -> Batch:
    """A primitive cell, its atoms at rest or a little off their sites."""
    atoms = bulk(*CRYSTALS[name])
    generator = torch.Generator().manual_seed(3)
    atoms.positions += jitter * torch.randn(2, 3, generator=generator, dtype=torch.float64).numpy()
    batch = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64)])
    compute_neighbors(batch, 6.0)
    return batch


def check_hessian(model, batch: Batch) -> None:
    """The guide's recipe gives what central differences of the forces do: at 1e-5 Å they are right to 2e-5 eV/Å²."""
    with asking_for(model, {"forces"}):
        expected = slopes_of_forces(model, batch.clone(), step=1e-5)
    found = hessian_of(model, batch)
    assert float(found.abs().max()) > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(found, found.permute(2, 3, 0, 1), rtol=1e-11, atol=1e-11)


@pytest.mark.chgnet
@pytest.mark.parametrize("jitter", [0.0, 0.05])
@pytest.mark.parametrize("name", CRYSTALS)
def test_the_hessian_of_chgnet_is_right(name: str, jitter: float) -> None:
    check_hessian(chgnet(), crystal(name, jitter))


@pytest.mark.chgnet
def test_the_hessian_of_a_batch_is_right() -> None:
    model = chgnet()
    model.model_config.active_outputs = {"energy"}
    check_hessian(model, salt_batch())


def without_weight(gate, plan, dense, weight, *tables):
    return plain_gated_rows(gate, plan, dense, None, *tables)


def entangled(tensor: torch.Tensor, *_) -> torch.Tensor:
    return tensor


@pytest.mark.chgnet
@pytest.mark.parametrize("broken", ["weight", "nodes"])
def test_broken_twins_of_the_network_have_another_hessian(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One forgets the weight of messages in the plain formula, one differentiates through earlier layers twice."""
    if broken == "weight":
        monkeypatch.setattr(gate, "plain_gated_rows", without_weight)
    else:
        monkeypatch.setattr(torch.Tensor, "view_as", entangled)
    with pytest.raises((AssertionError, RuntimeError)):
        check_hessian(chgnet(), crystal("Si2", 0.05))


@pytest.mark.chgnet
def test_first_derivatives_are_the_same_when_second_ones_are_possible() -> None:
    model, batch = chgnet(), salt_batch()
    expected = model(batch)
    batch.positions = batch.positions.clone().requires_grad_(True)
    outputs = model(batch)
    for name in EVERYTHING:
        torch.testing.assert_close(outputs[name].detach(), expected[name], rtol=1e-12, atol=1e-12, msg=name)
    assert outputs["forces"].requires_grad


def check_mixed_derivatives(model, output: str, by: str) -> None:
    """Derivatives of forces and stress by positions and cells along a direction are differences of them."""
    batch, step = salt_batch(), 1e-5
    generator = torch.Generator().manual_seed(5)
    along = torch.randn(batch[by].shape, generator=generator, dtype=torch.float64) * (batch[by] != 0)
    weights = torch.randn(model(batch)[output].shape, generator=generator, dtype=torch.float64)
    start = batch[by].clone()

    def value_at(place: torch.Tensor) -> torch.Tensor:
        batch[by] = place
        return (model(batch)[output] * weights).sum()

    leaf = start.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(value_at(leaf), leaf)
    difference = float(value_at(start + step * along) - value_at(start - step * along)) / (2.0 * step)
    assert abs(difference) > 1e-2
    assert float((slope * along).sum()) == pytest.approx(difference, rel=1e-5)


@pytest.mark.chgnet
@pytest.mark.parametrize("output", ["energy", "forces", "stress"])
@pytest.mark.parametrize("by", ["positions", "cell"])
def test_derivatives_of_chgnets_forces_and_stress_are_right(output: str, by: str) -> None:
    check_mixed_derivatives(chgnet(), output, by)


@pytest.mark.chgnet
@pytest.mark.parametrize("output", ["energy", "stress"])
def test_a_broken_twin_that_forgets_the_images_has_other_ones(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_vectors, "_images", lambda vectors, *_: torch.zeros_like(vectors))
    with pytest.raises(AssertionError):
        check_mixed_derivatives(chgnet(), output, "cell")


@pytest.mark.chgnet
def test_every_way_of_torch_to_second_derivatives_of_chgnet_agrees() -> None:
    model, batch = chgnet(), crystal("NaCl", 0.05)
    expected = hessian_of(model, batch.clone())
    start, along = batch.positions.clone(), torch.randn(2, 3, generator=torch.Generator().manual_seed(1)).double()
    product = torch.tensordot(expected, along, 2)

    def energy_of(positions: torch.Tensor) -> torch.Tensor:
        batch.positions = positions
        return model(batch)["energy"].sum()

    functional = torch.autograd.functional
    for found in (functional.hvp(energy_of, start, along)[1], functional.vhp(energy_of, start, along)[1]):
        torch.testing.assert_close(found, product, rtol=1e-10, atol=1e-10)
    slopes = functional.jacobian(lambda positions: functional.jacobian(energy_of, positions, create_graph=True), start)
    torch.testing.assert_close(slopes, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.chgnet
@pytest.mark.parametrize("magnitude", [1.0, -1.0])
def test_magnetic_moments_have_their_derivative(magnitude: float) -> None:
    """It is a first derivative; the broken twin has the wrong sign."""
    atoms = bulk("Fe", a=2.87, cubic=True)
    atoms.positions[0] += (0.1, 0.05, -0.07)
    model = chgnet()
    model.model_config.active_outputs = {"magmoms"}
    batch = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64)])
    compute_neighbors(batch, 6.0)

    def moment_of(positions: torch.Tensor) -> torch.Tensor:
        batch.positions = positions
        return model(batch)["magmoms"][1]

    start = batch.positions.clone()
    slope = magnitude * torch.autograd.functional.jacobian(moment_of, start)
    step = torch.zeros_like(start)
    step[0, 1] = 1e-5
    difference = float(moment_of(start + step) - moment_of(start - step)) / 2e-5
    assert abs(difference) > 1e-2
    assert (float(slope[0, 1]) == pytest.approx(difference, rel=1e-5)) is (magnitude > 0)


def test_the_hessian_of_lennard_jones_is_right() -> None:
    model, batch = lennard_jones(), salt_batch()
    expected = slopes_of_forces(model, batch.clone())
    torch.testing.assert_close(hessian_of(model, batch), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("output", ["forces", "stress"])
@pytest.mark.parametrize("by", ["positions", "cell"])
def test_forces_and_stress_of_lennard_jones_are_differentiable(output: str, by: str) -> None:
    model, batch = lennard_jones(), salt_batch()
    model.model_config.active_outputs = set(EVERYTHING)

    def output_of(given: torch.Tensor) -> torch.Tensor:
        setattr(batch, by, given)
        return model(batch)[output].square().sum()

    start, along, step = batch[by].clone(), torch.ones_like(batch[by]), 1e-5
    along.view(-1)[::2] = -1.0
    slope = torch.autograd.functional.jacobian(output_of, start)
    difference = (output_of(start + step * along) - output_of(start - step * along)) / (2.0 * step)
    assert float(difference.abs()) > 1e-3
    torch.testing.assert_close((slope * along).sum(), difference, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # by torch's forward mode
@pytest.mark.parametrize("output", ["energy", "forces", "stress"])
def test_forward_mode_through_lennard_jones_is_refused(output: str) -> None:
    """Torch's rule for an operation without one would give zero."""
    model, batch = lennard_jones(), salt_batch()
    model.model_config.active_outputs = set(EVERYTHING)

    def output_of(given: torch.Tensor) -> torch.Tensor:
        batch.positions = given
        return model(batch)[output].square().sum()

    with pytest.raises(NotAvailableError, match="forward mode"):
        torch.func.jvp(output_of, (batch.positions,), (torch.ones_like(batch.positions),))


@pytest.mark.chgnet
def test_forward_mode_through_chgnet_is_refused() -> None:
    model, batch = chgnet(), salt_batch()

    def energy_of(positions: torch.Tensor) -> torch.Tensor:
        batch.positions = positions
        return model(batch)["energy"].sum()

    with pytest.raises(NotAvailableError, match="forward mode"):
        torch.func.jvp(energy_of, (batch.positions,), (torch.ones_like(batch.positions),))


@pytest.mark.chgnet
def test_many_directions_at_once_are_refused_with_a_way_out() -> None:
    model, batch = chgnet(), crystal("NaCl", 0.05)

    def energy_of(positions: torch.Tensor) -> torch.Tensor:
        batch.positions = positions
        return model(batch)["energy"].sum()

    with pytest.raises(NotAvailableError, match=r"one direction at a time. Leave out `vectorize=True`"):
        torch.autograd.functional.hessian(energy_of, batch.positions, vectorize=True)


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.hessian, torch.func.jacrev])
def test_transforms_of_torch_func_are_refused_with_a_way_out(transform) -> None:
    model, batch = build_demo_model(hidden_dim=8).double(), salt_batch()

    def energy_of(positions: torch.Tensor) -> torch.Tensor:
        batch.positions = positions
        return model(batch)["energy"].sum()

    with pytest.raises(
        NotAvailableError, match=r"not by transforms of `torch.func`.*athanor.models.hessian\(model, batch"
    ):
        transform(energy_of)(batch.positions)
