"""MetatomicWrapper on a model of metatomic's own interface, exported and loaded, against the calculator of the package.

`make test-model-metatomic` runs this and `test_pet.py`, in an environment with metatomic-torch and metatrain; nothing
else collects them. metatomic reads annotations of `PairsAndMore` as they stand: none is postponed, and they are of
`typing`.
"""

# ruff: noqa: UP006, UP035, UP045

import json
import zipfile
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import pytest
import torch
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import AtomisticModel, ModelCapabilities, ModelMetadata, ModelOutput, NeighborListOptions, System
from metatomic_ase import MetatomicCalculator

import athanor
from athanor.errors import ContractError, DtypeError, InputError, MissingFieldError
from athanor.models import MetatomicWrapper, hessian
from athanor.models.metatomic import systems

from . import shared
from .shared import assert_within, calculated, keeps_the_contract, left_behind, rattled

HALF_CUTOFF, FULL_CUTOFF = 4.0, 5.0
ELEMENTS = [1, 6, 8, 11, 14, 17]
BOUNDS = {torch.float64: (1e-11, 1e-10), torch.float32: (1e-5, 1e-4)}
"""eV per atom, and eV/Å or eV/Å³, by which the wrapper and the calculator may differ."""


class PairsAndMore(torch.nn.Module):
    """Pairs on a half list, tanh of a density on a full one that is longer, charge and spin; its rows are unsorted."""

    def __init__(self, dtype: torch.dtype, of_atoms: bool):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.depth = torch.nn.Parameter(0.3 + 0.5 * torch.rand(120, dtype=dtype, generator=generator))
        self.weights = torch.nn.Parameter(0.3 * torch.randn(120, 4, dtype=dtype, generator=generator))
        self.half = NeighborListOptions(4.0, False, True)
        self.full = NeighborListOptions(5.0, True, False)
        self.of_atoms = of_atoms

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:
        return [self.half, self.full]

    def requested_inputs(self) -> Dict[str, ModelOutput]:
        wanted = {
            "charge": ModelOutput(unit="e", sample_kind="system"),
            "spin_multiplicity": ModelOutput(unit="", sample_kind="system"),
        }
        if self.of_atoms:
            return {
                "charge": ModelOutput(unit="e", sample_kind="atom"),
                "mass": ModelOutput(unit="u", sample_kind="atom"),
            }
        return wanted

    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels] = None,
    ) -> Dict[str, TensorMap]:
        energies: List[torch.Tensor] = []
        densities: List[torch.Tensor] = []
        rows: List[torch.Tensor] = []
        for place, system in enumerate(systems):
            numbers = system.types.to(torch.int64)
            energy = torch.zeros(len(system), dtype=system.positions.dtype, device=system.positions.device)
            pairs = system.get_neighbor_list(self.half)
            i = pairs.samples.column("first_atom").to(torch.int64)
            j = pairs.samples.column("second_atom").to(torch.int64)
            r = torch.linalg.norm(pairs.values.reshape(-1, 3), dim=1)
            pair = 10.0 * self.depth[numbers[i]] * self.depth[numbers[j]] * torch.exp(-r / 1.5)
            pair = pair * (1.0 - (r / 4.0) ** 2).clamp(min=0.0) ** 3
            energy = energy.index_add(0, i, pair).index_add(0, j, pair)
            pairs = system.get_neighbor_list(self.full)
            i = pairs.samples.column("first_atom").to(torch.int64)
            j = pairs.samples.column("second_atom").to(torch.int64)
            squared = (pairs.values.reshape(-1, 3) ** 2).sum(1)
            near = (1.0 - squared / 25.0).clamp(min=0.0) ** 3
            density = torch.zeros(len(system), 4, dtype=energy.dtype, device=energy.device)
            density = density.index_add(0, i, self.weights[numbers[j]] * near.unsqueeze(1))
            factor = torch.ones(1, dtype=energy.dtype, device=energy.device)
            if self.of_atoms:
                factor = 1.0 + system.get_data("charge").block().values.view(-1)
                factor = factor + 0.01 * system.get_data("mass").block().values.view(-1)
            else:
                charge = system.get_data("charge").block().values.view(-1)
                factor = 1.0 + 0.1 * charge + 0.05 * system.get_data("spin_multiplicity").block().values.view(-1)
            energies.append(energy - torch.tanh(density).pow(2).sum(1) * factor)
            densities.append(density)
            atoms = torch.arange(len(system), dtype=torch.int32, device=energy.device)
            rows.append(torch.stack([torch.full_like(atoms, place), atoms], 1))
        energy, density, row = torch.cat(energies), torch.cat(densities), torch.cat(rows)
        count = len(systems)
        result: Dict[str, TensorMap] = {}
        for name, output in outputs.items():
            values = energy.unsqueeze(1)
            where = row
            if name.startswith("energy"):
                values, where = values.flip(0), row.flip(0)
            if name == "energy/doubled":
                values = 2.0 * values
            elif name == "energy_uncertainty":
                values = 0.01 * values.abs()
            elif name == "energy_ensemble":
                values = values * torch.tensor([0.9, 1.0, 1.1], dtype=energy.dtype, device=energy.device)
            elif name == "feature":
                values = density
            elif name == "non_conservative_force":
                values = density[:, :3]
            elif name == "non_conservative_stress":
                values = (density[:, :3].unsqueeze(2) * density[:, :3].unsqueeze(1)).reshape(-1, 9)
            samples = Labels(["system", "atom"], where)
            if output.sample_kind == "system":
                sums = torch.zeros(count, values.shape[1], dtype=energy.dtype, device=energy.device)
                values = sums.index_add(0, where[:, 0].to(torch.int64), values)
                samples = Labels(["system"], torch.arange(count, dtype=torch.int32, device=energy.device).unsqueeze(1))
            axis = torch.arange(3, dtype=torch.int32, device=energy.device).unsqueeze(1)
            components: List[Labels] = []
            if name == "non_conservative_force":
                values, components = values.unsqueeze(2), [Labels(["xyz"], axis)]
            elif name == "non_conservative_stress":
                values, components = values.reshape(-1, 3, 3, 1), [Labels(["xyz_1"], axis), Labels(["xyz_2"], axis)]
            properties = Labels(
                ["energy" if name.startswith("energy") else name],
                torch.arange(values.shape[-1], device=energy.device).unsqueeze(1),
            )
            key = Labels(["_"], torch.zeros(1, 1, dtype=torch.int32, device=energy.device))
            result[name] = TensorMap(key, [TensorBlock(values, samples, components, properties)])
        return result


