"""What the converters share: labels, total charge, and leftover entries as tensors."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from athanor.data.elements import AtomicNumberTable, atomic_numbers_to_indices, to_one_hot, voigt_to_matrix
from athanor.data.fields import FIELDS
from athanor.errors import InputError, ShapeError

_CHARGE_TOLERANCE = 1e-2


def numbers_of(name: str, value: Any) -> np.ndarray:
    """Return `value` as a new float64 array.

    Raises
    ------
    InputError
        If it holds something else than numbers; the text says `name`.
    """
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"`{name}` is {reprlib.repr(value)}; it must hold numbers. Correct or remove it.") from error


def system_row(field: str, name: str, value: Any, dtype: torch.dtype) -> torch.Tensor:
    """Return the one row of a system-level field; a stress or virial may come in any common layout.

    Raises
    ------
    ShapeError
        If there are not as many numbers as the field needs; the text says `name`.
    """
    numbers, shape = torch.from_numpy(numbers_of(name, value)), FIELDS[field].shape
    if shape == (3, 3):
        if numbers.shape not in ((3, 3), (6,), (9,)):
            raise ShapeError(
                f"`{name}` has shape {tuple(numbers.shape)}; it needs (3, 3), (9,), or (6,) in the order xx, yy, zz, "
                f"yz, xz, xy. Correct or remove it."
            )
        numbers = voigt_to_matrix(numbers)
    elif numbers.numel() != shape[0]:
        raise ShapeError(f"`{name}` has {numbers.numel()} numbers; it needs {shape[0]}. Correct or remove it.")
    return numbers.to(dtype).reshape(1, *shape)  # type: ignore[arg-type]


def per_atom(name: str, value: Any, dtype: torch.dtype) -> torch.Tensor:
    """Return per-atom values as a new tensor."""
    return torch.from_numpy(numbers_of(name, value)).to(dtype)


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
