"""AIMNet2Wrapper on networks of the package's own class with random parameters, against the calculator of that package.

`make test-model-aimnet2` runs this, in an environment with aimnet; nothing else collects it.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import bulk, molecule

import athanor
from athanor._optional import OptionalDependency
from athanor.data import AtomicData, Batch
from athanor.errors import AthanorError, InputError
from athanor.models import EwaldModelWrapper, PipelineGroup, PipelineModelWrapper, PipelineStep, hessian
from athanor.models.aimnet2 import AIMNet2Wrapper, aimnet2_potential
from athanor.neighbors import compute_neighbors

from .shared import keeps_the_contract, left_behind, matrix, rattled

package = OptionalDependency.AIMNET.load("models")
from aimnet.calculators import AIMNet2ASE, AIMNet2Calculator  # noqa: E402  (after what it prints has gone elsewhere)
from aimnet.config import build_module  # noqa: E402
from aimnet.models.utils import strip_lr_modules_from_yaml  # noqa: E402

KNOWN = [1, 6, 7, 8, 9, 14, 16, 17]
EVERYTHING = {"energy", "forces", "stress", "charges"}
ENERGY, FORCES = 1e-5, 1e-4
"""eV per atom, and eV/Å, eV/Å³ or e, by which the wrapper and the calculator may differ; both compute in float32."""


def content_of_file(*, alone: bool = True, **changes: Any) -> dict[str, Any]:
    """Return what `aimnet export` writes for a network with random parameters whose forces are some 0.1 eV/Å.

    With the parts of the published networks, unless it is to be `alone`: a Coulomb sum and D3, which are both left to
    others, as the file says.
    """
    config = yaml.safe_load(Path(package.__file__).with_name("aimnet2_dftd3_wb97m.yaml").read_text(encoding="utf-8"))
    config["kwargs"] |= {"hidden": [[64, 48], [64, 48], [64, 48, 48]], "aim_size": 32, **changes}
    outputs = config["kwargs"]["outputs"]
    outputs["energy_mlp"]["kwargs"] |= {"n_in": 32}
    if alone:
        del outputs["lrcoulomb"], outputs["dftd3"]
    torch.manual_seed(0)
    whole = build_module(copy.deepcopy(config))
    rest, mode, dispersion, d3, radius, envelope, _ = strip_lr_modules_from_yaml(config, whole.state_dict())
    text = yaml.dump(rest, sort_keys=False)
    network = build_module(rest)
    network.load_state_dict(whole.state_dict(), strict=False)
    network.outputs.atomic_shift.shifts.double()
    with torch.no_grad():
        network.outputs.energy_mlp.mlp[-1].weight *= 100.0
        network.afv.weight[[number for number in range(1, 64) if number not in KNOWN]] = float("nan")
        network.outputs.atomic_shift.shifts.weight[1:, 0] = torch.linspace(-1.0, -2.0, 63)
    return {
        "format_version": 2, "model_yaml": text, "cutoff": 5.0, "needs_coulomb": mode == "sr_embedded",
        "needs_dispersion": dispersion, "coulomb_mode": mode, "coulomb_sr_rc": radius, "coulomb_sr_envelope": envelope,
        "d3_params": d3, "has_embedded_lr": mode == "sr_embedded", "has_embedded_d3ts": False,
        "implemented_species": KNOWN, "state_dict": network.state_dict(),
    }  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of a network by itself, one for open shells, and one that needs partners."""
    folder = tmp_path_factory.mktemp("aimnet2")
    contents = {
        "closed": content_of_file(),
        "open": content_of_file(num_charge_channels=2),
        "partners": content_of_file(alone=False),
    }
    for name, content in contents.items():
        torch.save(content, folder / f"{name}.pt")
    return {name: folder / f"{name}.pt" for name in contents}


def structures() -> dict[str, Atoms]:
    """Crystals, one below the cutoff, molecules with and without a box, an ion, a radical and an atom."""
    found = rattled(
        "silicon", "SiC", "ethanol", "water in a box", methoxide=molecule("CH3O"), radical=molecule("CH3O"),
        hydrogen=molecule("H"),
    )  # fmt: skip
    for atoms in found.values():
        atoms.set_initial_magnetic_moments(None)
    found["methoxide"].info |= {"charge": -1}
    found["radical"].info |= {"spin": 2}
    found["hydrogen"].info |= {"spin": 2}
    return found