KINDS = {
    "energy": ("eV", "atom"), "energy/doubled": ("eV", "atom"), "energy_uncertainty": ("eV", "atom"),
    "energy_ensemble": ("eV", "system"), "feature": ("", "atom"), "non_conservative_force": ("eV/A", "atom"),
    "non_conservative_stress": ("eV/A^3", "system"),
}  # fmt: skip


def exported(dtype: torch.dtype = torch.float64, of_atoms: bool = False, **kinds: Any) -> AtomisticModel:
    outputs = {
        name: ModelOutput(unit=unit, sample_kind=kind, description=name)
        for name, (unit, kind) in (kinds or KINDS).items()
    }
    capabilities = ModelCapabilities(
        outputs=outputs, atomic_types=ELEMENTS, interaction_range=FULL_CUTOFF, length_unit="angstrom",
        supported_devices=["cpu", "cuda"], dtype=str(dtype)[6:],
    )  # fmt: skip
    about = ModelMetadata(name="pairs", references={"model": ["doi:10.0000/none"]})
    return AtomisticModel(PairsAndMore(dtype, of_atoms).eval(), about, capabilities)


@pytest.fixture(scope="module", params=BOUNDS, ids=str)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("metatomic") / "pairs.pt"
    exported(request.param).save(path)
    return path


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("double") / "pairs.pt"
    exported().save(path)
    return path


def wrapper(file: Path, kind: type = MetatomicWrapper, **options: Any) -> MetatomicWrapper:
    model = kind.from_checkpoint(file, trust=True, **options)
    model.model_config.active_outputs = set(model.model_config.outputs)
    return model


