"""`md`: molecular dynamics of any number of structures, in batches."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from athanor.workflows.methods import MD
from athanor.workflows.results import RunResult
from athanor.workflows.run import run_from_python


def md(
    structures: Any,
    model: Any = None,
    *,
    ensemble: str = "nvt",
    temperature: float | str = 300.0,
    time: float | str | None = None,
    steps: int | None = None,
    timestep: float | str = 1.0,
    stress: bool = False,
    friction: float | str | None = None,
    pressure: float | str | None = None,
    barostat_time: float | str | None = None,
    coupling: str | None = None,
    thermostat_time: float | str | None = None,
    compressibility: float | str | None = None,
    collision_rate: float | str | None = None,
    supercell: str | int | Sequence[int] = 1,
    min_atoms: int = 1,
    strict: bool = False,
    properties: Sequence[str] = (),
    device: str | None = None,
    dtype: str | torch.dtype = "float64",
    threads: int | None = None,
    max_atoms: int | None = None,
    stop_above: Mapping[str, float | str] | None = None,
    on_error: str = "quarantine",
    max_retries: int = 3,
    every: int = 10,
    checkpoint: float | str = 60.0,
    time_limit: float | str | None = None,
    status: str | os.PathLike[str] | None = None,
    seed: int | str = 42,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    extend: float | str | None = None,
    title: str = "",
    silence: Sequence[str] = (),
    progress: bool = False,
) -> RunResult:
    """Run molecular dynamics.

    Structures without velocities start from a Maxwell-Boltzmann distribution at `temperature`; those that have momenta
    keep them.

    Parameters
    ----------
    structures, model, supercell, min_atoms, strict, properties, device, dtype, threads, max_atoms, stop_above
        As in `athanor.relax`.
    on_error, max_retries, every, checkpoint, time_limit, status, out, overwrite, resume, title, silence, progress
        As in `athanor.relax`.
    ensemble
        nvt, nve, nvt-nose-hoover, nvt-csvr, nvt-andersen, npt, npt-crescale, npt-langevin, nph, brownian.
    temperature
        Of the thermostat, and of the velocities at the start, K; 300 K to 900 K changes it evenly.
    time
        Length of the run, fs. 1 ps by default.
    steps
        Length in steps; or give `time`, such as 1 ps.
    timestep
        Length of a step, fs.
    stress
        Log the stress of dynamics too, component by component.
    friction
        Of the thermostat, 1/fs; 0.001 to 0.05 is usual. Taken by nvt, npt-langevin, brownian; 0.01 1/fs by default.
    pressure
        Target pressure, compression positive; a bare number is GPa. Taken by npt, npt-crescale, npt-langevin, nph; 0
        GPa by default.
    barostat_time
        Time constant of the barostat, fs; 500 to 2000 is usual. Taken by npt, npt-crescale, npt-langevin, nph; 1000 fs
        by default.
    coupling
        What of a cell moves: its volume, its axes, or angles too. Taken by npt, npt-crescale, npt-langevin, nph;
        isotropic by default.
    thermostat_time
        Time constant of the thermostat, fs; 50 to 200 is usual. Taken by nvt-nose-hoover, nvt-csvr, npt, npt-crescale;
        100 fs by default.
    compressibility
        Estimate; sets the pace of the barostat; a bare number is 1/GPa. Taken by npt-crescale; 0.1 1/GPa by default.
    collision_rate
        Of each atom with the bath, 1/fs. Taken by nvt-andersen; 0.005 1/fs by default.
    seed
        Seed of velocities and noise, or ``"random"`` for another one in each call, see `RunResult.seed`. A system's
        path depends on it and on its place in `structures`, not on the batch.
    extend
        With --resume: let the dynamics of the run, finished or not, be so much longer, fs; to the same bits as in one
        go; no longer by default.

    Returns
    -------
    RunResult
        As `athanor.relax`; the reason of a system that went all the way is ``"done"``.

    Raises
    ------
    InputError
        If an argument or a structure is not usable; nothing has run then.
    OptionalDependencyError
        If a package of the model is not installed.
    StorageError
        If `out` can not be written; what was done stands in it.
    KeyboardInterrupt
        If it was interrupted by a signal; what was done stands in `out`.

    Examples
    --------
    >>> import athanor
    >>> from ase.build import bulk
    >>> argon = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
    >>> crystal = bulk("Ar", "fcc", a=5.26, cubic=True) * (2, 1, 1)
    >>> athanor.md(crystal, model=argon, temperature=30, steps=20, timestep=2.0).reasons
    ['done']
    """
    return run_from_python(MD, locals())
