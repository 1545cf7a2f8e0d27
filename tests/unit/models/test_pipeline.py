"""Sums of models and models that feed each other: every derivative that there is, and nothing left behind."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from athanor.data.batch import Batch
from athanor.errors import (
    AthanorWarning,
    ContractError,
    InputError,
    MissingFieldError,
    ModelOutputError,
    NotAvailableError,
)
from athanor.models import PipelineGroup, PipelineModelWrapper, PipelineStep
from athanor.models.base import BaseModelMixin, ModelCard, ModelConfig, NeighborConfig
from athanor.models.demo import build_demo_model
from athanor.models.ewald import EwaldModelWrapper
from athanor.models.lj import LennardJonesModelWrapper
from athanor.neighbors import compute_neighbors
from athanor.testing.systems import moved, standard_systems

EVERYTHING = {"energy", "forces", "stress"}


def lj(cutoff: float = 6.0, **changes) -> LennardJonesModelWrapper:
    return LennardJonesModelWrapper(**({"epsilon": 0.3, "sigma": 2.5, "switch_width": 1.0} | changes), cutoff=cutoff)


def salt() -> list:
    systems = standard_systems(distance=2.9, elements=(11, 17))
    return [systems["left-handed"], systems["tiny cell"]]


def batch_of(systems=None, cutoff: float = 6.0) -> Batch:
    batch = Batch.from_data_list(salt() if systems is None else systems)
    compute_neighbors(batch, cutoff)
    return batch


class Wrapper(nn.Module, BaseModelMixin):
    """What the wrappers here share."""

    embedding_shapes: dict[str, tuple[int, ...]] = {}

    def compute_embeddings(self, data, **kwargs):
        raise NotImplementedError

    def centred(self, data):
        """Positions from the mean of each system, whose squares change with positions and strain."""
        count = data.num_nodes_per_graph.to(data.positions.dtype)[:, None]
        mean = (
            torch.zeros(len(data), 3, dtype=data.positions.dtype).index_add(0, data.batch_idx, data.positions) / count
        )
        return data.positions - mean[data.batch_idx]

    def sums(self, data, values):
        return values.new_zeros(len(data)).index_add(0, data.batch_idx, values)[:, None]


class Charges(Wrapper):
    """Charges that depend on positions, and the energy of a spring; its forces come from autograd in its forward."""

    by_autograd = True

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[set[str]] = []
        self.model_config = ModelConfig(
            outputs=EVERYTHING | {"charges"},
            autograd_outputs={"forces", "stress"} if self.by_autograd else set(),
            active_outputs={"energy", "forces", "charges"},
        )

    def charges(self, data):
        return torch.tanh(0.05 * self.centred(data).square().sum(1) - 0.3)

    def forward(self, data, **kwargs):
        asked = set(self.model_config.active_outputs)
        self.calls.append(asked)
        squares = self.centred(data).square().sum(1)
        outputs = {"energy": 0.1 * self.sums(data, squares)}
        if "charges" in asked:
            outputs["charges"] = self.charges(data)
        if "forces" in asked:
            outputs["forces"] = -0.2 * self.centred(data).detach()
        if "stress" in asked:
            arms = self.centred(data).detach()
            flow = torch.zeros(len(data), 9, dtype=arms.dtype)
            flow.index_add_(0, data.batch_idx, 0.2 * (arms[:, :, None] * arms[:, None, :]).flatten(1))
            outputs["stress"] = flow.view(-1, 3, 3) / data.volume.detach()[:, None, None]
        return outputs


class AnalyticCharges(Charges):
    """The same, of which the configuration says that its forces are its own."""

    by_autograd = False


class DetachedCharges(Charges):
    """A broken twin: its charges have lost their graph."""

    def charges(self, data):
        return super().charges(data).detach()


class LearnedCharges(Charges):
    """The same with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def charges(self, data):
        return self.scale * super().charges(data)


class Pairs(Wrapper):
    """Charges in pairs of one system, q_i q_j exp(-r²/20); differentiated by autograd."""

    by_autograd = True

    def __init__(self) -> None:
        super().__init__()
        self.model_config = ModelConfig(
            outputs=EVERYTHING,
            autograd_outputs={"forces", "stress"} if self.by_autograd else set(),
            required_inputs={"charges"},
            active_outputs={"energy", "forces"},
        )

    def energy(self, positions, charges, data):
        same = data.batch_idx[:, None] == data.batch_idx[None, :]
        squares = (positions[:, None] - positions[None, :]).square().sum(-1)
        pairs = torch.where(same, charges[:, None] * charges[None, :] * torch.exp(-squares / 20.0), 0.0)
        return self.sums(data, 0.5 * pairs.sum(1))

    def forward(self, data, **kwargs):
        asked = set(self.model_config.active_outputs)
        inputs = self.adapt_input(data)
        charges = inputs["charges"].reshape(-1)
        outputs = {"energy": self.energy(data.positions, charges, data)}
        if asked & {"forces", "stress"}:
            with torch.enable_grad():
                positions = data.positions.detach().requires_grad_(True)
                energy = self.energy(positions, charges.detach(), data).sum()
                (slope,) = torch.autograd.grad(energy, positions)
            outputs["forces"] = -slope
            arms = self.centred(data).detach()
            flow = torch.zeros(len(data), 9, dtype=slope.dtype)
            flow.index_add_(0, data.batch_idx, (arms[:, :, None] * slope[:, None, :]).flatten(1))
            outputs["stress"] = flow.view(-1, 3, 3) / data.volume.detach()[:, None, None]
        return {key: outputs[key] for key in asked}


