"""MatterSimWrapper on networks of mattersim's own class with random parameters, against the calculator of that package.

`make test-model-mattersim` runs this, in an environment with mattersim; nothing else collects it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc111

import athanor
from athanor._optional import process_left_alone
from athanor.errors import ContractError, InputError
from athanor.models.mattersim import MatterSimWrapper, network
from athanor.models.mattersim import wrapper as module

from . import shared
from .shared import assert_within, batch_of, calculated, keeps_the_contract, left_behind, rattled

M3Gnet = network._package("forcefield.m3gnet.m3gnet").M3Gnet
package = network._package("forcefield.potential")

EVERYTHING = {"energy", "forces", "stress"}
BOUNDS = {torch.float64: (1e-8, 1e-8), torch.float32: (1e-5, 1e-4)}
"""eV per atom, and eV/Å or eV/Å³, by which the wrapper and the calculator may differ."""


def random_network(dtype: torch.dtype = torch.float64, scale: float = 600.0) -> torch.nn.Module:
    """Return a small network whose forces on rattled crystals are some eV/Å."""
    with process_left_alone():
        torch.manual_seed(0)
        model = M3Gnet(num_blocks=2, units=32, max_l=3, max_n=3, device="cpu").to(dtype).eval()
    model.normalizer.scale.fill_(scale)
    return model.requires_grad_(False)


def wrapper(dtype: torch.dtype = torch.float64) -> MatterSimWrapper:
    model = MatterSimWrapper(random_network(dtype)).eval()
    model.model_config.active_outputs = set(EVERYTHING)
    return model


def structures() -> dict[str, Atoms]:
    """Crystals, of which one is below the cutoff, a slab, and molecules with and without a box."""
    copper = fcc111("Cu", (1, 1, 3), vacuum=4.0)
    return rattled("silicon", "rock salt", "ethanol", "water in a box", by=0.1, slab=copper)


def expected(dtype: torch.dtype, atoms: Atoms) -> Mapping[str, Any]:
    with process_left_alone():
        potential = package.Potential(random_network(dtype), device="cpu", model_name="m3gnet")
        calculator = package.MatterSimCalculator(
            potential=potential, device="cpu", dtype=str(dtype)[6:], direct_graph=dtype == torch.float64
        )
        found = calculated(calculator, atoms.copy())  # it is put into a box if it has none
    return found if atoms.pbc.any() else {**found, "stress": np.zeros((3, 3))}


def differences(model: MatterSimWrapper, dtype: torch.dtype) -> dict[str, dict[str, float]]:
    """By how much energy per atom, forces and stress differ from the calculator, alone and in one batch."""
    theirs = {name: expected(dtype, atoms) for name, atoms in structures().items()}
    assert max(np.abs(each["forces"]).max() for each in theirs.values()) > 0.1
    return shared.differences(model, theirs, structures())


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_it_agrees_with_the_calculator_of_the_package(dtype: torch.dtype) -> None:
    """Alone and in a batch of crystals, a slab and molecules."""
    assert_within(differences(wrapper(dtype), dtype), *BOUNDS[dtype])


def backwards(centers: torch.Tensor, short: torch.Tensor) -> torch.Tensor:
    """A broken twin of `triples`: each angle in one order only."""
    found = module_triples(centers, short)
    return found[found[:, 0] < found[:, 1]]


def with_itself(centers: torch.Tensor, short: torch.Tensor) -> torch.Tensor:
    """A broken twin of `triples`: a pair makes an angle with itself."""
    places = short.nonzero()
    return torch.cat((module_triples(centers, short), places.expand(-1, 2)))


module_triples = module.triples


@pytest.mark.parametrize("twin", [backwards, with_itself])
def test_the_comparison_notices_wrong_angles(monkeypatch: pytest.MonkeyPatch, twin: Any) -> None:
    monkeypatch.setattr(module, "triples", twin)
    assert differences(wrapper(), torch.float64)["silicon"]["forces"] > 1e-4


def test_angles_are_those_of_the_package() -> None:
    batch = batch_of(*structures().values())
    graph = wrapper().network_graph(batch)
    short = graph.vectors.norm(dim=1) <= 4.0
    converter = network._package("datasets.utils.converter")
    theirs = converter.compute_threebody_indices_torch(
        graph.edge_index, graph.vectors.norm(dim=1), batch.num_nodes_per_graph.long(), 4.0
    )[0]
    ours = module_triples(graph.edge_index[0], short)
    assert {*map(tuple, ours.tolist())} == {*map(tuple, theirs.tolist())}
    assert len(ours) == len(theirs) > 1000
    assert module_triples(graph.edge_index[0], short & False).shape == (0, 2)


@pytest.mark.parametrize("parameters", [torch.float64, torch.float32], ids=str)
def test_it_keeps_the_contract(parameters: torch.dtype) -> None:
    model = MatterSimWrapper(random_network(parameters, scale=30.0)).eval()
    keeps_the_contract(model, "rotation", "extensivity", "smoothness", elements=[11, 17], distance=2.8)


def test_atoms_share_the_energy_and_have_features() -> None:
    model, batch = wrapper(), batch_of(*structures().values())
    model.model_config.active_outputs = {"energy", "atomic_energies"}
    found = model(batch)
    sums = torch.zeros(batch.num_graphs).double().index_add(0, batch.batch_idx.long(), found["atomic_energies"])
    torch.testing.assert_close(sums, found["energy"].view(-1))
    model.compute_embeddings(batch)
    assert batch.node_embeddings.shape == (batch.num_nodes, 32)
    torch.testing.assert_close(batch.graph_embeddings[0], batch.node_embeddings[:8].sum(0))


def test_files_of_the_package_are_read(tmp_path: Path) -> None:
    file, batch = tmp_path / "mine.pth", batch_of(*structures().values())
    original = random_network(torch.float32)
    with process_left_alone():
        package.Potential(original, device="cpu").save(str(file))
    model = athanor.models.get("mattersim", checkpoint_path=str(file), dtype=torch.float64)
    torch.testing.assert_close(model(batch)["energy"], MatterSimWrapper(original.double()).eval()(batch)["energy"])
    assert model.model_card.name == "mine"
    assert model.model_card.weights_digest.startswith("sha256:")

    content = torch.load(file, weights_only=True)
    torch.save(content | {"model": dict(list(content["model"].items())[:-1])}, tmp_path / "short.pth")
    with pytest.raises(InputError, match="do not fit the network that it describes"):
        MatterSimWrapper.from_checkpoint(tmp_path / "short.pth")
    torch.save(content | {"model_name": "geomformer"}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="is a network of the kind 'geomformer'"):
        MatterSimWrapper.from_checkpoint(tmp_path / "other.pth")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "foreign.pth")
    with pytest.raises(InputError, match="holds no network of mattersim"):
        MatterSimWrapper.from_checkpoint(tmp_path / "foreign.pth")
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged.pth").write_bytes(damaged)
    with pytest.raises(InputError, match="is damaged"):
        MatterSimWrapper.from_checkpoint(tmp_path / "damaged.pth")
    with pytest.raises(InputError, match=r"neither a file nor a network of mattersim.* mattersim-v1.0.0-1m"):
        MatterSimWrapper.from_checkpoint("mattersim-v2")
    with pytest.raises(ContractError, match="a Linear without `model_args`"):
        MatterSimWrapper(torch.nn.Linear(1, 1))


def test_the_process_is_left_as_it_was(tmp_path: Path) -> None:
    """Neither environment variables, filters of warnings and the default dtype, nor what the package prints, stays."""
    file = tmp_path / "random.pth"
    with process_left_alone():
        package.Potential(random_network(torch.float32), device="cpu").save(str(file))
    program = f"models.MatterSimWrapper.from_checkpoint({str(file)!r}, dtype=torch.float64)"
    assert left_behind("mattersim", program) == "[]\n"
