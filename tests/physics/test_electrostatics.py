"""Electrostatics against numbers that do not come from it: lattice constants, other sums, differences of energies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from scipy.special import erfc

from athanor import kernels
from athanor.data import AtomicData, Batch
from athanor.dynamics import NVE
from athanor.models import ewald as ewald_module
from athanor.models.ewald import EwaldModelWrapper
from athanor.models.lj import LennardJonesModelWrapper
from athanor.neighbors import compute_neighbors
from athanor.testing.dynamics_contract import with_neighbor_hooks

EVERYTHING = {"energy", "forces", "stress"}


def batch_of(*systems: tuple[Atoms, Sequence[float]]) -> Batch:
    """Return a batch of atoms with their charges, float64."""
    found = []
    for atoms, charges in systems:
        data = AtomicData.from_atoms(atoms, dtype=torch.float64)
        data.charges = torch.tensor(charges, dtype=torch.float64)
        found.append(data)
    return Batch.from_data_list(found)


def evaluate(model: Any, batch: Batch, outputs: set[str] = EVERYTHING) -> dict[str, torch.Tensor]:
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    model.model_config.active_outputs = outputs
    return model(batch)


def ewald(cutoff: float, accuracy: float, **options: Any) -> EwaldModelWrapper:
    """Return a model of charges in e²/Å."""
    return EwaldModelWrapper(cutoff, accuracy, coulomb_constant=1.0, **options)


# ---------------------------------------------------------------------------------------------------- lattice constants

WURTZITE = bulk("ZnS", "wurtzite", a=3.8, c=3.8 * math.sqrt(8.0 / 3.0), u=3.0 / 8.0)
MADELUNG = {
    "rock salt": (bulk("NaCl", "rocksalt", a=5.64), [1, -1], 2.82, 1.747564594633182, 1),
    "caesium chloride": (bulk("CsCl", "cesiumchloride", a=4.12), [1, -1], 2.06 * math.sqrt(3.0), 1.762674773070988, 1),
    "zinc blende": (bulk("ZnS", "zincblende", a=5.41), [1, -1], 5.41 * math.sqrt(3.0) / 4.0, 1.638055053388789, 1),
    "fluorite": (bulk("CaF2", "fluorite", a=5.46), [2, -1, -1], 5.46 * math.sqrt(3.0) / 4.0, 5.038784879848569, 1),
    "wurtzite": (WURTZITE, [1, -1, 1, -1], 3.8 * math.sqrt(3.0 / 8.0), 1.64132162737, 2),
}
"""Atoms, charges, nearest distance, constant for that distance and formula units; Y. Sakamoto, J. Chem. Phys. 28, 164
(1958), doi:10.1063/1.1744060, I. J. Zucker, J. Phys. A 8, 1734 (1975), doi:10.1088/0305-4470/8/11/008; see also
https://oeis.org/A085469 and A181152. Wurtzite with ideal axes."""


def error_of_constant(name: str, cutoff: float, accuracy: float, shear: Sequence[int] = (0, 0, 0)) -> float:
    atoms, charges, distance, constant, units = MADELUNG[name]
    atoms = atoms.copy()
    a, b, c = shear
    atoms.cell[:] = np.array([[1, 0, 0], [a, 1, 0], [b, c, 1]]) @ atoms.cell.array  # the same lattice
    energy = float(evaluate(ewald(cutoff, accuracy), batch_of((atoms, charges)), {"energy"})["energy"])
    return abs(-energy * distance / (units * constant) - 1.0)


@pytest.mark.parametrize("name", MADELUNG)
def test_madelung_constants_to_ten_digits(name: str) -> None:
    for cutoff in (6.0, 11.0):
        assert error_of_constant(name, cutoff, 1e-12) < 1e-10
    assert error_of_constant(name, 8.0, 1e-12, (1, -1, 2)) < 1e-10


