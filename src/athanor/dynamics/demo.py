"""`DemoDynamics`: velocity Verlet in internal time, for tutorials and tests."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from athanor.dynamics.integrators.nve import NVE
from athanor.dynamics.state import check_positive
from athanor.units import internal_time_to_fs


class DemoDynamics(NVE):
    r"""Velocity Verlet whose `dt` is in internal time, Å·√(amu/eV) (10.1805 fs); the equations are those of `NVE`.

    Parameters
    ----------
    model
        Wrapped model that gives forces.
    n_steps
        Number of steps of `run`.
    dt
        Time step in internal time.
    hooks, convergence_hook, **kwargs
        As in `BaseDynamics`.

    Raises
    ------
    InputError
        If `dt` is not positive and finite.
    """

    warns_of_start = False  # a tutorial starts at rest

    def __init__(
        self,
        model: Any,
        n_steps: int,
        dt: float | Tensor = 1.0,
        hooks: Any = None,
        convergence_hook: Any = None,
        **kwargs: Any,
    ) -> None:
        check_positive(dt, "dt", "internal time")
        super().__init__(model, internal_time_to_fs(dt), n_steps, hooks, convergence_hook, **kwargs)
