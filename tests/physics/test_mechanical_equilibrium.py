"""Bounds and criteria of a relaxation depend neither on how a system is turned nor on the empty space around it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc100
from scipy.spatial.transform import Rotation

from athanor.data import AtomicData, Batch, stress
from athanor.data.stress import occupied_volume, residual_stress, spectral_norm
from athanor.dynamics import FailureCode, FIREVariableCell, explain_failure
from athanor.dynamics.convergence import ConvergenceCriterion, ConvergenceHook
from athanor.dynamics.optimizers import fire
from athanor.errors import InputError, SimulationError
from athanor.models.lj import LennardJonesModelWrapper
from athanor.testing.dynamics_contract import with_neighbor_hooks
from athanor.units import GPa


def batch_of(*systems: Atoms) -> Batch:
    return Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in systems])


def relax(batch: Batch, n_steps: int = 2000, **settings) -> Batch:
    model = LennardJonesModelWrapper(epsilon=0.0104, sigma=3.4, cutoff=8.5)
    settings = {"convergence_hook": ConvergenceHook.from_fmax_and_smax(0.01, 0.05 * GPa), **settings}
    engine = FIREVariableCell(model, dt=0.2, dt_max=1.0, mass_scale="mean", **settings)
    return with_neighbor_hooks(engine).run(batch, n_steps)


def turned(atoms: Atoms, seed: int = 3) -> tuple[Atoms, np.ndarray]:
    rotation = Rotation.random(random_state=seed).as_matrix()
    copy = atoms.copy()
    copy.set_cell(atoms.cell.array @ rotation.T)
    copy.positions = atoms.positions @ rotation.T
    return copy, rotation


def sheared_crystal() -> Atoms:
    atoms = bulk("Ar", "fcc", a=4.6, cubic=True) * (2, 1, 1)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + np.array([[0.1, 0.15, 0], [0, -0.05, 0.1], [0, 0, 0]])), True)
    atoms.rattle(0.02, seed=1)
    return atoms


def apart_after(steps: int) -> float:
    """How far a turned copy, turned back, is from the original after some bounded steps, Å."""
    original = sheared_crystal()
    copy, rotation = turned(original)
    batch = relax(batch_of(original, copy), steps, convergence_hook=None, maxstep=0.05)
    straight, back = batch.cell[0].numpy(), batch.cell[1].numpy() @ rotation
    return float(np.abs(straight - back).max())


def longest_row(tensors: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(tensors, dim=-1).amax(-1)


def test_a_turned_copy_takes_the_same_path_while_the_cell_step_is_bounded(monkeypatch):
    assert apart_after(12) < 1e-9
    monkeypatch.setattr(fire, "spectral_norm", longest_row)  # mutant: the bound is on the longest row
    assert apart_after(12) > 1e-3


def test_a_turned_copy_converges_in_the_same_step():
    original = sheared_crystal()
    batch = relax(batch_of(original, turned(original)[0], turned(original, 8)[0]))
    steps = batch.step.flatten().tolist()
    assert len(set(steps)) == 1
    assert 5 < steps[0] < 500


def test_the_stress_that_is_compared_does_not_change_when_a_system_is_turned():
    values = torch.tensor(np.random.default_rng(0).normal(size=(20, 3, 3)))
    values = values + values.mT
    rotation = torch.tensor(Rotation.random(20, random_state=1).as_matrix())
    turned_values = rotation @ values @ rotation.mT
    batch = batch_of(*[bulk("Ar", cubic=True)] * 20)
    batch.forces = torch.zeros_like(batch.positions)

    def change(criterion: ConvergenceCriterion) -> float:
        batch.stress = values
        before = criterion.measure(batch)
        batch.stress = turned_values
        return float((criterion.measure(batch) - before).abs().max())

    assert change(ConvergenceHook.from_fmax_and_smax().criteria[1]) < 1e-13
    assert change(ConvergenceCriterion("stress", reduce_dims=(-2, -1), reduce_op="absmax")) > 0.1  # mutant: by entries


def test_spectral_norm_is_the_largest_principal_value_and_unknown_where_a_number_is_not_finite():
    tensors = torch.diag_embed(torch.tensor([[1.0, -3.0, 2.0], [0.5, 0.0, 0.0], [1.0, torch.inf, 0.0]]))
    assert spectral_norm(tensors).tolist()[:2] == pytest.approx([3.0, 0.5])
    assert math.isnan(spectral_norm(tensors)[2])
    batch = batch_of(bulk("Ar"))
    batch.stress = torch.zeros(1, 3, 3, dtype=torch.float64)
    with pytest.raises(InputError, match=r"`reduce_dims` is -1.*'spectral'"):
        ConvergenceCriterion("stress", reduce_op="spectral").measure(batch)


def slab(vacuum: float, tilt: float = 0.0) -> Atoms:
    atoms = fcc100("Ar", (1, 1, 4), a=5.6, vacuum=0.5 * vacuum)
    atoms.pbc = (True, True, False)
    atoms.cell[2, 0] += tilt
    return atoms


def wire(vacuum: float) -> Atoms:
    """Two parallel rows of atoms in a cell with much or little space around them."""
    cell = np.diag([vacuum, vacuum + 3.0, 4.0])
    return Atoms(
        "Ar4", [[0, 0, 0], [3.9, 0, 0], [2.0, 3.4, 2.0], [2.0, -3.4, 2.0]], cell=cell, pbc=(False, False, True)
    )


@pytest.mark.parametrize(
    "make",
    [slab, lambda vacuum: turned(slab(vacuum, tilt=3.0))[0], wire],
    ids=["slab", "turned and tilted slab", "wire"],
)
def test_empty_space_changes_neither_the_end_of_a_relaxation_nor_what_is_said_of_it(make, monkeypatch):
    def ends() -> tuple[list[float], list[int]]:
        hook = ConvergenceHook.from_fmax_and_smax(0.5, 0.02 * GPa)
        batch = relax(batch_of(*[make(vacuum) for vacuum in (20.0, 40.0, 400.0)]), convergence_hook=hook)
        assert torch.all(batch.failure_code == 0)
        return hook.criteria[1].measure(batch).tolist(), batch.step.flatten().tolist()

    measured, steps = ends()
    assert measured == pytest.approx([measured[0]] * 3, rel=1e-6)
    assert steps == [steps[0]] * 3
    monkeypatch.setattr(stress, "occupied_volume", lambda batch: batch.volume)  # mutant: per volume of the cell
    assert ends()[1][2] < steps[2]


def test_volume_that_stress_refers_to():
    batch = batch_of(bulk("Ar", cubic=True, a=5.0), slab(30.0), slab(60.0, tilt=2.0), wire(50.0), Atoms("Ar"))
    area, thickness = 5.6**2 / 2, 3 * 5.6 / 2
    expected = [125.0, area * (thickness + 3.0), area * (thickness + 3.0), 4.0 * math.pi * (3.4 + 1.5) ** 2, 0.0]
    assert occupied_volume(batch).tolist() == pytest.approx(expected, rel=2e-3)
    moved = batch.clone()
    moved.positions = moved.positions + torch.tensor([7.0, -3.0, 90.0], dtype=torch.float64)
    assert occupied_volume(moved).tolist() == pytest.approx(occupied_volume(batch).tolist(), rel=1e-12)


def test_stress_along_open_directions_does_not_count():
    batch = batch_of(slab(30.0), wire(30.0), Atoms("Ar"))
    batch.stress = torch.eye(3, dtype=torch.float64).repeat(3, 1, 1)
    left = residual_stress(batch, pressure=0.5)
    share = (batch.volume / occupied_volume(batch))[:2]
    assert torch.allclose(left[0], share[0] * 1.5 * torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)))
    assert torch.allclose(left[1], share[1] * 1.5 * torch.diag(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)))
    assert not left[2].any()


def test_a_slab_under_pressure_is_set_aside_with_the_reason_and_the_others_go_on():
    crystal = bulk("Ar", "fcc", a=5.4, cubic=True)
    alone = relax(batch_of(crystal), pressure=1.0 * GPa)
    batch = relax(batch_of(slab(20.0), crystal, wire(30.0), Atoms("Ar2", [[0, 0, 0], [0, 0, 4.0]])), pressure=1.0 * GPa)
    code = int(FailureCode.PRESSURE_WITHOUT_CRYSTAL)
    assert batch.failure_code.flatten().tolist() == [code, 0, code, 0]
    assert torch.equal(batch.get_data(1).cell, alone.cell)
    assert torch.equal(batch.get_data(0).positions, batch_of(slab(20.0)).positions)
    assert batch.energy[[0, 2]].isnan().all()
    assert "periodic in all three directions" in explain_failure(batch, 0)
    assert "pair" not in explain_failure(batch, 0)
    with pytest.raises(SimulationError, match=r"system_id 0 \(index 0\): a target pressure needs a cell"):
        relax(batch_of(slab(20.0), crystal), pressure=1.0 * GPa, on_error="raise")


def test_each_system_may_have_a_pressure_of_its_own_and_one_that_is_assigned_later_counts():
    systems = batch_of(slab(20.0), bulk("Ar", "fcc", a=5.4, cubic=True))
    batch = relax(systems, pressure=torch.tensor([0.0, 1.0 * GPa]))
    assert batch.failure_code.flatten().tolist() == [0, 0]
    model = LennardJonesModelWrapper(epsilon=0.0104, sigma=3.4, cutoff=8.5)
    engine = with_neighbor_hooks(FIREVariableCell(model, dt=0.2, mass_scale="mean"))
    batch = engine.run(batch_of(slab(20.0), bulk("Ar", "fcc", a=5.4, cubic=True)), 3)
    energy = batch.energy.clone()
    engine.pressure = 1.0 * GPa
    engine.run(batch, 3)
    assert batch.failure_code.flatten().tolist() == [FailureCode.PRESSURE_WITHOUT_CRYSTAL, 0]
    assert batch.step.flatten().tolist() == [3, 6]
    assert torch.equal(batch.energy[0], energy[0])  # it was computed for where the system stands
