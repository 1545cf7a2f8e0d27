"""Turn what a user writes between brackets into system indices."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from athanor.errors import OutOfRangeError


def as_int(index: Any) -> int | None:
    """Return `index` as an int if it is an integer of any kind (not bool), else None."""
    if isinstance(index, bool | np.bool_ | torch.Tensor | np.ndarray):
        return None
    try:
        return operator.index(index)
    except TypeError:
        return None


def one_system(index: Any, systems: int) -> int:
    """Return `index` counted from 0.

    Raises
    ------
    IndexError
        If it is outside ``[-systems, systems)``.
    """
    number = as_int(index)
    if number is None:
        raise OutOfRangeError(f"`{index!r}` is not an index of a system; use a whole number.")
    if not -systems <= number < systems:
        raise OutOfRangeError(_out_of_range(number, systems))
    return number + systems if number < 0 else number


def _out_of_range(index: int, systems: int) -> str:
    return (
        f"Index {index} is out of range for a Batch of {systems} systems. Indices count from 0; "
        f"`(batch.system_id.flatten() == id).nonzero()` finds a system by its id."
    )


def system_indices(index: Any, systems: int) -> np.ndarray:
    """Return the systems that `index` means, int64 on the host, counted from 0.

    Parameters
    ----------
    index
        Integer, slice, list, or tensor or array of integers or bools.
    systems
        Number of systems in the batch.

    Raises
    ------
    IndexError
        For floats, other types, wrong lengths of a mask, empty selections and indices out of range.
    """
    number = as_int(index)
    if number is not None:
        return np.array([one_system(number, systems)], dtype=np.int64)
    if isinstance(index, slice):
        try:
            picked = np.arange(systems, dtype=np.int64)[index].copy()  # torch takes no negative strides
        except TypeError as error:
            raise OutOfRangeError(f"The slice {index} does not hold whole numbers. Use `batch[0:2]`.") from error
    else:
        picked = _from_array(index, systems)
    if len(picked) == 0:
        raise OutOfRangeError("Index is empty: no system is selected. Check the mask or the slice.")
    return picked


def _from_array(index: Any, systems: int) -> np.ndarray:
    if isinstance(index, torch.Tensor):
        array = index.detach().cpu().numpy()
    elif isinstance(index, np.ndarray) or (isinstance(index, Sequence) and not isinstance(index, str | bytes)):
        try:
            array = np.asarray(index if isinstance(index, np.ndarray) or len(index) else np.zeros(0, dtype=np.int64))
        except ValueError as error:
            raise OutOfRangeError(
                "An index of systems is a flat list; this one holds lists of several sizes."
            ) from error
    else:
        raise OutOfRangeError(
            f"Unsupported index type: {type(index).__name__}. Use an integer, a slice, a list, or a tensor or array."
        )
    array = array.reshape(1) if array.ndim == 0 else array
    if array.ndim != 1:
        raise OutOfRangeError(f"An index of systems has one dimension; this one has shape {array.shape}.")
    if array.dtype == np.bool_:
        if len(array) != systems:
            raise OutOfRangeError(f"The mask has {len(array)} entries; the Batch has {systems} systems.")
        return np.flatnonzero(array)
    if array.dtype.kind not in "iu":
        raise OutOfRangeError(f"Tensor index must be integer or bool; this one has dtype {array.dtype}.")
    array = array.astype(np.int64)
    wrong = (array < -systems) | (array >= systems)
    if wrong.any():
        raise OutOfRangeError(_out_of_range(int(array[wrong][0]), systems))
    return np.where(array < 0, array + systems, array)
