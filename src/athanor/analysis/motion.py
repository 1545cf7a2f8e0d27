"""How atoms of one system move: paths without jumps, mean-square displacement, velocity autocorrelation.

Frames of a run hold positions that are not wrapped into the cell, so a path needs no guess. Atoms that are fixed are
left out, and the drift of the centre of mass is taken off, unless fixed atoms hold the system in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from athanor.analysis.statistics import autocovariance, error_of_blocks
from athanor.data.batch import Batch
from athanor.data.elements import SYMBOLS
from athanor.data.observables import known_velocities
from athanor.errors import InputError
from athanor.units import FS_PER_INTERNAL_TIME

_FEWEST = 8
"""Frames below which there is no motion to speak of."""
_EVEN = 1e-6
"""Part of the spacing by which frames may be off."""
ALL = "all"
"""Row of all atoms together."""


@dataclass(frozen=True, eq=False)
class Motion:
    """Paths of the moving atoms of one system.

    Attributes
    ----------
    spacing
        Time between frames, fs.
    paths
        [F, A, 3]; how far each atom has come since the first frame, Å, not wrapped, without drift.
    velocities
        [F, A, 3], Å/fs, without drift; None where frames hold none.
    symbols
        [A]; element of each atom.
    drift
        [3]; how far the centre of mass has come, Å. It is taken off, unless `is_held`.
    is_held
        Whether some atoms are fixed, or there is one atom only: then nothing is taken off.
    """

    spacing: float
    paths: np.ndarray
    velocities: np.ndarray | None
    symbols: np.ndarray
    drift: np.ndarray
    is_held: bool

    @property
    def frames(self) -> int:
        """How many there are."""
        return len(self.paths)

    @cached_property
    def groups(self) -> dict[str, np.ndarray]:
        """Name -> mask [A]: each element, and ``"all"`` atoms if there are several elements."""
        names = list(dict.fromkeys(self.symbols.tolist()))
        found = {name: self.symbols == name for name in names}
        return found if len(names) == 1 else {ALL: np.ones(len(self.symbols), dtype=bool), **found}

    def blocks(self, count: int) -> Iterator[Motion]:
        """Stretches of equal length, one after the other; the rest is left out."""
        length = self.frames // count
        for first in range(0, count * length, length):
            here = slice(first, first + length)
            velocities = None if self.velocities is None else self.velocities[here]
            yield replace(self, paths=self.paths[here], velocities=velocities)


def motion_of(frames: Batch) -> Motion:
    r"""Return the paths of the moving atoms of one system.

    Where the cell changes, an atom moves by the steps of its fractional coordinates in the cell of the moment,

    .. math:: \Delta r_n = (s_{n+1} - s_n)\,\tfrac{1}{2}(h_n + h_{n+1})

    so that what a barostat does to all atoms alike, which grows with the distance from the origin, is no motion.

    Parameters
    ----------
    frames
        One system at evenly spaced times, as `SavedRun.frames` returns it. An odd last one is left out.

    Raises
    ------
    InputError
        If there are fewer than eight frames, they are not evenly spaced, or all atoms are fixed.

    References
    ----------
    .. [1] S. von Bülow et al., J. Chem. Phys. 153, 021101 (2020). doi:10.1063/5.0008316
    """
    times = frames.time.reshape(-1).double().numpy()
    length, spacing = _evenly_spaced(times)
    atoms = len(frames.positions) // len(frames)
    fixed = frames.get("fixed")
    moves = np.ones(atoms, dtype=bool) if fixed is None else ~fixed[:atoms].numpy()
    if not moves.any():
        raise InputError("all atoms of the system are fixed; nothing moves.")

    def of_atoms(name: str) -> np.ndarray:
        return np.asarray(frames[name].double().numpy().reshape(len(frames), atoms, -1)[:length, moves])

    positions, cell = of_atoms("positions"), frames.cell_or_zeros.double().numpy()[:length]
    if (cell == cell[0]).all():
        paths = positions - positions[0]
    else:
        steps = np.diff(positions @ np.linalg.inv(cell), axis=0) @ (0.5 * (cell[1:] + cell[:-1]))
        paths = np.concatenate([np.zeros_like(positions[:1]), np.cumsum(steps, axis=0)])
    known = bool(known_velocities(frames).all())
    velocities = of_atoms("velocities") / FS_PER_INTERNAL_TIME if known else None
    masses = frames.atomic_masses[:atoms].double().numpy()[moves]
    centre = np.einsum("a,fax->fx", masses / masses.sum(), paths)
    is_held = not moves.all() or atoms == 1
    if not is_held:
        paths = paths - centre[:, None]
        if velocities is not None:
            velocities = velocities - np.einsum("a,fax->fx", masses / masses.sum(), velocities)[:, None]
    numbers = frames.atomic_numbers[:atoms].numpy()[moves]
    symbols = np.array([SYMBOLS[number] for number in numbers])
    return Motion(spacing, paths, velocities, symbols, centre[-1], is_held)


def _evenly_spaced(times: np.ndarray) -> tuple[int, float]:
    """Number of frames, and the time between them; the last one may come early, as that of the last step does."""
    if len(times) < _FEWEST:
        raise InputError(
            f"{len(times)} frames are too few to see motion; {_FEWEST} are the least, and some hundred are usual. "
            f"Run longer, or write frames more often (`every`)."
        )
    spacing = times[1] - times[0]
    odd = np.flatnonzero(np.abs(np.diff(times) - spacing) > _EVEN * spacing)
    if odd.size and odd[0] < len(times) - 2:
        raise InputError(
            f"frames are not evenly spaced: {spacing:g} fs apart at first, {np.diff(times)[odd[0]]:g} fs after "
            f"{times[odd[0]]:g} fs. Choose a stretch with one spacing with `start`."
        )
    return len(times) - len(odd), float(spacing)


# ---------------------------------------------------------------------------------------------------- displacement
@dataclass(frozen=True, slots=True, eq=False)
class MeanSquareDisplacement:
    """Mean-square displacement of one system.

    Attributes
    ----------
    time
        [lags], fs, from 0.
    names
        What stands in each row: elements, and ``"all"`` atoms first if there are several.
    values, error
        [names, lags], Å². Standard errors from the scatter between atoms; NaN for one atom.
    drift
        How far the centre of mass moved in the whole, Å. It is taken off, unless `is_held`.
    is_held
        Whether nothing was taken off: some atoms are fixed, and left out here, or there is one atom only.
    frames
        How many there were.
    """

    time: np.ndarray
    names: tuple[str, ...]
    values: np.ndarray
    error: np.ndarray
    drift: float
    is_held: bool
    frames: int


def mean_square_displacement(motion: Motion, longest: int | None = None) -> MeanSquareDisplacement:
    r"""Return the mean-square displacement, averaged over atoms and over all starts.

    .. math:: \mathrm{MSD}(t) = \langle |r_i(t_0 + t) - r_i(t_0)|^2 \rangle_{i, t_0}

    Parameters
    ----------
    motion
        Paths of the atoms.
    longest
        Largest lag, in frames; by default half of all, beyond which there are few starts.
    """
    lags = motion.frames // 2 + 1 if longest is None else longest + 1
    of_atoms = displacement_of_atoms(motion.paths, np.arange(lags)).sum(axis=2)
    return MeanSquareDisplacement(
        time=np.arange(lags) * motion.spacing,
        names=tuple(motion.groups),
        values=np.stack([of_atoms[chosen].mean(axis=0) for chosen in motion.groups.values()]),
        error=np.stack([error_of_blocks(of_atoms[chosen]) for chosen in motion.groups.values()]),
        drift=float(np.linalg.norm(motion.drift)),
        is_held=motion.is_held,
        frames=motion.frames,
    )


def displacement_of_atoms(paths: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Return the mean-square displacement of each atom along each axis over all starts, [A, lags, 3], Å².

    By Fourier transform: the square of a difference is two squares, whose sums over starts are cumulative, less twice
    an autocovariance.

    Parameters
    ----------
    paths
        [F, A, 3], Å.
    lags
        [lags]; in frames, fewer than F.

    References
    ----------
    .. [1] V. Calandrini et al., Collection SFN 12, 201 (2011). doi:10.1051/sfn/201112010
    """
    count = len(paths)
    found = np.empty((paths.shape[1], len(lags), 3))
    for atom in range(paths.shape[1]):
        path = paths[:, atom] - paths[:, atom].mean(axis=0)  # a difference does not see it, and squares stay small
        squares = np.concatenate([np.zeros((1, 3)), np.cumsum(path**2, axis=0)])
        found[atom] = squares[count - lags] + squares[-1] - squares[lags] - 2.0 * autocovariance(path)[lags]
    found /= (count - lags)[:, None]
    found[:, lags == 0] = 0.0
    return found


