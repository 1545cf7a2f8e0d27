"""Coefficients of the logarithm, sine and cosine of the normal numbers, from fdlibm (Sun Microsystems, 1993).

Both implementations evaluate them in the same order with the same roundings, so that devices agree.
"""

from __future__ import annotations

import math

ROOT_HALF_BITS = 0x3FE6A09E667F3BCD
"""The bits of the square root of 1/2: mantissas are taken from there up to the square root of 2."""
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
HALF_PI = math.pi / 2.0

L1, L2, L3 = 6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01
L4, L5, L6 = 2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01
L7 = 1.479819860511658591e-01
"""ln((1 + s)/(1 - s)) - 2 s, even powers over s."""

S1, S2, S3 = -1.66666666666666324348e-01, 8.33333333332248946124e-03, -1.98412698298579493134e-04
S4, S5, S6 = 2.75573137070700676789e-06, -2.50507602534068634195e-08, 1.58969099521155010221e-10
"""sin x, powers from 3."""

C1, C2, C3 = 4.16666666666666019037e-02, -1.38888888888741095749e-03, 2.48015872894767294178e-05
C4, C5, C6 = -2.75573143513906633035e-07, 2.08757232129817482790e-09, -1.13596475577881948265e-11
"""cos x, powers from 4."""
