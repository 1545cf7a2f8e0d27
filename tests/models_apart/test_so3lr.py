"""SO3LRWrapper with the parameters that so3krates-torch ships, against the calculator of that package.

`make test-model-learned` runs this, in an environment with sevenn, so3krates-torch and diep; nothing else collects it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

import athanor
from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.errors import ContractError, InputError
from athanor.models import SO3LRWrapper, get, hessian
from athanor.models.so3lr.network import load_network
from athanor.neighbors import compute_neighbors
from athanor.testing.systems import standard_systems

from .shared import asking_for, calculated, differences, keeps_the_contract, left_behind

EVERYTHING = {"energy", "forces", "stress", "charges", "hirshfeld_ratios"}
BOUNDS = {torch.float32: (1e-5, 1e-4), torch.float64: (1e-8, 1e-8)}
"""eV per atom, and eV/Å, eV/Å³, e or 1, by which the wrapper and the calculator may differ."""
ENERGIES = {torch.float64: (-1487.679317, 1e-6), torch.float32: (-1487.679321, 2e-4)}
"""Of rattled ethanol, eV, and how well it is known."""


@contextlib.contextmanager
def settings_kept() -> Iterator[None]:
    """The calculator sets the default dtype, and how tensors are printed."""
    before, printing = torch.get_default_dtype(), torch._tensor_str.get_printoptions()
    yield
    torch.set_default_dtype(before)
    torch.set_printoptions(**printing)


def structures() -> dict[str, Atoms]:
    """Molecules, neutral and charged, closed and open shells, one in two parts; crystals, one below the cutoff."""
    ethanol = molecule("CH3CH2OH")
    ethanol.positions += np.random.default_rng(0).normal(0, 0.05, (9, 3))
    apart = molecule("H2O") + molecule("CH4")
    apart.positions[3:] += [5.5, 2.0, 1.0]
    ice = molecule("H2O", vacuum=1.5, pbc=True)
    found = {
        "ethanol": ethanol, "methane": molecule("CH4"), "hydroxyl": molecule("OH"), "water and methane": apart,
        "ice": ice, "diamond": bulk("C") * (2, 1, 1),
    }  # fmt: skip
    for seed, atoms in enumerate(found.values()):
        atoms.info.update(charge=0.0, total_spin=0.0)
        if atoms is not ethanol:
            atoms.rattle(0.05, seed=seed)
    found["methane"].info["charge"] = 1.0
    found["methane"].info["total_spin"] = found["hydroxyl"].info["total_spin"] = 0.5
    return found


def batch_of(*systems: Atoms, cutoff: float = 12.3, dtype: torch.dtype = torch.float64) -> Batch:
    data = []
    for atoms in systems:
        data.append(AtomicData.from_atoms(atoms, dtype=dtype))
        data[-1].charge = torch.tensor([[atoms.info.get("charge", 0.0)]], dtype=dtype)
        data[-1].spin = torch.tensor([[2.0 * atoms.info.get("total_spin", 0.0) + 1.0]], dtype=dtype)
    batch = Batch.from_data_list(data)
    compute_neighbors(batch, cutoff)
    return batch


def asking_for_everything(model: SO3LRWrapper) -> Any:
    return asking_for(model, EVERYTHING)


def by_the_calculator(dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    from so3krates_torch.calculator.so3 import SO3LRCalculator

    results = {}
    with settings_kept():
        calculator = SO3LRCalculator(compute_stress=True, default_dtype=str(dtype)[6:])
        for name, atoms in structures().items():
            found = calculated(calculator, atoms)
            results[name] = {**found, "charges": found["partial_charges"]}
    return results


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_it_agrees_with_the_calculator_of_the_package(dtype: torch.dtype) -> None:
    """Alone and in a batch of molecules and crystals, of several charges and spins."""
    theirs = by_the_calculator(dtype)
    assert theirs["ethanol"]["energy"] == pytest.approx(ENERGIES[dtype][0], abs=ENERGIES[dtype][1])
    found = differences(
        asking_for_everything(SO3LRWrapper.from_checkpoint(dtype=dtype)), theirs, structures(), batch_of
    )
    for name, errors in found.items():
        last_bit = np.spacing(np.array(theirs[name]["energy"], str(dtype)[6:])) / len(structures()[name])
        assert errors.pop("energy") < BOUNDS[dtype][0] + abs(last_bit), name  # of a sum of hundreds of eV per atom
        assert max(errors.values()) < BOUNDS[dtype][1], name


class ForgetsTheSpin(SO3LRWrapper):
    """A broken twin: every system is a singlet."""

    def network_outputs(self, graph: Any, wanted: Any) -> Any:
        label = graph.label
        graph.label = lambda name: torch.ones_like(label(name)) if name == "spin" else label(name)
        return super().network_outputs(graph, wanted)


class ChargesThePairsWithinTheShortCutoff(SO3LRWrapper):
    """A broken twin: charges and dispersion end where the messages do."""

    def network_outputs(self, graph: Any, wanted: Any) -> Any:
        near = graph.vectors.norm(dim=1) < 4.5
        graph.edge_index, graph.vectors, graph.images = (
            graph.edge_index[:, near],
            graph.vectors[near],
            graph.images[near],
        )
        return super().network_outputs(graph, wanted)


class MixesTheChargesOfTheBatch(SO3LRWrapper):
    """A broken twin: what the charges lack is shared among the atoms of the batch, not of the system."""

    def network_outputs(self, graph: Any, wanted: Any) -> Any:
        outputs = super().network_outputs(graph, wanted)
        return {**outputs, "charges": outputs["charges"] - outputs["charges"].mean()}


@pytest.mark.parametrize(
    ("twin", "system", "output"),
    [
        (ForgetsTheSpin, "hydroxyl", "energy"),
        (ChargesThePairsWithinTheShortCutoff, "water and methane", "forces"),
        (MixesTheChargesOfTheBatch, "ethanol", "charges"),
    ],
)
def test_the_comparison_notices_broken_twins(twin: type[SO3LRWrapper], system: str, output: str) -> None:
    theirs = by_the_calculator(torch.float64)
    broken = asking_for_everything(twin(load_network("so3lr", trust=False)[0].double()))
    found = differences(broken, theirs, structures(), batch_of)
    assert found[system][output] > 1e-4
    if output == "energy":
        assert found["ethanol"][output] < 1e-8


def small_network(**changes: Any) -> torch.nn.Module:
    """Return a network of the package's own class with random parameters."""
    from so3krates_torch.modules.models import SO3LR

    options = {
        "r_max": 4.0, "num_radial_basis_fn": 8, "degrees": [1, 2], "num_features": 16, "num_heads": 2, "num_layers": 2,
        "avg_num_neighbors": 8.0, "final_mlp_layers": 2, "energy_regression_dim": 16, "radial_basis_fn": "bernstein",
        "message_normalization": "avg_num_neighbors", "layer_normalization_1": True, "layer_normalization_2": True,
        "residual_mlp_1": True, "use_charge_embed": True, "use_spin_embed": True, "cutoff_fn": "phys", "r_max_lr": 6.0,
        "dispersion_energy_cutoff_lr_damping": 1.0, "dtype": torch.float64,
    }  # fmt: skip
    torch.manual_seed(0)
    with settings_kept():
        return SO3LR(**options | changes).double()