structures = partial(rattled, "silicon", "rock salt", "slab", "ethanol", "hydroxide", "water cation in a box")
batch_of = partial(shared.batch_of, cutoff=FULL_CUTOFF + 0.5)


def differences(model: MetatomicWrapper, calculator: Any) -> dict[str, dict[str, float]]:
    """By how much energy per atom, forces and stress differ from those of the calculator, alone and in one batch."""
    theirs = {name: calculated(calculator, atoms) for name, atoms in structures().items()}
    return shared.differences(model, theirs, structures(), batch_of)


@pytest.mark.filterwarnings("ignore")  # of the calculator, where nothing is periodic
@pytest.mark.parametrize("non_conservative", [False, True, "forces", "stress"])
def test_it_agrees_with_the_calculator_of_the_package(file: Path, non_conservative: Any) -> None:
    """Alone and in a batch of crystals, a slab and molecules, of which some have a charge and a spin."""
    model = wrapper(file, non_conservative=non_conservative)
    found = differences(model, MetatomicCalculator(file, non_conservative=non_conservative, uncertainty_threshold=None))
    assert_within(found, *BOUNDS[model.dtype])
    assert model.model_card.conservative is not bool(non_conservative)
    assert model(batch_of(structures()["silicon"]))["forces"].abs().max() > 0.02


class BothDirections(systems.SystemMaker):
    """A broken twin: a half list that is full."""

    def _pairs(self, graph: Any, options: Any, cutoff: float) -> Any:
        return super()._pairs(graph, NeighborListOptions(options.cutoff, True, True), cutoff)


class OneLengthForAll(systems.SystemMaker):
    """A broken twin: every list reaches as far as the longest."""

    def _pairs(self, graph: Any, options: Any, cutoff: float) -> Any:
        return super()._pairs(graph, options, FULL_CUTOFF)


class Neutral(systems.SystemMaker):
    """A broken twin: no system has a charge."""

    def _values(self, graph: Any, name: str, options: Any, sizes: Any) -> Any:
        return [self._quantity(torch.ones(1, 1).double(), "_", "", False) for _ in sizes]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("twin", "name"), [(BothDirections, "rock salt"), (Neutral, "hydroxide")])
def test_the_comparison_notices_broken_twins(double: Path, twin: type, name: str) -> None:
    model = wrapper(double)
    model._systems = twin(model._systems._lists, model._systems._requested)
    found = differences(model, MetatomicCalculator(double, uncertainty_threshold=None))
    assert found[name]["energy"] > 1e-3


