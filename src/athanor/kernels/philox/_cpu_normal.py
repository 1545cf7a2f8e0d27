"""The two functions of Box and Muller's transform with numba, written so that they run in vector registers.

`_reference` explains them; each operation here has its twin there.
"""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._numba_options import jit
from athanor.kernels.philox import _polynomials as p

_ROOT_HALF_BITS = np.int64(p.ROOT_HALF_BITS)


@jit
def radii(u, count, mantissa, out):
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
        series = w * (p.L2 + w * (p.L4 + w * p.L6)) + z * (p.L1 + w * (p.L3 + w * (p.L5 + w * p.L7)))
        half = 0.5 * f * f
        log = k * p.LN2_HIGH - ((half - (s * (half + series) + k * p.LN2_LOW)) - f)
        out[m] = math.sqrt(-2.0 * log)


@jit
def cosines_and_sines(v, count, cosine, sine):
    """Write cosine and sine of 2 pi v for `count` doubles in [0, 1)."""
    for m in range(count):
        quarter = math.floor(4.0 * v[m] + 0.5)
        x = (4.0 * v[m] - quarter) * p.HALF_PI
        z = x * x
        s = x + z * x * (p.S1 + z * (p.S2 + z * (p.S3 + z * (p.S4 + z * (p.S5 + z * p.S6)))))
        c = 1.0 - (0.5 * z - z * z * (p.C1 + z * (p.C2 + z * (p.C3 + z * (p.C4 + z * (p.C5 + z * p.C6))))))
        swap = quarter == 1.0 or quarter == 3.0
        x, y = s if swap else c, c if swap else s
        cosine[m] = -x if quarter == 1.0 or quarter == 2.0 else x
        sine[m] = -y if quarter == 2.0 or quarter == 3.0 else y
