"""`relax`: relax any number of structures, atoms and cell, in batches."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from athanor.workflows.methods import RELAX
from athanor.workflows.results import RunResult
from athanor.workflows.run import run_from_python


def relax(
    structures: Any,
    model: Any = None,
    *,
    optimizer: str = "fire",
    fmax: float | str = 0.05,
    smax: float | str = 0.05,
    max_steps: int = 500,
    pressure: float | str = 0.0,
    fixed_cell: bool = False,
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
    title: str = "",
    silence: Sequence[str] = (),
    progress: bool = False,
) -> RunResult:
    """Relax structures until forces and stress are small; periodic systems relax their cell as well.

    Parameters
    ----------
    structures
        ASE atoms, a path of anything ASE reads, `AtomicData`, a list of these, a `Batch`, or what a run returned. They
        are not changed.
    model
        Name of a model (see `athanor.models.available`), a mapping of its name and arguments such as ``{"name":
        "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}``, or a wrapped model. CHGNet by default, for
        crystals.
    optimizer
        fire (fast inertial relaxation engine).
    fmax
        Largest force of a relaxed structure, eV/Å.
    smax
        Largest principal value of stress plus pressure; a bare number is GPa.
    max_steps
        At most so many steps for each system; 0 evaluates the structures as they are.
    pressure
        Target pressure, compression positive; a bare number is GPa.
    fixed_cell
        Move atoms only.
    supercell
        Repeats of every cell: 2x2x1, or 2 for all axes. Or a tuple such as ``(2, 2, 1)``.
    min_atoms
        Repeat periodic cells until they hold so many atoms.
    strict
        Refuse everything if a structure can not be used; else it is set aside, with its reason, and the others run.
    properties
        Further outputs of the model to keep, such as magmoms; in frames, structures and the table.
    device
        Device: cpu, cuda, cuda:1, mps, or auto for a GPU if there is one. By default where the model is: the CPU for a
        model by name.
    dtype
        Precision: float64 or float32. Or torch's name of it.
    threads
        CPU threads; all cores by default.
    max_atoms
        Most atoms in one batch; what fits by default.
    stop_above
        Stop a system above a bound, such as max_force_deviation=0.3; outputs of the model and bounds, in their units.
    on_error
        Of what breaks down: quarantine sets it aside, retry takes smaller steps first.
    max_retries
        Most retries of a system in one stage; with `on_error: retry`.
    every
        Steps between frames and rows of the log. They are kept in `out`.
    checkpoint
        Time of the clock between checkpoints; 0: none, s; `athanor run --resume` goes on from the newest.
    time_limit
        Stop after so much time of the clock, to be resumed, s; no limit by default.
    status
        File for how the run goes: every few seconds a line of JSON; none by default.
    seed
        Kept with the results; a relaxation draws no random numbers.
    out
        Results folder; nothing is kept on disk without it.
    overwrite
        Replace the results of an earlier run in `out`.
    resume
        Go on with the run in `out`, which was stopped or killed; with the same arguments, to the same bits.
    title
        A name for the run, kept in `out`.
    silence
        non-periodic, elements, model, velocities, start, small-cell, time-step, disk, friction, coupling. The text of a
        warning names its topic.
    progress
        Show how far it is, on stderr.

    Returns
    -------
    RunResult
        Structures, energies, stop reasons and the place of the frames, in input order. A structure that fails is
        reported there and never stops the others.

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
    >>> result = athanor.relax(bulk("Ar", "fcc", a=5.5), model=argon)
    >>> result.reasons
    ['converged']
    """
    return run_from_python(RELAX, locals())
