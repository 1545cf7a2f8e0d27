"""Parameters that change while systems move: heating, cooling, compression, annealing.

A `Schedule` stands where a number would: ``NVTLangevin(model, dt=1.0, temperature=ramp(300.0, 900.0, 5000.0), ...)``.
It is followed by each system on its own, from the moment when this enters the stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from athanor.dynamics.state import check_finite, check_positive
from athanor.errors import InputError

SHAPES = ("linear", "exponential")


class Schedule:
    """A value that changes with the time that a system has spent in its stage.

    One that is assigned to an engine under way counts from the same moment, and is then in its middle or over.

    Parameters
    ----------
    points
        (time in fs, value) pairs in order, from time 0. Two of the same time are a jump. Values are numbers, or tensors
        with a row for each system. After the last point its value stays.
    shape
        Between points: ``"linear"``, or ``"exponential"``, by which a positive value changes by equal factors in equal
        times.

    Raises
    ------
    InputError
        If times are not in order from 0, a value is not finite or, where the shape is exponential, not positive.

    Examples
    --------
    >>> from athanor.dynamics import Schedule
    >>> Schedule([(0.0, 300.0), (5000.0, 900.0), (10000.0, 900.0), (20000.0, 300.0)])
    Schedule(300 at 0 fs, 900 at 5000 fs, 900 at 10000 fs, 300 at 20000 fs)
    """

    def __init__(self, points: Iterable[tuple[float, float | Tensor]], shape: str = "linear") -> None:
        self.points = [(float(time), value) for time, value in points]
        self.shape = shape
        if shape not in SHAPES:
            raise InputError(f"`shape` of a schedule is {shape!r}; use one of {', '.join(SHAPES)}.")
        times = [time for time, _ in self.points]
        if not times or times[0] != 0.0 or any(not one <= other for one, other in pairwise(times)):
            raise InputError(f"the times of a schedule are {times}; they must be in order, and start at 0 fs.")
        for _, value in self.points:
            check_finite(value, "a value of the schedule")
            if shape == "exponential":
                check_positive(value, "a value of an exponential schedule")

    @property
    def values(self) -> list[float | Tensor]:
        """Its values, in order."""
        return [value for _, value in self.points]

    @property
    def is_per_system(self) -> bool:
        """Whether a value has a row for each system."""
        return any(isinstance(value, Tensor) and value.ndim > 0 for value in self.values)

    def at(self, elapsed: Tensor) -> Tensor:
        """Return the value of each system after `elapsed`, fs, [B]: float64 [B, ...].

        Raises
        ------
        InputError
            If values have rows, and not one for each of these systems.
        """
        device = elapsed.device
        times = torch.tensor([time for time, _ in self.points], dtype=torch.float64, device=device)
        rows = [torch.as_tensor(value, dtype=torch.float64, device=device) for value in self.values]
        rows = [row if row.ndim else row.expand(len(elapsed)) for row in rows]
        sizes = {row.shape[0] for row in rows} - {1, len(elapsed)}
        if sizes:
            raise InputError(
                f"a schedule has values with {max(sizes)} rows; the batch has {len(elapsed)} systems. Give numbers, or "
                f"assign a schedule with a row for each system."
            )
        rows = [row.expand(len(elapsed), *row.shape[1:]) for row in torch.broadcast_tensors(*rows)]
        last = torch.searchsorted(times, elapsed.double().contiguous(), right=True).clamp(1, len(times)) - 1
        following = (last + 1).clamp(max=len(times) - 1)
        values, each = torch.stack(rows), torch.arange(len(elapsed), device=elapsed.device)
        start, end, length = values[last, each], values[following, each], times[following] - times[last]
        share = torch.where(length > 0, (elapsed - times[last]) / torch.where(length > 0, length, 1.0), 0.0)
        share = share.reshape(-1, *([1] * (start.ndim - 1)))
        if self.shape == "exponential":
            return start * torch.exp(share * torch.log(end / start))
        return start + share * (end - start)

    def state_dict(self) -> dict[str, Any]:
        """Return its points and its shape."""
        return {"points": list(self.points), "shape": self.shape}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Schedule:
        """Return the schedule of which `state_dict` was called."""
        return cls(state["points"], state["shape"])

    def __repr__(self) -> str:
        words = [f"{_in_words(value)} at {time:g} fs" for time, value in self.points]
        return f"Schedule({', '.join(words)}{', exponential' if self.shape == 'exponential' else ''})"


def ramp(start: float | Tensor, end: float | Tensor, duration: float, shape: str = "linear") -> Schedule:
    """Return a change from `start` to `end` over `duration`, fs; from then on `end` stays.

    Examples
    --------
    >>> import torch
    >>> from athanor.dynamics import ramp
    >>> ramp(300.0, 900.0, 5000.0).at(torch.tensor([0.0, 2500.0, 9000.0])).tolist()
    [300.0, 600.0, 900.0]
    """
    return Schedule([(0.0, start), (duration, end)], shape)


def steps(values: Sequence[float | Tensor], every: float) -> Schedule:
    """Return a stair: each of `values` for `every` fs, and the last one from then on.

    Examples
    --------
    >>> import torch
    >>> from athanor.dynamics import steps
    >>> steps([100.0, 200.0, 300.0], every=1000.0).at(torch.tensor([999.0, 1000.0, 5000.0])).tolist()
    [100.0, 200.0, 300.0]
    """
    points: list[tuple[float, float | Tensor]] = []
    for number, value in enumerate(values):
        points += [(number * every, value), ((number + 1) * every, value)]
    return Schedule(points[:-1] if points else points)


def anneal(hot: float | Tensor, cold: float | Tensor, duration: float, hold: float = 0.0) -> Schedule:
    """Return ``hot`` for `hold` fs, then a decay to `cold` by equal factors in equal times over `duration` fs.

    Examples
    --------
    >>> import torch
    >>> from athanor.dynamics import anneal
    >>> [round(value) for value in anneal(1600.0, 100.0, 4000.0).at(torch.tensor([0.0, 1000.0, 4000.0])).tolist()]
    [1600, 800, 100]
    """
    return Schedule([(0.0, hot), (hold, hot), (hold + duration, cold)], "exponential")


def inverse(value: float | Tensor | Schedule) -> float | Tensor | Schedule:
    """Return one over a value, or over those of a schedule."""
    if isinstance(value, Schedule):
        return Schedule([(time, 1.0 / each) for time, each in value.points], value.shape)
    return 1.0 / value


def _in_words(value: float | Tensor) -> str:
    return f"{float(value):g}" if not isinstance(value, Tensor) or value.ndim == 0 else "values of each system"
