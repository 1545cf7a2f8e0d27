"""Particle-mesh Ewald against Ewald sums, and against differences of its own energy."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from athanor import kernels
from athanor.data import AtomicData, Batch
from athanor.dynamics import NVE
from athanor.errors import AthanorWarning
from athanor.kernels.pme import op
from athanor.models import pme as pme_module
from athanor.models.ewald import EwaldModelWrapper
from athanor.models.lj import LennardJonesModelWrapper
from athanor.models.pme import PMEModelWrapper
from athanor.neighbors import compute_neighbors
from athanor.testing import check_model
from athanor.testing.dynamics_contract import with_neighbor_hooks
from athanor.testing.op_contract import check_batch_invariance, check_threads

EVERYTHING = {"energy", "forces", "stress"}
System = tuple[Atoms, list[float]]


def batch_of(*systems: System) -> Batch:
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


def pme(cutoff: float, accuracy: float, **options: Any) -> PMEModelWrapper:
    """Return a model of charges in e²/Å."""
    return PMEModelWrapper(cutoff, accuracy=accuracy, coulomb_constant=1.0, **options)


def ewald(accuracy: float = 1e-12) -> EwaldModelWrapper:
    return EwaldModelWrapper(8.0, accuracy, coulomb_constant=1.0, slab_correction=True)


SHEAR = np.array([[0.0, 0.4, -0.3], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])


def salt(repeat: int = 2, rattle: float = 0.3, strain: float = 0.0, stretch: float = 1.0) -> System:
    """Return rattled rock salt and its charges, sheared and stretched, with atoms outside the cell."""
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True) * (repeat, repeat, repeat)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain * SHEAR) * stretch, True)
    atoms.rattle(rattle * stretch, seed=1)
    atoms.positions += np.random.default_rng(2).integers(-2, 3, (len(atoms), 3)) @ atoms.cell.array
    return atoms, [1.0 if symbol == "Na" else -1.0 for symbol in atoms.symbols]


def error_of(model: PMEModelWrapper, system: System) -> float:
    """Return the relative root mean square error of the forces."""
    exact = evaluate(ewald(), batch_of(system), {"forces"})["forces"]
    forces = evaluate(model, batch_of(system), {"forces"})["forces"]
    return float(torch.linalg.vector_norm(forces - exact) / torch.linalg.vector_norm(exact))


# ------------------------------------------------------------------------------------------------------------- accuracy

SYSTEMS = {
    "melt": salt(rattle=0.5),
    "crystal": salt(rattle=0.05),
    "triclinic melt": salt(rattle=0.4, strain=0.5),
    "triclinic crystal": salt(rattle=0.05, strain=0.6),
    "dilute": salt(rattle=0.4, stretch=2.5),
    "dense": salt(rattle=0.2, strain=0.2, stretch=0.7),
}


@pytest.mark.parametrize("accuracy", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize("name", SYSTEMS)
def test_forces_reach_the_asked_accuracy_at_every_cutoff(name: str, accuracy: float) -> None:
    for cutoff in (5.0, 8.0, 14.0):
        assert error_of(pme(cutoff, accuracy), SYSTEMS[name]) < accuracy


@pytest.mark.parametrize("order", [4, 6, 8, 10, 12, 5])
def test_a_given_order_reaches_it_too(order: int) -> None:
    assert error_of(pme(7.0, 1e-4, spline_order=order), SYSTEMS["crystal"]) < 1e-4


@pytest.mark.parametrize("spacing", [0.4, 0.8])
def test_a_given_spacing_has_splines_that_reach_it(spacing: float) -> None:
    assert error_of(pme(8.0, 1e-4, mesh_spacing=spacing), SYSTEMS["melt"]) < 1e-4


def test_energy_and_stress_agree_with_ewald() -> None:
    systems = [*SYSTEMS.values(), (salt()[0], np.linspace(-1.0, 2.0, 64).tolist())]  # the last one has a net charge
    exact, found = evaluate(ewald(), batch_of(*systems)), evaluate(pme(8.0, 1e-8), batch_of(*systems))
    torch.testing.assert_close(found["energy"], exact["energy"], rtol=1e-9, atol=0)
    torch.testing.assert_close(found["stress"], exact["stress"], rtol=0, atol=1e-8)


def test_slabs_agree_with_ewald() -> None:
    atoms, charges = salt(1)
    atoms.wrap()
    atoms.cell[2, 2] = 30.0
    atoms.pbc = (True, True, False)
    exact = evaluate(ewald(), batch_of((atoms, charges)))
    found = evaluate(pme(8.0, 1e-8, slab_correction=True), batch_of((atoms, charges)))
    for name in EVERYTHING:
        torch.testing.assert_close(found[name], exact[name], rtol=0, atol=1e-7)


Twin = Callable[[pytest.MonkeyPatch], None]


def without_moduli(monkeypatch: pytest.MonkeyPatch) -> None:
    right = op._cpu.convolve

    def broken(*arguments: Any) -> None:
        spline = arguments[7].copy()
        spline[:] = [1.0] + [0.0] * (len(spline) - 1)
        right(*arguments[:7], spline, *arguments[8:])

    monkeypatch.setattr(op._cpu, "convolve", broken)


def transposed_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    right = pme_module.pme_reciprocal
    monkeypatch.setattr(pme_module, "pme_reciprocal", lambda cell, **others: right(cell=cell.mT.contiguous(), **others))


def clamped_atoms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Atoms outside the cell are put at its edge."""
    right = pme_module.pme_reciprocal

    def broken(positions: torch.Tensor, cell: torch.Tensor, **others: Any) -> Any:
        inside = (positions @ torch.linalg.inv(cell[0])).clamp(0.0, 1.0 - 1e-9)
        return right(positions=inside @ cell[0], cell=cell, **others)

    monkeypatch.setattr(pme_module, "pme_reciprocal", broken)


