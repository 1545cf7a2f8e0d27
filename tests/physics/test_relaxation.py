"""FIRE, with and without cell, against closed answers and against ASE."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
from ase.calculators.lj import LennardJones
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE as AseFIRE

from athanor import units
from athanor.data import AtomicData, Batch
from athanor.dynamics import FIRE, ConvergenceHook, FIREVariableCell
from athanor.kernels import strained
from athanor.models.lj import LennardJonesModelWrapper
from athanor.testing.dynamics_contract import with_neighbor_hooks

# Energy per atom (eps) and nearest distance (sigma) of the fcc crystal at its minimum, for a cutoff in sigma;
# direct lattice sums, see tests/data/README.md.
LATTICE_SUMS = {2.5: (-8.099621, 1.095735), 8.0: (-8.592152, 1.090364)}


def fcc(nearest: float, deform: np.ndarray | None = None) -> AtomicData:
    """One primitive fcc cell of argon numbers with the given nearest distance."""
    cell = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) * nearest / 2**0.5
    if deform is not None:
        cell = cell @ deform
    atoms = ase.Atoms("Ar", scaled_positions=[[0.1, 0.2, 0.3]], cell=cell, pbc=True)
    return AtomicData.from_atoms(atoms, dtype=torch.float64)


def relaxed(
    engine_class, cutoff: float, systems: list[AtomicData], pressure: float = 0.0, n_steps: int = 3000
) -> Batch:
    model = LennardJonesModelWrapper(epsilon=1.0, sigma=1.0, cutoff=cutoff)
    criteria = ConvergenceHook.from_fmax_and_smax(1e-7, 1e-7)
    engine = engine_class(model, dt=0.05, mass_scale="mean", maxstep=0.05, convergence_hook=criteria, pressure=pressure)
    return with_neighbor_hooks(engine, skin=0.0).run(Batch.from_data_list(systems), n_steps)


def nearest_distance(batch: Batch) -> torch.Tensor:
    return (batch.volume * 2**0.5) ** (1 / 3)


@pytest.mark.parametrize("cutoff", LATTICE_SUMS)
def test_crystal_relaxes_to_the_lattice_sum(cutoff):
    energy, nearest = LATTICE_SUMS[cutoff]
    shear = np.eye(3) + 0.02 * np.array([[1, 1, 0], [1, -1, 0.5], [0, 0.5, 0.3]])
    batch = relaxed(FIREVariableCell, cutoff, [fcc(1.11), fcc(1.08), fcc(1.10, shear)])
    assert batch.energy.flatten().tolist() == pytest.approx([energy] * 3, abs=2e-6)
    assert nearest_distance(batch).tolist() == pytest.approx([nearest] * 3, abs=2e-6)


class WrongSign(FIREVariableCell):
    """Mutant: the pressure enters with the wrong sign."""

    _selects_active = True

    def pre_update(self, batch):
        self._state.pressure.neg_()
        super().pre_update(batch)
        self._state.pressure.neg_()

    def post_update(self, batch):
        super().post_update(batch)


def pressed_volume(engine_class) -> tuple[float, float]:
    """Volume under a pressure of 2 eps/sigma^3, and the mean diagonal stress."""
    batch = relaxed(engine_class, 2.5, [fcc(1.09)], pressure=2.0, n_steps=300)
    return float(batch.volume), float(batch.stress[0].diagonal().mean())


def test_target_pressure_is_reached():
    volume, stress = pressed_volume(FIREVariableCell)
    assert stress == pytest.approx(-2.0, abs=1e-6)
    assert volume < 1.095735**3 / 2**0.5


def test_target_pressure_fails_with_the_wrong_sign():
    _, stress = pressed_volume(WrongSign)
    assert stress == pytest.approx(2.0, abs=1e-2)


def test_crystal_with_cell_agrees_with_ase():
    """A disturbed hcp argon cell: the same energy and volume as ASE's FIRE with its Frechet filter."""
    from ase.build import bulk

    rng = np.random.default_rng(5)
    atoms = bulk("Ar", "hcp", a=3.75, c=6.2) * (2, 2, 1)
    atoms.rattle(0.05, rng=rng)
    atoms.calc = LennardJones(epsilon=0.0104, sigma=3.4, rc=8.0)
    target = FrechetCellFilter(atoms)
    AseFIRE(target, logfile=None).run(fmax=1e-5, steps=3000)
    model = LennardJonesModelWrapper(epsilon=0.0104, sigma=3.4, cutoff=8.0, shift=True)
    engine = FIREVariableCell(
        model, dt=0.1, mass_scale="mean", convergence_hook=ConvergenceHook.from_fmax_and_smax(1e-6, 1e-8)
    )
    rng = np.random.default_rng(5)
    start = bulk("Ar", "hcp", a=3.75, c=6.2) * (2, 2, 1)
    start.rattle(0.05, rng=rng)
    batch = Batch.from_data_list([AtomicData.from_atoms(start, dtype=torch.float64)])
    with_neighbor_hooks(engine, skin=0.3).run(batch, 3000)
    assert float(batch.energy) == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
    assert float(batch.volume) == pytest.approx(atoms.get_volume(), rel=1e-4)


