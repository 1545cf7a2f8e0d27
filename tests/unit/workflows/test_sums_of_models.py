"""A sum of models is a model everywhere: in jobs, on the command line, in relaxations and dynamics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase.build import bulk
from ase.io import read

import athanor
from athanor import AthanorCalculator
from athanor.cli.main import call
from athanor.data import AtomicData, Batch
from athanor.dynamics import NVE, ConvergenceHook, FIREVariableCell
from athanor.errors import InputError, NotAvailableError
from athanor.models import ASEModelWrapper, PipelineGroup, PipelineModelWrapper
from athanor.models.demo import build_demo_model
from athanor.models.lj import LennardJonesModelWrapper
from athanor.workflows.spec import make_spec

ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
SHORT = {"name": "lj", "epsilon": 0.002, "sigma": 3.0, "cutoff": 6.0}
STAGES = {"stages": [{"relax": {"steps": 2}}]}


def part(share: float, cutoff: float = 8.0) -> LennardJonesModelWrapper:
    return LennardJonesModelWrapper(epsilon=share * 0.0104, sigma=3.4, cutoff=cutoff, switch_width=1.0)


def crystals() -> Batch:
    found = []
    for a in (5.2, 5.35):
        atoms = bulk("Ar", "fcc", a=a, cubic=True) * (2, 2, 2)
        atoms.rattle(0.05, seed=int(100 * a))
        found.append(AtomicData.from_atoms(atoms, dtype=torch.float64))
    return Batch.from_data_list(found)


def moved_by(model) -> Batch:
    """Crystals after a relaxation of their cells and dynamics, in one fused run."""
    batch = crystals()
    relax = FIREVariableCell(model, dt=1.0, n_steps=40, convergence_hook=ConvergenceHook.from_fmax_and_smax(1e-9, 1e-9))
    engine = relax + NVE(model, dt=2.0, n_steps=40, start_temperature=30.0)
    for hook in model.make_neighbor_hooks():
        hook.skin = 0.5
        engine.register_hook(hook)
    return engine.run(batch)


def test_two_parts_of_a_potential_move_systems_as_the_whole() -> None:
    """Relaxed with their cells and heated, with two cutoffs and a skin; a system alone goes the same way."""
    whole, parts = moved_by(part(1.0)), moved_by(part(0.4) + part(0.6))
    torch.testing.assert_close(parts.positions, whole.positions, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(parts.cell, whole.cell, rtol=0.0, atol=1e-9)
    assert float((whole.cell - crystals().cell).abs().max()) > 0.01
    assert whole.step.flatten().tolist() == [80, 80]


def test_the_energy_of_dynamics_with_two_cutoffs_is_conserved() -> None:
    model, batch = part(0.7) + part(0.3, cutoff=5.5), crystals()
    engine = NVE(model, dt=2.0, n_steps=200, start_temperature=40.0, hooks=model.make_neighbor_hooks())
    engine.run(batch, 1)
    before = batch.energy + athanor.data.observables.kinetic_energy(batch)
    engine.run(batch, 200)
    after = batch.energy + athanor.data.observables.kinetic_energy(batch)
    assert float((after - before).abs().max()) / 32 < 2e-6
    assert float(athanor.data.observables.kinetic_energy(batch).min()) > 0.05


@pytest.mark.parametrize(
    ("written", "name", "again"),
    [
        ("demo + lj", "demo + lj", "demo + lj"),
        ([ARGON, SHORT], "lennard-jones + lj", [ARGON, SHORT]),
        (["demo", SHORT], "demo + lj", ["demo", SHORT]),
        ({"name": "demo + lj", "epsilon": 0.1}, "demo + lj", {"name": "demo + lj", "epsilon": 0.1}),
    ],
)
def test_a_job_says_it_in_three_ways(written, name, again) -> None:
    spec = make_spec({"model": written, **STAGES})
    assert spec.model.name == name
    job = spec.to_job()
    assert job["model"] == again
    assert make_spec(yaml.safe_load(yaml.safe_dump(job))) == spec


@pytest.mark.parametrize(
    ("written", "problem"),
    [([], "the list of models is empty"), ([{"cutoff": 3.0}], "name"), ([3], "model"), ({"terms": 3}, "model")],
)
def test_a_list_that_is_none_is_refused(written, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        make_spec({"model": written, **STAGES})


def test_a_run_of_a_sum_and_what_it_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    bulk("Ar", "fcc", a=5.4, cubic=True).write("ar.xyz", format="extxyz")
    job = {"structures": ["ar.xyz"], "model": [ARGON, SHORT], "allow_failures": True} | STAGES
    Path("job.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")
    assert call(["run", "job.yaml", "-o", "sum", "--quiet"]) == 0
    result = athanor.relax("ar.xyz", model=[ARGON, SHORT], max_steps=2)
    np.testing.assert_allclose(read("sum/final.extxyz").positions, result.structures[0].positions, atol=1e-12)
    models = (ARGON, SHORT, [ARGON, SHORT])
    energies = [athanor.evaluate(result.structures, model=model).energies[0] for model in models]
    assert result.energies[0] == pytest.approx(energies[0] + energies[1], abs=1e-9)
    assert energies[2] == pytest.approx(energies[0] + energies[1], abs=1e-12)
    record = yaml.safe_load(Path("sum/run.yaml").read_text(encoding="utf-8"))
    assert record["job"]["model"] == [ARGON, SHORT]
    assert record["model"]["card"] == "Lennard-Jones + Lennard-Jones"
    assert call(["run", "sum/run.yaml", "-o", "again", "--quiet"]) == 0
    np.testing.assert_allclose(read("again/final.extxyz").positions, result.structures[0].positions, atol=1e-12)
    options = [f"--model-option={key}={value}" for key, value in {**ARGON, "hidden_dim": 4}.items() if key != "name"]
    assert call(["evaluate", "ar.xyz", "--model", "demo + lj", *options]) == 0
    assert " ar " in capsys.readouterr().out
    assert call(["evaluate", "ar.xyz", "--model", "demo + lj", *options[1:]]) == 65
    assert "model 'lennard-jones' needs `epsilon`" in capsys.readouterr().err


def test_a_sum_is_a_calculator_and_takes_one(tmp_path: Path) -> None:
    """By name, as a list, as an object; a sum with a calculator of ASE in it is the sum of both."""
    atoms = bulk("Ar", "fcc", a=5.4, cubic=True)
    atoms.rattle(0.05, seed=1)
    options = {key: value for key, value in ARGON.items() if key != "name"}
    expected = athanor.evaluate(atoms, model=[ARGON, "demo"], out=None).structures[0]
    calculators = (
        athanor.calculator([ARGON, "demo"]),
        athanor.calculator("lj + demo", **options),
        AthanorCalculator(LennardJonesModelWrapper(**options) + build_demo_model()),
        AthanorCalculator(ASEModelWrapper(athanor.calculator("lj", **options)) + build_demo_model()),
    )
    for calculator in calculators:
        atoms.calc = calculator
        assert atoms.get_potential_energy() == pytest.approx(expected.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(atoms.get_forces(), expected.get_forces(), atol=1e-6)
    group = PipelineGroup([ASEModelWrapper(athanor.calculator("lj", **options)), build_demo_model()], use_autograd=True)
    with pytest.raises(NotAvailableError, match="energy of ASEModelWrapper can not be differentiated"):
        AthanorCalculator(PipelineModelWrapper([group])).get_forces(atoms)