@pytest.mark.parametrize("twin", [without_moduli, transposed_cell, clamped_atoms])
def test_a_broken_mesh_misses_ewald(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    twin(monkeypatch)
    assert error_of(pme(7.0, 1e-3), SYSTEMS["triclinic melt"]) > 1e-2


def test_a_coarse_mesh_misses_the_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    right = pme_module.mesh.largest_spacing
    monkeypatch.setattr(pme_module.mesh, "largest_spacing", lambda *given: 1.6 * right(*given))
    assert error_of(pme(7.0, 1e-5), SYSTEMS["crystal"]) > 1e-5


# ---------------------------------------------------------------------------------------------------------- derivatives

MESH = (15, 16, 18)
DIRECTION = np.array([0.6, -0.3, 0.2])
STRAIN = np.array([[1.0, 0.3, 0.1], [0.3, -0.4, 0.2], [0.1, 0.2, 0.5]])


def along_an_atom(h: float) -> System:
    atoms, charges = salt(1, strain=0.3)
    atoms.positions[3] += h * DIRECTION
    return atoms, charges


def along_a_strain(h: float) -> System:
    atoms, charges = salt(1, strain=0.3)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + h * STRAIN), True)
    return atoms, charges


def along_a_charge(h: float) -> System:
    atoms, charges = salt(1, strain=0.3)
    charges[2] += h
    return atoms, charges


def slope(model: Any, along: Callable[[float], System], step: float) -> float:
    """Return a central difference with the error of fourth order taken away."""

    def energy(h: float) -> float:
        return float(evaluate(model, batch_of(along(h)), {"energy"})["energy"])

    first, second = ((energy(h) - energy(-h)) / (2.0 * h) for h in (step, 2.0 * step))
    return (4.0 * first - second) / 3.0


def check_derivatives(order: int) -> None:
    """Also of a coarse mesh: its energy is wrong, and forces and stress are its derivatives."""
    model = pme(6.0, 1e-3, mesh_dimensions=MESH, spline_order=order)
    batch = batch_of(salt(1, strain=0.3))
    outputs = evaluate(model, batch)
    push = float(outputs["forces"][3] @ torch.tensor(DIRECTION))
    assert slope(model, along_an_atom, 1e-3) == pytest.approx(-push, rel=1e-7, abs=1e-8)
    work = float(batch.volume[0] * (outputs["stress"][0] * torch.tensor(STRAIN)).sum())
    assert slope(model, along_a_strain, 1e-3) == pytest.approx(work, rel=1e-7, abs=1e-8)
    batch.charges.requires_grad_(True)
    (potential,) = torch.autograd.grad(model(batch)["energy"].sum(), batch.charges)
    assert slope(model, along_a_charge, 1e-2) == pytest.approx(float(potential[2]), rel=1e-9)


@pytest.mark.parametrize("order", [6, 8, 12])
def test_forces_stress_and_potentials_are_derivatives_of_the_energy_of_a_mesh(order: int) -> None:
    check_derivatives(order)