class AnalyticPairs(Pairs):
    """The same with forces of its own at constant charges."""

    by_autograd = False


class DetachedPairs(AnalyticPairs):
    """A broken twin: its energy knows nothing of the charges' graph."""

    def energy(self, positions, charges, data):
        return super().energy(positions, charges.detach(), data)


class HybridPairs(AnalyticPairs):
    """One that keeps its own forces in an autograd group, where its energy hangs on the charges alone."""

    def direct_derivative_keys(self) -> set[str]:
        return {"forces", "stress"}

    def energy(self, positions, charges, data):
        return super().energy(
            positions if positions.is_leaf and not charges.requires_grad else positions.detach(), charges, data
        )


def asking(pipeline: PipelineModelWrapper, *outputs: str) -> PipelineModelWrapper:
    pipeline.model_config.active_outputs = set(outputs or EVERYTHING)
    return pipeline


def energies(model, systems) -> torch.Tensor:
    with torch.no_grad():
        return asking(model, "energy")(batch_of(systems))["energy"][:, 0]


def check_against_differences(pipeline: PipelineModelWrapper) -> None:
    """Forces and stress are slopes of the total energy."""
    system, step = salt()[0], 1e-4
    outputs = asking(pipeline)(batch_of([system]))
    places = [(0, 0), (2, 1), (3, 2)]
    displaced = []
    for atom, axis in places:
        for sign in (1, -1):
            positions = system.positions.clone()
            positions[atom, axis] += sign * step
            displaced.append(moved(system, positions))
    slopes = energies(pipeline, displaced).view(-1, 2).diff(dim=1)[:, 0] / (2 * step)
    forces = torch.stack([outputs["forces"][place] for place in places])
    torch.testing.assert_close(forces, slopes, rtol=1e-6, atol=1e-7)
    strained = []
    for row, column in ((0, 0), (1, 2)):
        for sign in (1, -1):
            strain = torch.zeros(3, 3, dtype=torch.float64)
            strain[row, column] = strain[column, row] = sign * step * (1.0 if row == column else 0.5)
            deformation = torch.eye(3, dtype=torch.float64) + strain
            strained.append(moved(system, system.positions @ deformation, system.cell[0] @ deformation))
    slopes = energies(pipeline, strained).view(-1, 2).diff(dim=1)[:, 0] / (2 * step)
    volume = torch.linalg.det(system.cell[0]).abs()
    stress = torch.stack([outputs["stress"][0, 0, 0], outputs["stress"][0, 1, 2]])
    torch.testing.assert_close(stress, -slopes / volume, rtol=1e-6, atol=1e-9)


def one_group(first, second) -> PipelineModelWrapper:
    return PipelineModelWrapper([PipelineGroup([first, second], use_autograd=True)])


def two_groups(first, second, autograd=(False, False)) -> PipelineModelWrapper:
    groups = [PipelineGroup([model], use_autograd=each) for model, each in zip((first, second), autograd, strict=True)]
    return PipelineModelWrapper(groups)


# ------------------------------------------------------------------------------------------------------- tier 1: a + b


def test_a_sum_is_the_sum_of_its_parts_and_reads_shorter_pairs_only() -> None:
    first, second = lj(), lj(4.0, epsilon=0.1, sigma=2.2)
    total = asking(first + second)
    batch = batch_of()
    outputs = total(batch)
    for model in (first, second):
        model.model_config.active_outputs = set(EVERYTHING)
    parts = first(batch), second(batch)
    assert set(outputs) == EVERYTHING
    for name, value in outputs.items():
        assert torch.equal(value, parts[0][name] + parts[1][name]), name
    assert total.model_config.neighbor_config == NeighborConfig(cutoff=6.0, format="matrix")
    assert [hook.config.cutoff for hook in total.make_neighbor_hooks()] == [6.0]