def batch_of(model: Any, *systems: Atoms) -> Batch:
    batch = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in systems])
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    return batch


def of_the_package(file: Path, atoms: Atoms, coulomb: str = "") -> dict[str, np.ndarray]:
    """Return what the calculator of the package says about one structure, with its partners if `coulomb` is given."""
    partners = {} if coulomb else {"needs_coulomb": False, "needs_dispersion": False}
    base = AIMNet2Calculator(str(file), device="cpu", **partners)
    if coulomb:
        base.set_lrcoulomb_method(coulomb)
    calculator = AIMNet2ASE(base, charge=atoms.info.get("charge", 0), mult=atoms.info.get("spin", 1))
    calculator.calculate(atoms, ["energy", "forces", *(["stress"] if atoms.pbc.any() else [])])
    results = dict(calculator.results)
    results["stress"] = matrix(results["stress"]) if "stress" in results else np.zeros((3, 3))
    return results


def differences(model: Any, file: Path, **options: Any) -> dict[str, dict[str, float]]:
    """By how much results differ from those of the calculator, alone and in one batch; energies per atom."""
    systems, found = structures(), {}
    together = model(batch_of(model, *systems.values()))
    starts = np.cumsum([0, *map(len, systems.values())])
    everything = set(model.model_config.active_outputs)
    for place, (name, atoms) in enumerate(systems.items()):
        coulomb = "" if not options else options["crystal" if atoms.pbc.any() else "molecule"]
        expected = of_the_package(file, atoms, coulomb)
        assert len(atoms) == 1 or np.abs(expected["forces"]).max() > 0.02
        model.model_config.active_outputs = everything if atoms.pbc.any() else everything - {"stress"}
        alone = model(batch_of(model, atoms))
        model.model_config.active_outputs = everything
        found[name] = {}
        for key in together:
            rows = slice(place, place + 1) if key in ("energy", "stress") else slice(starts[place], starts[place + 1])
            share = len(atoms) if key == "energy" else 1
            both = [together[key][rows], *([alone[key]] if key in alone else [])]
            found[name][key] = max(np.abs(np.asarray(each) - expected[key]).max() / share for each in both)
    return found


def check(found: dict[str, dict[str, float]]) -> None:
    print(found)
    for of_system in found.values():
        for key, difference in of_system.items():
            assert difference < (ENERGY if key == "energy" else FORCES), key


@pytest.mark.parametrize("kind", ["closed", "open"])
def test_it_agrees_with_the_calculator_of_the_package(files: dict[str, Path], kind: str) -> None:
    """Alone and in a batch of crystals, molecules, ions and radicals."""
    model = AIMNet2Wrapper.from_checkpoint(files[kind])
    model.model_config.active_outputs = EVERYTHING | ({"spin_charges"} if kind == "open" else set())
    check(differences(model, files[kind]))


class SeesPairsOfItsNeighbour(AIMNet2Wrapper):
    """A broken twin: images are one cell off."""

    def _padded(self, graph: Any) -> dict[str, torch.Tensor]:
        inputs = super()._padded(graph)
        return inputs | ({"shifts": -inputs["shifts"]} if "shifts" in inputs else {})


class ForgetsWhatTheSystemsAre(AIMNet2Wrapper):
    """A broken twin: charge and multiplicity are those of the first system."""

    def _padded(self, graph: Any) -> dict[str, torch.Tensor]:
        inputs = super()._padded(graph)
        return inputs | {name: inputs[name][:1].expand(graph.num_graphs) for name in ("charge", "mult")}