def test_every_list_holds_the_pairs_that_were_asked_for(double: Path) -> None:
    """Lengths and directions; the twin whose lists are all as long as the longest is noticed."""
    model, batch = wrapper(double), batch_of(structures()["silicon"], structures()["hydroxide"])
    graph = model.network_graph(batch)
    (half, near), (full, far) = model._systems._lists
    assert (half.full_list, near, full.full_list, far) == (False, HALF_CUTOFF, True, FULL_CUTOFF)
    numbers = {}
    for kind in (systems.SystemMaker, OneLengthForAll):
        made = kind(model._systems._lists, model._systems._requested)(graph)
        numbers[kind] = [[len(each.get_neighbor_list(options).samples) for options in (half, full)] for each in made]
        lengths = torch.linalg.norm(made[0].get_neighbor_list(half).values, dim=1)
        assert bool((lengths < HALF_CUTOFF).all()) is (kind is systems.SystemMaker)
    pairs = graph.vectors.norm(dim=1)
    of_silicon = graph.batch_idx[graph.edge_index[0]] == 0
    assert numbers[systems.SystemMaker][0] == [int((pairs[of_silicon] < 4).sum()) // 2, int(of_silicon.sum())]
    assert numbers[systems.SystemMaker][1] == [1, 2]


@pytest.mark.parametrize("positions", [torch.float64, torch.float32], ids=str)
def test_it_keeps_the_contract(file: Path, positions: torch.dtype) -> None:
    keeps_the_contract(wrapper(file), elements=[11, 17], distance=2.8, dtype=positions)


def test_what_else_a_model_gives(double: Path) -> None:
    model, batch = wrapper(double), batch_of(*structures().values())
    outputs = model(batch)
    energies = outputs["atomic_energies"]
    sums = torch.zeros(len(batch), dtype=torch.float64).index_add(0, batch.batch_idx, energies)
    torch.testing.assert_close(outputs["energy"].flatten(), sums)
    torch.testing.assert_close(outputs["energy_ensemble"], sums[:, None] * torch.tensor([0.9, 1.0, 1.1]).double())
    apart = torch.zeros(len(batch), dtype=torch.float64).index_add(0, batch.batch_idx, 0.01 * energies.abs())
    torch.testing.assert_close(outputs["energy_uncertainty"].flatten(), apart)
    assert model.embedding_shapes == {"graph_embeddings": (4,), "node_embeddings": (4,)}
    assert model.model_config.output_levels == {"energy_uncertainty": "system", "energy_ensemble": "system"}
    found = model.compute_embeddings(batch)
    torch.testing.assert_close(found.node_embeddings, outputs["node_embeddings"])
    doubled = wrapper(double, variant="doubled")(batch)
    torch.testing.assert_close(doubled["forces"], 2.0 * outputs["forces"])
    card = model.model_card
    assert (card.name, card.elements, card.citation) == ("pairs", frozenset(ELEMENTS), "doi:10.0000/none")


def test_a_model_that_gives_no_more_than_an_energy(tmp_path: Path) -> None:
    """Of the whole system, in units of its own; in memory."""
    model = MetatomicWrapper(exported(energy=("kJ/mol", "system")))
    assert model.model_config.outputs == {"energy", "forces", "stress"}
    assert model.embedding_shapes == {}
    batch = batch_of(structures()["silicon"])
    ours = MetatomicWrapper(exported())(batch)["energy"]
    torch.testing.assert_close(model(batch)["energy"] * 96.48533212, ours, rtol=1e-8, atol=0)
    with pytest.raises(InputError, match="predicts no forces and no stress"):
        MetatomicWrapper(exported(energy=("eV", "atom")), non_conservative=True)
    with pytest.raises(InputError, match="but no `energy`"):
        MetatomicWrapper(exported(feature=("", "atom")))
    with pytest.raises(InputError, match=r"`variant` is 'pbe'; this model gives energy, energy/doubled"):
        MetatomicWrapper(exported(), variant="pbe")
    with pytest.raises(InputError, match='use False, True, "forces" or "stress"'):
        MetatomicWrapper(exported(), non_conservative="energy")
    with pytest.raises(ContractError, match="no `AtomisticModel` of metatomic"):
        MetatomicWrapper(torch.nn.Linear(1, 1))


def test_inputs_of_each_atom() -> None:
    model, atoms = MetatomicWrapper(exported(of_atoms=True)), [structures()[name] for name in ("silicon", "hydroxide")]
    assert model.model_config.optional_inputs == {"charges"}
    batch = batch_of(*atoms)
    with pytest.raises(MissingFieldError, match="`charges` is missing"):
        model(batch)
    batch.charges = torch.linspace(-0.1, 0.1, batch.num_nodes).double()
    calculator = MetatomicCalculator(exported(of_atoms=True), uncertainty_threshold=None)
    energies = model(batch)["energy"].flatten()
    for place, (structure, charges) in enumerate(zip(atoms, batch.charges.split([8, 2]), strict=True)):
        structure.info.clear()
        structure.set_initial_charges(charges)
        expected = calculator.run_model(structure, {"energy": ModelOutput(unit="eV", sample_kind="system")})
        torch.testing.assert_close(energies[place], expected["energy"].block().values[0, 0])


def test_another_precision_is_refused(double: Path) -> None:
    with pytest.raises(DtypeError, match="MetatomicWrapper computes in float64, as its network was made"):
        wrapper(double).float()


class AsksForVelocities(torch.nn.Module):
    def requested_inputs(self) -> dict[str, ModelOutput]:
        return {"velocity": ModelOutput(unit="A/fs", sample_kind="atom")}


def test_what_a_batch_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match="asks for `velocity` of each atom, which a batch does not have"):
        systems.fields_of(AsksForVelocities().requested_inputs())


