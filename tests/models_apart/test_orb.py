"""OrbWrapper on networks of orb-models' own classes with random parameters, against the calculator of that package.

`make test-model-orb` runs this, in an environment with orb-models; nothing else collects it.
"""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

import athanor
from athanor._optional import process_left_alone
from athanor.errors import AthanorWarning, ContractError, InputError, NotAvailableError
from athanor.models import LennardJonesModelWrapper, PipelineGroup, PipelineModelWrapper
from athanor.models.learned import LearnedModel
from athanor.models.orb import OrbWrapper, network
from athanor.testing import Verdict, check_model
from athanor.testing.model_contract import CHECKS

from . import shared
from .shared import assert_within, calculated, left_behind, rattled

pretrained = network.package("forcefield.pretrained")
ORBCalculator = network.package("forcefield.inference.calculator").ORBCalculator
Adapter = network.package("forcefield.forcefield_adapter").ForcefieldAtomsAdapter

EVERYTHING = {"energy", "forces", "stress"}
BOUNDS = {torch.float64: (1e-8, 1e-8), torch.float32: (1e-5, 1e-4)}
"""eV per atom, and eV/Å or eV/Å³, by which the wrapper and the calculator may differ."""
KINDS = {
    "conservative": pretrained.orb_v3_conservative_architecture,
    "direct": pretrained.orb_v3_direct_architecture,
    "v2": pretrained.orb_v2_architecture,
}


def random_network(kind: str = "conservative", dtype: torch.dtype = torch.float64, **changes: Any) -> torch.nn.Module:
    """Return a small network; one that the package compares is made in its dtype, which is then the default."""
    small = {"latent_dim": 32, "base_mlp_hidden_dim": 64, "head_mlp_hidden_dim": 32, "num_message_passing_steps": 2}
    options = {"num_message_passing_steps": 1} if kind == "v2" else small
    with process_left_alone():
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        model = KINDS[kind](device="cpu", **options | changes).to(dtype).eval()
    model.heads["energy"].normalizer.bn.running_var[:] = 100.0  # forces of some eV/Å
    return model.requires_grad_(False)


def wrapper(
    kind: str = "conservative", dtype: torch.dtype = torch.float64, limit: int = 120, **options: Any
) -> OrbWrapper:
    model = OrbWrapper(random_network(kind, dtype, **options), max_num_neighbors=limit).eval()
    model.model_config.active_outputs = set(EVERYTHING)
    return model


structures = partial(rattled, "silicon", "rock salt", "ethanol", "copper", "water", by=0.1)
batch_of = partial(shared.batch_of, cutoff=6.5)


def expected(kind: str, dtype: torch.dtype, limit: int, atoms: Atoms, **options: Any) -> dict[str, Any]:
    with process_left_alone():
        torch.set_default_dtype(dtype)
        model = random_network(kind, dtype, **options)
        calculator = ORBCalculator(model, Adapter(6.0, limit), device="cpu")
        return calculated(calculator, atoms)


