"""One definition each of kinetic energy, degrees of freedom, temperature, pressure and largest force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import units as ase_units
from ase.build import bulk

from athanor.data import AtomicData, Batch, observables
from athanor.errors import MissingFieldError
from athanor.units import BOLTZMANN


def moving() -> Batch:
    rng = np.random.default_rng(1)
    items = []
    for repeat in (1, 2):
        atoms = bulk("Cu", cubic=True).repeat((repeat, 1, 1))
        atoms.set_velocities(0.05 * rng.normal(size=(len(atoms), 3)))
        items.append(AtomicData.from_atoms(atoms, dtype=torch.float64))
    batch = Batch.from_data_list(items)
    batch.forces = torch.from_numpy(rng.normal(size=(12, 3)))
    batch.stress = torch.from_numpy(rng.normal(size=(2, 3, 3)))
    return batch


def test_against_ase() -> None:
    batch = moving()
    atoms = batch.to_atoms()
    kinetic = torch.tensor([[a.get_kinetic_energy()] for a in atoms], dtype=torch.float64)
    torch.testing.assert_close(observables.kinetic_energy(batch), kinetic, rtol=1e-13, atol=0)
    temperature = torch.tensor([[a.get_temperature()] for a in atoms], dtype=torch.float64)
    # ASE's k_B is CODATA 2014, ours CODATA 2022: 6e-7 apart
    torch.testing.assert_close(observables.temperature(batch), temperature, rtol=2e-6, atol=0)
    momentum = torch.from_numpy(np.array([a.get_momenta().sum(axis=0) for a in atoms]))
    torch.testing.assert_close(observables.momentum(batch), momentum)
    assert ase_units.kB > 0


def test_pressure_has_a_kinetic_and_a_static_part() -> None:
    batch = moving()
    static = -batch.stress.diagonal(dim1=1, dim2=2).sum(dim=1) / 3
    torch.testing.assert_close(observables.pressure(batch, kinetic=False), static)
    ideal = 2 * observables.kinetic_energy(batch)[:, 0] / (3 * batch.volume)
    torch.testing.assert_close(observables.pressure(batch), static + ideal)
    batch.cell = torch.zeros_like(batch.cell)
    assert observables.pressure(batch).tolist() == [0.0, 0.0]


def test_fixed_atoms_count_nowhere() -> None:
    batch = moving()
    fixed = torch.zeros(12, dtype=torch.bool)
    worst = int(batch.forces[:4].norm(dim=1).argmax())
    fixed[worst] = True
    fixed[4:] = True
    free = observables.fmax(batch)
    kinetic = observables.kinetic_energy(batch)
    batch.fixed = fixed
    others = [i for i in range(4) if i != worst]
    assert observables.fmax(batch).tolist() == [float(batch.forces[others].norm(dim=1).max()), 0.0]
    assert observables.fmax(batch)[0] < free[0]
    assert observables.kinetic_energy(batch)[0] < kinetic[0]
    assert observables.kinetic_energy(batch)[1] == 0
    assert observables.degrees_of_freedom(batch).tolist() == [[9.0], [0.0]]
    assert observables.temperature(batch)[1] == 0
    assert observables.count_degrees_of_freedom(batch, momentum_conserved=True).tolist() == [[9.0], [0.0]]


def test_degrees_of_freedom_written_by_a_stage_count() -> None:
    batch = moving()
    assert observables.count_degrees_of_freedom(batch).tolist() == [[12.0], [24.0]]
    assert observables.count_degrees_of_freedom(batch, momentum_conserved=True).tolist() == [[9.0], [21.0]]
    plain, energy = observables.temperature(batch), observables.kinetic_energy(batch)
    batch.dof = torch.tensor([[9.0], [-1.0]], dtype=torch.float64)
    assert observables.degrees_of_freedom(batch).tolist() == [[9.0], [24.0]]
    gliding = observables.momentum(batch).square().sum(dim=1, keepdim=True) / (2 * 4 * batch.atomic_masses[0])
    kelvin = torch.stack([2 * (energy - gliding)[0] / (9 * BOLTZMANN), plain[1]])
    torch.testing.assert_close(observables.temperature(batch), kelvin)
    assert torch.equal(observables.kinetic_energy(batch), energy)
    one = Batch.from_data_list([AtomicData(atomic_numbers=torch.tensor([1]), positions=torch.zeros(1, 3))])
    assert observables.temperature(one).isnan().all()
    one.velocities = torch.ones(1, 3)
    assert observables.count_degrees_of_freedom(one, momentum_conserved=True).tolist() == [[0.0]]
    one.dof = torch.zeros(1, 1)
    assert observables.temperature(one).tolist() == [[0.0]]


def test_a_gliding_crystal_is_as_warm_as_one_that_stays_where_the_stage_conserves_its_momentum() -> None:
    batch = moving()
    batch.dof = observables.count_degrees_of_freedom(batch, momentum_conserved=torch.tensor([True, False]))
    batch.velocities -= (observables.momentum(batch) / (batch.num_nodes_per_graph * 63.546)[:, None])[batch.batch_idx]
    warm, pressed, stress = (getattr(observables, n)(batch) for n in ("temperature", "pressure", "total_stress"))
    batch.velocities += torch.tensor([0.3, 0.0, -0.1])
    assert_close = torch.testing.assert_close
    assert_close(observables.temperature(batch)[0], warm[0])
    assert_close(observables.pressure(batch)[0], pressed[0])
    assert_close(observables.total_stress(batch)[0], stress[0])
    assert float(observables.temperature(batch)[1]) > 10 * float(warm[1])  # where it is not conserved, it is heat
    assert_close(observables.pressure(batch), -observables.total_stress(batch).diagonal(dim1=1, dim2=2).sum(1) / 3)


def test_velocities_that_nobody_gave_are_unknown() -> None:
    atoms = bulk("Cu", cubic=True)
    still = atoms.copy()
    still.set_velocities(np.zeros((4, 3)))
    batch = Batch.from_data_list([AtomicData.from_atoms(each, dtype=torch.float64) for each in (atoms, still, atoms)])
    assert observables.known_velocities(batch).tolist() == [[False], [True], [False]]
    assert observables.temperature(batch).isnan().flatten().tolist() == [True, False, True]
    assert [each.has("momenta") for each in batch.to_atoms()] == [False, True, False]
    copy = Batch.from_data_list([AtomicData.from_dict(each.to_dict()) for each in batch.to_data_list()])
    assert observables.known_velocities(copy).tolist() == [[False], [True], [False]]
    batch.velocities[-4:] += 0.1  # in place, which nobody is told of
    assert observables.known_velocities(batch).tolist() == [[False], [True], [True]]
    batch.velocities = torch.zeros_like(batch.positions)
    assert observables.known_velocities(batch).all()
    batch.velocities = None
    assert not observables.known_velocities(batch).any()
    assert not batch.ensure_field("velocities").any()
    assert not observables.known_velocities(batch).any()


def test_bits_do_not_depend_on_companions() -> None:
    batch = moving()
    for name in ("kinetic_energy", "temperature", "pressure", "total_stress", "fmax", "momentum"):
        together = getattr(observables, name)(batch)
        alone = getattr(observables, name)(batch[[1]])
        assert torch.equal(together[1:], alone), name


def test_missing_field_is_named() -> None:
    batch = moving()
    batch.forces = None
    with pytest.raises(MissingFieldError, match=r"`forces` is missing from the batch; fmax needs it. Fields present: "):
        observables.fmax(batch)


def test_the_projector_is_on_the_periodic_vectors() -> None:
    cells = torch.randn(8, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pbc = torch.cartesian_prod(*[torch.tensor([False, True])] * 3)
    systems = [
        AtomicData(
            atomic_numbers=torch.tensor([1]), positions=torch.zeros(1, 3).double(), cell=cell[None], pbc=row[None]
        )
        for cell, row in zip(cells, pbc, strict=True)
    ]
    found = observables.periodic_projector(Batch.from_data_list(systems))
    for projector, cell, row in zip(found, cells, pbc, strict=True):
        basis = torch.linalg.qr(cell[row].T).Q
        assert torch.allclose(projector, basis @ basis.T, atol=1e-12)
    molecule = AtomicData(atomic_numbers=torch.tensor([1]), positions=torch.zeros(1, 3).double())
    assert not observables.periodic_projector(Batch.from_data_list([molecule])).any()