def test_plus_is_flat_in_any_order_and_number() -> None:
    a, b, c = lj(), lj(4.0), lj(5.0)
    for total in (a + b + c, a + (b + c), (a + b) + c, sum([a, b, c])):
        assert [group.steps[0].model for group in total.groups] == [a, b, c]
        assert not any(group.use_autograd for group in total.groups)
    assert torch.equal((a + b)(batch_of())["energy"], (b + a)(batch_of())["energy"])


def test_plus_keeps_settings_and_refuses_different_ones() -> None:
    custom = PipelineModelWrapper([PipelineGroup([lj()])], additive_keys={"energy"}, max_cutoff_ratio=2.0)
    assert (custom + lj()).additive_keys == {"energy"}
    assert (lj() + custom).max_cutoff_ratio == 2.0
    with pytest.raises(InputError, match=r"different `additive_keys`, `max_cutoff_ratio`"):
        custom + (lj() + lj())
    narrowed = asking(lj() + lj(), "energy")
    assert (narrowed + asking(lj() + lj(), "energy")).model_config.active_outputs == {"energy"}


def test_plus_passes_nothing_from_model_to_model() -> None:
    """Whatever the order, a sum takes charges from the batch."""
    batch = batch_of()
    batch.charges = torch.linspace(-1.0, 1.0, batch.num_nodes, dtype=torch.float64)
    with pytest.warns(AthanorWarning, match="Charges predicts `charges`, and Pairs beside it reads those of the batch"):
        one = Charges() + Pairs()
    with pytest.warns(AthanorWarning, match="To hand them on, use"):
        other = Pairs() + Charges()
    assert one.model_config.required_inputs == other.model_config.required_inputs == {"charges"}
    assert torch.equal(one(batch)["energy"], other(batch)["energy"])
    wired = one_group(Charges(), Pairs())
    assert wired.model_config.required_inputs == frozenset()
    assert not torch.equal(wired(batch)["energy"], one(batch)["energy"])
    with pytest.warns(AthanorWarning, match="predicts `charges`"):
        both = wired + Pairs()
    assert both.model_config.required_inputs == {"charges"}
    torch.testing.assert_close(
        asking(both, "energy")(batch)["energy"], wired(batch)["energy"] + Pairs()(batch)["energy"], rtol=1e-14, atol=0
    )


@pytest.mark.parametrize("other", [1, 0.5, "lj", None])
def test_only_models_are_added(other) -> None:
    with pytest.raises(TypeError, match="only models are added to models"):
        lj() + other
    with pytest.raises(TypeError, match="only models are added to models"):
        other + lj()


# ------------------------------------------------------------------------------------------------------ active outputs


PIPELINES = {
    "sum": lambda: lj() + lj(4.0),
    "autograd": lambda: PipelineModelWrapper([PipelineGroup([lj(), lj(4.0)], use_autograd=True)]),
    "nested": lambda: PipelineModelWrapper([PipelineGroup([lj() + lj(4.0), lj(5.0)], use_autograd=True)]),
    "nested sum": lambda: PipelineModelWrapper([PipelineGroup([one_group(lj(), lj(4.0))]), PipelineGroup([lj(5.0)])]),
}


@pytest.mark.parametrize("kind", PIPELINES)
def test_active_outputs_narrow_widen_and_are_restored(kind: str) -> None:
    pipeline, batch = PIPELINES[kind](), batch_of()
    assert pipeline.model_config.active_outputs == {"energy", "forces"}
    whole = asking(pipeline)(batch)
    for chosen in ({"energy"}, {"forces"}, {"stress"}, {"energy", "stress"}, {"energy", "forces"}, EVERYTHING):
        outputs = asking(pipeline, *chosen)(batch)
        assert set(outputs) == chosen
        for name in chosen:
            torch.testing.assert_close(outputs[name], whole[name], rtol=1e-13, atol=1e-13)


def test_energy_alone_does_no_work_for_forces() -> None:
    """Models are asked for what is wanted only, and nothing is on a graph."""
    for pipeline in (Charges() + Charges(), one_group(Charges(), Charges())):
        outputs = asking(pipeline, "energy")(batch_of())
        models = [step.model for group in pipeline.groups for step in group.steps]
        assert [model.calls for model in models] == [[{"energy"}], [{"energy"}]]
        assert not outputs["energy"].requires_grad
    seen = []

    class Watched(Charges):
        def forward(self, data, **kwargs):
            seen.append(data.positions.requires_grad)
            return super().forward(data, **kwargs)

    pipeline = one_group(Watched(), lj())
    asking(pipeline, "energy")(batch_of())
    asking(pipeline, "energy", "forces")(batch_of())
    assert seen == [False, True]