def test_a_stress_without_the_slope_of_the_waves_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = pme_module.pme_reciprocal

    def broken(**arguments: Any) -> Any:
        energy, forces, virial, potential = right(**arguments)
        return energy, forces, energy[:, None, None] * torch.eye(3, dtype=energy.dtype) + 0.0 * virial, potential

    monkeypatch.setattr(pme_module, "pme_reciprocal", broken)
    with pytest.raises(AssertionError):
        check_derivatives(8)


def test_all_is_the_same_in_a_cell_of_the_other_hand() -> None:
    atoms, charges = salt(1, strain=0.3)
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array[[1, 0, 2]], scale_atoms=False)
    one, other = (evaluate(pme(6.0, 1e-5), batch_of((each, charges))) for each in (atoms, turned))
    for name in EVERYTHING:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-12)


def test_hybrid_forces_are_those_at_fixed_charges() -> None:
    batch = batch_of(salt(1, strain=0.3))
    one, other = (evaluate(pme(6.0, 1e-5, hybrid_forces=hybrid), batch) for hybrid in (False, True))
    for name in EVERYTHING:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-12)
    assert not other["forces"].requires_grad


def drift_of(scale: float = 1.0) -> float:
    """Return by how much the energy of molten salt changes in a run with a coarse mesh, in eV an atom."""
    atoms, charges = salt(2, 0.1)
    batch = batch_of((atoms, charges))
    short = LennardJonesModelWrapper({"Na": 0.005, "Cl": 0.005}, {"Na": 2.3, "Cl": 4.0}, 7.0, switch_width=1.5)
    engine = NVE(short + PMEModelWrapper(7.0, accuracy=1e-3), dt=1.0, start_temperature=800.0, random_seed=4)
    with_neighbor_hooks(engine)
    energies = []
    for _ in range(2):
        engine.run(batch, 150)
        masses = batch.atomic_masses.reshape(-1, 1)
        energies.append(scale * float(batch.energy[0, 0]) + 0.5 * float((masses * batch.velocities.square()).sum()))
    return abs(energies[1] - energies[0]) / len(atoms)


def test_molten_salt_on_a_coarse_mesh_conserves_its_energy() -> None:
    assert drift_of() < 5e-6
    assert drift_of(scale=1.01) > 1e-5


# -------------------------------------------------------------------------------------------------- batches and threads


def test_bits_depend_on_the_system_only() -> None:
    """Also where cells, and so meshes, are equal."""
    systems = [SYSTEMS["melt"], SYSTEMS["crystal"], salt(1, strain=0.3), SYSTEMS["dilute"], salt(3)]

    def per_system(order: Any) -> list[tuple[torch.Tensor, ...]]:
        batch = batch_of(*(systems[b] for b in order))
        outputs = evaluate(pme(7.0, 1e-4), batch)
        ptr = batch.batch_ptr.tolist()
        return [
            (outputs["energy"][b], outputs["forces"][first:last], outputs["stress"][b])
            for b, (first, last) in enumerate(itertools.pairwise(ptr))
        ]

    check_batch_invariance(per_system, len(systems))


def test_bits_do_not_depend_on_threads() -> None:
    """Large enough for two."""
    model, batch = pme(6.0, 1e-4), batch_of(salt(7, strain=0.3))
    check_threads(lambda: tuple(evaluate(model, batch)[name] for name in sorted(EVERYTHING)), [])


def test_the_contract_of_models_holds() -> None:
    salt_of = {"charges": {"Na": 1.0, "Cl": -1.0}, "accuracy": 1e-5}
    check_model(PMEModelWrapper(6.0, **salt_of), elements=[11, 17], distance=2.8).raise_if_failed()
    claims_more = PMEModelWrapper(6.0, **salt_of)
    claims_more.model_card = replace(claims_more.model_card, accuracy=None)
    report = check_model(claims_more, elements=[11, 17], distance=2.8)
    assert {row.check for row in report.failed} == {"sum of forces", "translation", "other cell", "extensivity"}


# ----------------------------------------------------------------------------------------------------------- parameters


def test_each_system_has_a_mesh_of_its_own_of_fast_sizes() -> None:
    batch = batch_of(salt(1), salt(2, strain=0.5), salt(2, stretch=2.5))
    model = pme(8.0, 1e-5)
    everyone = torch.ones(3, dtype=torch.bool)
    found = model.mesh_of(batch.cell, batch.batch_ptr, everyone)
    for b in range(3):
        alone = model.mesh_of(batch.cell[b : b + 1], batch.batch_ptr[b : b + 2] - batch.batch_ptr[b], everyone[:1])
        assert torch.equal(alone[0], found[b])
    for size in found.flatten().tolist():
        for factor in (2, 3, 5, 7):
            while size % factor == 0:
                size //= factor
        assert size == 1


