"""Means of correlated samples: when a series has settled, how many of its samples are independent, and the error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_CANDIDATES = 100
"""Starts that are tried, evenly spaced."""
_MOST = 2000
"""A longer series is looked at as the means of so many stretches."""
_NOISE = 1e-10
"""A series that varies by less, relative to its values, is constant."""
_LEAST_LAG = 3
"""The sum over the autocorrelation goes at least so far: a crossing of zero before is noise."""


@dataclass(frozen=True, slots=True)
class Average:
    """Mean of one quantity once it has settled.

    Attributes
    ----------
    mean, error
        The mean and its standard error, in the unit of the series. The error is NaN where there are too few samples.
    start
        First sample that counts: those before are the way to equilibrium.
    samples
        Samples from there on.
    inefficiency
        So many samples in a row are worth one that is independent; at least 1.
    """

    mean: float
    error: float
    start: int
    samples: int
    inefficiency: float


def autocovariance(series: np.ndarray) -> np.ndarray:
    r"""Return :math:`\sum_n x_n \cdot x_{n+k}` for every lag k, without subtracting a mean, by Fourier transform.

    Parameters
    ----------
    series
        [n, ...]; what stands behind the first axis is transformed each for itself.

    Returns
    -------
    numpy.ndarray
        Of the shape of `series`, the lag along the first axis.
    """
    length = len(series)
    spectrum = np.fft.rfft(series, n=2 * length, axis=0)
    return np.fft.irfft(spectrum.real**2 + spectrum.imag**2, n=2 * length, axis=0)[:length]


def statistical_inefficiency(series: np.ndarray) -> float:
    r"""Return how many samples in a row are worth one that is independent.

    .. math:: g = 1 + 2 \sum_{k=1}^{K} \left(1 - \frac{k}{n}\right) C(k)

    with the normalised autocorrelation :math:`C` of the n samples, summed up to where it first crosses zero.

    Parameters
    ----------
    series
        [n], evenly spaced.

    Returns
    -------
    float
        At least 1; 1 for a constant.

    References
    ----------
    .. [1] J. D. Chodera et al., J. Chem. Theory Comput. 3, 26 (2007). doi:10.1021/ct0502864
    """
    if len(series) < 2 or _is_constant(series):
        return 1.0
    covariance = autocovariance(series - series.mean())
    correlation = covariance / covariance[0]
    below = np.flatnonzero(correlation[_LEAST_LAG:] <= 0.0)
    last = _LEAST_LAG + below[0] if below.size else len(series)
    return float(max(1.0, 1.0 + 2.0 * correlation[1:last].sum()))


def equilibration(*series: np.ndarray) -> int:
    """Return the first sample from which on series have settled, by the number of independent samples.

    Of the starts that are tried, the one is taken that leaves most independent samples of that series which has fewest:
    what is dropped too late costs samples, and what is dropped too early leaves a drift, which looks like a long
    correlation.

    Parameters
    ----------
    series
        [n] each, evenly spaced, of the same moments. Constant ones say nothing.

    References
    ----------
    .. [1] J. D. Chodera, J. Chem. Theory Comput. 12, 1799 (2016). doi:10.1021/acs.jctc.5b00784
    """
    telling = [values for values in series if not _is_constant(values)]
    if not telling:
        return 0
    stretch = -(-len(telling[0]) // _MOST)
    length = len(telling[0]) // stretch
    telling = [values[: length * stretch].reshape(length, stretch).mean(axis=1) for values in telling]
    starts = np.unique(np.linspace(0, length - max(2, length // 20), min(_CANDIDATES, length)).astype(int).clip(0))
    independent = [
        min((length - start) / statistical_inefficiency(values[start:]) for values in telling) for start in starts
    ]
    return int(starts[int(np.argmax(independent))]) * stretch


def averages(series: Mapping[str, np.ndarray], start: int | None = None) -> dict[str, Average]:
    r"""Return means and standard errors of several quantities of one system.

    .. math:: \delta\bar x = \sigma \sqrt{g / n}

    with the standard deviation :math:`\sigma` of the n samples that count and their `statistical_inefficiency` g.

    Parameters
    ----------
    series
        Name -> [n], evenly spaced, of the same moments. Samples that are NaN do not count.
    start
        First sample that counts; by default what `equilibration` finds for all together.
    """
    known = {name: np.isfinite(values) for name, values in series.items()}
    if start is None:
        start = equilibration(*(values for name, values in series.items() if known[name].all()))
    return {name: _average(values[start:][known[name][start:]], start) for name, values in series.items()}


def _average(values: np.ndarray, start: int) -> Average:
    if len(values) < 2:
        return Average(float(values.mean()) if len(values) else float("nan"), float("nan"), start, len(values), 1.0)
    inefficiency = statistical_inefficiency(values)
    error = 0.0 if _is_constant(values) else float(values.std(ddof=1) * np.sqrt(inefficiency / len(values)))
    return Average(float(values.mean()), error, start, len(values), inefficiency)


def _is_constant(values: np.ndarray) -> bool:
    return bool(np.ptp(values) <= _NOISE * np.abs(values).max()) if len(values) else True


def error_of_blocks(values: np.ndarray) -> np.ndarray:
    """Return the standard error of the mean over the first axis, of independent values; NaN for fewer than two."""
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    return np.asarray(values.std(axis=0, ddof=1) / np.sqrt(len(values)))