@pytest.mark.parametrize("build", [one_group, two_groups])
def test_one_structure_and_every_gradient_mode(build) -> None:
    pipeline, structure = asking(build(Charges(), Pairs())), salt()[0]
    expected = pipeline(batch_of([structure]))
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            outputs = pipeline(structure)
        for name, value in outputs.items():
            assert torch.equal(value, expected[name]), name
            assert not value.requires_grad


def test_what_nobody_can_give_is_warned_about_once() -> None:
    pipeline = asking(lj() + lj(), "energy", "dipole")
    with pytest.warns(UserWarning, match="cannot compute dipole"):
        assert set(pipeline(batch_of())) == {"energy"}
    assert set(pipeline(batch_of())) == {"energy"}


def test_a_part_without_forces_takes_them_from_the_sum() -> None:
    """A sum that lacks the part of one model would be wrong in silence."""

    class EnergyOnly(Charges):
        def __init__(self) -> None:
            super().__init__()
            self.model_config = ModelConfig(outputs={"energy"})

    assert (EnergyOnly() + lj()).model_config.outputs == {"energy"}
    assert (build_demo_model() + lj()).model_config.outputs == {"energy", "forces"}
    joined = one_group(EnergyOnly(), lj())
    assert joined.model_config.outputs == EVERYTHING
    check_against_differences(joined)


def test_stress_of_molecules_is_refused() -> None:
    molecule = Batch.from_data_list([standard_systems(distance=2.9, elements=(11, 17))["cluster"]])
    compute_neighbors(molecule, 6.0)
    for pipeline in (lj() + lj(), one_group(lj(), lj())):
        with pytest.raises(ValueError, match="stress output requires cell"):
            asking(pipeline)(molecule)


# ------------------------------------------------------------------------------------------------------- wired charges


@pytest.mark.parametrize("first", [Charges, AnalyticCharges])
@pytest.mark.parametrize("second", [Pairs, AnalyticPairs])
@pytest.mark.parametrize("autograd", [(False, False), (True, False), (False, True), (True, True)])
def test_forces_act_through_wired_charges_from_group_to_group(first, second, autograd) -> None:
    check_against_differences(two_groups(first(), second(), autograd))


@pytest.mark.parametrize("models", [(Charges, Pairs), (AnalyticCharges, Pairs), (Charges, HybridPairs)])
def test_forces_act_through_wired_charges_in_a_group(models) -> None:
    check_against_differences(one_group(*(model() for model in models)))


class ChargesOfCrystals(Charges):
    """The same for a model that needs periodic systems."""

    def __init__(self) -> None:
        super().__init__()
        self.model_config = ModelConfig(**(self.model_config.model_dump() | {"supports_pbc": True}))


def ewald(hybrid: bool) -> EwaldModelWrapper:
    return EwaldModelWrapper(6.0, 1e-4, hybrid_forces=hybrid)


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("autograd", [(False, False), (True, False), (False, True), (True, True)])
def test_forces_of_an_ewald_sum_act_through_its_charges_from_group_to_group(autograd, hybrid: bool) -> None:
    check_against_differences(two_groups(ChargesOfCrystals(), ewald(hybrid), autograd))


@pytest.mark.parametrize("hybrid", [False, True])
def test_forces_of_an_ewald_sum_act_through_its_charges_in_a_group(hybrid: bool) -> None:
    check_against_differences(one_group(ChargesOfCrystals(), ewald(hybrid)))


@pytest.mark.parametrize("hybrid", [False, True])
def test_an_ewald_sum_of_charges_taken_as_constant_lacks_their_part(hybrid: bool) -> None:
    """The named mutant of the tests above."""
    constant = [PipelineStep(ChargesOfCrystals(), constants={"charges"}), ewald(hybrid)]
    for groups in ([PipelineGroup(constant, True)], [PipelineGroup([step]) for step in constant]):
        with pytest.raises(AssertionError):
            check_against_differences(PipelineModelWrapper(groups))


def test_a_chain_of_three() -> None:
    class Scaled(Wrapper):
        """Reads charges and gives others, without an energy."""

        def __init__(self) -> None:
            super().__init__()
            self.model_config = ModelConfig(outputs={"scaled"}, required_inputs={"charges"})

        def forward(self, data, **kwargs):
            return {"scaled": 1.5 * data.charges.reshape(-1) ** 2}

    steps = [Charges(), PipelineStep(Scaled(), wire={"scaled": "charges"}), AnalyticPairs()]
    check_against_differences(PipelineModelWrapper([PipelineGroup([step]) for step in steps]))


def test_charges_taken_as_constant_lack_their_part() -> None:
    """The named mutant of the tests above: without dq/dr the forces are no slopes."""
    constant = [PipelineStep(Charges(), constants={"charges"}), Pairs()]
    with pytest.raises(AssertionError):
        check_against_differences(PipelineModelWrapper([PipelineGroup(constant, use_autograd=True)]))


