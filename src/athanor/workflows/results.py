"""What a finished run hands back: structures, energies, reasons, the table, and where the frames are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from athanor.units import GPa, g_per_cm3
from athanor.workflows.columns import cell_columns, count_outcomes, data_frame, outcome_columns
from athanor.workflows.earlier_runs import progress_of
from athanor.workflows.folder import NOT_STARTED
from athanor.workflows.methods import KINDS
from athanor.workflows.properties import computed_properties, property_columns
from athanor.workflows.spec import RunSpec
from athanor.workflows.stages import MDSpec
from athanor.workflows.structures import System
from athanor.workflows.track import AVERAGED, SystemRecord, Tracker

if TYPE_CHECKING:
    from ase import Atoms

    from athanor.data.batch import Batch
    from athanor.workflows.plan import Plan


@dataclass(slots=True)
class RunResult:
    """What `relax`, `md` and jobs return; every list is in input order.

    Attributes
    ----------
    structures
        ASE atoms as the run left them, with energy, forces and stress where the model gave them, and with what stood in
        `info` and `arrays` of the input where the run says nothing itself.
    energies
        Potential energy of each of `structures`, eV; NaN where there is none.
    reasons
        Why each system stopped: ``"converged"``, ``"step limit"``, ``"done"`` (dynamics), ``"stopped: ..."`` (above a
        bound of `stop_above`), ``"failed: ..."``, ``"interrupted"`` or ``"not started"``. In `rows`
        this is two columns, see `outcome_columns`.
    steps
        Steps taken by each system.
    rows
        The table, one dictionary for each system; the same as ``summary.json``.
    folder
        Results folder, or None.
    frames
        Trajectory store, or None if nothing was kept.
    interrupted
        Whether the run was stopped before its end.
    seed
        Seed of velocities and noise, also where it was drawn; None of an evaluation.
    """

    structures: list[Atoms] = field(default_factory=list)
    energies: list[float] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    folder: Path | None = None
    frames: Path | None = None
    interrupted: bool = False
    seed: int | None = None

    @property
    def failed(self) -> list[int]:
        """Indices of the systems that were set aside."""
        return [index for index, reason in enumerate(self.reasons) if reason.startswith("failed")]

    @property
    def outcomes(self) -> dict[str, int]:
        """Status -> how many systems have it; failures of every reason count together."""
        return dict(Counter(outcome_columns(reason)["status"] for reason in self.reasons))

    def to_pandas(self) -> Any:
        """Return the table as a pandas DataFrame, one row for each system.

        Raises
        ------
        OptionalDependencyError
            If pandas is not installed; the text names the command that installs it.
        """
        return data_frame(self.rows)

    def __len__(self) -> int:
        return len(self.structures)

    def __repr__(self) -> str:
        folder = str(self.folder) if self.folder else None
        return f"RunResult({count_outcomes(self.outcomes)}; folder={folder!r})"


def add_chunk(
    result: RunResult, plan: Plan[RunSpec], indices: Sequence[int], batch: Batch, tracker: Tracker, error: str = ""
) -> None:
    """Append what became of one chunk.

    Parameters
    ----------
    result
        Changed in place; systems before the chunk that were set aside are appended, too.
    plan
        The run.
    indices
        Systems of the chunk.
    batch, tracker
        They, as the run left them.
    error
        What stopped the chunk, if it was not finished.
    """
    properties = computed_properties(plan.spec.properties, plan.model)
    atoms_list = batch.to_atoms(computed=properties)
    last, steps_done = len(plan.spec.stages), tracker.steps_done(batch).tolist()
    stopped = tracker.why_stopped(batch)
    for place, (index, record) in enumerate(zip(indices, tracker.records(batch), strict=True)):
        add_not_computed(result, plan.systems[len(result) : index])
        system, atoms = plan.systems[index], atoms_list[place]
        energy = float(batch.energy[place]) if "energy" in batch else math.nan
        reason = _reason(record, batch, place, int(batch.status[place]) >= last, plan.model, tracker.notes)
        if stopped[place] and not reason.startswith("failed"):
            reason = f"stopped: {stopped[place]}"
        if error and reason == "interrupted":
            reason = f"failed: {error}"
        steps = steps_done[place]
        row = identify(system, len(result)) | {"steps": steps} | outcome_columns(reason)
        if "retries" in batch and int(batch.retries[place]):
            row["retries"] = int(batch.retries[place])
        row |= _measured(system, record, energy, atoms.cell.array)
        row |= _averaged(tracker, batch, place, plan.spec, atoms)
        row |= property_columns(batch, place, properties)
        row = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        if not math.isfinite(energy):  # of a system that failed before its first step
            atoms, energy = without_results(atoms), math.nan
        _keep_notes(atoms, system.atoms)
        _keep_open_vectors(atoms, system.atoms)
        if atoms.calc is not None:
            atoms.calc.atoms = atoms.copy()  # its results are for these atoms, with their notes and their box
        _label(atoms, system, reason, steps)
        add_system(result, row, atoms, energy, reason, steps)


def add_system(
    result: RunResult, row: dict[str, Any], atoms: Atoms, energy: float, reason: str, steps: int = 0
) -> None:
    """Append one system to every list of `result`."""
    result.rows.append(row)
    result.structures.append(atoms)
    result.energies.append(energy)
    result.reasons.append(reason)
    result.steps.append(steps)


def rows_of_not_computed(systems: Sequence[System], first: int = 0) -> list[dict[str, Any]]:
    """Return the lines of the table for systems that wait or were set aside; `first` is the index of the first one."""
    return [
        identify(system, index) | {"steps": 0} | outcome_columns(_why_not_computed(system))
        for index, system in enumerate(systems, first)
    ]


def add_not_computed(result: RunResult, systems: Sequence[System]) -> None:
    """Append systems that were set aside, or whose chunk was never reached, as they came in."""
    for system, row in zip(systems, rows_of_not_computed(systems, len(result)), strict=True):
        atoms, reason = without_results(system.atoms), _why_not_computed(system)
        _label(atoms, system, reason, 0)
        # so that a run that goes on knows who it is
        atoms.info.update({"step": 0, "time": 0.0} | progress_of(system.atoms) | {"system_id": system.id})
        add_system(result, row, atoms, math.nan, reason)


def _why_not_computed(system: System) -> str:
    return f"failed: {system.problem}" if system.problem else NOT_STARTED


def _keep_open_vectors(atoms: Atoms, given: Atoms) -> None:
    """Give back the box that a run has no place for: of what is not periodic, and open vectors that were zero."""
    if not given.pbc.any():
        atoms.set_cell(given.cell)
        return
    unset = ~given.cell.array.any(axis=1)
    if unset.any():
        atoms.set_cell(np.where(unset[:, None], 0.0, atoms.cell.array))


def _keep_notes(atoms: Atoms, given: Atoms) -> None:
    """Write on `atoms` what its user had written on it, in `info` and `arrays`, where the run says nothing itself."""
    notes = without_results(given)
    for name, value in notes.info.items():
        atoms.info.setdefault(name, value)
    for name in notes.arrays.keys() - atoms.arrays.keys() - {"momenta"}:  # a relaxation drops them
        atoms.set_array(name, notes.arrays[name])


def without_results(atoms: Atoms) -> Atoms:
    """Return a copy of a structure that was not computed: what it came with must not pass for a result of the run."""
    copy = atoms.copy()  # has no calculator
    for name in ("energy", "free_energy", "stress"):
        copy.info.pop(name, None)
    copy.arrays.pop("forces", None)
    return copy


def _reason(
    record: SystemRecord, batch: Batch, place: int, finished: bool, model: Any, notes: Mapping[int, str]
) -> str:
    if int(batch.failure_code[place]):
        from athanor.dynamics.failures import explain_failure

        where = f" ({KINDS[record.failed_in].noun})" if record.failed_in else ""
        return f"failed: {explain_failure(batch, place, model, notes=notes)}{where}"
    if not finished:
        return "interrupted"
    verdicts = [stage.converged for stage in record.stages if stage.converged is not None]
    if not verdicts:
        return "done"
    return "converged" if verdicts[-1] else "step limit"


def identify(system: System, index: int) -> dict[str, Any]:
    """Return the columns of the table that say which system it is, and when it goes on if it is from an earlier run."""
    start = progress_of(system.atoms)
    return {
        "index": index,
        "system_id": system.id,
        "system": system.name,
        "formula": system.atoms.get_chemical_formula(),
        "atoms": len(system.atoms),
        "file": system.file,
        "index_in_file": system.index,
        **({"start_time": float(start["time"])} if start else {}),
    }


def _measured(system: System, record: SystemRecord, energy: float, cell: np.ndarray) -> dict[str, Any]:
    """Energy, forces and cell for the table: as they stand or, after a relaxation, at its end."""
    row: dict[str, Any] = {}
    relaxed = [stage for stage in record.stages if stage.kind == "relax"]
    if relaxed:
        at = relaxed[-1]
        row |= {"relax_steps": at.steps, "energy": at.energy, "energy_per_atom": at.energy / len(system.atoms)}
        row |= {"fmax": at.fmax, "smax_GPa": at.smax / GPa}
        cell = np.array(at.cell)
    else:
        row |= {"energy": energy, "energy_per_atom": energy / len(system.atoms)}
    row |= cell_columns(cell, system.atoms.pbc, len(system.atoms))
    if system.reference_volume is not None:
        volume = abs(np.linalg.det(cell)) / system.repeats
        found, reference = math.cbrt(volume), math.cbrt(system.reference_volume)
        row |= {"lattice_constant": found, "reference_lattice_constant": reference}
        row |= {"reference_source": system.source, "error_percent": 100.0 * (found / reference - 1.0)}
    return row


def _averaged(tracker: Tracker, batch: Batch, place: int, spec: RunSpec, atoms: Atoms) -> dict[str, Any]:
    """Columns of what was averaged over dynamics once it had settled: means, errors, numbers of samples."""
    averages = tracker.averages(batch)
    energy, volume = AVERAGED.index("energy"), AVERAGED.index("volume")
    if not int(averages.samples[place, energy]):
        return {}
    moves_cell = bool(averages.samples[place, volume])
    after = averages.settled_after(place, [AVERAGED.index("temperature"), energy, *([volume] if moves_cell else [])])
    reached = spec.stages[: int(tracker.stage_of_step(batch)[place]) + 1]
    dt = next(stage.timestep for stage in reversed(reached) if isinstance(stage, MDSpec))
    row: dict[str, Any] = {"settled_after_fs": after * int(averages.samples[place, energy]) * tracker.stride * dt}
    mass = float(atoms.get_masses().sum()) / g_per_cm3
    columns = {"temperature": ("temperature", "", 1.0), "pressure": ("pressure", "_GPa", 1.0 / GPa),
               "energy": ("mean_energy", "", 1.0), "volume": ("mean_volume", "", 1.0),
               "inverse_volume": ("density", "_g_per_cm3", mass)}  # fmt: skip
    for quantity, (name, unit, factor) in columns.items():
        mean, error, samples = averages.mean_and_error(place, AVERAGED.index(quantity), after)
        if samples:
            row |= {f"{name}{unit}": factor * mean, f"{name}_error{unit}": factor * error}
            row[f"{name}_samples"] = samples
    if not moves_cell and atoms.pbc.all():
        row["density_g_per_cm3"] = mass / float(atoms.cell.volume)
    return row


def _label(atoms: Atoms, system: System, reason: str, steps: int) -> None:
    for progress in ("status", "stage_step"):  # numbers of the stages of this run, which mean nothing in the next
        atoms.info.pop(progress, None)
    atoms.info.update({"name": system.name, "reason": reason, "steps": steps})
    if system.file:
        atoms.info.update({"source_file": system.file, "source_index": system.index})
