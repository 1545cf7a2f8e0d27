"""Self-diffusion coefficients with errors: from the mean-square displacement, and from the velocity autocorrelation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from athanor.analysis.motion import Motion, correlation_of_atoms, displacement_of_atoms
from athanor.analysis.statistics import error_of_blocks
from athanor.errors import InputError

_LAGS = 20
"""Lags at which the line is fitted, at most."""
_BLOCKS = 5
"""Stretches of time whose scatter is one measure of the error."""
_FIRST, _LAST, _INTEGRATED = 40, 10, 20
"""First and last lag of the fit, and the lag up to which velocities are integrated: the whole time over these."""
CM2_PER_S = 0.1
"""One Å²/fs in cm²/s."""


@dataclass(frozen=True, slots=True, eq=False)
class Diffusion:
    """Self-diffusion coefficients of one system.

    Attributes
    ----------
    names
        What they are of: elements, and ``"all"`` atoms first if there are several.
    values, error
        [names], Å²/fs, with standard errors.
    range
        Lags that were used, fs: of the line that was fitted, or up to which velocities were integrated.
    exponent
        [names]; the power of time with which the displacement grows in that range: 1 in diffusion, 2 in free flight,
        0 where atoms stay at their places. NaN from velocities.
    drift
        How far the centre of mass moved in the whole, Å. It is taken off, unless atoms are fixed.
    frames
        How many there were.
    """

    names: tuple[str, ...]
    values: np.ndarray
    error: np.ndarray
    range: tuple[float, float]
    exponent: np.ndarray
    drift: float
    frames: int

    @property
    def values_cm2_per_s(self) -> np.ndarray:
        """`values` in cm²/s."""
        return self.values * CM2_PER_S

    @property
    def error_cm2_per_s(self) -> np.ndarray:
        """`error` in cm²/s."""
        return self.error * CM2_PER_S

    def is_diffusive(self, tolerance: float = 0.2) -> np.ndarray:
        """Whether `exponent` is 1 to within `tolerance`, [names]: else `values` are no diffusion coefficients."""
        return np.asarray(np.abs(self.exponent - 1.0) <= tolerance)


def einstein_diffusion(motion: Motion, fit: tuple[float, float] | None = None) -> Diffusion:
    r"""Return diffusion coefficients from the mean-square displacement.

    .. math:: \mathrm{MSD}(t) = 6 D t + c

    fitted by generalised least squares with the covariance that the displacements of a random walk have: values at
    different lags come from the same path, and a plain fit takes them for independent. The error is the largest of
    three: that of the random walk, the scatter between atoms, and the scatter between five stretches of time, which
    also sees atoms that move together.

    Parameters
    ----------
    motion
        Paths of the atoms.
    fit
        First and last lag of the fit, fs; by default 1/40 and 1/10 of the whole time. Before the first one, atoms must
        have forgotten their velocities.

    Raises
    ------
    InputError
        If the range of the fit holds fewer than two lags, or does not fit five times into half of the time.

    References
    ----------
    .. [1] J. T. Bullerjahn et al., J. Chem. Phys. 153, 024116 (2020). doi:10.1063/5.0008312
    """
    lags = _lags_of_fit(fit, motion)
    of_atoms = displacement_of_atoms(motion.paths, lags)
    weights = _slope_weights(lags, motion.frames - 1)
    slopes = of_atoms @ weights
    of_blocks = []
    for number in range(_BLOCKS):
        part = motion.block(number, _BLOCKS)
        of_blocks.append(displacement_of_atoms(part.paths, lags) @ _slope_weights(lags, part.frames - 1))
    walk = np.sqrt(2.0 / 3.0 * weights @ _covariance(lags, motion.frames - 1) @ weights)
    values, errors, exponents = [], [], []
    for chosen in motion.groups.values():
        slope = slopes[chosen].mean()
        scatter = _scatter(slopes[chosen], np.array([part[chosen].mean() for part in of_blocks]))
        values.append(slope)
        errors.append(max(scatter, abs(slope) * walk / np.sqrt(chosen.sum())))
        exponents.append(_exponent(lags, of_atoms[chosen].mean(axis=0)))
    unit = 6.0 * motion.spacing
    return Diffusion(
        names=tuple(motion.groups),
        values=np.array(values) / unit,
        error=np.array(errors) / unit,
        range=(float(lags[0] * motion.spacing), float(lags[-1] * motion.spacing)),
        exponent=np.array(exponents),
        drift=float(np.linalg.norm(motion.drift)),
        frames=motion.frames,
    )


def green_kubo_diffusion(motion: Motion, upto: float | None = None) -> Diffusion:
    r"""Return diffusion coefficients from the velocity autocorrelation.

    .. math:: D = \tfrac{1}{3} \int_0^T \langle v(0) \cdot v(t) \rangle \, dt

    by the trapezoidal rule. Frames must be close enough to follow the velocities: a few fs for hydrogen, some tens for
    heavy atoms. The error is the larger of the scatter between atoms and that between five stretches of time.

    Parameters
    ----------
    motion
        Velocities of the atoms.
    upto
        Lag at which the integral ends, fs; by default 1/20 of the whole time. It must be long enough for velocities to
        be forgotten, and not much longer: what comes then is noise.

    Raises
    ------
    InputError
        If frames hold no velocities, or `upto` is shorter than two frames or longer than a tenth of the time.
    """
    last = motion.frames // _INTEGRATED if upto is None else round(upto / motion.spacing)
    if not 2 <= last <= motion.frames // _LAST:
        raise InputError(
            f"`upto` is {last * motion.spacing:g} fs; it must be from two frames, {2 * motion.spacing:g} fs, to a "
            f"tenth of the time, {motion.frames // _LAST * motion.spacing:g} fs. Choose another, or run longer."
        )
    rule = np.full(last + 1, motion.spacing / 3.0)
    rule[[0, -1]] *= 0.5
    of_atoms = correlation_of_atoms(motion, last + 1) @ rule
    of_blocks = [correlation_of_atoms(motion.block(number, _BLOCKS), last + 1) @ rule for number in range(_BLOCKS)]
    groups = list(motion.groups.values())
    return Diffusion(
        names=tuple(motion.groups),
        values=np.array([of_atoms[chosen].mean() for chosen in groups]),
        error=np.array([
            _scatter(of_atoms[chosen], np.array([part[chosen].mean() for part in of_blocks])) for chosen in groups
        ]),
        range=(0.0, last * motion.spacing),
        exponent=np.full(len(groups), np.nan),
        drift=float(np.linalg.norm(motion.drift)),
        frames=motion.frames,
    )  # fmt: skip


def _scatter(of_atoms: np.ndarray, of_blocks: np.ndarray) -> float:
    """Standard error of a mean over atoms and time: the larger of the scatter between atoms and between stretches."""
    return float(np.nanmax([error_of_blocks(of_atoms), error_of_blocks(of_blocks)]))


def _lags_of_fit(fit: tuple[float, float] | None, motion: Motion) -> np.ndarray:
    """Lags of the fit in frames."""
    spacing, longest = motion.spacing, motion.frames // _LAST
    lowest, highest = max(1, motion.frames // _FIRST), longest
    if fit is not None:
        lowest, highest = max(1, round(fit[0] / spacing)), round(fit[1] / spacing)
    if not lowest < highest <= longest:
        raise InputError(
            f"`fit` from {lowest * spacing:g} to {highest * spacing:g} fs is not usable: it needs two lags of frames, "
            f"which are {spacing:g} fs apart, up to a tenth of the time, {longest * spacing:g} fs. "
            f"Choose another range, run longer, or write frames more often (`every`)."
        )
    return np.unique(np.linspace(lowest, highest, _LAGS).round().astype(int))


def _slope_weights(lags: np.ndarray, intervals: int) -> np.ndarray:
    """Weights whose sum over displacements at `lags` is the slope of the best line, per interval between frames."""
    line = np.stack([np.ones(len(lags)), lags], axis=1)
    precision = np.linalg.solve(_covariance(lags, intervals), line)
    return np.asarray(np.linalg.solve(line.T @ precision, precision.T)[1])


def _covariance(lags: np.ndarray, intervals: int) -> np.ndarray:
    r"""Covariance of squared displacements of a random walk with steps of variance 1, averaged over all starts.

    Of two displacements that share k steps the covariance of the squares is :math:`2 k^2`; here without the 2, so that
    for a slope of b it is :math:`\tfrac{2}{3} b^2` times this for one atom in space.
    """
    starts = intervals - lags + 1
    found = np.empty((len(lags), len(lags)))
    for one, m in enumerate(lags):
        for other, n in enumerate(lags):
            offset = np.arange(-n + 1, m)  # of the later start; others share nothing
            shared = np.minimum(m, offset + n) - np.maximum(0, offset)
            pairs = np.minimum(starts[one], starts[other] - offset) - np.maximum(0, -offset)
            found[one, other] = (pairs.clip(0) * shared.astype(float) ** 2).sum() / (starts[one] * starts[other])
    return found


def _exponent(lags: np.ndarray, displacement: np.ndarray) -> float:
    """Slope of the displacement over the range of the fit, both as logarithms."""
    if not (displacement > 0).all():
        return float("nan")
    return float(np.polyfit(np.log(lags), np.log(displacement), 1)[0])