@pytest.mark.parametrize("build", [one_group, two_groups])
def test_charges_or_energies_without_a_graph_are_refused(build) -> None:
    with pytest.raises(ContractError, match=r"`charges` of step 1 \(DetachedCharges\) is not attached"):
        build(DetachedCharges(), Pairs())(batch_of())
    with pytest.raises(ContractError, match=r"energy of step 2 \(DetachedPairs\) is not attached to `charges`"):
        build(Charges(), DetachedPairs())(batch_of())
    assert set(asking(build(DetachedCharges(), Pairs()), "energy")(batch_of())) == {"energy"}


def test_in_training_gradients_reach_the_parameters_of_all() -> None:
    for build in (one_group, two_groups):
        model = LearnedCharges()
        outputs = asking(build(model, Pairs()))(batch_of())
        assert all(value.requires_grad for value in outputs.values())
        (outputs["forces"].square().sum() + outputs["stress"].square().sum()).backward()
        assert float(model.scale.grad.abs()) > 0.0
        with torch.no_grad():
            assert not any(
                value.requires_grad for value in asking(build(LearnedCharges(), Pairs()))(batch_of()).values()
            )
        assert not any(
            value.requires_grad for value in asking(build(LearnedCharges(), Pairs()).eval())(batch_of()).values()
        )


@pytest.mark.parametrize("build", [one_group, two_groups])
def test_batch_and_models_are_as_before_also_after_an_exception(build) -> None:
    class Fails(Pairs):
        def forward(self, data, **kwargs):
            data.positions = data.positions * 2.0
            data.leaves_nothing = data.positions
            raise RuntimeError("on purpose")

    for last, fails in ((Pairs, False), (Fails, True)):
        batch = batch_of()
        batch.charges = torch.zeros(batch.num_nodes, dtype=torch.float64)
        before = {name: (tensor, tensor.clone(), tensor.requires_grad) for name, tensor in batch}
        lists = batch.pair_lists
        pipeline = asking(build(Charges(), last()))
        configs = [step.model.model_config.model_copy(deep=True) for group in pipeline.groups for step in group.steps]
        if fails:
            with pytest.raises(RuntimeError, match="on purpose"):
                pipeline(batch)
        else:
            pipeline(batch)
        assert {name for name, _ in batch} == set(before)
        for name, (tensor, value, flag) in before.items():
            assert batch[name] is tensor
            assert torch.equal(tensor, value)
            assert tensor.requires_grad is flag
        assert batch.pair_lists is lists
        assert configs == [step.model.model_config for group in pipeline.groups for step in group.steps]


def test_wires_rename_and_must_fit() -> None:
    class Partial(Pairs):
        def __init__(self) -> None:
            super().__init__()
            self.model_config = ModelConfig(
                outputs=EVERYTHING, required_inputs={"partial"}, autograd_outputs={"forces"}
            )

        def adapt_input(self, data, **kwargs):
            return {"charges": super().adapt_input(data, **kwargs)["partial"]}

    steps = [PipelineStep(Charges(), wire={"charges": "partial"}), Partial()]
    renamed = PipelineModelWrapper([PipelineGroup(steps, use_autograd=True)])
    plain = one_group(Charges(), Pairs())
    for name, value in asking(renamed)(batch_of()).items():
        torch.testing.assert_close(value, asking(plain)(batch_of())[name], rtol=1e-13, atol=1e-14)
    with pytest.raises(
        InputError, match=r"`wire` names `charge`, which Charges does not give; it gives charges, energy"
    ):
        PipelineStep(Charges(), wire={"charge": "charges"})
    with pytest.raises(
        InputError, match=r"step 1 \(Charges\) gives `charges` to later steps as `chrges`.*Did you mean"
    ):
        PipelineModelWrapper([PipelineGroup([PipelineStep(Charges(), wire={"charges": "chrges"}), Pairs()])])
    with pytest.raises(MissingFieldError, match="`charges` is missing"):
        PipelineModelWrapper([PipelineGroup([Pairs(), Charges()])])(batch_of())


def test_a_cycle_is_refused() -> None:
    class NeedsBack(Charges):
        def __init__(self) -> None:
            super().__init__()
            self.model_config = ModelConfig(outputs=EVERYTHING | {"charges"}, required_inputs={"screening"})

    class Gives(Pairs):
        def __init__(self) -> None:
            super().__init__()
            self.model_config = ModelConfig(outputs=EVERYTHING | {"screening"}, required_inputs={"charges"})

    with pytest.raises(InputError, match=r"step 1 \(NeedsBack\) needs `screening` from step 2 \(Gives\).*a cycle"):
        one_group(NeedsBack(), Gives())


# ------------------------------------------------------------------------------------------------ several of one output