def differences(model: OrbWrapper, kind: str, dtype: torch.dtype, **options: Any) -> dict[str, dict[str, float]]:
    """By how much energy per atom, forces and stress differ from the calculator, alone and in one batch."""
    theirs = {
        name: expected(kind, dtype, model.max_num_neighbors, atoms, **options) for name, atoms in structures().items()
    }
    assert max(np.abs(each["forces"]).max() for each in theirs.values()) > 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AthanorWarning)
        return shared.differences(model, theirs, structures(), batch_of)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("limit", [120, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_it_agrees_with_the_calculator_of_the_package(kind: str, limit: int, dtype: torch.dtype) -> None:
    """Alone and in a batch of crystals and molecules, which the package can not mix."""
    assert_within(differences(wrapper(kind, dtype, limit), kind, dtype), *BOUNDS[dtype])


class ReadsEveryNeighbor(OrbWrapper):
    """A broken twin: the limit is not kept."""

    def network_outputs(self, graph: Any, wanted: Any) -> Any:
        limit, self.max_num_neighbors = self.max_num_neighbors, 10**6
        try:
            return super().network_outputs(graph, wanted)
        finally:
            self.max_num_neighbors = limit


class ReadsTheOtherEnd(OrbWrapper):
    """A broken twin: atoms of a pair are exchanged, its vector is not."""

    def _atom_graphs(self, graph: Any) -> Any:
        atoms = super()._atom_graphs(graph)
        atoms.senders, atoms.receivers = atoms.receivers, atoms.senders
        return atoms


class SwapsShears(OrbWrapper):
    """A broken twin: yz and xy of a predicted stress are exchanged."""

    def network_outputs(self, graph: Any, wanted: Any) -> Any:
        found = dict(super().network_outputs(graph, wanted))
        found["stress"] = found["stress"].flip(1, 2)
        return found


@pytest.mark.parametrize(
    ("twin", "kind", "limit"),
    [
        (ReadsEveryNeighbor, "conservative", 20),
        (ReadsTheOtherEnd, "conservative", 120),
        (SwapsShears, "direct", 120),
    ],
)
def test_the_comparison_notices_a_broken_twin(twin: type[OrbWrapper], kind: str, limit: int) -> None:
    model = twin(random_network(kind), max_num_neighbors=limit).eval()
    model.model_config.active_outputs = set(EVERYTHING)
    assert max(differences(model, kind, torch.float64)["silicon"].values()) > 1e-5


@pytest.mark.parametrize("parameters", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ["conservative", "direct"])
def test_it_keeps_the_contract(kind: str, parameters: torch.dtype) -> None:
    report = check_model(OrbWrapper(random_network(kind, parameters)).eval(), elements=[11, 17], distance=2.8)
    print(report)
    failed = {check for check in CHECKS if report.verdict(check) is Verdict.FAILED}
    if kind == "direct":  # what random parameters predict points anywhere
        failed -= {"sign of forces", "sign of stress"}
    assert not failed
    conservative = Verdict.PASSED if kind == "conservative" else Verdict.NOT_CLAIMED
    for check in ("forces", "stress", "autograd group"):
        assert report.verdict(check) is conservative, check
    for check in ("companions", "images", "other cell", "handedness", "unknown element"):
        assert report.verdict(check) is Verdict.PASSED, check


class LetsItsEnergyBeDifferentiated(OrbWrapper):
    """A broken twin: the slope of the energy is added to the forces that were predicted."""

    def attached_energy(self, data: Any, strain: Any, wanted: Any) -> dict[str, torch.Tensor]:
        return LearnedModel.attached_energy(self, data, strain, wanted)


@pytest.mark.parametrize(("kind", "use_autograd"), [("conservative", True), ("direct", True), ("direct", False)])
def test_a_sum_has_the_forces_of_its_parts(kind: str, use_autograd: bool) -> None:
    def difference(network_model: OrbWrapper) -> float:
        pair = LennardJonesModelWrapper(epsilon=0.2, sigma=2.0, cutoff=5.0, switch_width=1.0)
        batch = batch_of(*structures().values())
        both = PipelineModelWrapper([PipelineGroup(steps=[network_model, pair], use_autograd=use_autograd)])
        for model in (network_model, pair, both):
            model.model_config.active_outputs = set(EVERYTHING)
        total, *parts = both(batch), network_model(batch), pair(batch)
        return max(float((total[key] - parts[0][key] - parts[1][key]).abs().max()) for key in EVERYTHING)

    assert difference(wrapper(kind)) < 1e-10
    if kind == "direct" and use_autograd:
        assert difference(LetsItsEnergyBeDifferentiated(random_network(kind)).eval()) > 1e-4


def test_charge_and_spin_of_a_system_are_read() -> None:
    options = {"has_charge_spin_cond": True}
    model, systems = wrapper(**options), [molecule("H2O"), molecule("CH3"), molecule("OH")]
    labels = [(0, 1), (1, 1), (-1, 3)]
    for atoms, (charge, spin) in zip(systems, labels, strict=True):
        atoms.info.update(charge=charge, spin=spin)
    found = model(batch_of(*systems))["energy"].view(-1)
    with process_left_alone():
        torch.set_default_dtype(torch.float64)
        calculator = ORBCalculator(random_network(**options), Adapter(6.0, 120), device="cpu")
        for ours, atoms in zip(found, systems, strict=True):
            calculator.calculate(atoms)
            assert abs(float(ours) - calculator.results["energy"]) < 1e-8
    del systems[0].info["charge"], systems[0].info["spin"]  # assumed: neutral, a singlet
    torch.testing.assert_close(model(batch_of(systems[0]))["energy"][0], found[:1], rtol=0, atol=1e-10)
    systems[1].info["charge"] = 0
    assert abs(float(model(batch_of(systems[1]))["energy"]) - float(found[1])) > 1e-6


def test_electrostatics_of_molecules() -> None:
    options = {"has_electrostatics": True, "has_stress": False, "use_per_atom_spins": True}
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=0)
    atoms.info.update(charge=1, spin=2)
    model = OrbWrapper(random_network(**options)).eval()
    model.model_config.active_outputs = {"energy", "forces", "charges"}
    found = model(batch_of(molecule("H2O"), atoms))
    with process_left_alone():
        torch.set_default_dtype(torch.float64)
        calculator = ORBCalculator(random_network(**options), Adapter(6.0, 120), device="cpu")
        calculator.calculate(atoms)
    assert abs(float(found["energy"][1]) - calculator.results["energy"]) < 1e-8
    np.testing.assert_allclose(found["forces"][3:], calculator.results["forces"], rtol=0, atol=1e-8)
    assert abs(float(found["charges"][3:].sum()) - 1.0) < 1e-10
    with pytest.raises(NotAvailableError, match="the system of index 1 is periodic"):
        model(batch_of(atoms, bulk("Si")))


def test_that_neighbors_are_left_out_is_told_once() -> None:
    model, diamond = wrapper(), batch_of(bulk("C", cubic=True))
    with pytest.warns(
        AthanorWarning, match=r"have up to \d+ neighbours within 6 Å, of which ORB reads the nearest 120"
    ):
        model(diamond)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AthanorWarning)
        model(diamond)
        wrapper(limit=20)(diamond)
    assert model.model_card.smooth
    assert not wrapper(limit=20).model_card.smooth


