"""Tolerances by purpose, for float64 and float32; never loosened in a test without the measured value beside it."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Tolerance(NamedTuple):
    """Largest allowed error, relative to the larger of the size of the quantity and 1."""

    float64: float
    float32: float

    def at(self, dtype: torch.dtype) -> float:
        """Return the tolerance for results of `dtype`."""
        return self.float64 if dtype == torch.float64 else self.float32


DERIVATIVE = Tolerance(1e-7, 1e-3)
"""Forces and stress against differences of the energy."""
MOTION = Tolerance(1e-10, 1e-4)
"""Translation, rotation, inversion, periodic images; sum of forces."""
PERMUTATION = Tolerance(1e-12, 1e-5)
"""Another order of the atoms; another handedness of the cell."""
EXTENSIVITY = Tolerance(1e-9, 1e-4)
"""Energy per atom of a supercell."""
COMPANIONS = Tolerance(1e-12, 1e-5)
"""A system alone and among others, where equal bits are not claimed."""
SMOOTH = Tolerance(1e-8, 1e-4)
"""Jumps of energy, forces and their slope where a pair crosses a cutoff: eV, eV/Å, eV/Å²."""
ROUNDED = Tolerance(1e-4, 1e-4)
"""Results of one structure in double and in single precision."""
EXACT = Tolerance(0.0, 0.0)
"""Equal bits."""
