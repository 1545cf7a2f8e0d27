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
EXACT = Tolerance(0.0, 0.0)
"""Equal bits."""


def compare(what: str, got: torch.Tensor, expected: torch.Tensor, tolerance: Tolerance) -> float:
    """Return the largest difference relative to the size of `expected` (at least 1), or raise.

    Raises
    ------
    AssertionError
        With the numbers, if the difference exceeds the tolerance for the dtype of `got`.
    """
    allowed = tolerance.at(got.dtype)
    got, expected = got.double(), expected.double()
    size = max(1.0, float(expected.abs().max()) if expected.numel() else 1.0)
    error = float((got - expected).abs().max()) / size if got.numel() else 0.0
    if not error <= allowed:
        raise AssertionError(f"{what}: off by {error:.3g} (relative to {size:.3g}); allowed is {allowed:.3g}.")
    return error