def test_embeddings_and_what_a_direct_network_has_not() -> None:
    model, batch = wrapper("direct", has_stress=False), batch_of(*structures().values())
    assert model.model_config.outputs == {"energy", "forces", "node_embeddings", "graph_embeddings"}
    model.compute_embeddings(batch)
    assert batch.node_embeddings.shape == (batch.num_nodes, 32)
    assert batch.graph_embeddings.shape == (len(structures()), 32)
    assert not batch.positions.requires_grad


NAME = "orb-v3-conservative-inf-omat"


def test_files_of_the_package_are_read(tmp_path: Path) -> None:
    """A state dict of a published architecture, as the package publishes and trains them."""
    file, batch = tmp_path / "trained.ckpt", batch_of(*structures().values())
    with process_left_alone():
        torch.manual_seed(1)
        original = KINDS["conservative"](device="cpu").eval().requires_grad_(False)
    original.pair_repulsion_fn.node_aggregation = "mean"  # what the package does with those of this name
    torch.save(original.state_dict(), file)
    model = athanor.models.get(NAME, weights_path=str(file))
    torch.testing.assert_close(model(batch)["energy"], OrbWrapper(original).eval()(batch)["energy"])
    assert (model.max_num_neighbors, model.cutoff) == (120, 6.0)
    assert OrbWrapper.from_checkpoint("orb-v3-conservative-20-omat", file).max_num_neighbors == 20
    assert model.model_card.weights_digest.startswith("sha256:")
    assert "OMat24" in model.model_card.training_set

    with pytest.raises(InputError, match=r"are not those of `orb-v2`"):
        OrbWrapper.from_checkpoint("orb-v2", file)
    with pytest.raises(InputError, match=r"lacks `heads.forces.*` of `orb-v3-direct-inf-omat`, which would be random"):
        OrbWrapper.from_checkpoint("orb-v3-direct-inf-omat", file)
    newer = original.state_dict() | {"model.another_layer.weight": torch.zeros(3)}
    torch.save(newer, tmp_path / "newer.ckpt")
    with pytest.raises(InputError, match=r"unexpected in model: model\.another_layer\.weight"):
        OrbWrapper.from_checkpoint(NAME, tmp_path / "newer.ckpt")
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged.ckpt").write_bytes(damaged)
    with pytest.raises(InputError, match="is damaged"):
        OrbWrapper.from_checkpoint(NAME, tmp_path / "damaged.ckpt")


def test_what_can_not_be_read_is_told(tmp_path: Path) -> None:
    torch.save({"energy": torch.zeros(3)}, tmp_path / "foreign.pt")
    with pytest.raises(InputError, match="holds no parameters of an ORB network"):
        OrbWrapper.from_checkpoint(NAME, tmp_path / "foreign.pt")
    with pytest.raises(InputError, match="does not exist"):
        OrbWrapper.from_checkpoint(NAME, tmp_path / "absent.ckpt")
    with pytest.raises(InputError, match=r"no network of orb-models\. Did you mean `orb-v2`"):
        OrbWrapper.from_checkpoint("orb-v22")
    with pytest.raises(InputError, match="no network of orb-models"):
        OrbWrapper.from_checkpoint("orb-v1")  # the package knows its name, and gives no parameters any more
    with pytest.raises(ContractError, match="a Linear that lacks what is read of a network"):
        OrbWrapper(torch.nn.Linear(1, 1))


def test_the_process_is_left_as_it_was(tmp_path: Path) -> None:
    """Neither the default dtype, precision of products, environment and filters, nor what the packages print, stays."""
    file = tmp_path / "random.ckpt"
    torch.save(KINDS["direct"](device="cpu").state_dict(), file)
    program = f"models.OrbWrapper.from_checkpoint('orb-v3-direct-inf-mpa', {str(file)!r}, dtype=torch.float64)"
    assert left_behind("orb_models", program) == "[]\n"
