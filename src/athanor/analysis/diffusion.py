"""Self-diffusion coefficients with errors: from the mean-square displacement, and from the velocity autocorrelation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from athanor.analysis.motion import Motion, correlation_of_atoms, displacement_of_atoms
from athanor.analysis.statistics import error_of_blocks
from athanor.errors import InputError

_LAGS = 10
"""Lags at which a line is fitted, at most."""
_BLOCKS = 4
"""Stretches of time whose scatter is one measure of the error."""
_LAST = 8
"""Last lag that is used: the whole time over this."""
_RATIO = 1.4
"""Between the lags that are tried."""
_CLOSE, _FAR = 0.2, 0.5
"""What tells diffusion: how far the exponent may be from 1, and how large the displacement must be, Å²."""
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
    reached
        [names]; mean-square displacement at the end of that range, Å². NaN from velocities.
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
    reached: np.ndarray
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

    def is_diffusive(self) -> np.ndarray:
        """Whether the displacement grows as time, and beyond 0.5 Å², [names]; else `values` say nothing of diffusion.

        A vibration passes through any exponent on its way from free flight to rest, but does not get so far.
        """
        return np.asarray((np.abs(self.exponent - 1.0) <= _CLOSE) & (self.reached >= _FAR))


def einstein_diffusion(motion: Motion, fit: tuple[float, float] | None = None) -> Diffusion:
    r"""Return diffusion coefficients from the mean-square displacement.

    .. math:: \mathrm{MSD}(t) = 6 D t + c

    by a line from one lag to its double. Of the earliest lag at which the slope agrees, within the error, with that of
    every later line, the double is taken, so that what is left of the approach to diffusion is well below the error.
    Values at different lags come from the same path, so the scatter about the line says nothing
    about its error. The error is the largest of three: that of a random walk, from the covariance of its displacements
    [1]_; the scatter between atoms; and the scatter between four stretches of time on each axis, which also sees
    atoms that move together.

    Parameters
    ----------
    motion
        Paths of the atoms.
    fit
        First and last lag of the line, fs, instead.

    Raises
    ------
    InputError
        If the range of the fit holds fewer than two lags, or ends beyond an eighth of the time.

    References
    ----------
    .. [1] J. T. Bullerjahn et al., J. Chem. Phys. 153, 024116 (2020). doi:10.1063/5.0008312
    """
    lines = _lines(fit, motion)
    lags = np.unique(np.concatenate(lines))
    weights = np.stack([_slope_weights(line, lags) for line in lines])
    displacement = displacement_of_atoms(motion.paths, lags)
    estimates = _Estimates(
        np.einsum("alx,nl->nax", displacement, weights),
        [np.einsum("alx,nl->nax", displacement_of_atoms(part.paths, lags), weights) for part in motion.blocks(_BLOCKS)],
    )
    groups = list(motion.groups.values())
    best = estimates.choose([int(line[0]) for line in lines], groups[0])
    here = np.searchsorted(lags, lines[best])
    # of a line with slope b a step along an axis has the variance b / 3, and displacements add up over the axes
    walk = np.sqrt(
        2.0 / 3.0 * weights[best, here] @ walk_covariance(lines[best], motion.frames - 1) @ weights[best, here]
    )
    slopes = np.array([estimates.mean(best, atoms) for atoms in groups])
    errors = [
        max(estimates.error(best, atoms), abs(slope) * walk / np.sqrt(atoms.sum()))
        for slope, atoms in zip(slopes, groups, strict=True)
    ]
    values = [displacement[atoms][:, here].sum(axis=2).mean(axis=0) for atoms in groups]
    return Diffusion(
        names=tuple(motion.groups),
        values=slopes / (6.0 * motion.spacing),
        error=np.array(errors) / (6.0 * motion.spacing),
        range=(float(lines[best][0] * motion.spacing), float(lines[best][-1] * motion.spacing)),
        exponent=np.array([np.polyfit(np.log(lines[best]), np.log(line), 1)[0] for line in values]),
        reached=np.array([line[-1] for line in values]),
        drift=float(np.linalg.norm(motion.drift)),
        frames=motion.frames,
    )


def green_kubo_diffusion(motion: Motion, upto: float | None = None) -> Diffusion:
    r"""Return diffusion coefficients from the velocity autocorrelation.

    .. math:: D = \tfrac{1}{3} \int_0^T \langle v(0) \cdot v(t) \rangle \, dt

    by the trapezoidal rule, up to twice the earliest lag at which the integral agrees, within the error, with that to
    every later one. Frames must be close enough to follow the velocities: a few fs for hydrogen, some tens for heavy
    atoms. The error is the larger of the scatter between atoms, and that between four stretches of time on each axis.

    Parameters
    ----------
    motion
        Velocities of the atoms.
    upto
        Lag at which the integral ends, fs, instead.

    Raises
    ------
    InputError
        If frames hold no velocities, or `upto` is shorter than one frame or longer than an eighth of the time.
    """
    longest = motion.frames // _LAST
    ends = _geometric(longest) if upto is None else [round(upto / motion.spacing)]
    if not 1 <= ends[-1] <= longest:
        raise InputError(
            f"velocities up to {ends[-1] * motion.spacing:g} fs give no diffusion coefficient: the end must be from "
            f"one frame, {motion.spacing:g} fs, to an eighth of the time, {longest * motion.spacing:g} fs. "
            f"Choose `upto`, run longer, or write frames more often (`every`)."
        )

    def integrals(part: Motion) -> np.ndarray:
        correlation = correlation_of_atoms(part, ends[-1] + 1)
        trapezia = 0.5 * motion.spacing * (correlation[:, 1:] + correlation[:, :-1])
        return np.asarray(np.cumsum(trapezia, axis=1)[:, np.array(ends) - 1].swapaxes(0, 1) / 3.0)

    estimates = _Estimates(integrals(motion), [integrals(part) for part in motion.blocks(_BLOCKS)])
    groups = list(motion.groups.values())
    best = estimates.choose(ends, groups[0])
    return Diffusion(
        names=tuple(motion.groups),
        values=np.array([estimates.mean(best, atoms) for atoms in groups]),
        error=np.array([estimates.error(best, atoms) for atoms in groups]),
        range=(0.0, float(ends[best] * motion.spacing)),
        exponent=np.full(len(groups), np.nan),
        reached=np.full(len(groups), np.nan),
        drift=float(np.linalg.norm(motion.drift)),
        frames=motion.frames,
    )


class _Estimates:
    """Several estimates of one number, each later one surer to be unbiased and less sure otherwise.

    Parameters
    ----------
    of_atoms
        [estimates, A, 3]; contributions of each atom along each axis, which add up over the axes.
    of_blocks
        The same from stretches of time.
    """

    def __init__(self, of_atoms: np.ndarray, of_blocks: Sequence[np.ndarray]) -> None:
        self._of_atoms, self._of_blocks = of_atoms, np.stack(of_blocks)

    def mean(self, number: int, atoms: np.ndarray) -> float:
        """Return an estimate: the mean of some atoms, bool [A]."""
        return float(self._of_atoms[number, atoms].sum(axis=1).mean())

    def error(self, number: int, atoms: np.ndarray, less: int | None = None) -> float:
        """Return the standard error of an estimate, or of its difference from another.

        It is the larger of the scatter between atoms and that between stretches of time. Axes may differ, so stretches
        are compared on each axis for itself.
        """
        of_atoms, of_blocks = self._of_atoms[number, atoms], self._of_blocks[:, number, atoms]
        if less is not None:
            of_atoms, of_blocks = of_atoms - self._of_atoms[less, atoms], of_blocks - self._of_blocks[:, less, atoms]
        between_times = of_blocks.mean(axis=1).var(axis=0, ddof=1)  # of each axis
        return float(np.nanmax([error_of_blocks(of_atoms.sum(axis=1)), np.sqrt(between_times.sum() / len(of_blocks))]))

    def choose(self, lags: Sequence[int], atoms: np.ndarray) -> int:
        """Return which estimate to take; each has a lag that it starts or ends at.

        The first one counts which, like all after it, agrees with every later one within the error (Lepski's rule).
        What is left of its bias may be as large as the error, so the one at twice its lag is taken, if there is one.
        """
        best = len(lags) - 1
        while best and self._agrees(best - 1, atoms):
            best -= 1
        return min(int(np.searchsorted(lags, 2 * lags[best])), len(lags) - 1)

    def _agrees(self, number: int, atoms: np.ndarray) -> bool:
        """Whether an estimate agrees with every later one within the error."""
        mean = self.mean(number, atoms)
        return all(
            abs(mean - self.mean(later, atoms)) <= self.error(number, atoms, later)
            for later in range(number + 1, len(self._of_atoms))
        )


def _geometric(last: int) -> list[int]:
    """Whole numbers from 1 to `last`, each a little more than the one before by the same factor."""
    count = int(np.log(max(1, last)) / np.log(_RATIO)) + 2
    return [int(number) for number in np.unique(np.geomspace(1, max(1, last), count).round())]


def _lines(fit: tuple[float, float] | None, motion: Motion) -> list[np.ndarray]:
    """Lags, in frames, of the lines that may be fitted, from the earliest on."""
    spacing, longest = motion.spacing, motion.frames // _LAST
    ends = [(start, 2 * start) for start in _geometric(longest // 2)]
    if fit is not None:
        ends = [(max(1, round(fit[0] / spacing)), round(fit[1] / spacing))]
    lowest, highest = ends[-1]
    if not lowest < highest <= longest:
        raise InputError(
            f"displacements from {lowest * spacing:g} to {highest * spacing:g} fs give no diffusion coefficient: two "
            f"lags of frames are needed, which are {spacing:g} fs apart, up to an eighth of the time, "
            f"{longest * spacing:g} fs. Choose `fit`, run longer, or write frames more often (`every`)."
        )
    return [np.unique(np.linspace(first, last, _LAGS).round().astype(int)) for first, last in ends]


def _slope_weights(line: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Weights whose sum over displacements at `lags` is the slope of the straight line through those of `line`."""
    weights, centred = np.zeros(len(lags)), line - line.mean()
    weights[np.searchsorted(lags, line)] = centred / (centred**2).sum()
    return weights


def walk_covariance(lags: np.ndarray, intervals: int) -> np.ndarray:
    r"""Return the covariance of the squared displacements of a random walk, averaged over all starts.

    Of two displacements along an axis that share k steps of variance 1 the squares have the covariance :math:`2 k^2`.

    Parameters
    ----------
    lags
        [lags]; in steps.
    intervals
        Steps of the walk.

    Returns
    -------
    numpy.ndarray
        [lags, lags]; without the factor 2, for steps of variance 1 along one axis.
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
