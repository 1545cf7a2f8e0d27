"""DIEPWrapper with the parameters that diep ships, against the calculator of that package.

`make test-model-learned` runs this, in an environment with sevenn, so3krates-torch and diep; nothing else collects it.
"""

from __future__ import annotations

import contextlib
import copy
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from diep import config
from diep.apps.pes import Potential
from diep.models._diep import DIEP
from diep.pretrained import DEFAULT_MODEL_DIR, DIEPCalculator, load_potential

import athanor
from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.errors import ContractError, InputError
from athanor.models import DIEPWrapper, hessian
from athanor.models.diep import network
from athanor.neighbors import compute_neighbors
from athanor.testing import Verdict, check_model

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


def structures() -> dict[str, Atoms]:
    """Crystals, one of them below the cutoff, a molecule, and one in a periodic box."""
    silicon, salt = bulk("Si", cubic=True, a=5.43), bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    silicon.positions += np.random.default_rng(0).normal(0, 0.05, (8, 3))
    found = {"silicon": silicon, "rock salt": salt, "iron": bulk("Fe"), "ethanol": molecule("CH3CH2OH")}
    found["water in a box"] = molecule("H2O", vacuum=3.0, pbc=True)
    for seed, name in enumerate(("ethanol", "water in a box")):
        found[name].rattle(0.05, seed=seed)
    return found


def batch_of(*systems: Atoms, cutoff: float = 5.5) -> Batch:
    batch = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in systems])
    compute_neighbors(batch, cutoff)
    return batch


def asking_for_everything(model: DIEPWrapper) -> DIEPWrapper:
    model.model_config.active_outputs = set(EVERYTHING)
    return model.eval()


def by_the_calculator(dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    results = {}
    with package_in(dtype):
        calculator = DIEPCalculator(load_potential().to(dtype), stress_unit="eV/A3")
        for name, atoms in structures().items():
            calculator.calculate(atoms)
            stress = calculator.results["stress"] * atoms.pbc.all()  # without a cell theirs is arbitrary
            results[name] = {**calculator.results, "stress": stress}
    return results


def differences(model: DIEPWrapper, theirs: dict[str, dict[str, Any]]) -> dict[str, tuple[float, float, float]]:
    """By how much energy per atom, forces and stress differ from `theirs`, alone and in one batch."""
    systems, found = structures(), {}
    together = model(batch_of(*systems.values()))
    starts = np.cumsum([0, *map(len, systems.values())])
    for place, (name, atoms) in enumerate(systems.items()):
        alone, expected, rows = model(batch_of(atoms)), theirs[name], slice(starts[place], starts[place + 1])
        pairs = [
            (alone["energy"][0, 0], expected["energy"], len(atoms)),
            (together["energy"][place, 0], expected["energy"], len(atoms)),
            (alone["forces"], expected["forces"], 1), (together["forces"][rows], expected["forces"], 1),
            (alone["stress"][0], expected["stress"], 1), (together["stress"][place], expected["stress"], 1),
        ]  # fmt: skip
        errors = [float(np.abs(np.asarray(ours) - theirs).max()) / share for ours, theirs, share in pairs]
        found[name] = (max(errors[:2]), max(errors[2:4]), max(errors[4:]))
    return found


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_it_agrees_with_the_calculator_of_the_package(dtype: torch.dtype) -> None:
    """Alone and in a batch of crystals and molecules; and with numbers that were written down before."""
    theirs = by_the_calculator(dtype)
    for name, energy in ENERGIES.items():
        assert theirs[name]["energy"] == pytest.approx(energy, abs=2e-4)
    model = asking_for_everything(DIEPWrapper.from_checkpoint(dtype=dtype))
    found = differences(model, theirs)
    print(found)
    for name, errors in found.items():
        assert all(error < bound for error, bound in zip(errors, BOUNDS[dtype], strict=True)), name
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


@pytest.mark.parametrize(("twin", "which"), [(SwapsTheEndsOfPairs, 1), (ForgetsTheIsolatedAtoms, 0)])
def test_the_comparison_notices_broken_twins(twin: type[DIEPWrapper], which: int) -> None:
    broken = asking_for_everything(twin(load_potential()))
    assert differences(broken, by_the_calculator(torch.float32))["silicon"][which] > 1e-3


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
    report = check_model(DIEPWrapper(small_potential()), elements=[11, 17], distance=2.8).raise_if_failed()
    print(report)
    for check in ("forces", "stress", "rotation", "inversion", "companions", "autograd group", "unknown element"):
        assert report.verdict(check) is Verdict.PASSED, check


def test_the_shipped_parameters_make_steps_and_say_so() -> None:
    """The longest side of three atoms is drawn first: where two sides change places, so do the elements there."""
    model = DIEPWrapper.from_checkpoint(dtype=torch.float64)
    assert (model.model_card.smooth, model.model_card.conservative) == (False, None)
    side = float(np.hypot(0.3, 2.0))
    for elements, steps in (("OIrW", True), ("OIr2", False)):
        bent = [Atoms(elements, [[0, 0, 0], [length, 0, 0], [0.3, 2.0, 0]]) for length in (side - 4e-6, side + 4e-6)]
        low, high = (model(batch_of(atoms))["energy"].item() for atoms in bent)
        assert (abs(high - low) > 2e-4) == steps


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
    program = """
import os, random, warnings, torch, numpy as np
def state():
    return (
        dict(os.environ), torch.get_default_dtype(), torch.get_num_threads(), list(warnings.filters), random.getstate(),
        torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), torch.get_float32_matmul_precision(),
        torch._tensor_str.get_printoptions(), torch.is_grad_enabled(),
    )
from athanor.models import DIEPWrapper
before = state()
DIEPWrapper.from_checkpoint(dtype=torch.float64)
print([a == b for a, b in zip(before, state())])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{[True] * 10}\n"
