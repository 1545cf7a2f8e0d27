"""What a finished run hands back: structures, energies, reasons, the table, and where the frames are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor.workflows.columns import count_outcomes, data_frame, outcome_columns
from athanor.workflows.earlier_runs import progress_of
from athanor.workflows.folder import NOT_STARTED
from athanor.workflows.structures import System

if TYPE_CHECKING:
    from ase import Atoms


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
    stopped_by
        What stopped it: a signal, or the time limit.
    checkpoint
        Folder of the checkpoints from which a run that did not come to its end can go on.
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
    stopped_by: str = ""
    checkpoint: Path | None = None
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
    """Append systems that were set aside, or never started, as they came in."""
    for system, row in zip(systems, rows_of_not_computed(systems, len(result)), strict=True):
        atoms, reason = without_results(system.atoms), _why_not_computed(system)
        label(atoms, system, reason, 0)
        # so that a run that goes on knows who it is
        atoms.info.update({"step": 0, "time": 0.0} | progress_of(system.atoms) | {"system_id": system.id})
        add_system(result, row, atoms, math.nan, reason)


def _why_not_computed(system: System) -> str:
    return f"failed: {system.problem}" if system.problem else NOT_STARTED


def without_results(atoms: Atoms) -> Atoms:
    """Return a copy of a structure that was not computed: what it came with must not pass for a result of the run."""
    copy = atoms.copy()  # has no calculator
    for name in ("energy", "free_energy", "stress"):
        copy.info.pop(name, None)
    copy.arrays.pop("forces", None)
    return copy


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


def label(atoms: Atoms, system: System, reason: str, steps: int) -> None:
    """Write on a structure which system it is, and why it stopped."""
    for progress in ("status", "stage_step"):  # numbers of the stages of this run, which mean nothing in the next
        atoms.info.pop(progress, None)
    atoms.info.update({"name": system.name, "reason": reason, "steps": steps})
    if system.file:
        atoms.info.update({"source_file": system.file, "source_index": system.index})
