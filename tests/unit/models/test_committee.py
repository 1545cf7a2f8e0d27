"""Committees: the mean, how far members disagree, and that nothing else of a model is lost."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from ase.build import bulk, molecule

import athanor.models
from athanor.data import AtomicData, Batch
from athanor.dynamics import NVE, ConvergenceHook, FusedStage
from athanor.errors import ArgumentError, ContractError, InputError, NotAvailableError
from athanor.kernels import segment_max
from athanor.models import CommitteeModelWrapper, DemoModelWrapper, LennardJonesModelWrapper
from athanor.models.committee import wrapper
from athanor.models.committee.deviation import energy_deviation, force_deviation
from athanor.models.demo import build_demo_model
from athanor.models.pipeline import PipelineGroup, PipelineModelWrapper
from athanor.neighbors import compute_neighbors
from athanor.testing import check_model

PARAMETERS = ((0.0104, 3.40, 8.5), (0.0100, 3.42, 8.0), (0.0108, 3.38, 8.5), (0.0103, 3.44, 7.5))


def argon(epsilon: float = 0.0104, sigma: float = 3.4, cutoff: float = 8.5) -> LennardJonesModelWrapper:
    return LennardJonesModelWrapper(epsilon=epsilon, sigma=sigma, cutoff=cutoff, switch_width=1.0)


def committee() -> CommitteeModelWrapper:
    return CommitteeModelWrapper([argon(*each) for each in PARAMETERS])


def crystals(count: int = 3) -> list[AtomicData]:
    found = []
    for number in range(count):
        atoms = bulk("Ar", "fcc", a=5.2 + 0.1 * number, cubic=True) * (1 + number % 2, 1, 1)
        atoms.rattle(0.1 + 0.1 * number, seed=number)
        found.append(AtomicData.from_atoms(atoms, dtype=torch.float64))
    return found


def listed(model: Any, systems: Sequence[AtomicData]) -> Batch:
    batch = Batch.from_data_list(list(systems))
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    return batch


# ------------------------------------------------------------------------------------------------------- the formulas


def check_force_deviation(formula: Callable[[Sequence[torch.Tensor]], torch.Tensor]) -> None:
    """Members that agree on the size of a force and not on its direction disagree; in figures, by hand."""
    forces = [torch.tensor([[x, 0.0, 0.0], [0.0, 3.0, 4.0]], dtype=torch.float64) for x in (1.0, -1.0)]
    forces[1][1] = 0.0
    torch.testing.assert_close(formula(forces), torch.tensor([1.0, 2.5], dtype=torch.float64))


def of_norms(forces: Sequence[torch.Tensor]) -> torch.Tensor:
    """Broken twin: the spread of the norms, for which opposite forces are the same."""
    return torch.stack([each.norm(dim=1) for each in forces]).std(0, unbiased=False)


def by_one_less(forces: Sequence[torch.Tensor]) -> torch.Tensor:
    """Broken twin: squares divided by M - 1."""
    return force_deviation(forces) * (len(forces) / (len(forces) - 1)) ** 0.5


def test_force_deviation() -> None:
    check_force_deviation(force_deviation)
    for twin in (of_norms, by_one_less):
        with pytest.raises(AssertionError):
            check_force_deviation(twin)


def test_energy_deviation_is_the_population_standard_deviation() -> None:
    energies = [torch.tensor([[value], [2.0]], dtype=torch.float64) for value in (1.0, 2.0, 6.0)]
    expected = torch.stack(energies).std(0, unbiased=False)
    torch.testing.assert_close(energy_deviation(energies), expected)


def check_against_members(model: CommitteeModelWrapper) -> None:
    """Mean and deviations are those of members which are called by themselves, each with a list of its own cutoff."""
    model.model_config.active_outputs = set(model.model_config.outputs)
    found = model(listed(model, crystals()))
    parts = []
    for member in model.members:
        member.model_config.active_outputs = {"energy", "forces", "stress"}  # type: ignore[union-attr]
        parts.append(member(listed(member, crystals())))
    for name in ("energy", "forces", "stress"):
        torch.testing.assert_close(found[name], torch.stack([part[name] for part in parts]).mean(0))
    energies, forces = (torch.stack([part[name] for part in parts]) for name in ("energy", "forces"))
    torch.testing.assert_close(found["energy_deviation"], energies.std(0, unbiased=False))
    by_atom = (forces - forces.mean(0)).square().sum(2).mean(0).sqrt()
    torch.testing.assert_close(found["force_deviation"], by_atom)
    sizes = [len(system.atomic_numbers) for system in crystals()]
    expected = torch.stack([part.max() for part in by_atom.split(sizes)])
    torch.testing.assert_close(found["max_force_deviation"], expected[:, None])


def test_a_committee_is_its_members() -> None:
    check_against_members(committee())


def largest_of_the_batch(values: torch.Tensor, ptr: torch.Tensor) -> torch.Tensor:
    """Broken twin: the largest of all systems, for each."""
    return segment_max(values, ptr).max().expand(len(ptr) - 1)


def test_the_largest_of_the_batch_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrapper, "segment_max", largest_of_the_batch)
    with pytest.raises(AssertionError):
        check_against_members(committee())


def test_a_system_has_equal_bits_alone_and_among_others() -> None:
    model = committee()
    together = model(listed(model, crystals()))
    for place, system in enumerate(crystals()):
        alone = model(listed(model, [system]))
        for name in ("energy", "energy_deviation", "max_force_deviation"):
            assert torch.equal(alone[name][0], together[name][place]), name


# --------------------------------------------------------------------------------------- a model like any other


def test_the_kit_passes() -> None:
    check_model(committee()).raise_if_failed()


def test_what_is_told_of_it() -> None:
    demos = [DemoModelWrapper(build_demo_model(20 + n, 8, n).model, weights_digest=f"sha256:{n}") for n in range(2)]
    model = CommitteeModelWrapper(demos)
    assert model.model_card.weights_digest == "sha256:0; sha256:1"
    assert model.model_card.elements == demos[0].model_card.elements  # the smaller set
    assert model.model_card.name == "committee of 2: 2 x Demo"
    assert "10.1016/j.cpc.2020.107206" in model.model_card.citation
    assert model.model_config.outputs == {
        *("energy", "forces", "energy_deviation", "force_deviation", "max_force_deviation")
    }  # fmt: skip
    assert committee().model_config.neighbor_config.cutoff == 8.5  # type: ignore[union-attr]


def test_embeddings_are_those_of_the_first_member_that_has_some() -> None:
    demos = [build_demo_model(hidden_dim=8, seed=seed) for seed in range(2)]
    data = AtomicData.from_atoms(molecule("H2O"))
    batch, alone = Batch.from_data_list([data]), Batch.from_data_list([data])
    model = CommitteeModelWrapper([argon(), *demos])
    assert model.embedding_shapes == demos[0].embedding_shapes
    model.compute_embeddings(batch)
    demos[0].compute_embeddings(alone)
    assert torch.equal(batch.node_embeddings, alone.node_embeddings)
    with pytest.raises(NotAvailableError, match="has no embeddings"):
        committee().compute_embeddings(batch)


def test_calls_leave_configurations_as_they_were() -> None:
    model = committee()
    before = [copy.deepcopy(config) for config in model.configurations()]
    model(listed(model, crystals()))
    with pytest.raises(KeyError):
        model(Batch.from_data_list(crystals()))
    assert model.configurations() == before


def test_results_are_detached_unless_somebody_differentiates() -> None:
    model = committee()
    batch = listed(model, crystals(1))
    assert not any(value.requires_grad for value in model(batch).values())
    batch.positions.requires_grad_(True)
    outputs = model(batch)
    (gradient,) = torch.autograd.grad(outputs["energy"].sum(), batch.positions)
    torch.testing.assert_close(-gradient, outputs["forces"].detach())


def test_second_derivatives_are_the_mean() -> None:
    model = committee()
    found = athanor.models.hessian(model, listed(model, crystals(1)))
    each = [athanor.models.hessian(member, listed(member, crystals(1))) for member in model.members]
    torch.testing.assert_close(found[0], torch.stack([hessian[0] for hessian in each]).mean(0), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("by_sum", [False, True], ids=["a + b", "autograd group"])
def test_in_a_sum(by_sum: bool) -> None:
    model, other = committee(), argon(0.002, 3.0, 6.0)
    total = PipelineModelWrapper([PipelineGroup([model, other], use_autograd=True)]) if by_sum else model + other
    deviations = {"energy_deviation", "force_deviation", "max_force_deviation"}
    total.model_config.active_outputs = {"energy", "forces", *deviations}
    model.model_config.active_outputs = {"energy", "forces", *deviations}
    found, alone = total(listed(total, crystals())), model(listed(model, crystals()))
    for name in deviations:
        torch.testing.assert_close(found[name], alone[name])
    torch.testing.assert_close(found["forces"], alone["forces"] + other(listed(other, crystals()))["forces"])
    total.model_config.active_outputs = {"energy", "max_force_deviation"}  # nobody asks for forces
    batch = listed(total, crystals())
    with torch.inference_mode():
        found = total(batch)
    torch.testing.assert_close(found["max_force_deviation"].clone(), alone["max_force_deviation"])


def test_in_a_fused_run() -> None:
    """Fields of every system are those of where it stands, also of one that finished long before the others."""
    model = committee()
    batch = listed(model, crystals())
    hot = {"start_temperature": 40.0}
    fused = FusedStage([(0, NVE(model, 2.0, n_steps=3, **hot)), (1, NVE(model, 2.0, n_steps=20, **hot))])
    fused.register_hook(model.make_neighbor_hooks()[0])
    batch.status = torch.tensor([[0], [2], [1]])
    batch.max_force_deviation = torch.full((3, 1), 7.0, dtype=torch.float64)
    fused.run(batch, 5)
    still = batch.max_force_deviation.clone()
    fused.run(batch, 30)
    expected = model(listed(model, batch.without_pairs().to_data_list()))["max_force_deviation"]
    torch.testing.assert_close(batch.max_force_deviation[[0, 2]], expected[[0, 2]])
    assert torch.equal(batch.max_force_deviation[1], still[1])  # it never moved: nobody looked at it


def test_criteria_read_the_fields() -> None:
    model = committee()
    batch = listed(model, crystals())
    for name, value in model(batch).items():
        batch.set_field(name, value)
    between = float(batch.max_force_deviation.median())
    hook = ConvergenceHook({"key": "max_force_deviation", "threshold": between})
    assert hook.mask(batch).tolist() == (batch.max_force_deviation[:, 0] <= between).tolist()


def test_a_deep_copy_has_members_of_its_own() -> None:
    model = CommitteeModelWrapper([build_demo_model(hidden_dim=8, seed=seed) for seed in range(2)])
    twin = copy.deepcopy(model)
    batch = Batch.from_data_list([AtomicData.from_atoms(molecule("CH4"))])
    assert torch.equal(twin(batch)["energy"], model(batch)["energy"])
    assert len({id(each) for each in (*model.parameters(), *twin.parameters())}) == 2 * len(list(model.parameters()))


def test_training_stays_possible() -> None:
    model = CommitteeModelWrapper([build_demo_model(hidden_dim=8, seed=seed).train() for seed in range(2)]).train()
    outputs = model(Batch.from_data_list([AtomicData.from_atoms(molecule("CH4"))]))
    outputs["forces"].square().sum().backward()
    assert all(member.model.projection.weight.grad is not None for member in model.members)


# ------------------------------------------------------------------------------------------------------------ refusals


def test_refusals() -> None:
    one = argon()
    half = LennardJonesModelWrapper(epsilon=0.01, sigma=3.4, cutoff=8.0, half_list=True)
    for models, error, words in (
        ([one], InputError, "at least two"),
        ([one, argon(), one], InputError, r"models\[0\].*models\[2\].*agree with itself"),
        ([one, torch.nn.Linear(1, 1)], ContractError, r"models\[1\].*Linear"),
        ([one, half], InputError, "half_list"),
    ):
        with pytest.raises(error, match=words):
            CommitteeModelWrapper(models)


def test_a_committee_by_name() -> None:
    pair = {"name": "lennard-jones", "sigma": 3.4, "cutoff": 8.5}
    members = [{**pair, "epsilon": 0.0100}, {**pair, "epsilon": 0.0108}, argon()]
    model = athanor.models.get("committee", members=members)
    assert [member.epsilon for member in model.members] == [0.0100, 0.0108, 0.0104]
    nested = athanor.models.get("committee", members=[[members[0], {"name": "demo", "seed": 1}], "demo"])
    assert [type(member).__name__ for member in nested.members] == ["PipelineModelWrapper", "DemoModelWrapper"]
    for wrong, words in (
        (["demo", "chgnut"], "chgnut"),
        (["demo", {"name": "demo", "sead": 1}], "seed"),
        (["demo", 3], "names no model"),
        ("demo", "list of at least two"),
        ({"name": "demo"}, "list of at least two"),
    ):
        with pytest.raises((InputError, ArgumentError), match=words):
            athanor.models.get("committee", members=wrong)


@pytest.mark.chgnet
def test_members_of_one_cutoff_share_their_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    from athanor.models.chgnet import wrapper as chgnet

    built = []
    make = chgnet.build_graph

    def build_graph(*arguments: Any, **settings: Any) -> Any:
        built.append(settings["cutoff"])
        return make(*arguments, **settings)

    monkeypatch.setattr(chgnet, "build_graph", build_graph)
    model = athanor.models.get("committee", members=["chgnet", "chgnet-r2scan", "chgnet-0.2.0"], dtype="float64")
    assert not model.model_config.outputs & {"node_embeddings", "graph_embeddings"}
    assert "magmoms" in model.model_config.outputs
    system = AtomicData.from_atoms(bulk("NaCl", "rocksalt", a=5.6), dtype=torch.float64)
    found = model(listed(model, [system]))
    assert built == [6.0, 5.0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        each = [member(listed(member, [system])) for member in model.members]
    expected = (each[0]["energy"] + each[1]["energy"] + each[2]["energy"]) / 3
    torch.testing.assert_close(found["energy"], expected, rtol=1e-12, atol=0.0)
