"""The one way a run happens, whoever asks for it: chunks of systems, each through all stages in one batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from athanor.errors import InputError
from athanor.workflows import build
from athanor.workflows.chunks import default_max_atoms, split_into_chunks
from athanor.workflows.output import FINAL, LOG, TRAJECTORY, check_output, create_output, write_summary
from athanor.workflows.progress import Progress, ProgressHook, StopFlag, stop_between_steps
from athanor.workflows.record import RunRecord
from athanor.workflows.results import RunResult, add_chunk, add_not_started, not_started_rows
from athanor.workflows.spec import RunSpec
from athanor.workflows.structures import System
from athanor.workflows.track import Tracker

_SECONDS_BETWEEN_SUMMARIES = 5.0


def run(
    spec: RunSpec,
    systems: Sequence[System],
    *,
    model: Any = None,
    overwrite: bool = False,
    progress: bool = False,
    command: str = "",
) -> RunResult:
    """Run `systems` as `spec` says and return what became of them.

    Everything that can be wrong with the description is found before the first step. The physics of one system never
    stops the others. Ctrl-C (in the main thread) stops between two steps and what is done is written;
    ``result.interrupted`` is then set.

    Parameters
    ----------
    spec
        What to do; `spec.output` is the results folder, or None to keep nothing on disk.
    systems
        What to do it with, in order.
    model
        A wrapped model object instead of `spec.model`.
    overwrite
        Replace the results of an earlier run.
    progress
        Show how far it is, on stderr.
    command
        What to put on record as the origin of the run.

    Raises
    ------
    InputError
        If the description, a structure or the place for results is not usable.
    StorageError
        If results can not be written.
    """
    if not systems:
        raise InputError("There is no structure to run.")
    if spec.output is not None:
        check_output(spec.output, overwrite=overwrite)
    if spec.threads is not None:
        from athanor._runtime import set_num_threads

        set_num_threads(spec.threads)
    if model is None:
        chosen = build.choose_model(spec, systems)
        spec = spec.model_copy(update={"model": chosen})
        model = build.build_model(chosen)
    name = spec.model.name if spec.model is not None else ""
    if spec.max_atoms is None:
        spec = spec.model_copy(update={"max_atoms": default_max_atoms(name)})
    chunks = split_into_chunks([len(system.atoms) for system in systems], spec.max_atoms or 1)
    return _Run(spec, systems, model, chunks, overwrite, progress, command).go()


class _Run:
    """One run in progress: owns the results, the sink and the record."""

    def __init__(
        self,
        spec: RunSpec,
        systems: Sequence[System],
        model: Any,
        chunks: list[list[int]],
        overwrite: bool,
        progress: bool,
        command: str,
    ) -> None:
        self.spec, self.systems, self.model, self.chunks = spec, systems, model, chunks
        self.progress = Progress(shown=progress, chunks=len(chunks), steps=spec.total_steps)
        self.result = RunResult()
        self.sink: Any = None
        # converted before anything is written, so that a bad structure leaves no folder behind
        self._data = build.to_data(systems, spec.dtype)
        self.record: RunRecord | None = None
        if spec.output is not None:
            folder = create_output(Path(spec.output), overwrite=overwrite)
            self.result.folder, self.result.frames = folder, folder / TRAJECTORY
            self.record = RunRecord(folder, spec, systems, model, command)
        self._write_summary()

    def go(self) -> RunResult:
        """Run every chunk; write results whatever happens."""
        self._announce()
        state = "failed"
        try:
            with ExitStack() as stack:
                flag = stack.enter_context(stop_between_steps())
                stack.enter_context(self.progress)
                if self.result.frames is not None:
                    from athanor.sinks import ZarrData

                    self.sink = ZarrData(self.result.frames)
                for number, indices in enumerate(self.chunks):
                    if not self._run_chunk(number, indices, flag):
                        break
            state = "interrupted" if self.result.interrupted else "finished"
        finally:
            self._write(state)
        return self.result

    def _run_chunk(self, number: int, indices: list[int], flag: StopFlag) -> bool:
        """Run one chunk; return whether to go on."""
        from athanor.dynamics import FusedStage

        spec = self.spec
        batch = build.build_batch(self._data, indices)
        build.start_velocities(spec, batch)
        engines = build.build_engines(spec, self.model, batch)
        tracker = Tracker(spec.stages, engines, batch)
        self.progress.next_chunk(number)
        fused = FusedStage(list(enumerate(engines)))
        for hook in (*build.build_neighbor_hooks(self.model), tracker, *self._writers(tracker)):
            fused.register_hook(hook)
        fused.register_hook(ProgressHook(self.progress, flag, lambda: _describe(spec, tracker)))
        try:
            fused.run(batch)
        except KeyboardInterrupt:
            self.result.interrupted = True
        add_chunk(self.result, spec, [self.systems[index] for index in indices], batch, tracker)
        if time.monotonic() - self._summary_written > _SECONDS_BETWEEN_SUMMARIES:
            self._write_summary()
        return not (self.result.interrupted or flag.is_set)

    def _writers(self, tracker: Tracker) -> list[Any]:
        """Hooks that keep frames and scalars, every so many steps."""
        if self.result.folder is None:
            return []
        import torch

        from athanor.dynamics.hooks import LoggingHook, SnapshotHook

        every, log = self.spec.every, self.result.folder / LOG
        stage = {"stage": lambda ctx: torch.from_numpy(tracker.stage_of_step)}
        return [SnapshotHook(self.sink, every), LoggingHook("csv", every, log, custom_scalars=stage)]

    def _write_summary(self) -> None:
        """Write the table as it stands: a run that is killed then still tells its systems, and which are done."""
        if self.result.folder is not None:
            done = len(self.result)
            write_summary(self.result.folder, self.result.rows + not_started_rows(self.systems[done:], done))
        self._summary_written = time.monotonic()

    def _announce(self) -> None:
        atoms = sum(len(system.atoms) for system in self.systems)
        parts = [_count(len(self.systems), "system"), _count(atoms, "atom")]
        if len(self.chunks) > 1:
            parts.append(f"{len(self.chunks)} batches of at most {self.spec.max_atoms} atoms")
        else:
            parts.append("one batch")
        name = self.model.model_card.name or type(self.model).__name__
        self.progress.say(f"{', '.join(parts)}; {name}; {_plan(self.spec)}")

    def _write(self, state: str) -> None:
        """Complete the lists for systems that were not reached, and write the folder."""
        add_not_started(self.result, self.systems[len(self.result) :])
        frames = 0
        if self.sink is not None:
            self.sink.close()
            frames = len(self.sink)
        if self.result.folder is None or self.record is None:
            return
        from athanor.io.structures import write_structures

        write_structures(self.result.folder / FINAL, self.result.structures)
        self._write_summary()
        self.record.finish(state, self.result.outcomes, frames)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _plan(spec: RunSpec) -> str:
    words = []
    for stage in spec.stages:
        if stage.kind == "relax":
            words.append(f"relaxation, at most {stage.steps} steps")
        else:
            at = f" at {stage.temperature:g} K" if stage.ensemble == "nvt" else ""
            words.append(f"{stage.ensemble.upper()}{at}, {stage.steps} steps")
    return ", then ".join(words)


def _describe(spec: RunSpec, tracker: Tracker) -> str:
    words = {"relax": "relaxing", "md": "in MD"}
    parts = [
        f"{count} {words[stage.kind]}" for stage, count in zip(spec.stages, tracker.in_stage, strict=True) if count
    ]
    done = len(tracker.records) - tracker.active
    return ", ".join(parts + ([f"{done} done"] if done else []))
