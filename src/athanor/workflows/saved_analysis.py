"""What `SavedRun` says of dynamics: means, structure and motion of one system, from its log and frames.

Everything is about one stage of dynamics, the last one, without the way to equilibrium, which is detected in the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from athanor.errors import InputError
from athanor.workflows.methods import MD
from athanor.workflows.quantities import TIME, parse_quantity

if TYPE_CHECKING:
    from athanor.analysis import (
        Average,
        Diffusion,
        MeanSquareDisplacement,
        Motion,
        RadialDistribution,
        VelocityAutocorrelation,
    )
    from athanor.data.batch import Batch
    from athanor.workflows.saved_frames import SavedFrames
    from athanor.workflows.saved_log import Series

AVERAGED = ("temperature", "pressure", "volume", "density", "energy")
METHODS = ("einstein", "green-kubo")


@dataclass(frozen=True, slots=True)
class StageAverages:
    """Means of one system over one stage of dynamics.

    Attributes
    ----------
    stage
        Number of the stage in the job.
    start, end
        Stretch of time that counts, fs since the stage began: what is before is the way to equilibrium.
    has_settled
        Whether the way to equilibrium took less than half of the stage. Else the second half counts, and the run is too
        short. True where `start` was given.
    temperature, pressure, volume, density, energy
        K, eV/Å³, Å³, g/cm³, eV (potential), each with its standard error; NaN where there is none. Of a constant the
        error is 0.
    """

    stage: int
    start: float
    end: float
    has_settled: bool
    temperature: Average
    pressure: Average
    volume: Average
    density: Average
    energy: Average


class SavedAnalysis:
    """Mixin of `SavedRun`: analyses of dynamics."""

    if TYPE_CHECKING:
        folder: Path

        @property
        def stages(self) -> list[tuple[str, dict[str, Any]]]: ...  # noqa: D102  # all of them are those of `SavedRun`
        @property
        def _frames(self) -> SavedFrames: ...
        def __len__(self) -> int: ...
        def number_of(self, system: int | str) -> int: ...  # noqa: D102
        def _series_of(self, number: int) -> Series: ...

    def averages(self, system: int | str | None = None, *, start: float | str | None = None) -> list[StageAverages]:
        """Return means with standard errors of one system, for each stage of dynamics that it reached.

        Parameters
        ----------
        system
            Number or name; may be left out in a run of one system.
        start
            Time in each stage before which nothing counts, fs (or text such as ``"1 ps"``). By default the stage is
            followed until temperature, potential energy and volume have settled, see `athanor.analysis.equilibration`.
            Stages before the last one that are shorter are left out.

        Raises
        ------
        InputError
            If there is no such system, or no dynamics in the run.
        StorageError
            If ``log.csv`` is missing or damaged.

        References
        ----------
        .. [1] J. D. Chodera, J. Chem. Theory Comput. 12, 1799 (2016). doi:10.1021/acs.jctc.5b00784
        """
        series = self._series_of(self._one(system))
        numbers = [number for number, (kind, _) in enumerate(self.stages) if kind == MD.name]
        if not numbers:
            raise InputError(f"`{self.folder}` is a run without dynamics; there is nothing to average.")
        reached = [number for number in numbers if (series.stage == number).any()]
        found = [_of_stage(series, number, start) for number in reached]
        if found and found[-1] is None:
            raise InputError(f"`start` is {start}, and stage {reached[-1]} was not logged for so long.")
        return [stage for stage in found if stage is not None]

    def rdf(
        self,
        system: int | str | None = None,
        *,
        cutoff: float = 10.0,
        bins: int = 200,
        start: float | str | None = None,
    ) -> RadialDistribution:
        """Return the radial distribution functions of one system, by pairs of elements.

        Parameters
        ----------
        system, start
            As in `averages`; of the last stage of dynamics.
        cutoff, bins
            Largest distance, Å, and number of intervals up to there.

        Raises
        ------
        InputError
            As `averages`; or if the system is not periodic along three vectors.
        StorageError
            If the trajectory is missing or damaged.
        """
        from athanor.analysis import radial_distribution

        return radial_distribution(self._frames_of_dynamics(system, start), cutoff, bins)

    def mean_square_displacement(
        self, system: int | str | None = None, *, start: float | str | None = None
    ) -> MeanSquareDisplacement:
        """Return the mean-square displacement of one system against time, of all atoms and of each element.

        Parameters
        ----------
        system, start
            As in `averages`; of the last stage of dynamics.

        Raises
        ------
        InputError
            As `averages`; or if there are too few frames, or they are not evenly spaced.
        StorageError
            If the trajectory is missing or damaged.
        """
        from athanor.analysis import mean_square_displacement

        return mean_square_displacement(self._motion(system, start))

    def velocity_autocorrelation(
        self, system: int | str | None = None, *, start: float | str | None = None
    ) -> VelocityAutocorrelation:
        """Return the velocity autocorrelation of one system against time, of all atoms and of each element.

        Parameters
        ----------
        system, start
            As in `averages`; of the last stage of dynamics.

        Raises
        ------
        InputError, StorageError
            As `mean_square_displacement`.
        """
        from athanor.analysis import velocity_autocorrelation

        return velocity_autocorrelation(self._motion(system, start))

    def diffusion(
        self,
        system: int | str | None = None,
        *,
        method: str = "einstein",
        fit: tuple[float | str, float | str] | None = None,
        upto: float | str | None = None,
        start: float | str | None = None,
    ) -> Diffusion:
        """Return self-diffusion coefficients of one system with standard errors, of all atoms and of each element.

        Parameters
        ----------
        system, start
            As in `averages`; of the last stage of dynamics.
        method
            ``"einstein"``, from displacements, see `athanor.analysis.einstein_diffusion`, or ``"green-kubo"``, from
            velocities, see `athanor.analysis.green_kubo_diffusion`.
        fit
            Einstein: first and last lag of the line that is fitted, fs or text; by default 1/40 and 1/10 of the time.
        upto
            Green-Kubo: lag at which the integral ends, fs or text; by default 1/20 of the time.

        Raises
        ------
        InputError
            As `mean_square_displacement`; or if `method` is another word, or `fit` or `upto` can not be used.
        StorageError
            If the trajectory is missing or damaged.
        """
        from athanor.analysis import einstein_diffusion, green_kubo_diffusion

        if method not in METHODS:
            raise InputError(f"`method={method!r}` is unknown. Use {' or '.join(map(repr, METHODS))}.")
        motion = self._motion(system, start)
        if method == "einstein":
            return einstein_diffusion(motion, fit and (parse_quantity(fit[0], TIME), parse_quantity(fit[1], TIME)))
        return green_kubo_diffusion(motion, None if upto is None else parse_quantity(upto, TIME))

    def _motion(self, system: int | str | None, start: float | str | None) -> Motion:
        from athanor.analysis import motion_of

        return motion_of(self._frames_of_dynamics(system, start))

    def _frames_of_dynamics(self, system: int | str | None, start: float | str | None) -> Batch:
        """Frames of one system in the last stage of dynamics that it reached, once it has settled."""
        number = self._one(system)
        found, series = self.averages(number, start=start), self._series_of(number)
        if not found:
            raise InputError(f"system {number} of `{self.folder}` did not get to dynamics.")
        stage, here = found[-1], _rows_of_stage(series, found[-1].stage)
        settled = series.time[here] >= series.time[here][0] + stage.start - 1e-9 * series.time[here][-1]
        steps = series.step[here][settled]
        return self._frames.of(number, int(steps[0]), int(steps[-1]))

    def _one(self, system: int | str | None) -> int:
        """Number of the system that was asked for, or of the only one."""
        if system is not None:
            return self.number_of(system)
        if len(self) > 1:
            raise InputError(f"`{self.folder}` holds {len(self)} systems; say which one: `system=0`, or its name.")
        return 0


def _rows_of_stage(series: Series, stage: int) -> np.ndarray:
    """Which rows of the log are of a stage, and of what came after a failure was taken back, where time went back."""
    here = series.stage == stage
    back = np.flatnonzero(here)[1:][np.diff(series.time[here]) < 0.0]
    return here if not back.size else here & (np.arange(len(here)) >= back[-1])


def _of_stage(series: Series, stage: int, start: float | str | None) -> StageAverages | None:
    """Means over the rows of the log of one stage; None if it is shorter than `start`."""
    from athanor.analysis import averages, equilibration

    here = _rows_of_stage(series, stage)
    time = series.time[here] - series.time[here][0]
    columns = {name: getattr(series, name)[here] for name in AVERAGED}
    if start is None:
        settling = (columns[name] for name in ("temperature", "energy", "volume"))
        found = equilibration(*(values for values in settling if np.isfinite(values).all()))
        first = min(found, len(time) // 2)
    else:
        found = first = int(np.searchsorted(time, parse_quantity(start, TIME) * (1.0 - 1e-9)))
        if first >= len(time):
            return None
    return StageAverages(stage, float(time[first]), float(time[-1]), found == first, **averages(columns, first))