@pytest.mark.parametrize(
    ("twin", "system"),
    [
        (SeesPairsOfItsNeighbour, "SiC"),
        (ForgetsWhatTheSystemsAre, "methoxide"),
        (ForgetsWhatTheSystemsAre, "radical"),
    ],
)
def test_the_comparison_notices_broken_twins(files: dict[str, Path], twin: type, system: str) -> None:
    model = twin.from_checkpoint(files["open"])
    model.model_config.active_outputs = set(EVERYTHING)
    assert differences(model, files["open"])[system]["forces"] > 10 * FORCES


def test_the_whole_potential_agrees_with_the_calculator_of_the_package(files: dict[str, Path]) -> None:
    """Network, Coulomb sum of its charges and D3: all pairs of molecules, Ewald for crystals."""
    model = aimnet2_potential(files["partners"])
    model.model_config.active_outputs = set(EVERYTHING)
    check(differences(model, files["partners"], crystal="ewald", molecule="simple"))
    assert model.model_card.name == "AIMNet2 + Ewald sum + D3(BJ)"


def slope_and_force(model: Any, atoms: Atoms) -> tuple[float, float]:
    """Return minus the slope of the energy along the first coordinate of the first atom, and the force there."""
    model.model_config.active_outputs = {"energy", "forces"}
    energies = []
    for step in (-0.02, 0.02):
        moved = atoms.copy()
        moved.positions[0, 0] += step
        energies.append(float(model(batch_of(model, moved))["energy"]))
    return -(energies[1] - energies[0]) / 0.04, float(model(batch_of(model, atoms))["forces"][0, 0])


def test_forces_contain_what_acts_through_the_charges(files: dict[str, Path]) -> None:
    network, ewald = AIMNet2Wrapper.from_checkpoint(files["partners"]), EwaldModelWrapper(8.0)
    salt = bulk("SiC", "zincblende", a=4.36, cubic=True)
    salt.rattle(0.2, seed=3)

    def pipeline(**options: Any) -> PipelineModelWrapper:
        step = PipelineStep(network, **options)
        return PipelineModelWrapper([PipelineGroup([step, ewald], use_autograd=True)]).eval()

    slope, force = slope_and_force(pipeline(), salt)
    assert force == pytest.approx(slope, abs=1e-3)
    slope, force = slope_and_force(pipeline(constants={"charges"}), salt)  # a broken twin: charges at rest
    assert abs(force - slope) > 5e-3


def test_the_code_of_the_guide_runs_on_it(files: dict[str, Path]) -> None:
    aimnet2, ewald = AIMNet2Wrapper.from_checkpoint(files["partners"]), EwaldModelWrapper(8.0)
    batch = batch_of(ewald, structures()["silicon"])
    block = Path(__file__).parents[1] / "guide" / "blocks" / "autograd_group.txt"
    given = {"PipelineModelWrapper": PipelineModelWrapper, "PipelineGroup": PipelineGroup}
    names = {**given, "aimnet2": aimnet2, "ewald": ewald, "batch": batch}
    exec(compile(block.read_text(encoding="utf-8"), block.name, "exec"), names)
    assert set(names["out"]) >= {"energy", "forces", "stress"}


def test_it_keeps_the_contract(files: dict[str, Path]) -> None:
    keeps_the_contract(
        AIMNet2Wrapper.from_checkpoint(files["open"]), "rotation", "extensivity", "smoothness", elements=[6, 14]
    )


def test_only_what_is_known_is_taken(files: dict[str, Path]) -> None:
    model = AIMNet2Wrapper.from_checkpoint(files["closed"])
    with pytest.raises(InputError, match=r"no parameters for Au .*index 1.*has some for H, C"):
        model(batch_of(model, bulk("Si"), bulk("Au")))


def test_embeddings_and_second_derivatives(files: dict[str, Path]) -> None:
    model = AIMNet2Wrapper.from_checkpoint(files["closed"])
    batch = batch_of(model, *structures().values())
    assert model.compute_embeddings(batch).node_embeddings.shape == (batch.num_nodes, 32)
    assert batch.graph_embeddings.shape == (len(batch), 32)
    alone = batch_of(model, structures()["ethanol"])
    (exact,), (by_differences,) = hessian(model, alone, step=None), hessian(model, alone, step=0.01)
    torch.testing.assert_close(exact, by_differences, rtol=0.02, atol=0.02)


