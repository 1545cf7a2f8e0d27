"""The two functions of Box and Muller's transform with numba, written so that they run in vector registers.

`_reference` explains them; each operation here has its twin there.
"""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._numba_options import jit
from athanor.kernels.philox._polynomials import (
    C1,
    C2,
    C3,
    C4,
    C5,
    C6,
    HALF_PI,
    L1,
    L2,
    L3,
    L4,
    L5,
    L6,
    L7,
    LN2_HIGH,
    LN2_LOW,
    ROOT_HALF_BITS,
    S1,
    S2,
    S3,
    S4,
    S5,
    S6,
)  # fmt: skip

_ROOT_HALF_BITS = np.int64(ROOT_HALF_BITS)


@jit
def radii(u: np.ndarray, count: int, mantissa: np.ndarray, out: np.ndarray) -> None:
    """Write the square root of -2 ln u for `count` doubles inside (0, 1)."""
    bits, scaled = u.view(np.int64), mantissa.view(np.int64)
    for m in range(count):
        exponent = (bits[m] - _ROOT_HALF_BITS) >> np.int64(52)
        scaled[m] = bits[m] - (exponent << np.int64(52))
        out[m] = np.float64(np.int32(exponent))
    for m in range(count):
        f, k = mantissa[m] - 1.0, out[m]
        s = f / (2.0 + f)
        z = s * s
        w = z * z
        series = w * (L2 + w * (L4 + w * L6)) + z * (L1 + w * (L3 + w * (L5 + w * L7)))
        half = 0.5 * f * f
        log = k * LN2_HIGH - ((half - (s * (half + series) + k * LN2_LOW)) - f)
        out[m] = math.sqrt(-2.0 * log)


@jit
def turns(v: np.ndarray, count: int, cosine: np.ndarray, sine: np.ndarray) -> None:
    """Write cosine and sine of 2 pi v for `count` doubles in [0, 1)."""
    for m in range(count):
        quarter = math.floor(4.0 * v[m] + 0.5)
        x = (4.0 * v[m] - quarter) * HALF_PI
        z = x * x
        s = x + z * x * (S1 + z * (S2 + z * (S3 + z * (S4 + z * (S5 + z * S6)))))
        c = 1.0 - (0.5 * z - z * z * (C1 + z * (C2 + z * (C3 + z * (C4 + z * (C5 + z * C6))))))
        swap = quarter == 1.0 or quarter == 3.0
        x, y = s if swap else c, c if swap else s
        cosine[m] = -x if quarter == 1.0 or quarter == 2.0 else x
        sine[m] = -y if quarter == 2.0 or quarter == 3.0 else y
