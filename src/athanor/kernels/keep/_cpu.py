"""Looking at and keeping many tensors, with numba: one call goes through their memory by address."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from athanor.kernels._numba_options import jit

carray: Any = numba.carray  # type: ignore[attr-defined]


@intrinsic
def _as_pointer(context: Any, address: Any) -> Any:  # numba's typing hook: the first argument is its own
    """Return a number as the address that it is."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


_pointer: Any = _as_pointer


@jit
def all_below(addresses: np.ndarray, counts: np.ndarray, is_double: np.ndarray, limits: np.ndarray) -> bool:
    """Whether every magnitude is below its limit; no early way out, so that the loops run in vector registers."""
    above = 0
    for k in range(addresses.shape[0]):
        limit = limits[k]
        if is_double[k]:
            doubles = carray(_pointer(addresses[k]), (counts[k],), np.float64)
            for i in range(counts[k]):
                above += not abs(doubles[i]) < limit
        else:
            singles = carray(_pointer(addresses[k]), (counts[k],), np.float32)
            for i in range(counts[k]):
                above += not abs(singles[i]) < limit
    return above == 0


@jit
def keep(addresses: np.ndarray, copies: np.ndarray, sizes: np.ndarray) -> None:
    """Copy `sizes` bytes from each address to the other."""
    for k in range(addresses.shape[0]):
        words = sizes[k] // 8
        source = carray(_pointer(addresses[k]), (words,), np.int64)
        target = carray(_pointer(copies[k]), (words,), np.int64)
        target[:] = source
        rest = sizes[k] - 8 * words
        source_rest = carray(_pointer(addresses[k] + 8 * words), (rest,), np.uint8)
        target_rest = carray(_pointer(copies[k] + 8 * words), (rest,), np.uint8)
        target_rest[:] = source_rest


@jit
def keep_if_below(
    checked: np.ndarray,
    counts: np.ndarray,
    is_double: np.ndarray,
    limits: np.ndarray,
    addresses: np.ndarray,
    copies: np.ndarray,
    sizes: np.ndarray,
) -> bool:
    """Copy if all magnitudes are below their limits; return whether they are."""
    if not all_below(checked, counts, is_double, limits):
        return False
    keep(addresses, copies, sizes)
    return True