def test_outputs_that_do_not_add_up_have_a_name_for_each_model() -> None:
    class Other(Charges):
        def charges(self, data):
            return 2.0 * super().charges(data)

    total, batch = Charges() + lj() + Other(), batch_of()
    assert {"charges", "charges_1", "charges_3"} <= total.model_config.outputs
    assert total.model_config.active_outputs == {"energy", "forces", "charges"}
    outputs = asking(total, "energy", "charges", "charges_1", "charges_3")(batch)
    assert torch.equal(outputs["charges_3"], 2.0 * outputs["charges_1"])
    assert outputs["charges"] is outputs["charges_3"] or torch.equal(outputs["charges"], outputs["charges_3"])
    only = asking(total, "charges_1")(batch)
    assert set(only) == {"charges_1"}


def test_additive_keys_replace_the_default() -> None:
    groups = [PipelineGroup([Charges()]), PipelineGroup([Charges()])]
    total = asking(PipelineModelWrapper(groups, additive_keys={"energy", "charges"}), "energy", "charges")
    one = asking(PipelineModelWrapper([groups[0]]), "energy", "charges")
    for name, value in total(batch_of()).items():
        assert torch.equal(value, 2.0 * one(batch_of())[name])


def test_embeddings_of_the_models() -> None:
    demo = build_demo_model(hidden_dim=4)
    batch = batch_of()
    with pytest.raises(NotAvailableError, match="no embeddings"):
        (lj() + lj()).compute_embeddings(batch)
    assert (lj() + demo).embedding_shapes == demo.embedding_shapes
    before = {name for name, _ in batch}
    (demo + lj() + build_demo_model(hidden_dim=6)).compute_embeddings(batch)
    assert {name for name, _ in batch} - before == {
        "node_embeddings_1", "graph_embeddings_1", "node_embeddings_3", "graph_embeddings_3",
    }  # fmt: skip
    assert batch.node_embeddings_3.shape == (batch.num_nodes, 6)
    (lj() + demo).compute_embeddings(batch)
    assert torch.equal(batch.node_embeddings, batch.node_embeddings_1)


# ------------------------------------------------------------------------------------------------- derivative_fn


def test_a_derivative_function_is_asked_for_what_is_missing_on_unstrained_positions() -> None:
    asked = []

    def derivatives(energy, data, requested):
        asked.append(set(requested))
        assert data.positions.requires_grad
        assert data.positions.is_leaf
        (slope,) = torch.autograd.grad(energy, data.positions, torch.ones_like(energy), create_graph=True)
        found = {"forces": -slope.detach(), "my_norm": slope.norm().detach()}
        if "hessian" in requested:
            rows = [torch.autograd.grad(part, data.positions, retain_graph=True)[0] for part in slope.reshape(-1)]
            found["hessian"] = torch.stack(rows)
        return found

    batch = batch_of()
    batch.charges = torch.ones(batch.num_nodes, dtype=torch.float64)
    group = PipelineGroup([Charges(), Pairs()], use_autograd=True, derivative_fn=derivatives)
    pipeline = asking(PipelineModelWrapper([group, PipelineGroup([lj()])]), "energy", "forces", "hessian", "charges")
    outputs = pipeline(batch)
    assert asked == [{"forces", "hessian"}]
    assert set(outputs) == {"energy", "forces", "hessian", "charges", "my_norm"}
    plain = asking(PipelineModelWrapper([PipelineGroup([Charges(), Pairs()], True), PipelineGroup([lj()])]), "forces")
    torch.testing.assert_close(outputs["forces"], plain(batch)["forces"], rtol=1e-13, atol=1e-13)
    asking(pipeline, "energy")(batch)
    assert len(asked) == 1
    with pytest.raises(ModelOutputError, match=r"group 1 was asked for stress and did not return stress"):
        asking(pipeline, "energy", "stress")(batch)


def test_derivative_functions_and_wires_between_groups_are_refused() -> None:
    def derivatives(energy, data, requested):
        raise AssertionError("not called")

    with pytest.raises(InputError, match="it needs `use_autograd=True`"):
        PipelineGroup([lj()], derivative_fn=derivatives)
    groups = [PipelineGroup([Charges()], True, derivatives), PipelineGroup([Pairs()])]
    with pytest.raises(InputError, match=r"step 2 \(Pairs\) reads what step 1 \(Charges\) gives, in another group"):
        PipelineModelWrapper(groups)
    inner = PipelineModelWrapper([PipelineGroup([lj()], True, derivatives)])
    hybrid = PipelineModelWrapper([PipelineGroup([Charges(), HybridPairs()], True)])
    for model, missed in ((inner, "the `derivative_fn` of group 1"), (hybrid, r"forces of step 2 \(HybridPairs\)")):
        with pytest.raises(ContractError, match=f"can not be part of an autograd group .* would miss .*{missed}"):
            one_group(model, lj())(batch_of())


