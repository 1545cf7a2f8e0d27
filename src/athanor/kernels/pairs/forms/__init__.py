"""The formulas of pair potentials, one file each.

A form is a module. ``coefficients`` makes what the formula reads, at most `NUM_COEFFICIENTS` numbers for each pair of
types, from what people call parameters; ``energy`` is the formula in torch; ``pair`` is energy and slope in plain
arithmetic, which numba compiles for eight pairs at once. `FORMS` is the list of them: a new form is a file and its row.
"""

from __future__ import annotations

from types import ModuleType

import torch

from athanor.kernels.pairs.forms import buckingham, lennard_jones, morse, zbl

FORMS: dict[str, ModuleType] = {
    "lennard-jones": lennard_jones,
    "morse": morse,
    "buckingham": buckingham,
    "zbl": zbl,
}

NUM_COEFFICIENTS = 7
"""Most coefficients of a form; what is subtracted from the energy comes after them."""


def pair_table(form: str, cutoff: float, shift: bool, *parameters: torch.Tensor) -> torch.Tensor:
    """Return what `pair_potential` reads of each pair of types.

    Parameters
    ----------
    form
        Name in `FORMS`.
    cutoff
        Å, where the energy is zero if `shift`.
    shift
        Whether to subtract the energy at the cutoff.
    *parameters
        float64 [T, T] each, those of ``coefficients`` of the form, symmetric.

    Returns
    -------
    torch.Tensor
        float64 [T, T, 8]: coefficients, zeros, and the energy to subtract.
    """
    chosen = FORMS[form]
    found = chosen.coefficients(*parameters)
    table = torch.zeros(*parameters[0].shape, NUM_COEFFICIENTS + 1, dtype=torch.float64)
    for column, values in enumerate(found):
        table[..., column] = values
    if shift:
        table[..., -1] = chosen.energy(torch.tensor(cutoff * cutoff, dtype=torch.float64), *found)
    return table


def used_columns(form: str) -> int:
    """Return how many coefficients a form reads."""
    return FORMS[form].energy.__code__.co_argcount - 1