@pytest.mark.parametrize("accuracy", [1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("name", MADELUNG)
def test_madelung_constants_to_the_asked_accuracy_at_every_cutoff(name: str, accuracy: float) -> None:
    for cutoff in (5.0, 7.0, 10.0, 14.0):
        assert error_of_constant(name, cutoff, accuracy) < accuracy
    assert error_of_constant(name, 6.0, accuracy, (2, 1, -1)) < accuracy


@pytest.mark.parametrize("twin", ["short reach", "half the screening of the self energy", "sum over a box"])
def test_a_broken_splitting_misses_the_constants(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = ewald_module.splitting_for

    def broken(*arguments: Any) -> Any:
        split = right(*arguments)
        radius, screening = split.radius, split.screening
        if twin == "short reach":
            radius *= 0.7
        elif twin == "half the screening of the self energy":
            return type("Wrong", (type(split),), {"self_term": 0.5 * split.self_term})(*_fields(split))
        else:
            screening *= 0.6  # as if the screening did not know of the cutoff
        return type(split)(screening, split.cutoff, split.taper_start, radius, 0.95 * radius)

    monkeypatch.setattr(ewald_module, "splitting_for", broken)
    assert error_of_constant("rock salt", 7.0, 1e-6) > 1e-6


def _fields(split: Any) -> list[float]:
    return [getattr(split, name) for name in type(split).__slots__]


WIGNER = {
    "sc": (bulk("Na", "sc", a=4.0), -0.880059442112),
    "bcc": (bulk("Na", "bcc", a=4.0), -0.895929255682),
    "fcc": (bulk("Na", "fcc", a=4.0), -0.895873615195),
    "hcp": (bulk("Na", "hcp", a=4.0, c=4.0 * math.sqrt(8.0 / 3.0)), -0.895838120459),
}
"""Energy of a charge in a uniform background, in e² over the radius of its sphere; L. L. Foldy, Phys. Rev. B 17, 4889
(1978), doi:10.1103/PhysRevB.17.4889."""


@pytest.mark.parametrize("name", WIGNER)
def test_charged_cells_have_the_energy_and_pressure_of_wigner_lattices(name: str) -> None:
    atoms, constant = WIGNER[name]
    outputs = evaluate(ewald(9.0, 1e-12), batch_of((atoms, [1.0] * len(atoms))))
    radius = (3.0 * atoms.get_volume() / (4.0 * math.pi * len(atoms))) ** (1.0 / 3.0)
    energy = float(outputs["energy"])
    assert energy * radius / len(atoms) == pytest.approx(constant, abs=1e-11)
    # the energy goes with one over the length, so the trace of the stress is minus the energy over the volume
    assert float(outputs["stress"][0].trace()) * atoms.get_volume() == pytest.approx(-energy, rel=1e-11)


def test_without_the_background_a_charged_cell_depends_on_the_splitting(monkeypatch: pytest.MonkeyPatch) -> None:
    atoms, constant = WIGNER["bcc"]
    split = type(ewald(9.0, 1e-8).splitting)
    monkeypatch.setattr(split, "background", 0.0)
    radius = (3.0 * atoms.get_volume() / (4.0 * math.pi)) ** (1.0 / 3.0)
    energy = float(evaluate(ewald(9.0, 1e-8), batch_of((atoms, [1.0])))["energy"])
    assert abs(energy * radius - constant) > 1e-3


# ----------------------------------------------------------------------------------------------------------- other sums


def slab(height: float) -> tuple[Atoms, list[float]]:
    """Return two rattled layers of ions with a dipole along the normal."""
    random = np.random.default_rng(3)
    cell = [[5.6, 0.0, 0.0], [0.7, 5.9, 0.0], [0.0, 0.0, height]]
    places = [[0, 0, 4.0], [2.8, 2.9, 4.3], [2.9, 0.2, 6.8], [0.3, 2.8, 7.1]]
    atoms = Atoms("NaClClNa", np.array(places) + random.normal(0.0, 0.1, (4, 3)), cell=cell, pbc=(True, True, False))
    return atoms, [1.0, -0.6, -0.9, 0.5]


def sum_over_a_plane(atoms: Atoms, charges: Sequence[float], eta: float = 0.45) -> float:
    """Return the energy of a two-dimensional lattice, exactly; D. E. Parry, Surf. Sci. 49, 433 (1975),
    doi:10.1016/0039-6028(75)90362-3."""
    q, x, cell = np.array(charges), atoms.positions, atoms.cell.array[:2]
    area = np.linalg.norm(np.cross(*cell))
    plane = 2.0 * math.pi * np.linalg.inv(cell[:, :2]).T
    d = x[:, None] - x[None, :]
    pairs, z, energy = q[:, None] * q[None, :], d[..., 2], -eta / math.sqrt(math.pi) * (q @ q)
    for n in itertools.product(range(-6, 7), repeat=2):
        r = np.linalg.norm(d + np.array(n) @ cell, axis=-1)
        r = np.where(r < 1e-9, np.inf, r)
        energy += 0.5 * (pairs * erfc(eta * r) / r).sum()
        if n == (0, 0):
            flat = z * (1.0 - erfc(eta * z)) + np.exp(-((eta * z) ** 2)) / (eta * math.sqrt(math.pi))
            energy -= math.pi / area * (pairs * flat).sum()
            continue
        k = np.array(n) @ plane
        length = np.linalg.norm(k)
        both = sum(np.exp(s * length * z) * erfc(length / (2.0 * eta) + s * eta * z) for s in (1.0, -1.0))
        energy += math.pi / (2.0 * area * length) * (pairs * np.cos(d[..., :2] @ k) * both).sum()
    return float(energy)


def error_of_slab(height: float, neutral: bool = True, corrected: bool = True) -> float:
    atoms, charges = slab(height)
    if not neutral:
        charges[0] += 0.5
    if not corrected:
        atoms.pbc = True
    model = ewald(8.0, 1e-10, slab_correction=True)
    energy = float(evaluate(model, batch_of((atoms, charges)), {"energy"})["energy"])
    return abs(energy / sum_over_a_plane(atoms, charges) - 1.0)


def test_the_sum_over_a_plane_does_not_depend_on_its_splitting() -> None:
    atoms, charges = slab(20.0)
    assert sum_over_a_plane(atoms, charges, 0.4) == pytest.approx(sum_over_a_plane(atoms, charges, 0.5), rel=1e-12)


@pytest.mark.parametrize("neutral", [True, False])
def test_slabs_agree_with_a_sum_over_a_plane(neutral: bool) -> None:
    """A vacuum of 2.3 times the width of the cell gives six digits, also with a net charge."""
    assert error_of_slab(3.1 + 2.3 * 5.94, neutral) < 1e-6


def test_a_slab_needs_its_correction_and_its_vacuum() -> None:
    assert error_of_slab(3.1 + 2.3 * 5.94, corrected=False) > 1e-3
    assert error_of_slab(12.0) > 10.0 * error_of_slab(18.0)
    with pytest.raises(ValueError, match=r"slab with 6\.0 Å of vacuum along its lattice vector 2"):
        error_of_slab(9.0)


def cluster(count: int = 12, seed: int = 5) -> tuple[Atoms, list[float]]:
    random = np.random.default_rng(seed)
    grid = np.array(list(itertools.product(range(3), repeat=3)))[:count] * 2.5
    atoms = Atoms("Na" * count, grid + random.normal(0.0, 0.2, (count, 3)))
    return atoms, random.normal(0.0, 1.0, count).tolist()


def test_finite_systems_beside_periodic_ones_are_summed_over_all_pairs() -> None:
    atoms, charges = cluster()
    crystal = (bulk("NaCl", "rocksalt", a=5.64), [1.0, -1.0])
    outputs = evaluate(ewald(4.0, 1e-6), batch_of(crystal, (atoms, charges)))
    q, d = np.array(charges), atoms.get_all_distances() + np.diag([np.inf] * len(atoms))
    assert float(outputs["energy"][1]) == pytest.approx(0.5 * (q[:, None] * q / d).sum(), rel=1e-13)
    vectors = atoms.get_all_distances(vector=True)
    forces = -(q[:, None, None] * q[None, :, None] * vectors / d[..., None] ** 3).sum(1)
    np.testing.assert_allclose(outputs["forces"][2:].numpy(), forces, rtol=1e-12, atol=1e-12)
    assert not outputs["stress"][1].any()
    alone = evaluate(ewald(4.0, 1e-6), batch_of(crystal))
    assert torch.equal(outputs["energy"][0], alone["energy"][0])
    assert torch.equal(outputs["forces"][:2], alone["forces"])


# ------------------------------------------------------------------------------------------------ accuracy, derivatives


def melt(repeat: int = 2, rattle: float = 0.3, seed: int = 1, strain: float = 0.0) -> tuple[Atoms, list[float]]:
    """Return rattled rock salt and its charges, sheared by `strain`."""
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True) * (repeat, repeat, repeat)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain * np.array([[0, 0.4, -0.3], [0, 0, 0.5], [0, 0, 0]])), True)
    atoms.rattle(rattle, seed=seed)
    return atoms, [1.0 if symbol == "Na" else -1.0 for symbol in atoms.symbols]