# ----------------------------------------------------------------------------------------- mistakes of models and users


def test_models_that_do_not_go_together_are_refused() -> None:
    class Needs(Charges):
        def __init__(self) -> None:
            super().__init__()
            self.model_config = ModelConfig(outputs=EVERYTHING, needs_pbc=True, supports_pbc=True)

    with pytest.raises(InputError, match=r"step 1 \(Needs\) needs periodic systems and step 2 \(Demo\)"):
        Needs() + build_demo_model()
    with pytest.raises(ValueError, match="half_list"):
        lj(half_list=True) + lj()
    with pytest.raises(ValueError, match="neighbor_adaptation"):
        PipelineModelWrapper([PipelineGroup([lj()])], neighbor_adaptation="sometimes")
    with pytest.raises(ValueError, match="max_cutoff_ratio"):
        PipelineModelWrapper([PipelineGroup([lj()])], max_cutoff_ratio=0.5)
    with pytest.raises(InputError, match="no step"):
        PipelineGroup([])
    with pytest.raises(InputError, match="`groups` is empty"):
        PipelineModelWrapper([])
    with pytest.raises(ContractError, match="A step of a pipeline is a int"):
        PipelineGroup([3])


@pytest.mark.parametrize("build", [lambda first, second: first + second, one_group])
def test_a_wrong_shape_or_device_is_named(build) -> None:
    class Wrong(Charges):
        def forward(self, data, **kwargs):
            return super().forward(data, **kwargs) | {"energy": self.wrong(data)}

    for wrong, text in (
        (lambda data: torch.zeros(7, 1), r"`energy` from Wrong has shape \(7, 1\); expected \(2, 1\)"),
        (lambda data: torch.zeros(2, 1, device="meta"), r"`energy` from Wrong is on meta; the batch is on cpu"),
    ):
        model = Wrong()
        model.wrong = wrong
        with pytest.raises(ModelOutputError, match=text):
            build(model, lj())(batch_of())


# -------------------------------------------------------------------------------------------------- card, files, copies


def test_the_card_holds_where_all_cards_hold() -> None:
    demo = build_demo_model()
    demo.model_card = ModelCard(
        name="A", kind="materials", elements=frozenset({1, 6, 8}), minimum_distance=0.4, weights_digest="sha256:aa",
        licence="MIT", citation="doi:1",
    )  # fmt: skip
    other = lj()
    other.model_card = ModelCard(
        name="B", kind="any", elements=frozenset({6, 8, 18}), minimum_distance=0.7, weights_digest="sha256:bb",
        licence="MIT", citation="doi:2", batch_invariance="verified",
    )  # fmt: skip
    card = (demo + other).model_card
    assert (card.name, card.kind, card.elements, card.minimum_distance) == ("A + B", "materials", {6, 8}, 0.7)
    assert (card.licence, card.citation, card.batch_invariance) == ("MIT", "doi:1; doi:2", "unknown")
    assert card.weights_digest not in ("sha256:aa", "sha256:bb", "")
    assert (lj() + lj()).model_card.batch_invariance == "verified"
    assert (lj() + lj()).model_card.stress_keeps_forces
    assert not one_group(lj(), lj()).model_card.stress_keeps_forces


def test_a_pipeline_is_saved_without_code_and_read_again(tmp_path) -> None:
    demo = build_demo_model(hidden_dim=4).double()
    pipeline = PipelineModelWrapper(
        [
            PipelineGroup([PipelineStep(Charges(), constants={"charges"}), Pairs()], use_autograd=True),
            PipelineGroup([demo]),
        ],
        neighbor_adaptation="never",
        max_cutoff_ratio=2.5,
    )
    pipeline.model_config.active_outputs = {"energy"}
    path = tmp_path / "pipeline.pt"
    pipeline.save(path)
    content = torch.load(path, weights_only=True)
    assert json.loads(content["description"])["settings"]["max_cutoff_ratio"] == 2.5
    again = PipelineModelWrapper.load(path, [Charges(), Pairs(), build_demo_model(hidden_dim=4, seed=1).double()])
    assert again.settings == pipeline.settings
    assert again.model_config == pipeline.model_config
    assert again.groups[0].steps[0].constants == {"charges"}
    assert torch.equal(again(batch_of())["energy"], pipeline(batch_of())["energy"])
    with pytest.raises(ValueError, match=r"`models` are Charges, Pairs; the pipeline in .* has Charges, Pairs, Demo"):
        PipelineModelWrapper.load(path, [Charges(), Pairs()])
    with pytest.raises(ValueError, match="do not fit `models`"):
        PipelineModelWrapper.load(path, [Charges(), Pairs(), build_demo_model(hidden_dim=5).double()])
    torch.save({"a": 1}, path)
    with pytest.raises(ValueError, match="holds no pipeline"):
        PipelineModelWrapper.load(path, [])