def test_parameters_are_trained_by_forces(files: dict[str, Path]) -> None:
    model = AIMNet2Wrapper.from_checkpoint(files["closed"], train=True).train()
    model(batch_of(model, structures()["ethanol"]))["forces"].square().sum().backward()
    assert float(model.model.afv.weight.grad[6].abs().sum()) > 0.0
    assert model.model.aev.rc_s.grad is None
    frozen = AIMNet2Wrapper.from_checkpoint(files["closed"], train=False).train()
    assert not frozen(batch_of(frozen, structures()["ethanol"]))["forces"].requires_grad
    with pytest.raises(InputError, match="can not be trained"):
        AIMNet2Wrapper.from_checkpoint(files["closed"], train=True, compile_model=True)


def test_a_compiled_network_gives_the_same(files: dict[str, Path]) -> None:
    model = AIMNet2Wrapper.from_checkpoint(files["closed"], compile_model=True, backend="aot_eager")
    model.model_config.active_outputs = set(EVERYTHING)
    check(differences(model, files["closed"]))


def test_files_of_the_package_are_read_and_written(files: dict[str, Path], tmp_path: Path) -> None:
    model = AIMNet2Wrapper.from_checkpoint(files["partners"])
    assert model.needs_coulomb
    assert model.d3_parameters == {"s8": 0.3908, "a1": 0.566, "a2": 3.128, "s6": 1.0}
    assert model.model_card.weights_digest.startswith("sha256:")
    model.export_model(tmp_path / "again.pt")
    batch = batch_of(model, *structures().values())
    again = AIMNet2Wrapper.from_checkpoint(tmp_path / "again.pt")
    assert torch.equal(again(batch)["forces"], model(batch)["forces"])
    of_the_package(tmp_path / "again.pt", structures()["ethanol"], "simple")
    job = {"name": "aimnet2", "checkpoint_path": str(files["partners"])}
    result = athanor.evaluate([structures()["ethanol"]], model=job)
    whole = aimnet2_potential(files["partners"])
    whole.model_config.active_outputs = {"energy"}
    expected = float(whole(batch_of(whole, structures()["ethanol"]))["energy"])
    assert result.energies[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 3}, "has format 3 .* Upgrade it"),
        ({"model_yaml": "class: os.system\nkwargs: {command: 'true'}"}, "pass `trust=True`"),
        ({"state_dict": {}}, "no AIMNet2 model that the installed aimnet reads"),
        ({"cutoff": "far"}, "no AIMNet2 model that the installed aimnet reads"),
    ],
)
def test_files_that_will_not_do(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "model.pt"
    torch.save(content_of_file() | change, file)
    with pytest.raises(InputError, match=message):
        AIMNet2Wrapper.from_checkpoint(file)


def test_what_is_no_file_of_a_network(files: dict[str, Path], tmp_path: Path) -> None:
    damaged = bytearray(files["closed"].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged.pt").write_bytes(damaged)
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    for name, message in (
        ("damaged.pt", "is damaged"),
        ("other.pt", "lacks `model_yaml`"),
        ("old.jpt", "of the first format"),
        ("nothing", "neither a file nor a network that aimnet can get: .*aimnet2"),
    ):
        with pytest.raises(InputError, match=message):
            AIMNet2Wrapper.from_checkpoint(tmp_path / name if "." in name else name)


def test_networks_that_sum_over_all_pairs_are_refused() -> None:
    network = build_module(str(Path(package.__file__).with_name("aimnet2.yaml")))
    with pytest.raises(InputError, match=r"`outputs.lrcoulomb` \(LRCoulomb\).*aimnet2_potential"):
        AIMNet2Wrapper(network)
    with pytest.raises(AthanorError, match="lacks what is read of an AIMNet2 network"):
        AIMNet2Wrapper(torch.nn.Linear(3, 3))


def test_the_process_is_left_as_it_was(files: dict[str, Path]) -> None:
    program = f"models.AIMNet2Wrapper.from_checkpoint({str(files['closed'])!r})"
    assert left_behind("aimnet", program) == "[]\n"