@pytest.mark.parametrize("rattle", [0.05, 0.4])
@pytest.mark.parametrize("strain", [0.0, 0.5])
def test_forces_reach_the_asked_accuracy_at_every_cutoff(strain: float, rattle: float) -> None:
    systems = (melt(2, rattle, strain=strain),)
    exact = evaluate(ewald(9.0, 1e-12), batch_of(*systems))
    for accuracy, cutoff in itertools.product((1e-3, 1e-6, 1e-9), (5.0, 8.0, 13.0)):
        forces = evaluate(ewald(cutoff, accuracy), batch_of(*systems))["forces"]
        error = torch.linalg.vector_norm(forces - exact["forces"]) / torch.linalg.vector_norm(exact["forces"])
        assert float(error) < accuracy


def energy_of(model: EwaldModelWrapper, atoms: Atoms, charges: Sequence[float]) -> float:
    return float(evaluate(model, batch_of((atoms, charges)), {"energy"})["energy"])


def slope(model: EwaldModelWrapper, along: Any, step: float) -> float:
    """Central difference with the error of fourth order taken away; `along` gives atoms and charges at a distance."""
    first, second = (
        (energy_of(model, *along(h)) - energy_of(model, *along(-h))) / (2.0 * h) for h in (step, 2.0 * step)
    )
    return (4.0 * first - second) / 3.0


