"""Physical constants and unit conversions; the only place where they stand.

Base units are Å, eV, amu, e and K. Times are fs at every public call; inside the integrators time is measured in
Å·√(amu/eV), called internal time here. Constants are CODATA 2022 (https://physics.nist.gov/cuu/Constants/).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value", float, "Tensor", "float | Tensor")

ELEMENTARY_CHARGE = 1.602176634e-19
"""Elementary charge in C (exact)."""
BOLTZMANN_SI = 1.380649e-23
"""Boltzmann constant in J/K (exact)."""
ATOMIC_MASS_SI = 1.66053906892e-27
"""Atomic mass constant in kg."""
VACUUM_PERMITTIVITY_SI = 8.8541878188e-12
"""Vacuum electric permittivity in F/m."""
AVOGADRO = 6.02214076e23
"""Avogadro constant in 1/mol (exact)."""

BOLTZMANN = BOLTZMANN_SI / ELEMENTARY_CHARGE
"""Boltzmann constant in eV/K."""
BOHR = 0.529177210544
"""Bohr radius in Å."""
HARTREE = 27.211386245981
"""Hartree energy in eV."""
COULOMB_CONSTANT = ELEMENTARY_CHARGE / (4.0 * math.pi * VACUUM_PERMITTIVITY_SI) * 1e10
"""Coulomb constant 1/(4 π ε₀) in eV·Å/e²."""
FS_PER_INTERNAL_TIME = math.sqrt(ATOMIC_MASS_SI / ELEMENTARY_CHARGE) * 1e5
"""Femtoseconds in one internal time unit Å·√(amu/eV)."""

GPa = 1e9 * 1e-30 / ELEMENTARY_CHARGE
"""One GPa in eV/Å³."""
kJ_per_mol = 1e3 / (AVOGADRO * ELEMENTARY_CHARGE)
"""One kJ/mol in eV."""
bar = 1e-4 * GPa
"""One bar in eV/Å³."""
g_per_cm3 = 1e-27 / ATOMIC_MASS_SI
"""One g/cm³ in amu/Å³."""
fs = 1.0
"""One femtosecond, the unit of time at public calls."""
ps = 1000.0
"""One picosecond in fs."""
ns = 1e6
"""One nanosecond in fs."""


def fs_to_internal_time(value: Value) -> Value:
    """Convert a time from fs to internal time; floats and tensors alike."""
    return value / FS_PER_INTERNAL_TIME


def internal_time_to_fs(value: Value) -> Value:
    """Convert a time from internal time to fs; floats and tensors alike."""
    return value * FS_PER_INTERNAL_TIME


def per_fs_to_internal_rate(value: Value) -> Value:
    """Convert a rate from 1/fs to 1/(internal time); floats and tensors alike."""
    return value * FS_PER_INTERNAL_TIME
