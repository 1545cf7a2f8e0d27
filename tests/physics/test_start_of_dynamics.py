"""With which velocities dynamics starts, and that one rule counts the heat of every stage."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk

import athanor
from athanor.data import AtomicData, Batch, observables
from athanor.dynamics import FIRE, NVE, ConvergenceHook, NVTLangevin
from athanor.errors import AthanorWarning
from athanor.testing.dynamics_contract import argon_crystal, argon_model
from athanor.units import BOLTZMANN

ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.0, "switch_width": 1.5}


def disturbed(repeat: int = 2) -> Any:
    crystal = bulk("Ar", "fcc", a=5.4, cubic=True) * (repeat, repeat, repeat)
    crystal.rattle(0.2, seed=3)
    return crystal


def batch_of(*atoms: Any) -> Batch:
    return Batch.from_data_list([AtomicData.from_atoms(each, dtype=torch.float64) for each in atoms])


def run(engine: Any, batch: Batch, steps: int | None = None) -> Batch:
    for hook in engine.model.make_neighbor_hooks():
        engine.register_hook(hook)
    return engine.run(batch, steps)


class MovesAsMotion(FIRE):
    """Broken twin: an optimizer whose velocities stand on the batch, as those of a motion."""

    _selects_active = True
    is_motion = True

    def pre_update(self, batch: Batch) -> None:
        super().pre_update(batch)
        batch.velocities.copy_(self._state.velocities)

    def post_update(self, batch: Batch) -> None:
        super().post_update(batch)


@pytest.mark.parametrize("optimizer", [FIRE, MovesAsMotion])
@pytest.mark.parametrize("steps", [3, 400])  # cut short by its budget, and converged
@pytest.mark.filterwarnings("ignore:NVE starts:athanor.errors.AthanorWarning")
def test_what_is_relaxed_is_heated_to_the_temperature_asked_for(optimizer: Any, steps: int) -> None:
    model = argon_model()
    relax = optimizer(model, dt=0.5, n_steps=steps, convergence_hook=ConvergenceHook.from_fmax(1e-3))
    relax.warns_of_start = False
    heat = NVE(model, dt=1e-3, n_steps=1, start_temperature=100.0)
    batch = run(relax + heat, batch_of(disturbed(), disturbed(1)))
    right = torch.allclose(observables.temperature(batch), torch.tensor(100.0, dtype=torch.float64), rtol=1e-3)
    assert right == (optimizer is FIRE)


@pytest.mark.parametrize("max_steps", [500, 4])
def test_a_relaxation_leaves_no_velocities_behind(tmp_path, max_steps: int) -> None:
    relaxed = athanor.relax(disturbed(), model=ARGON, max_steps=max_steps, out=tmp_path / "relaxed")
    saved = athanor.open(tmp_path / "relaxed")
    everything = [*relaxed.structures, *saved.structures, *saved.atoms(0)]
    assert not any(atoms.has("momenta") for atoms in everything)
    assert not observables.known_velocities(saved.frames(0)).any()
    assert saved.series(0).temperature.size > 0
    assert all(value != value for value in saved.series(0).temperature)  # NaN: it has none
    for ensemble in ("nve", "nvt"):
        hot = athanor.md(relaxed, model=ARGON, ensemble=ensemble, temperature=100, steps=1, timestep=1e-3)
        kinetic, dof = hot.structures[0].get_kinetic_energy(), 96 - 3 * (ensemble == "nve")
        assert kinetic == pytest.approx(0.5 * dof * BOLTZMANN * 100, rel=0.03)


def test_a_relaxation_drops_velocities_that_were_given_and_says_so(tmp_path) -> None:
    moving = disturbed(1)
    moving.set_momenta(moving.positions)
    still = disturbed(1)
    still.set_momenta(0 * still.positions)
    with pytest.warns(AthanorWarning, match="drops the velocities of system 0"):
        relaxed = athanor.relax([moving, still], model=ARGON, max_steps=2)
    assert not any(atoms.has("momenta") for atoms in relaxed.structures)
    batch = batch_of(moving, still)
    with pytest.warns(AthanorWarning, match="FIRE drops the velocities of 1 of 2 systems"):
        run(FIRE(argon_model(), dt=0.5), batch, 2)
    assert not observables.known_velocities(batch).any()
    assert not batch.velocities.any()


def test_jobs_of_stages_heat_to_the_temperature_of_the_second(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = tmp_path / "job.yaml"
    disturbed().write(tmp_path / "ar.extxyz")
    stages = "[{relax: {steps: 4}}, {md: {ensemble: nve, temperature: 300 K, steps: 1, timestep: 0.001 fs}}]"
    job.write_text(f"structures: [ar.extxyz]\nmodel: {ARGON}\nstages: {stages}\noutput: out\n".replace("'", ""))
    from athanor.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main(["run", str(job), "-q"])
    assert ended.value.code == 0
    [atoms] = athanor.open(tmp_path / "out").structures
    assert atoms.get_kinetic_energy() == pytest.approx(0.5 * 93 * BOLTZMANN * 300, rel=1e-3)


@pytest.mark.parametrize("atoms", [1, 2, 4])
@pytest.mark.parametrize("ensemble", ["nvt", "nve"])
def test_small_cells_start_at_their_temperature(atoms: int, ensemble: str) -> None:
    cell = bulk("Ar", "fcc", a=5.3, cubic=atoms == 4) * (1 + (atoms == 2), 1, 1)
    settings = {"silence": ["small-cell"], "steps": 1, "timestep": 1e-3}
    hot = athanor.md(cell, model=ARGON, ensemble=ensemble, temperature=40, **settings).structures[0]
    dof = 3 * atoms - 3 * (ensemble == "nve")
    assert hot.get_kinetic_energy() == pytest.approx(0.5 * dof * BOLTZMANN * 40, rel=0.03, abs=1e-12)


def with_the_centre_of_mass(batch: Batch) -> torch.Tensor:
    """Broken twin: the energy of the centre of mass is heat, although its three degrees of freedom do not count."""
    return 2.0 * observables.kinetic_energy(batch) / (batch.dof * BOLTZMANN)


@pytest.mark.parametrize("temperature", [observables.temperature, with_the_centre_of_mass])
def test_the_temperature_does_not_jump_between_ensembles(temperature: Any) -> None:
    """Of 400 systems of two atoms, of which Langevin dynamics lets the centre of mass diffuse."""
    pair = bulk("Ar", "fcc", a=5.3) * (2, 1, 1)
    model, batch = argon_model(), batch_of(*[pair] * 400)
    run(NVTLangevin(model, dt=4.0, temperature=30.0, friction=0.05), batch, 100)
    before = float(temperature(batch).mean())
    run(NVE(model, dt=1e-3), batch, 1)
    after = temperature(batch)[:, 0]
    error = float(after.std()) / 20.0
    assert (abs(float(after.mean()) - before) < 4.0 * error) == (temperature is observables.temperature)


def test_a_gliding_crystal_is_cold() -> None:
    crystal = disturbed()
    crystal.set_velocities([[0.05, 0.0, 0.0]] * len(crystal))
    batch = run(NVE(argon_model(), dt=1e-3), batch_of(crystal), 1)
    assert float(observables.temperature(batch)) < 1e-3
    assert float(observables.kinetic_energy(batch)) == pytest.approx(crystal.get_kinetic_energy(), rel=1e-6)


def test_velocities_of_a_user_and_of_an_earlier_dynamics_are_kept() -> None:
    model, batch = argon_model(), Batch.from_data_list([argon_crystal(2, 0), argon_crystal(2, 1)])
    given = batch.velocities.clone()
    run(NVE(model, dt=1e-9, start_temperature=60.0), batch, 1)
    torch.testing.assert_close(batch.velocities, given)
    warm = NVTLangevin(model, dt=1e-9, temperature=60.0, friction=0.0, n_steps=1)
    batch.status = None
    run(warm + NVTLangevin(model, dt=1e-9, temperature=50.0, friction=0.0, n_steps=1), batch)
    torch.testing.assert_close(batch.velocities, given)


def test_rest_that_was_given_is_kept_and_rest_by_omission_is_told() -> None:
    still = disturbed(1)
    still.set_momenta(0 * still.positions)
    batch = batch_of(still, disturbed(1))
    with pytest.warns(AthanorWarning, match=r"NVE starts 1 of 2 systems at rest.*start_temperature=300"):
        run(NVE(argon_model(), dt=1e-3), batch, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AthanorWarning)
        run(NVE(argon_model(), dt=1e-3), batch, 1)  # it has velocities now
        run(NVE(argon_model(), dt=1e-3, keep_velocities=True), batch_of(disturbed(1)), 1)
        batch = batch_of(still, disturbed(1))
        run(NVE(argon_model(), dt=1e-3, start_temperature=torch.tensor([0.0, 40.0])), batch, 1)
    assert observables.temperature(batch)[:, 0].tolist() == pytest.approx([0.0, 40.0], abs=0.1)


def test_a_start_far_from_its_target_is_told() -> None:
    hot = Batch.from_data_list([argon_crystal(2, 0), argon_crystal(2, 1)])
    engine = NVTLangevin(argon_model(), dt=1.0, temperature=torch.tensor([70.0, 300.0]), friction=0.01)
    with pytest.warns(AthanorWarning, match=r"starts 1 of 2 systems far from .*index 1, at 58.13 K instead of 300 K"):
        run(engine, hot, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AthanorWarning)
        engine.run(hot, 1)  # is no start
    with pytest.warns(AthanorWarning, match=r"system 0 .*are those of .* K, far from 600 K"):
        athanor.md(hot[[0]], model=ARGON, temperature=600, steps=1)


def test_rest_in_a_file_is_kept_and_told() -> None:
    for drift in (0.0, 0.01):  # gliding as a whole it is as cold
        still = disturbed()
        still.set_velocities(np.full_like(still.positions, drift))
        with pytest.warns(
            AthanorWarning, match=r"are those of 0 K \(it stands still, .*\), far from 50 K, and are kept"
        ):
            cold = athanor.md(still, model=ARGON, ensemble="nve", temperature=50, steps=1, timestep=1e-3).structures[0]
        cold.set_velocities(cold.get_velocities() - drift)
        assert cold.get_temperature() < 1e-3


def test_drawn_velocities_do_not_depend_on_companions() -> None:
    systems = [argon_crystal(1, 4), argon_crystal(2, 3), argon_crystal(1, 9)]
    for system in systems:
        del system.velocities
    model = argon_model()

    def draw(*chosen: int) -> Batch:
        batch = Batch.from_data_list([systems[number].clone() for number in chosen])
        return run(NVTLangevin(model, dt=1.0, temperature=60.0, friction=0.01), batch, 3)

    together = draw(0, 1, 2)
    for place, number in enumerate((0, 1, 2)):
        assert torch.equal(together[[place]].velocities, draw(number).velocities)
    finished = Batch.from_data_list([system.clone() for system in systems])
    finished.status = torch.tensor([[0], [5], [0]])
    run(NVTLangevin(model, dt=1.0, temperature=60.0, friction=0.01), finished, 3)
    assert observables.known_velocities(finished)[:, 0].tolist() == [True, False, True]
    assert torch.equal(finished[[2]].velocities, together[[2]].velocities)


def test_copies_of_a_moving_cell_do_not_move_in_step() -> None:
    moving = disturbed(1)
    moving.set_momenta(moving.positions)
    with pytest.warns(AthanorWarning, match="all copies of the cell would move in step"):
        hot = athanor.md(moving, model=ARGON, supercell=2, temperature=40, steps=1, timestep=1e-3).structures[0]
    assert hot.get_kinetic_energy() == pytest.approx(1.5 * 32 * BOLTZMANN * 40, rel=0.03)
    velocities = hot.get_velocities().reshape(8, 4, 3)
    assert abs(velocities[0] - velocities[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("friction", "dt", "warns"), [([1.0, 0.01], [0.5, 4.0], False), ([1.0, 0.3], [0.5, 4.0], True)]
)
def test_friction_is_compared_with_the_step_of_the_same_system(friction: list, dt: list, warns: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        NVTLangevin(argon_model(), torch.tensor(dt), 60.0, torch.tensor(friction))
    assert bool(caught) == warns
    if warns:
        assert "`friction=0.3`" in str(caught[0].message)