def along_an_atom(h: float) -> tuple[Atoms, list[float]]:
    atoms, charges = melt(1, strain=0.3)
    atoms.positions[3] += h * np.array([0.6, -0.3, 0.2])
    return atoms, charges


def along_a_strain(h: float) -> tuple[Atoms, list[float]]:
    atoms, charges = melt(1, strain=0.3)
    atoms.set_cell(
        atoms.cell.array @ (np.eye(3) + h * np.array([[1.0, 0.3, 0.1], [0.3, -0.4, 0.2], [0.1, 0.2, 0.5]])), True
    )
    return atoms, charges


def along_a_charge(h: float) -> tuple[Atoms, list[float]]:
    atoms, charges = melt(1, strain=0.3)
    charges[2] += h
    return atoms, charges


@pytest.mark.parametrize("accuracy", [1e-3, 1e-8])
def test_forces_stress_and_potentials_are_derivatives_of_the_energy_at_every_accuracy(accuracy: float) -> None:
    """No pair and no reciprocal vector drops out with a jump, so also a coarse sum agrees with its differences."""
    model = ewald(6.0, accuracy)
    batch = batch_of(melt(1, strain=0.3))
    outputs = evaluate(model, batch)
    volume = float(batch.volume[0])
    push = float(outputs["forces"][3] @ torch.tensor([0.6, -0.3, 0.2], dtype=torch.float64))
    assert slope(model, along_an_atom, 1e-3) == pytest.approx(-push, rel=1e-8, abs=1e-8)
    strain = torch.tensor([[1.0, 0.3, 0.1], [0.3, -0.4, 0.2], [0.1, 0.2, 0.5]], dtype=torch.float64)
    work = volume * float((outputs["stress"][0] * strain).sum())
    assert slope(model, along_a_strain, 1e-3) == pytest.approx(work, rel=1e-7, abs=1e-8)
    batch.charges.requires_grad_(True)
    (potential,) = torch.autograd.grad(model(batch)["energy"].sum(), batch.charges)
    assert slope(model, along_a_charge, 1e-2) == pytest.approx(float(potential[2]), rel=1e-9)