# ------------------------------------------------------------------------------------------------------- velocities
@dataclass(frozen=True, slots=True, eq=False)
class VelocityAutocorrelation:
    """Velocity autocorrelation of one system.

    Attributes
    ----------
    time
        [lags], fs, from 0.
    names
        What stands in each row: elements, and ``"all"`` atoms first if there are several.
    values, error
        [names, lags], Å²/fs². Standard errors from the scatter between atoms; NaN for one atom.
    frames
        How many there were.
    """

    time: np.ndarray
    names: tuple[str, ...]
    values: np.ndarray
    error: np.ndarray
    frames: int

    @property
    def normalised(self) -> np.ndarray:
        """Values over those at lag 0."""
        return self.values / self.values[:, :1]


def velocity_autocorrelation(motion: Motion, longest: int | None = None) -> VelocityAutocorrelation:
    r"""Return the velocity autocorrelation, averaged over atoms and over all starts.

    .. math:: C(t) = \langle v_i(t_0) \cdot v_i(t_0 + t) \rangle_{i, t_0}

    Parameters
    ----------
    motion
        Velocities of the atoms.
    longest
        Largest lag, in frames; by default half of all.

    Raises
    ------
    InputError
        If frames hold no velocities.
    """
    lags = motion.frames // 2 + 1 if longest is None else longest + 1
    of_atoms = correlation_of_atoms(motion, lags).sum(axis=2)
    return VelocityAutocorrelation(
        time=np.arange(lags) * motion.spacing,
        names=tuple(motion.groups),
        values=np.stack([of_atoms[chosen].mean(axis=0) for chosen in motion.groups.values()]),
        error=np.stack([error_of_blocks(of_atoms[chosen]) for chosen in motion.groups.values()]),
        frames=motion.frames,
    )


def correlation_of_atoms(motion: Motion, lags: int) -> np.ndarray:
    """Return the velocity autocorrelation of each atom along each axis over all starts, [A, lags, 3], Å²/fs²."""
    if motion.velocities is None:
        raise InputError("frames hold no velocities; only those of dynamics do.")
    velocities, starts = motion.velocities, (motion.frames - np.arange(lags))[:, None]
    return np.stack([autocovariance(velocities[:, atom])[:lags] / starts for atom in range(velocities.shape[1])])
