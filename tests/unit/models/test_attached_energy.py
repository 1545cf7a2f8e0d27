"""One backward pass for the energy of one model as for a sum of several, and second derivatives right or refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from athanor.data.batch import Batch
from athanor.errors import ContractError, NotAvailableError
from athanor.models._utils import autograd_forces_and_stresses, prepare_strain
from athanor.models.base import BaseModelMixin, ModelConfig
from athanor.models.chgnet import CHGNetWrapper
from athanor.models.demo import DemoModelWrapper, build_demo_model
from athanor.models.derivatives import energy_and_derivatives, strained_view
from athanor.models.lj import LennardJonesModelWrapper
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
        return self._outputs_by_autograd(data)

    def _attached_energy(self, data, strain, wanted):
        data = strained_view(data, strain)
        squares = data.positions.square().sum(1)
        energy = squares.new_zeros(len(data)).index_add(0, data.batch_idx, squares)
        return {"energy": (energy + 0.1 * data.volume).unsqueeze(1), "charges": data.positions[:, 0]}


class Cut(Spring):
    """A broken twin: its energy has lost its graph."""

    def _attached_energy(self, data, strain, wanted):
        return {"energy": super()._attached_energy(data, strain, wanted)["energy"].detach()}


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
    attached = model._attached_energy

    def with_count(data, strain, wanted):
        outputs = attached(data, strain, wanted)
        return {**outputs, "energy": CountBackward.apply(outputs["energy"])}

    model._attached_energy = with_count
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
        _attached_energy = BaseModelMixin._attached_energy

    with pytest.raises(ContractError, match="Own does not define `_attached_energy`"):
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


@pytest.mark.chgnet
@pytest.mark.parametrize("active", [{"energy"}, EVERYTHING])
def test_the_hessian_of_chgnet_is_refused_by_name(active: set[str]) -> None:
    model = CHGNetWrapper.from_checkpoint()
    model.model_config.active_outputs = set(active)
    with pytest.raises(
        NotAvailableError, match=r"CHGNet gives first derivatives only.*Take differences of its `forces`"
    ):
        hessian_of(model, salt_batch())


@pytest.mark.chgnet
def test_the_derivative_of_chgnets_forces_is_refused_too() -> None:
    model, batch = CHGNetWrapper.from_checkpoint(), salt_batch()
    expected = model(batch)
    batch.positions = batch.positions.clone().requires_grad_(True)
    outputs = model(batch)
    torch.testing.assert_close(outputs["forces"].detach(), expected["forces"], rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(outputs["energy"].sum(), batch.positions, retain_graph=True)
    torch.testing.assert_close(-gradient, expected["forces"], rtol=1e-5, atol=1e-5)
    with pytest.raises(NotAvailableError, match="CHGNet"):
        torch.autograd.grad(outputs["forces"].square().sum(), batch.positions)


def test_the_hessian_of_lennard_jones_is_refused_by_name() -> None:
    with pytest.raises(NotAvailableError, match="`lennard_jones` has no second derivative"):
        hessian_of(lennard_jones(), salt_batch())


MODELS = {
    "chgnet": pytest.param(lambda: CHGNetWrapper.from_checkpoint(), marks=pytest.mark.chgnet, id="chgnet"),
    "lennard-jones": pytest.param(lambda: lennard_jones(), id="lennard-jones"),
}


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # by torch's forward mode
@pytest.mark.parametrize("make_model", MODELS.values())
@pytest.mark.parametrize("output", ["energy", "forces", "stress"])
@pytest.mark.parametrize("by", ["positions", "cell"])
def test_no_way_to_a_second_derivative_gives_zeros(make_model, output: str, by: str) -> None:
    model, batch = make_model(), salt_batch()
    model.model_config.active_outputs = set(EVERYTHING)

    def output_of(given: torch.Tensor) -> torch.Tensor:
        setattr(batch, by, given)
        return model(batch)[output].square().sum()

    start, along = batch[by], torch.ones_like(batch[by])
    functional = torch.autograd.functional
    ways = [
        lambda: functional.hessian(output_of, start),
        lambda: functional.hvp(output_of, start, along),
        lambda: functional.vhp(output_of, start, along),
        lambda: torch.func.jvp(output_of, (start,), (along,)),  # the first derivative, but torch's rule would be zero
    ]
    if output != "energy":
        ways.append(lambda: functional.jacobian(output_of, start))
    for way in ways:
        with pytest.raises(NotAvailableError, match=r"second|forward mode"):
            way()


@pytest.mark.chgnet
def test_the_network_of_chgnet_alone_has_no_second_derivative() -> None:
    """Torch's own guard looks at the gradient that comes in, which is constant where a layer is linear."""
    model = CHGNetWrapper.from_checkpoint()
    inputs = model.adapt_input(salt_batch())
    vectors = inputs["vectors"].clone()
    with pytest.raises(NotAvailableError, match="network of CHGNet"):
        torch.autograd.functional.hessian(
            lambda given: model.model(**{**inputs, "vectors": given}).atomic_energies.sum(), vectors
        )


@pytest.mark.chgnet
def test_embeddings_have_their_derivative() -> None:
    model, batch = CHGNetWrapper.from_checkpoint(dtype=torch.float64), salt_batch()

    def feature(positions: torch.Tensor) -> torch.Tensor:
        batch.positions = positions
        return model.compute_embeddings(batch).node_embeddings[0].sum()

    start = batch.positions.clone()
    slope = torch.autograd.functional.jacobian(feature, start)
    step = torch.zeros_like(start)
    step[1, 2] = 1e-4
    difference = float(feature(start + step) - feature(start - step)) / 2e-4
    assert difference == pytest.approx(float(slope[1, 2]), rel=1e-4)
    assert abs(difference) > 1e-3
    feature(start)
    assert not batch.node_embeddings.requires_grad