def roughness(along: Any) -> float:
    """Return the largest fourth difference of a coarse energy on a path, of which a jump is left and a curve is not."""
    model = ewald(6.0, 1e-3)
    energies = [energy_of(model, *along(h)) for h in np.linspace(-0.1, 0.1, 201)]
    return float(np.abs(np.diff(energies, 4)).max())


@pytest.mark.parametrize("along", [along_an_atom, along_a_strain])
def test_the_energy_is_smooth_and_with_sharp_ends_it_is_not(along: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right, smooth = ewald_module.splitting_for, roughness(along)

    def sharp(*arguments: Any) -> Any:
        split = right(*arguments)
        return type(split)(split.screening, split.cutoff, split.cutoff, split.radius, split.radius * (1.0 - 1e-9))

    monkeypatch.setattr(ewald_module, "splitting_for", sharp)
    assert 100.0 * smooth < roughness(along)


def test_a_stress_without_the_gaussian_of_its_vectors_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: the virial of the reciprocal sum is its energy on the diagonal."""
    right = kernels.ewald_reciprocal

    def broken(**arguments: Any) -> Any:
        energy, forces, virial, potential = right(**arguments)
        return energy, forces, energy[:, None, None] * torch.eye(3, dtype=energy.dtype) + 0.0 * virial, potential

    monkeypatch.setattr(ewald_module, "ewald_reciprocal", broken)
    with pytest.raises(AssertionError):
        test_forces_stress_and_potentials_are_derivatives_of_the_energy_at_every_accuracy(1e-8)


def test_all_is_the_same_in_a_cell_of_the_other_hand() -> None:
    atoms, charges = melt(1, strain=0.3)
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array[[1, 0, 2]], scale_atoms=False)
    one, other = (evaluate(ewald(6.0, 1e-8), batch_of((each, charges))) for each in (atoms, turned))
    for name in EVERYTHING:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------------------------------------------- a run


def drift_of(accuracy: float, forces_scale: float = 1.0) -> float:
    """Return by how much the energy of molten salt changes over a run, in eV an atom."""
    atoms, charges = melt(2, 0.1)
    batch = batch_of((atoms, charges))
    table = {"Na": 0.005, "Cl": 0.005}
    short = LennardJonesModelWrapper(table, {"Na": 2.3, "Cl": 4.0}, 7.0, switch_width=1.5)
    model = short + EwaldModelWrapper(7.0, accuracy)
    engine = with_neighbor_hooks(NVE(model, dt=1.0, start_temperature=800.0, random_seed=4))
    energies = []
    for _ in range(2):
        engine.run(batch, 150)
        masses = batch.atomic_masses.reshape(-1, 1)
        kinetic = 0.5 * float((masses * batch.velocities.square()).sum())
        energies.append(float(batch.energy[0, 0]) * forces_scale + kinetic)
    return abs(energies[1] - energies[0]) / len(atoms)


def test_molten_salt_conserves_its_energy_also_with_a_coarse_sum() -> None:
    assert drift_of(1e-6) < 2e-6
    assert drift_of(1e-3) < 2e-6
    assert drift_of(1e-6, forces_scale=1.01) > 1e-5
