"""DIEPWrapper with the parameters that diep ships, against the calculator of that package.

`make test-model-learned` runs this, in an environment with sevenn, so3krates-torch and diep; nothing else collects it.
"""

from __future__ import annotations

import contextlib
import copy
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from diep import config
from diep.apps.pes import Potential
from diep.models._diep import DIEP
from diep.pretrained import DEFAULT_MODEL_DIR, DIEPCalculator, load_potential

import athanor
from athanor.errors import ContractError, InputError
from athanor.models import DIEPWrapper, get, hessian
from athanor.models.diep import network

from .shared import asking_for, assert_within, batch_of, calculated, differences, keeps_the_contract, left_behind
from .shared import crystals_and_molecules as structures

EVERYTHING = {"energy", "forces", "stress", "atomic_energies"}
BOUNDS = {torch.float32: (1e-5, 1e-4, 1e-5), torch.float64: (1e-8, 1e-8, 1e-8)}
"""eV per atom, eV/Å and eV/Å³ by which the wrapper and the calculator may differ."""
ENERGIES = {"silicon": -69.750259, "rock salt": -55.124855}
"""Of the calculator, eV."""


@contextlib.contextmanager
def package_in(dtype: torch.dtype) -> Iterator[None]:
    """Let the package make graphs in a dtype, which is a global of its own."""
    config.float_th = dtype
    yield
    config.float_th = torch.float32


def asking_for_everything(model: DIEPWrapper) -> Any:
    return asking_for(model, EVERYTHING)


def by_the_calculator(dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    results = {}
    with package_in(dtype):
        calculator = DIEPCalculator(load_potential().to(dtype), stress_unit="eV/A3")
        for name, atoms in structures().items():
            results[name] = calculated(calculator, atoms)
    return results


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_it_agrees_with_the_calculator_of_the_package(dtype: torch.dtype) -> None:
    """Alone and in a batch of crystals and molecules; and with numbers that were written down before."""
    theirs = by_the_calculator(dtype)
    for name, energy in ENERGIES.items():
        assert theirs[name]["energy"] == pytest.approx(energy, abs=2e-4)
    model = asking_for_everything(DIEPWrapper.from_checkpoint(dtype=dtype))
    found = differences(model, theirs, structures())
    assert_within(found, *BOUNDS[dtype][:2])
    assert max(errors["stress"] for errors in found.values()) < BOUNDS[dtype][2]
    outputs = model(batch_of(*structures().values()))
    sums = torch.zeros(5, dtype=torch.float64).index_add(
        0, batch_of(*structures().values()).batch_idx, outputs["atomic_energies"]
    )
    torch.testing.assert_close(sums, outputs["energy"].flatten(), rtol=0, atol=1e-4)


class SwapsTheEndsOfPairs(DIEPWrapper):
    """A broken twin: angles are at the neighbour, vectors stay."""

    def network_outputs(self, graph: Any, wanted: Any) -> Any:
        graph.edge_index = graph.edge_index.flip(0)
        return super().network_outputs(graph, wanted)


class ForgetsTheIsolatedAtoms(DIEPWrapper):
    """A broken twin: energies are relative to isolated atoms."""

    def network_outputs(self, graph: Any, wanted: Any) -> Any:
        outputs = super().network_outputs(graph, wanted)
        references = self.model.element_refs.property_offset[self.element_index_of(graph.batch)]
        return {**outputs, "energy": outputs["energy"] - graph.system_sums(references)}


@pytest.mark.parametrize(("twin", "which"), [(SwapsTheEndsOfPairs, "forces"), (ForgetsTheIsolatedAtoms, "energy")])
def test_the_comparison_notices_broken_twins(twin: type[DIEPWrapper], which: str) -> None:
    broken = asking_for_everything(twin(load_potential()))
    assert differences(broken, by_the_calculator(torch.float32), structures())["silicon"][which] > 1e-3


def test_equal_sides_are_drawn_in_both_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the forces of a perfect crystal are not zero: a broken twin takes one order of them too."""
    model, batch = DIEPWrapper.from_checkpoint(dtype=torch.float64), batch_of(structures()["rock salt"])
    assert model(batch)["forces"].abs().max() < 1e-5
    monkeypatch.setattr(network, "_SAME_LENGTH", 0.0)
    assert model(batch)["forces"].abs().max() > 1e-3


@pytest.mark.parametrize("pairs", [1, 500])
def test_a_batch_in_blocks_is_the_batch(pairs: int) -> None:
    model = asking_for_everything(DIEPWrapper.from_checkpoint(dtype=torch.float64))
    model.pairs_at_a_time = None
    expected = model(batch_of(*structures().values()))
    model.pairs_at_a_time = pairs
    for key, value in model(batch_of(*structures().values())).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-10, atol=1e-9, msg=key)


def small_potential(**changes: Any) -> torch.nn.Module:
    """Return a potential of the package's own classes with random parameters."""
    options = {
        "element_types": ("Na", "Si", "Cl"), "dim_node_embedding": 8, "dim_edge_embedding": 8, "nblocks": 2, "units": 8,
        "is_intensive": False, "cutoff": 4.0, "threebody_cutoff": 3.5, "base_spacing": 2.0, "triplet_frame": "bond",
    }  # fmt: skip
    torch.manual_seed(0)
    with package_in(torch.float64):
        model = DIEP(**options | changes).double()
        return Potential(model, data_std=20.0, element_refs=np.array([-1.0, -2.0, -3.0])).double()


def test_it_keeps_the_contract() -> None:
    """With triplets drawn beside a bond, which is smooth; those of the shipped parameters have steps."""
    keeps_the_contract(
        DIEPWrapper(small_potential()), "rotation", "inversion", "unknown element", elements=[11, 17], distance=2.8
    )


def test_the_shipped_parameters_make_steps_and_say_so() -> None:
    """The longest side of three atoms is drawn first: where two sides change places, so do the elements there."""
    model = DIEPWrapper.from_checkpoint(dtype=torch.float64)
    assert (model.model_card.smooth, model.model_card.conservative) == (False, None)
    side = float(np.hypot(0.3, 2.0))
    for elements, steps in (("OIrW", True), ("OIr2", False)):
        bent = [Atoms(elements, [[0, 0, 0], [length, 0, 0], [0.3, 2.0, 0]]) for length in (side - 4e-6, side + 4e-6)]
        low, high = (model(batch_of(atoms))["energy"].item() for atoms in bent)
        assert (abs(high - low) > 2e-4) == steps


def test_the_shipped_parameters_keep_the_contract() -> None:
    """With the card that the name brings, which admits steps; a perfect crystal of one element sits on a kink."""
    keeps_the_contract(get("diep", dtype="float64"), "rotation", "inversion", "precision", "unknown element")


def test_a_copy_gives_the_same() -> None:
    """Copied and pickled, as a committee and other processes need it. Mutant: the wrapper keeps a module."""
    model, batch = DIEPWrapper(small_potential()).eval(), batch_of(structures()["silicon"])
    expected = model(batch)["forces"]
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again(batch)["forces"], expected)


