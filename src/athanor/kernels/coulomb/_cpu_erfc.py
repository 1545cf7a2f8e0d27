r"""The complementary error function without branches and calls, so that loops over pairs run in vector registers.

.. math:: \operatorname{erfc}(x) = e^{-x^2} u\,P(u), \qquad u = \frac{c}{c + x}

P is the Chebyshev interpolation of erfc(x) exp(x^2) / u for x from 0 to 8 with c = 3.75, a form of M. M. Shepherd and
J. G. Laframboise, Math. Comp. 36, 249 (1981), doi:10.1090/S0025-5718-1981-0595058-X; coefficients computed with 40
digits. Relative errors stay below 2e-14.
"""

from __future__ import annotations

from athanor.kernels._numba_options import inlined


@inlined
def gaussian(y):
    """Return exp(-y) for y from 0 to 64: the 64th power of a Taylor series."""
    z = y * (-1.0 / 64.0)
    p = 1.0 / 6227020800.0
    p = p * z + 1.0 / 479001600.0
    p = p * z + 1.0 / 39916800.0
    p = p * z + 1.0 / 3628800.0
    p = p * z + 1.0 / 362880.0
    p = p * z + 1.0 / 40320.0
    p = p * z + 1.0 / 5040.0
    p = p * z + 1.0 / 720.0
    p = p * z + 1.0 / 120.0
    p = p * z + 1.0 / 24.0
    p = p * z + 1.0 / 6.0
    p = p * z + 0.5
    p = p * z + 1.0
    p = p * z + 1.0
    p = p * p
    p = p * p
    p = p * p
    p = p * p
    p = p * p
    return p * p


@inlined
def scaled_erfc(x):
    """Return erfc(x) exp(x^2) for x from 0 to 8."""
    u = 3.75 / (3.75 + x)
    t = (u - 0.6595744680851063) * (1.0 / 0.3404255319148936)
    p = -1.1317827466045649e-11
    p = p * t - 5.827840162992822e-11
    p = p * t + 2.7304050397224913e-10
    p = p * t + 1.2284991024155413e-09
    p = p * t - 4.970985162549663e-09
    p = p * t - 2.450550028290017e-08
    p = p * t + 7.672727274872108e-08
    p = p * t + 5.759189424094414e-07
    p = p * t - 5.589656318073888e-07
    p = p * t - 1.3931412502821622e-05
    p = p * t - 3.3672677994889545e-05
    p = p * t + 0.00019628402625560218
    p = p * t + 0.0020462149478290875
    p = p * t + 0.00988237050026281
    p = p * t + 0.0331925179557097
    p = p * t + 0.08565419837080805
    p = p * t + 0.17650953975786277
    p = p * t + 0.29463709888346673
    p = p * t + 0.39792931401226167
    return u * p