def test_functions_are_handed_in_again(tmp_path) -> None:
    def derivatives(energy, data, requested):
        (slope,) = torch.autograd.grad(energy, data.positions, torch.ones_like(energy))
        return {"forces": -slope}

    pipeline = PipelineModelWrapper([PipelineGroup([lj()], use_autograd=True, derivative_fn=derivatives)])
    pipeline.save(tmp_path / "p.pt")
    with pytest.raises(ValueError, match=r"needs a function for \[0\]"):
        PipelineModelWrapper.load(tmp_path / "p.pt", [lj()])
    again = PipelineModelWrapper.load(tmp_path / "p.pt", [lj()], {0: derivatives})
    assert torch.equal(again(batch_of())["forces"], pipeline(batch_of())["forces"])


def test_a_copy_has_models_of_its_own() -> None:
    demo = build_demo_model(hidden_dim=4).double()
    pipeline, batch = asking(demo + lj(), "energy"), batch_of()
    expected = pipeline(batch)["energy"]
    twin = copy.deepcopy(pipeline)
    assert twin.model_config == pipeline.model_config
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    assert torch.equal(pipeline(batch)["energy"], expected)
    assert not torch.equal(twin(batch)["energy"], expected)


def test_repr_shows_the_plan() -> None:
    text = repr(two_groups(Charges(), Pairs()))
    for part in (
        "group 1: own forces", "1. Charges: gives charges; differentiated together with", "2. Pairs: reads charges",
        "active_outputs=['charges', 'energy', 'forces']",
    ):  # fmt: skip
        assert part in text
    assert "energies differentiated together" in repr(one_group(lj(), lj()))
    assert "cutoff 6 Å" in repr(lj() + lj())


# --------------------------------------------------------------------------------------- what a look from outside found


def test_what_follows_the_energy_is_added_with_it() -> None:
    """Forces of the last model alone are no slopes of a summed energy."""
    groups = [PipelineGroup([lj()]), PipelineGroup([lj(4.0)])]
    check_against_differences(PipelineModelWrapper(groups, additive_keys={"energy"}))
    last = asking(PipelineModelWrapper(groups, additive_keys={"dipole"}), "energy", "forces")(batch_of())
    for name, value in last.items():
        assert torch.equal(value, asking(lj(4.0) + lj(), "energy", "forces").groups[0].steps[0].model(batch_of())[name])
    with pytest.raises(InputError, match="`additive_keys` lacks `energy`"):
        PipelineModelWrapper([PipelineGroup([lj(), lj()], use_autograd=True)], additive_keys={"charges"})


def test_forces_at_constant_charges_can_not_be_trained_on() -> None:
    """Their own derivative by what made the charges would be missing from a loss of forces."""

    outputs = asking(two_groups(LearnedCharges(), AnalyticPairs()))(batch_of())
    outputs["energy"].sum().backward(retain_graph=True)
    with pytest.raises(NotAvailableError, match=r"`forces` of step 2 \(AnalyticPairs\) does not hang on `charges`"):
        outputs["forces"].square().sum().backward()


def test_a_part_without_graph_is_noticed_in_a_sum_in_a_group() -> None:
    class Cut(Charges):
        def forward(self, data, **kwargs):
            return {name: value.detach() for name, value in super().forward(data, **kwargs).items()}

    with pytest.raises(ContractError, match="energy of Cut is not attached"):
        one_group(lj() + Cut(), lj())(batch_of())


def test_a_model_with_other_constants_is_not_the_one_that_was_saved(tmp_path) -> None:
    (lj() + lj(4.0)).save(tmp_path / "sum.pt")
    PipelineModelWrapper.load(tmp_path / "sum.pt", [lj(), lj(4.0)])
    with pytest.raises(InputError, match=r"is not the one in .*: `epsilon` 0.1 instead of 0.3"):
        PipelineModelWrapper.load(tmp_path / "sum.pt", [lj(), lj(4.0, epsilon=0.1)])


@pytest.mark.parametrize("outputs", [("energy", "forces"), ("energy", "stress")])
def test_detached_charges_are_noticed_in_a_pipeline_in_a_group(outputs) -> None:
    for models, text in (
        ((DetachedCharges(), Pairs()), r"`charges` of step 1 \(DetachedCharges\) is not attached"),
        ((Charges(), DetachedPairs()), r"energy of step 2 \(DetachedPairs\) is not attached to `charges`"),
    ):
        with pytest.raises(ContractError, match=text):
            asking(one_group(one_group(*models), lj()), *outputs)(batch_of())