def test_second_derivatives() -> None:
    model, batch = DIEPWrapper(small_potential()).eval(), batch_of(bulk("NaCl", "rocksalt", a=5.3), bulk("Si"))
    for exact, by_differences in zip(hessian(model, batch, step=None), hessian(model, batch, step=1e-4), strict=True):
        torch.testing.assert_close(exact, by_differences, rtol=1e-4, atol=1e-4)


def test_embeddings_are_the_features_of_the_last_block() -> None:
    model, batch = DIEPWrapper.from_checkpoint(), batch_of(*structures().values())
    model.compute_embeddings(batch)
    assert batch.node_embeddings.shape == (batch.num_nodes, 64)
    scaled = model.model.model.final_layer.gated(batch.node_embeddings.float()).flatten() * model.model.data_std
    energies = scaled + model.model.element_refs.property_offset[model.element_index_of(batch)]
    expected = asking_for_everything(model)(batch)["atomic_energies"]
    torch.testing.assert_close(energies.double(), expected, rtol=1e-6, atol=1e-5)


def test_a_folder_of_the_user_runs_no_code_and_damage_is_told(tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(DEFAULT_MODEL_DIR, own)
    expected = DIEPWrapper.from_checkpoint()(batch_of(structures()["silicon"]))["energy"].item()
    result = athanor.evaluate([structures()["silicon"]], model={"name": "diep", "checkpoint": str(own)})
    assert result.energies[0] == pytest.approx(expected, abs=1e-5)
    described = torch.load(own / "model.pt")
    described["model"] |= {
        "@class": "Popen",
        "@module": "subprocess",
        "init_args": {"args": ["touch", str(own / "ran")]},
    }
    torch.save(described, own / "model.pt")
    with pytest.raises(InputError, match="does not describe a DIEP network"):
        DIEPWrapper.from_checkpoint(own)
    assert not (own / "ran").exists()
    shutil.copy(DEFAULT_MODEL_DIR / "model.pt", own)
    state = torch.load(own / "state.pt")
    state.pop("model.final_layer.gated.gates.6.bias")
    torch.save(state, own / "state.pt")
    with pytest.raises(InputError, match="does not fit the installed diep"):
        DIEPWrapper.from_checkpoint(own)
    content = bytearray((DEFAULT_MODEL_DIR / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (own / "state.pt").write_bytes(content)
    with pytest.raises(InputError, match="another checksum"):
        DIEPWrapper.from_checkpoint(own)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"`pbe` is neither a folder nor .*r2scan"):
        DIEPWrapper.from_checkpoint("pbe")
    with pytest.raises(InputError, match=r"no parameters for Po \(84\) in the system of index 1"):
        DIEPWrapper.from_checkpoint()(batch_of(bulk("Si"), bulk("Po", "sc", a=3.3)))
    with pytest.raises(ContractError, match=r"pass a `Potential` of the diep package"):
        DIEPWrapper(torch.nn.Linear(2, 2))
    with pytest.raises(ContractError, match="no sum over atoms"):
        DIEPWrapper(small_potential(is_intensive=True))


def test_the_process_is_left_as_it_was() -> None:
    assert left_behind("diep", "models.DIEPWrapper.from_checkpoint(dtype=torch.float64)") == "[]\n"