def test_cluster_agrees_with_ase():
    """Thirteen atoms from a disturbed icosahedron reach the global minimum, -44.326801 eps."""
    from ase.cluster import Icosahedron

    atoms = Icosahedron("Ar", 2, latticeconstant=5.3)
    atoms.rattle(0.1, seed=3)
    model = LennardJonesModelWrapper(epsilon=1.0, sigma=3.4, cutoff=40.0)
    batch = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64)])
    engine = FIRE(model, dt=0.05, mass_scale="mean", convergence_hook=ConvergenceHook.from_fmax(1e-7))
    with_neighbor_hooks(engine).run(batch, 3000)
    atoms.calc = LennardJones(epsilon=1.0, sigma=3.4, rc=40.0)
    AseFIRE(atoms, logfile=None).run(fmax=1e-6, steps=3000)
    shift = 13 * 12 / 2 * 4 * ((3.4 / 40) ** 12 - (3.4 / 40) ** 6)
    assert float(batch.energy) == pytest.approx(-44.326801, abs=1e-5)
    assert float(batch.energy) - shift == pytest.approx(atoms.get_potential_energy(), abs=1e-8)


class HoldsCartesianPositions(FIREVariableCell):
    """Mutant: a foreign update, around which fixed atoms are put back to where they were in space."""

    def pre_update(self, batch):
        super().pre_update(batch)


def drift_of_a_fixed_atom(engine_class) -> float:
    """How far a fixed atom moves in fractional positions while the cell grows."""
    from ase.build import bulk

    atoms = bulk("Ar", "fcc", a=5.0, cubic=True)
    data = AtomicData.from_atoms(atoms, dtype=torch.float64)
    data.positions += 1.0  # an atom at the origin stays there under any strain
    data.fixed = torch.tensor([True, False, False, False])
    before = data.positions[0] @ torch.linalg.inv(data.cell[0])
    model = LennardJonesModelWrapper(epsilon=0.0104, sigma=3.4, cutoff=8.0)
    batch = Batch.from_data_list([data])
    with_neighbor_hooks(engine_class(model, dt=0.1, mass_scale="mean")).run(batch, 30)
    assert float(batch.volume) > atoms.get_volume() + 1
    return float((batch.positions[0] @ torch.linalg.inv(batch.cell[0]) - before).abs().max())


def test_fixed_atoms_keep_fractional_positions_in_a_moving_cell():
    assert drift_of_a_fixed_atom(FIREVariableCell) < 1e-12
    assert drift_of_a_fixed_atom(HoldsCartesianPositions) > 1e-3


class StrainsEveryDirection(FIREVariableCell):
    """Mutant: takes a slab for a crystal."""

    def make_state(self, batch):
        state = super().make_state(batch)
        state.projector.copy_(torch.eye(3))
        return state


def strained_slab(engine_class) -> tuple[float, float]:
    """Change of a slab's vector along its normal, Å, and relative change of its area."""
    from ase.build import fcc111

    slab = fcc111("Ar", (1, 1, 4), a=5.1, vacuum=8.0)
    slab.pbc = [True, True, False]
    batch = Batch.from_data_list([AtomicData.from_atoms(slab, dtype=torch.float64)])
    start = batch.cell[0].clone()
    model = LennardJonesModelWrapper(epsilon=0.0104, sigma=3.4, cutoff=8.0)
    with_neighbor_hooks(engine_class(model, dt=0.1, mass_scale="mean")).run(batch, 40)
    area, area_before = (float(torch.linalg.cross(cell[0], cell[1]).norm()) for cell in (batch.cell[0], start))
    return float((batch.cell[0, 2] - start[2]).abs().max()), abs(area / area_before - 1.0)


def test_slab_is_not_strained_along_its_normal():
    normal, area = strained_slab(FIREVariableCell)
    assert normal < 1e-12
    assert area > 1e-3
    assert strained_slab(StrainsEveryDirection)[0] > 1e-3


def test_strain_is_the_exponential_of_scipy():
    import scipy.linalg

    generator = torch.Generator().manual_seed(0)
    m = 0.1 * torch.randn(20, 3, 3, generator=generator, dtype=torch.float64)
    m = 0.5 * (m + m.transpose(1, 2))
    nothing = torch.zeros(0, 3, dtype=torch.float64), torch.zeros(21, dtype=torch.int32)
    _, result = strained(nothing[0], torch.eye(3, dtype=torch.float64).expand(20, 3, 3), m, nothing[1])
    expected = np.stack([scipy.linalg.expm(one) for one in m.numpy()])
    assert np.abs(result.numpy() - expected).max() < 1e-14


def test_molecule_beside_crystal_relaxes_its_atoms_only():
    dimer = AtomicData.from_atoms(ase.Atoms("Ar2", [[0, 0, 0], [0, 0, 4.2]]), dtype=torch.float64)
    crystal = fcc(1.1)
    crystal.positions *= 3.4
    crystal.cell *= 3.4
    model = LennardJonesModelWrapper(epsilon=0.0104, sigma=3.4, cutoff=15.0)
    hook = ConvergenceHook.from_fmax_and_smax(1e-6, 1e-6 * units.GPa)
    engine = FIREVariableCell(model, dt=0.1, mass_scale="mean", convergence_hook=hook)
    batch = with_neighbor_hooks(engine).run(Batch.from_data_list([dimer, crystal]), 3000)
    distance = float((batch.positions[1] - batch.positions[0]).norm())
    assert distance == pytest.approx(2 ** (1 / 6) * 3.4, abs=1e-3)
    assert batch.failure_code.flatten().tolist() == [0, 0]
