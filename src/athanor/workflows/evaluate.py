"""`evaluate`: energies, forces and stress of any number of structures as they are, in batches."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from athanor._runtime import using_num_threads
from athanor.data import observables
from athanor.data.batch import Batch
from athanor.data.convert.ase import place_of
from athanor.dynamics.engine import BaseDynamics
from athanor.dynamics.failures import explain_failure
from athanor.errors import AthanorWarning, InputError
from athanor.io.structures import write_structures
from athanor.units import GPa
from athanor.workflows.advice import advise
from athanor.workflows.build import build_neighbor_hooks
from athanor.workflows.columns import cell_columns, outcome_columns
from athanor.workflows.output import check_place
from athanor.workflows.plan import Plan, make_plan, spec_of_call
from athanor.workflows.progress import Progress, stop_between_steps
from athanor.workflows.properties import computed_properties, property_columns
from athanor.workflows.results import RunResult, add_not_computed, add_system, identify, without_results
from athanor.workflows.spec import CalculationSpec
from athanor.workflows.structures import System, from_python

_ENDINGS = (".extxyz", ".xyz")


def evaluate(
    structures: Any,
    model: Any = None,
    *,
    supercell: str | int | Sequence[int] = 1,
    min_atoms: int = 1,
    strict: bool = False,
    properties: Sequence[str] = (),
    device: str | None = None,
    dtype: str | torch.dtype = "float64",
    threads: int | None = None,
    max_atoms: int | None = None,
    silence: Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> RunResult:
    """Compute energy, forces and, in a cell, stress of every structure; nothing moves.

    Parameters
    ----------
    structures, model, supercell, min_atoms, strict, properties, device, dtype, threads, max_atoms, silence, progress
        As in `athanor.relax`.
    out
        File for the structures with their results, extended XYZ; nothing is written without it.
    overwrite
        Replace `out`.

    Returns
    -------
    RunResult
        In input order: copies of the structures, whose calculators hold the results; `energies`; `rows` with energy
        (eV), energy per atom, fmax (eV/Å), pressure (GPa) and volume (Å³). The reason is ``"done"``, or says why a
        structure was set aside; those never stop the others.

    Raises
    ------
    InputError
        If an argument is not usable, or no structure is; nothing was computed then.
    OptionalDependencyError
        If a package of the model is not installed.
    StorageError
        If `out` can not be written.
    KeyboardInterrupt
        If it was interrupted; what was done stands in `out`.

    Warns
    -----
    AthanorWarning
        For what can be computed but is probably not meant.

    Examples
    --------
    >>> import athanor
    >>> from ase.build import bulk
    >>> argon = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
    >>> result = athanor.evaluate([bulk("Ar", "fcc", a=a) for a in (5.2, 5.3)], model=argon)
    >>> [f"{row['energy_per_atom']:.4f}" for row in result.rows]
    ['-0.0837', '-0.0841']
    """
    spec, model = spec_of_call(CalculationSpec, locals())
    with using_num_threads(spec.threads):
        result = evaluate_systems(spec, from_python(structures), model=model, overwrite=overwrite, progress=progress)
    if result.interrupted:
        raise KeyboardInterrupt
    return result


def evaluate_systems(
    spec: CalculationSpec,
    systems: Sequence[System],
    *,
    model: Any = None,
    overwrite: bool = False,
    progress: bool = False,
) -> RunResult:
    """Evaluate `systems` as `spec` says; `spec.output` is a file, or None to write nothing.

    Ctrl-C (in the main thread) stops between two batches; ``result.interrupted`` is then set.

    Raises
    ------
    InputError, StorageError
        As `evaluate`.
    """
    if spec.output is not None:
        check_file(spec.output, overwrite=overwrite, inputs={system.file for system in systems})
    plan = make_plan(spec, systems, model=model)
    for advice in advise(plan.spec, plan.systems, plan.model):
        warnings.warn(AthanorWarning(advice.text, advice.topic), stacklevel=3)
    result = RunResult()
    with (
        stop_between_steps() as flag,
        Progress(shown=progress, steps=len(plan.systems), noun="structures") as shown,
    ):
        shown.say(plan.in_words())
        for indices in plan.chunks:
            try:
                _evaluate_chunk(result, plan, indices)
            except KeyboardInterrupt:  # the second Ctrl-C, in the middle of a batch
                result.interrupted = True
                break
            shown.update(len(result), f"{len(result)} evaluated")
            if flag.is_set and len(result) < len(plan.systems):
                result.interrupted = True
                break
        flag.is_writing = True
        plan.check_some_left()
        add_not_computed(result, plan.systems[len(result) :])
        if spec.output is not None:
            write_structures(spec.output, result.structures)
    return result


def check_file(path: str | os.PathLike[str], *, overwrite: bool, inputs: Iterable[str] = ()) -> Path:
    """Return `path` if structures may be written there; changes nothing.

    Raises
    ------
    InputError
        If it exists and `overwrite` is off, is a folder or one of the `inputs`, lies in a folder that does not exist,
        has another ending, or can not be a name.
    """
    file = Path(path)
    if file.suffix not in _ENDINGS and not file.is_dir():
        raise InputError(f"`{file}` is written as extended XYZ; end its name with .extxyz or .xyz.")
    check_place(file, overwrite=overwrite, example="evaluated.extxyz")
    if file.exists() and any(Path(name).is_file() and file.samefile(name) for name in inputs):
        raise InputError(
            f"`{file}` is read by this evaluation, which would replace it; it was left as it is. "
            f"Choose another name for the results."
        )
    return file


def _evaluate_chunk(result: RunResult, plan: Plan[Any], indices: Sequence[int]) -> None:
    """Evaluate one batch and append what came out; if the model can not do it at all, its halves, or set it aside."""
    batch = plan.batch(indices)
    try:
        notes = _evaluate_batch(plan.model, batch, plan.spec.properties)
    except Exception as error:
        for half in plan.parts_after(error, indices):
            _evaluate_chunk(result, plan, half)
    else:
        _add(result, plan, indices, batch, notes)


def _evaluate_batch(model: Any, batch: Batch, properties: Sequence[str]) -> Mapping[int, str]:
    """One forward pass with the checks of a run, in place: a system that fails gets its `failure_code`.

    Returns what the model said of systems for which it raised.
    """
    wanted = {"energy", "forces", *properties} | ({"stress"} if bool(batch.has_cell.any()) else set())
    engine = BaseDynamics(model, n_steps=0)
    engine.__needs_keys__ = frozenset(wanted & model.model_config.outputs)
    for hook in build_neighbor_hooks(model):
        engine.register_hook(hook)
    engine.run(batch)
    return engine.failure_notes


def _add(result: RunResult, plan: Plan[Any], indices: Sequence[int], batch: Batch, notes: Mapping[int, str]) -> None:
    """Append what came out for one batch."""
    from ase.calculators.singlepoint import SinglePointCalculator

    fmax = observables.fmax(batch).tolist() if "forces" in batch else None
    pressure = (observables.pressure(batch, kinetic=False) / GPa).tolist() if "stress" in batch else None
    properties = computed_properties(plan.spec.properties, plan.model)
    for place, (index, computed) in enumerate(zip(indices, batch.to_atoms(properties), strict=True)):
        add_not_computed(result, plan.systems[len(result) : index])
        system, code = plan.systems[index], int(batch.failure_code[place])
        reason = f"failed: {explain_failure(batch, place, plan.model, notes=notes)}" if code else "done"
        atoms = without_results(system.atoms) if code else system.atoms.copy()
        energy = math.nan if code else float(batch.energy[place])
        if system.file:  # so that its results, in a file of another name, are known by it
            atoms.info.setdefault("name", system.name)
        row: dict[str, Any] = identify(system, index) | outcome_columns(reason)
        if not code:
            atoms.calc = SinglePointCalculator(atoms, **computed.calc.results)
            row |= {"energy": energy, "energy_per_atom": energy / len(atoms)}
            row |= {"fmax": fmax[place]} if fmax is not None else {}
            row |= property_columns(batch, place, properties)
            for name in map(place_of, properties):
                atoms.info.update({name: computed.info[name]} if name in computed.info else {})
                atoms.arrays.update({name: computed.arrays[name]} if name in computed.arrays else {})
        row |= cell_columns(atoms.cell.array, atoms.pbc, len(atoms))
        if pressure is not None and bool(batch.has_cell[place]) and not code:
            row["pressure_GPa"] = pressure[place]
        add_system(result, row, atoms, energy, reason)
