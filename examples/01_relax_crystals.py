"""Relax three argon crystals, cell and atoms, in one batch. Needs: athanor-md."""

from ase.build import bulk

import athanor

argon = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
crystals = [bulk("Ar", "fcc", a=a, cubic=True) for a in (5.0, 5.3, 5.6)]

result = athanor.relax(crystals, model=argon, fmax=0.001, smax=0.002)
for atoms, energy, reason, steps in zip(result.structures, result.energies, result.reasons, result.steps, strict=True):
    print(
        f"a = {atoms.cell.volume ** (1 / 3):.4f} Å   {energy / len(atoms):.6f} eV/atom   {reason} after {steps} steps"
    )
