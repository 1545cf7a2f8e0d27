"""What became of the systems of a run, as they leave it in whatever order: rows of the table, and last states."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from athanor.data.batch import Batch
from athanor.units import GPa, g_per_cm3
from athanor.workflows.columns import cell_columns, outcome_columns
from athanor.workflows.methods import KINDS
from athanor.workflows.plan import Plan
from athanor.workflows.properties import computed_properties, property_columns
from athanor.workflows.results import (
    RunResult,
    add_not_computed,
    add_system,
    identify,
    label,
    rows_of_not_computed,
    without_results,
)
from athanor.workflows.spec import RunSpec
from athanor.workflows.stages import MDSpec
from athanor.workflows.structures import System
from athanor.workflows.track import AVERAGED, SystemRecord, Tracker

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, slots=True)
class _Outcome:
    """One system: its row, why it stopped, its steps, and where its last state is: which frames, and where in them."""

    row: dict[str, Any]
    reason: str
    steps: int
    frames: int
    place: int


class Outcomes:
    """What became of each system that has left the run so far.

    Parameters
    ----------
    plan
        The run.
    """

    def __init__(self, plan: Plan[RunSpec]) -> None:
        self._plan = plan
        self._index = {plan.systems[index].id: index for index in plan.usable}
        self._frames: list[Batch] = []
        self._of: dict[int, _Outcome] = {}
        self._again: set[int] = set()

    def __len__(self) -> int:
        return len(self._of) - len(self._again)

    @property
    def steps(self) -> int:
        """Steps that they took together."""
        return sum(found.steps for index, found in self._of.items() if index not in self._again)

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return sum(found.row["status"] == "failed" for found in self._of.values())

    @property
    def last_failure(self) -> tuple[str, str] | None:
        """Name and reason of the one that failed last; None if none did."""
        last = next((found.row for found in reversed(self._of.values()) if found.row["status"] == "failed"), None)
        return None if last is None else (last["system"], last["reason"])

    def steps_of_waiting(self, batch: Batch) -> list[int]:
        """Return the steps of each system that is in the run again, and waits until there is room in the batch."""
        there = {self._index[one] for one in batch.system_id.reshape(-1).tolist()} if self._again else set()
        return [self._of[index].steps for index in self._again - there]

    def reopen(self, ids: Iterable[int]) -> None:
        """Note that systems which have left are in the run again: until they leave it, they were interrupted."""
        for index in (self._index[one] for one in ids):
            found = self._of[index]
            row = found.row | outcome_columns("interrupted")
            self._of[index] = replace(found, row=row, reason="interrupted")
            self._again.add(index)

    def add(self, batch: Batch, tracker: Tracker, error: str = "") -> None:
        """Take up what became of systems that leave; one that is known already keeps what was said of it.

        Parameters
        ----------
        batch
            They, as the run left them. Kept, without what rides on it.
        tracker
            Followed them.
        error
            What stopped those that are not finished; without it they were interrupted.
        """
        plan = self._plan
        self._frames.append(batch.without_pairs())  # first: whoever is interrupted here comes back
        properties = computed_properties(plan.spec.properties, plan.model)
        atoms_list = batch.to_atoms(computed=properties)
        last, steps_done = len(plan.spec.stages), tracker.steps_done(batch).tolist()
        stopped = tracker.why_stopped(batch)
        for place, (one, record) in enumerate(
            zip(batch.system_id.reshape(-1).tolist(), tracker.records(batch), strict=True)
        ):
            index = self._index[one]
            if index in self._of and index not in self._again:
                continue
            self._of.pop(index, None)  # who failed last is the last one
            self._again.discard(index)
            reason = _reason(record, batch, place, int(batch.status[place]) >= last, plan.model, tracker.notes)
            if stopped[place] and not reason.startswith("failed"):
                reason = f"stopped: {stopped[place]}"
            if error and reason == "interrupted":
                reason = f"failed: {error}"
            system, steps = plan.systems[index], steps_done[place]
            row = identify(system, index) | {"steps": steps} | outcome_columns(reason)
            if "retries" in batch and int(batch.retries[place]):
                row["retries"] = int(batch.retries[place])
            row |= _measured(system, record, _energy(batch, place), atoms_list[place].cell.array)
            row |= _averaged(tracker, batch, place, plan.spec, atoms_list[place])
            row |= property_columns(batch, place, properties)
            row = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
            self._of[index] = _Outcome(row, reason, steps, len(self._frames) - 1, place)

    def rows(self) -> list[dict[str, Any]]:
        """Return the table as it stands, one row for each system of the run, in input order."""
        systems = self._plan.systems
        return [
            self._of[index].row if index in self._of else rows_of_not_computed([system], index)[0]
            for index, system in enumerate(systems)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return what became of whom, for a checkpoint."""
        self._join_frames()
        table = {index: astuple(found) for index, found in self._of.items()}
        text = json.dumps(table).encode()  # names of files need not be text
        return {
            "frames": [frames.state_dict() for frames in self._frames],
            "table": torch.frombuffer(bytearray(text), dtype=torch.uint8),
            "again": sorted(self._again),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what became of whom before."""
        self._frames = [Batch.from_state_dict(frames) for frames in state["frames"]]
        table = json.loads(bytes(state["table"].numpy()))
        self._of = {int(index): _Outcome(*found) for index, found in table.items()}
        self._again = set(state["again"])

    def _join_frames(self) -> None:
        """Put last states that have the same fields into one batch: many leave one by one, and some a second time."""
        self._drop_older_frames()
        joined: list[Batch] = []
        moved: list[tuple[int, int]] = []
        for frames in self._frames:
            if joined and joined[-1].keys == frames.keys:
                moved.append((len(joined) - 1, len(joined[-1])))
                joined[-1].append(frames)
            else:
                moved.append((len(joined), 0))
                joined.append(frames)
        self._frames = joined
        for index, found in self._of.items():
            number, first = moved[found.frames]
            self._of[index] = replace(found, frames=number, place=first + found.place)

    def _drop_older_frames(self) -> None:
        """Drop states of systems that left once more since."""
        if sum(map(len, self._frames)) == len(self._of):
            return
        newest: dict[int, list[int]] = {}
        for index, found in sorted(self._of.items(), key=lambda one: one[1].frames):
            places = newest.setdefault(found.frames, [])
            self._of[index] = replace(found, frames=len(newest) - 1, place=len(places))
            places.append(found.place)
        self._frames = [self._frames[number].index_select(places) for number, places in newest.items()]

    def fill(self, result: RunResult) -> None:
        """Append every system to the lists of `result`, in input order."""
        plan = self._plan
        properties = computed_properties(plan.spec.properties, plan.model)
        atoms_of = [frames.to_atoms(computed=properties) for frames in self._frames]
        for index, system in enumerate(plan.systems):
            found = self._of.get(index)
            if found is None:
                add_not_computed(result, [system])
                continue
            atoms, energy = atoms_of[found.frames][found.place], _energy(self._frames[found.frames], found.place)
            if not math.isfinite(energy):  # of a system that failed before its first step
                atoms, energy = without_results(atoms), math.nan
            _keep_notes(atoms, system.atoms)
            _keep_open_vectors(atoms, system.atoms)
            if atoms.calc is not None:
                atoms.calc.atoms = atoms.copy()  # its results are for these atoms, with their notes and their box
            label(atoms, system, found.reason, found.steps)
            add_system(result, found.row, atoms, energy, found.reason, found.steps)


def _energy(batch: Batch, place: int) -> float:
    return float(batch.energy[place]) if "energy" in batch else math.nan


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