def test_dimensions_go_before_spacing_and_spacing_before_accuracy() -> None:
    batch, one = batch_of(salt(2)), torch.ones(1, dtype=torch.bool)

    def mesh_of(**options: Any) -> list[int]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AthanorWarning)
            return pme(8.0, 1e-5, **options).mesh_of(batch.cell, batch.batch_ptr, one)[0].tolist()

    assert mesh_of(mesh_dimensions=(22, 23, 26), mesh_spacing=1.0) == [22, 23, 26]
    assert mesh_of(mesh_spacing=1.0) == [12, 12, 12]  # of 11.28 Å
    assert min(mesh_of()) > 12


def test_given_parameters_are_used_exactly_and_what_they_miss_is_told() -> None:
    model = pme(8.0, 1e-5, alpha=0.6, spline_order=7)
    assert (model.splitting.screening, model.order) == (0.6, 7)
    with pytest.warns(AthanorWarning, match=r"`alpha` and `cutoff` are inconsistent with `accuracy`.*1\.0e-05 was"):
        pme(8.0, 1e-5, alpha=0.3)
    with pytest.warns(AthanorWarning, match=r"`mesh_spacing` and `spline_order` are inconsistent"):
        pme(8.0, 1e-5, mesh_spacing=1.0, spline_order=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accuracy": 1e-9}, r"`accuracy` is 1e-09; .* from 1e-08 to 0\.1.* Use `EwaldModelWrapper` for more"),
        ({"mesh_spacing": 0.0}, r"`mesh_spacing` is 0\.0; it must be a positive number \(Å\)"),
        ({"alpha": -1.0}, r"`alpha` is -1\.0"),
        ({"spline_order": 2}, r"`spline_order` is 2; use a whole number from 3 to 16"),
        ({"mesh_dimensions": (8, 8)}, r"`mesh_dimensions` is \(8, 8\); give the numbers"),
        ({"mesh_dimensions": (8, 8, 5), "spline_order": 6}, r"`mesh_dimensions` is \(8, 8, 5\); splines of order 6"),
    ],
)
def test_parameters_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PMEModelWrapper(8.0, **options)


@pytest.mark.parametrize(
    ("pbc", "message"),
    [
        (False, r"System 1 of the batch is periodic in no direction; .* Use `EwaldModelWrapper`"),
        ((True, False, False), r"System 1 of the batch is periodic in 1 of 3 directions"),
        ((True, True, False), r"System 1 of the batch is periodic in 2 of 3 directions, .*`slab_correction=True`"),
    ],
)
def test_systems_that_are_not_periodic_are_refused(pbc: Any, message: str) -> None:
    atoms, charges = salt(1)
    atoms.pbc = pbc
    with pytest.raises(ValueError, match=message):
        evaluate(pme(6.0, 1e-4), batch_of(salt(1), (atoms, charges)))


def test_the_operation_refuses_what_it_can_not_sum() -> None:
    batch, one = batch_of(salt(1)), torch.ones(1, dtype=torch.bool)

    def call(mesh: list[int], screening: float = 0.5, order: int = 6) -> None:
        atoms = (batch.positions, batch.cell, batch.batch_ptr, batch.charges.flatten(), one)
        kernels.pme_reciprocal(*atoms, screening, torch.tensor([mesh]), order, True)

    with pytest.raises(ValueError, match=r"`mesh` of system 0 is \(8, 5, 8\); splines of order 6 need at least 6"):
        call([8, 5, 8])
    with pytest.raises(ValueError, match=r"`mesh` has shape \(1, 2\); 1 systems need \(1, 3\)"):
        call([8, 8])
    with pytest.raises(ValueError, match=r"`screening` is 0\.0 1/Å"):
        call([8, 8, 8], screening=0.0)
    with pytest.raises(ValueError, match=r"`order` is 20; B-splines of order 3 to 16"):
        call([20, 20, 20], order=20)


def test_a_cell_that_is_too_long_is_refused() -> None:
    atoms, charges = salt(1)
    atoms.cell[2, 2] = 1e5
    with pytest.raises(ValueError, match=r"A cell of this batch is 100000 Å long"):
        evaluate(pme(6.0, 1e-4), batch_of((atoms, charges)))
