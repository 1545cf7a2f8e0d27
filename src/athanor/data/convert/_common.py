"""What the converters share: labels, total charge, and leftover entries as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from athanor.data.elements import AtomicNumberTable, atomic_numbers_to_indices, to_one_hot, voigt_to_matrix
from athanor.errors import InputError

_CHARGE_TOLERANCE = 1e-2


def system_matrix(value: Any, dtype: torch.dtype) -> torch.Tensor:
    """Return a stress or virial in any common layout as [1, 3, 3]."""
    return voigt_to_matrix(torch.as_tensor(np.asarray(value, dtype=np.float64))).to(dtype).unsqueeze(0)


def system_row(value: Any, dtype: torch.dtype, size: int) -> torch.Tensor:
    """Return a number or vector as [1, size]."""
    return torch.as_tensor(np.asarray(value, dtype=np.float64)).to(dtype).reshape(1, size)


def per_atom(value: Any, dtype: torch.dtype) -> torch.Tensor:
    """Return per-atom values as a new tensor."""
    return torch.from_numpy(np.array(value, dtype=np.float64)).to(dtype)


def whole_sum(values: np.ndarray, what: str) -> float | None:
    """Return the sum of partial charges, rounded; None if there are none that are finite.

    Raises
    ------
    InputError
        If the sum is not within 0.01 of a whole number.
    """
    total = float(np.sum(values))
    if not np.isfinite(total):
        return None
    if abs(total - round(total)) > _CHARGE_TOLERANCE:
        raise InputError(
            f"`{what}` add up to {total:.4f} e, which is not a whole number. Correct them, or set the total charge."
        )
    return float(round(total))


def one_hot_attributes(numbers: np.ndarray, z_table: AtomicNumberTable, dtype: torch.dtype) -> torch.Tensor:
    """Return one-hot rows [N, A] of the elements."""
    indices = torch.from_numpy(atomic_numbers_to_indices(numbers, z_table)).unsqueeze(-1)
    return to_one_hot(indices, len(z_table)).to(dtype)


def leftover_tensors(entries: Mapping[str, Any], used: set[str], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return numeric entries as tensors: integers int64, floats in `dtype`, scalars as [1]; all else is left out."""
    result = {}
    for name, value in entries.items():
        if name in used or isinstance(value, bool | str | bytes) or value is None:
            continue
        try:
            array = np.asarray(value)
        except ValueError:  # ragged lists
            continue
        if array.dtype.kind not in "iuf" or array.size == 0:
            continue
        wanted = dtype if array.dtype.kind == "f" else torch.int64
        result[str(name)] = torch.as_tensor(
            np.atleast_1d(array).astype(np.float64 if wanted == dtype else np.int64)
        ).to(wanted)
    return result