def test_it_keeps_the_contract() -> None:
    keeps_the_contract(
        SO3LRWrapper(small_network()), "rotation", "inversion", "unknown element", elements=[6, 8], distance=1.5
    )


def test_the_shipped_parameters_keep_the_contract() -> None:
    """With the card that the name brings; crystals are small, as a list up to 12 Å is long."""
    every = standard_systems(distance=2.0, elements=(6, 8))
    systems = {name: every[name] for name in ("pair", "cluster", "atom", "left-handed", "tiny cell")}
    keeps_the_contract(
        get("so3lr", dtype="float64"), "rotation", "inversion", "precision", "unknown element", systems=systems
    )


def test_second_derivatives() -> None:
    model, batch = SO3LRWrapper(small_network()).eval(), batch_of(*structures().values())
    for exact, by_differences in zip(hessian(model, batch, step=None), hessian(model, batch, step=1e-4), strict=True):
        torch.testing.assert_close(exact, by_differences, rtol=1e-4, atol=1e-3)


def test_a_network_without_charges_has_none() -> None:
    from so3krates_torch.modules.models import So3krates

    torch.manual_seed(0)
    with settings_kept():
        network = So3krates(
            r_max=4.0, num_radial_basis_fn=8, degrees=[1, 2], num_features=16, num_heads=2, num_layers=1,
            energy_regression_dim=16, radial_basis_fn="bernstein", cutoff_fn="phys",
        )  # fmt: skip
    model = SO3LRWrapper(network).eval()
    assert model.cutoff == 4.0
    assert model.model_config.outputs.isdisjoint({"charges", "hirshfeld_ratios"})
    batch = batch_of(*structures().values(), cutoff=4.0)
    assert model(batch)["energy"].isfinite().all()