def test_second_derivatives(double: Path) -> None:
    model, batch = wrapper(double), batch_of(structures()["ethanol"], structures()["rock salt"])
    for exact, by_differences in zip(hessian(model, batch, step=None), hessian(model, batch, step=1e-4), strict=True):
        torch.testing.assert_close(exact, by_differences, rtol=1e-5, atol=1e-4)


class WritesWhenLoaded(torch.nn.Module):
    """What a file may hold: a class that writes another file while it is restored."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path, self.training = state[0], state[1]
        torch.save(torch.ones(3), self.path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_a_file_runs_code_when_it_is_loaded_so_it_has_to_be_trusted(tmp_path: Path) -> None:
    """The ruling: `torch.jit.load` runs what a file says, here to write another file."""
    written, path = tmp_path / "written", tmp_path / "model.pt"
    script = torch.jit.script(WritesWhenLoaded(str(written)))
    torch.jit.save(script, path, _extra_files={"metatomic-version": "0.1.19", "extensions": "[]"})
    with pytest.raises(InputError, match="`trust=True`"):
        MetatomicWrapper.from_checkpoint(path)
    assert not written.exists()
    with pytest.raises(InputError):
        MetatomicWrapper.from_checkpoint(path, trust=True)
    torch.jit.load(path)
    assert written.exists()


def test_files_that_are_none(double: Path, tmp_path: Path) -> None:
    """Damaged, of something else, of a version or with libraries that are not installed."""
    content = bytearray(double.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "damaged.pt").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        MetatomicWrapper.from_checkpoint(tmp_path / "damaged.pt", trust=True)
    torch.save({"a": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="no model of metatomic"):
        MetatomicWrapper.from_checkpoint(tmp_path / "other.pt", trust=True)
    (tmp_path / "text.pt").write_text("nothing")
    with pytest.raises(InputError, match="no checkpoint"):
        MetatomicWrapper.from_checkpoint(tmp_path / "text.pt", trust=True)
    with pytest.raises(InputError, match="does not exist"):
        MetatomicWrapper.from_checkpoint(tmp_path / "absent.pt", trust=True)
    with pytest.raises(InputError, match="is no folder"):
        MetatomicWrapper.from_checkpoint(double, extensions_directory=tmp_path / "absent", trust=True)
    rewritten = tmp_path / "new.pt"
    with zipfile.ZipFile(double) as old, zipfile.ZipFile(rewritten, "w") as new:
        for member in old.infolist():
            part = old.read(member)
            if member.filename.endswith("extra/metatomic-version"):
                part = b"99.1.0"
            elif member.filename.endswith("extra/extensions"):
                part = json.dumps([{"name": "of_next_year", "path": "of_next_year.so", "sha256": ""}]).encode()
            elif member.filename.endswith(".py"):
                part = part.replace(b"torch.classes.metatomic.System", b"torch.classes.metatomic.SystemOfNextYear")
            new.writestr(member, part)
    with pytest.raises(InputError, match=r"written by metatomic 99.1.0 and .*of_next_year.*can not be loaded by"):
        MetatomicWrapper.from_checkpoint(rewritten, trust=True)


def test_files_are_written_and_found_by_name(double: Path, tmp_path: Path) -> None:
    model, atoms = wrapper(double), [structures()["silicon"], structures()["rock salt"]]
    expected = model(batch_of(*atoms))["energy"].flatten()
    again = tmp_path / "again.pt"
    model.export_model(again)
    torch.testing.assert_close(wrapper(again)(batch_of(*atoms))["energy"].flatten(), expected)
    options = {"name": "metatomic", "checkpoint_path": str(again), "trust": True}
    np.testing.assert_allclose(athanor.evaluate(atoms, model=options).energies, expected, rtol=0, atol=1e-9)


def test_the_process_is_left_as_it_was(double: Path) -> None:
    program = f"models.MetatomicWrapper.from_checkpoint({str(double)!r}, trust=True)"
    assert left_behind("metatomic", program) == "[]\n"