def test_charges_add_up_and_embeddings_are_the_invariant_features() -> None:
    model, batch = asking_for_everything(SO3LRWrapper.from_checkpoint()), batch_of(*structures().values())
    sums = torch.zeros(6, dtype=torch.float64).index_add(0, batch.batch_idx, model(batch)["charges"])
    torch.testing.assert_close(sums, batch.charge.flatten(), rtol=0, atol=1e-5)
    model.compute_embeddings(batch)
    assert batch.node_embeddings.shape == (batch.num_nodes, 128)
    energies = model.model.atomic_energy_output_block
    assert energies.layers[0](batch.node_embeddings.float()).shape == (batch.num_nodes, 128)


def test_by_name_and_a_molecule_without_charge_or_spin() -> None:
    model, ethanol = asking_for_everything(SO3LRWrapper.from_checkpoint(dtype=torch.float64)), structures()["ethanol"]
    plain = Batch.from_data_list(
        [AtomicData.from_atoms(Atoms(ethanol.numbers, ethanol.positions), dtype=torch.float64)]
    )
    compute_neighbors(plain, 12.0)
    expected = model(batch_of(ethanol))["energy"].item()
    assert model(plain)["energy"].item() == pytest.approx(expected, abs=1e-9)
    result = athanor.evaluate([ethanol], model={"name": "so3lr", "dtype": "float64"})
    assert result.energies[0] == pytest.approx(expected, abs=1e-9)


def test_other_pickles_have_to_be_trusted(tmp_path: Path) -> None:
    own = tmp_path / "own.model"
    torch.save(small_network(), own)
    with pytest.raises(InputError, match="runs code"):
        SO3LRWrapper.from_checkpoint(own)
    model = SO3LRWrapper.from_checkpoint(own, dtype=torch.float64, trust=True)
    assert model.cutoff == 6.0
    batch = batch_of(structures()["ethanol"])
    assert torch.equal(model(batch)["energy"], SO3LRWrapper(small_network()).eval()(batch)["energy"])
    torch.save(torch.zeros(3), own)
    with pytest.raises(InputError, match="holds a Tensor, no network"):
        SO3LRWrapper.from_checkpoint(own)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"`so4lr` is neither a file nor .*so3lr"):
        SO3LRWrapper.from_checkpoint("so4lr")
    with pytest.raises(InputError, match=r"no parameters for Si \(14\) in the system of index 1"):
        SO3LRWrapper.from_checkpoint()(batch_of(molecule("CH4"), molecule("SiH4")))
    with pytest.raises(InputError, match=r"`long_range_cutoff` is -1\.0; give"):
        SO3LRWrapper(small_network(), long_range_cutoff=-1.0)
    with pytest.raises(ContractError, match="pass a network of so3krates-torch"):
        SO3LRWrapper(torch.nn.Linear(2, 2))
    network = small_network()
    network.use_pme = True
    with pytest.raises(InputError, match="charges on a mesh"):
        SO3LRWrapper(network)


def test_the_process_is_left_as_it_was() -> None:
    program = """
batch = Batch.from_data_list([AtomicData(positions=torch.eye(3)[:2], atomic_numbers=torch.tensor([1, 8]))])
compute_neighbors(batch, 12.0)
models.SO3LRWrapper.from_checkpoint(dtype=torch.float64)(batch)
"""
    assert left_behind("so3krates_torch", program) == "[]\n"
