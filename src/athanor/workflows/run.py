"""The one way a run happens, whoever asks for it: chunks of systems, each through all stages in one batch."""

from __future__ import annotations

import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor._runtime import using_num_threads
from athanor.data import observables
from athanor.dynamics.evaluate import is_of_model
from athanor.errors import AthanorWarning, StorageError, in_words
from athanor.workflows import build
from athanor.workflows.advice import Advice, advise
from athanor.workflows.checksums import write_checksums
from athanor.workflows.folder import CHECKSUMS, FINAL, LOG, RUN, SUMMARY_CSV, SUMMARY_JSON, TRAJECTORY
from athanor.workflows.methods import StageKind, all_settings, stage_of
from athanor.workflows.output import check_inputs_outside, check_output, create_output, write_summary
from athanor.workflows.plan import Plan, make_plan, spec_of_call
from athanor.workflows.progress import Progress, ProgressHook, StopFlag, StopRequested, stop_between_steps
from athanor.workflows.properties import complete_properties, logged_properties
from athanor.workflows.record import RunRecord
from athanor.workflows.reserve import Reserve
from athanor.workflows.results import RunResult, add_chunk, add_not_computed, rows_of_not_computed
from athanor.workflows.saved_log import VOIGT
from athanor.workflows.settings import SEED
from athanor.workflows.spec import RunSpec
from athanor.workflows.stages import MDSpec, describe_stages
from athanor.workflows.structures import System, from_python
from athanor.workflows.track import StoppedFramesHook, Tracker

if TYPE_CHECKING:
    import torch

    from athanor.data.batch import Batch
    from athanor.sinks.base import DataSink

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

    Everything that can be wrong with the description is found before the first step. One system that can not be used,
    or whose physics breaks down, never stops the others. Ctrl-C (in the main thread) stops between two steps and what
    is done is written; ``result.interrupted`` is then set.

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
        If the description or the place for results is not usable, or no structure is; with `spec.strict`, if one of
        the structures is not.
    StorageError
        If results can not be written.

    Warns
    -----
    AthanorWarning
        For what will run but is probably not meant, see `athanor.workflows.advice`.
    """
    if spec.output is not None:
        check_output(spec.output, overwrite=overwrite)
        check_inputs_outside(Path(spec.output), [system.file for system in systems])
    plan = make_plan(spec, systems, model=model)
    advice = advise(plan.spec, plan.systems, plan.model)
    for found in advice:
        warnings.warn(AthanorWarning(found.text, found.topic), stacklevel=4)
    return _Run(plan, advice, overwrite, progress, command).go()


def run_from_python(kind: StageKind, arguments: dict[str, Any]) -> RunResult:
    """Run one stage, as the arguments of a Python call say.

    Parameters
    ----------
    kind
        Of the stage.
    arguments
        What `athanor.relax` or `athanor.md` was called with, by name.

    Raises
    ------
    InputError
        As `run`.
    KeyboardInterrupt
        If it was interrupted; what was done stands in the results folder.
    """
    defaults = {setting.as_argument: setting.python_default for setting in all_settings(kind).values()}
    given = {key: arguments[key] for key in defaults.keys() & arguments.keys()}
    given = {key: value for key, value in given.items() if value is not None or defaults[key] is not None}
    spec, model = spec_of_call(RunSpec, arguments, stages=[{kind.name: stage_of(kind, given)}])
    with using_num_threads(spec.threads):
        result = run(
            spec,
            from_python(arguments["structures"]),
            model=model,
            overwrite=arguments["overwrite"],
            progress=arguments["progress"],
            command=f"athanor.{kind.name}(...)",
        )
    if result.interrupted:
        raise KeyboardInterrupt
    return result


class _Run:
    """One run in progress: owns the results, the sink and the record."""

    def __init__(
        self, plan: Plan[RunSpec], advice: list[Advice], overwrite: bool, progress: bool, command: str
    ) -> None:
        self.plan, self.spec, self.systems = plan, plan.spec, plan.systems
        self.progress = Progress(shown=progress, chunks=len(plan.chunks), steps=self.spec.total_steps)
        self.result = RunResult(seed=self.spec.seed)
        self.sink: Any = None
        self.record: RunRecord | None = None
        self._log: Any = None
        self._trouble: StorageError | None = None
        self._missing: list[str] = []
        self._frames_in_words = "it holds no frame"
        self._overwrite, self._command, self._advice = overwrite, command, advice

    def go(self) -> RunResult:
        """Run every chunk; write results whatever happens."""
        state = "failed"
        with stop_between_steps() as flag:
            self._make_folder()
            self.progress.say(f"{self.plan.in_words()}; {describe_stages(self.spec.stages)}{_seed_in_words(self.spec)}")
            try:
                with self.progress:
                    self._run_chunks(flag)
                state = "interrupted" if self.result.interrupted else "finished"
            except KeyboardInterrupt:  # while a batch was made ready
                self.result.interrupted, state = True, "interrupted"
            finally:
                flag.is_writing = True
                self._write(state)
        if self._trouble is not None:
            cause, without = str(self._trouble).partition(". ")[0].rstrip("."), ", ".join(self._missing)
            raise StorageError(
                f"{cause}. The run stopped; what was done is in `{self.result.folder}`"
                f"{f', without {without}' if without else ''}; {self._frames_in_words}. "
                f"Make room, or mend what is wrong, before you go on from there."
            ) from self._trouble
        return self.result

    def _make_folder(self) -> None:
        if self.spec.output is not None:
            folder = create_output(Path(self.spec.output), overwrite=self._overwrite)
            self.result.folder, self.result.frames = folder, folder / TRAJECTORY
            self.record = RunRecord(folder, self.spec, self.systems, self.plan.model, self._command, self._advice)
            self._reserve = Reserve(folder, self.spec, self.systems)
        self._write_summary()

    def _run_chunks(self, flag: StopFlag) -> None:
        if self.result.frames is not None:
            self.sink = self._attempt(_open_sink, self.result.frames)
        waiting: deque[tuple[int, Sequence[int]]] = deque(enumerate(self.plan.chunks))
        while waiting:
            self.result.interrupted |= flag.is_set
            if self._trouble is not None or self.result.interrupted:
                break
            number, indices = waiting.popleft()
            try:
                self._run_chunk(number, indices, flag)
            except Exception as error:
                waiting.extendleft((number, part) for part in reversed(self.plan.parts_after(error, indices)))
            flag.is_writing = False
        self.plan.check_some_left()

    def _attempt(self, write: Callable[..., Any], *arguments: Any, of: str = "") -> Any:
        """Call `write`; a disk that refuses ends the run, and what else can be written still is.

        `of` says what will be missing then.
        """
        try:
            return write(*arguments)
        except StorageError as error:
            cause = error.__cause__  # what failed in the background stands behind where that was told
            self._trouble = self._trouble or (cause if isinstance(cause, StorageError) else error)
            self._missing += [of] if of else []
            return None

    def _run_chunk(self, number: int, indices: Sequence[int], flag: StopFlag) -> None:
        """Run one chunk and take up what became of it, which a second Ctrl-C must not prevent.

        What a model raises in the first step is raised; later, its systems have failed where they were.
        """
        spec, problem = self.spec, ""
        batch = self.plan.batch(indices)
        fused, tracker, engines = build.build_stages(spec, self.plan.model, batch)
        for hook in self._writers(tracker, engines):
            fused.register_hook(hook)
        self.progress.next_chunk(number)
        fused.register_hook(ProgressHook(self.progress, flag, lambda: _describe(spec, tracker)))
        try:
            try:
                self._attempt(self._go_through_stages, fused, batch)
            finally:
                flag.is_writing = True
        except StopRequested:
            self.result.interrupted = True
        except BaseException as error:  # Ctrl-C, or a model that has no memory left: what was done before is kept
            fused.undo_unfinished_step(batch)
            self.result.interrupted = isinstance(error, KeyboardInterrupt)
            problem = "" if self.result.interrupted else in_words(error)
            if problem and not fused.step_count:
                raise
            if problem and not is_of_model(error):
                tracker.look(batch)
                add_chunk(self.result, self.plan, indices, batch, tracker)
                raise
        if not problem:
            build.complete_stress(self.plan.model, batch)
            complete_properties(self.plan.model, batch, spec.properties)
        tracker.look(batch)  # at systems that failed, and at a step that was cut short before it was looked at
        add_chunk(self.result, self.plan, indices, batch, tracker, problem)
        if time.monotonic() - self._summary_written > _SECONDS_BETWEEN_SUMMARIES:
            self._attempt(self._write_summary)

    def _go_through_stages(self, fused: Any, batch: Batch) -> None:
        """Run to the end of the last stage; a run of no steps evaluates, and its systems are at the end at once."""
        if self.spec.total_steps:
            fused.run(batch)
        else:
            fused.run(batch, 0)
            batch.status.fill_(fused.exit_status)

    def _writers(self, tracker: Tracker, engines: list[Any]) -> list[Any]:
        """Hooks that keep frames and scalars, every so many steps."""
        if self.result.folder is None:
            return []
        from athanor.dynamics.hooks import LoggingHook, SnapshotHook

        every, log = self.spec.every, self.result.folder / LOG
        columns: dict[str, Any] = {"stage": lambda ctx: tracker.stage_of_step(ctx.batch)}
        if any(isinstance(stage, MDSpec) for stage in self.spec.stages):
            columns["density"] = lambda ctx: observables.density(ctx.batch)
        if any(isinstance(stage, MDSpec) and stage.stress for stage in self.spec.stages):
            columns |= {f"stress_{name}": partial(_stress, index) for index, name in enumerate(VOIGT)}
        if any(isinstance(stage, MDSpec) for stage in self.spec.stages):
            columns["conserved"] = lambda ctx: _conserved(self.spec, engines, tracker, ctx.batch)
        columns |= {name: partial(_scalar, name) for name in logged_properties(self.spec.properties, self.plan.model)}
        frames = SnapshotHook(self.sink, every, finished="once")
        self._log = LoggingHook("csv", every, log, custom_scalars=columns, finished="once")
        stopped = [] if tracker.stopper is None else [StoppedFramesHook(self.sink, tracker.stopper)]
        return [frames, self._log, *stopped]

    def _write_summary(self) -> None:
        """Write the table as it stands: a run that is killed then still tells its systems, and which are done."""
        if self.result.folder is not None:
            done = len(self.result)
            write_summary(self.result.folder, self.result.rows + rows_of_not_computed(self.systems[done:], done))
        self._summary_written = time.monotonic()

    def _write(self, state: str) -> None:
        """Complete the lists for systems that were not reached, and write the folder: what matters most comes first."""
        add_not_computed(self.result, self.systems[len(self.result) :])
        folder = self.result.folder
        if folder is None or self.record is None:
            return
        from athanor.io.structures import write_structures

        self._reserve.give_back_for_results()
        self._attempt(write_structures, folder / FINAL, self.result.structures, of=f"`{FINAL}`")
        self._attempt(self._write_summary, of=f"`{SUMMARY_CSV}` and `{SUMMARY_JSON}` as they are now")
        if self._log is not None:
            self._attempt(self._log.close, of=f"the last rows of `{LOG}`")
        frames = self._close_sink()
        self._reserve.give_back()
        self._attempt(write_checksums, folder, of=f"`{CHECKSUMS}`")
        ended = state if self._trouble is None else "failed"
        self._attempt(self.record.finish, ended, self.result.outcomes, frames, of=f"the end in `{RUN}`")

    def _close_sink(self) -> int:
        """Write the frames that wait, and return how many are safe."""
        if self.sink is None:
            return 0
        self._attempt(self.sink.flush)
        self._attempt(self.sink.close)
        handed_over = len(self.sink)
        self._attempt(self.sink.abandon)  # whoever keeps the error, keeps the sink
        safe = int(self.sink.acknowledged)
        self._frames_in_words = f"{safe:,} of {handed_over:,} frames are safe"
        return safe


def _open_sink(place: Path) -> DataSink:
    """Frames are stored beside the steps: a disk that is slow or syncs holds nobody up, and gets them in order."""
    from athanor.sinks import AsyncSink, ZarrData

    return AsyncSink(ZarrData(place))


def _seed_in_words(spec: RunSpec) -> str:
    """Say the seed of dynamics that is not the usual one: a run with it can be repeated."""
    draws = any(isinstance(stage, MDSpec) for stage in spec.stages)
    return f"; seed {spec.seed}" if draws and spec.seed != SEED.default else ""


def _conserved(spec: RunSpec, engines: list[Any], tracker: Tracker, batch: Batch) -> torch.Tensor:
    """Conserved quantity of each system in its stage of dynamics, eV; NaN where its method has none."""
    import torch

    values = torch.full((len(batch),), torch.nan, dtype=torch.float64, device=batch.device)
    for number, (stage, engine) in enumerate(zip(spec.stages, engines, strict=True)):
        here = tracker.stage_of_step(batch) == number
        if isinstance(stage, MDSpec) and bool(here.any()):
            conserved = engine.conserved_energy(batch)
            values = values if conserved is None else torch.where(here, conserved, values)
    return values


def _scalar(name: str, ctx: Any) -> Any:
    """An output of the model that is one number for each system; NaN where there is none."""
    return math.nan if (value := ctx.batch.get(name)) is None else value


def _stress(component: int, ctx: Any) -> torch.Tensor:
    """One component of the stress of each system, with its kinetic part, eV/Å³; NaN without a stress or a cell."""
    batch = ctx.batch
    if "stress" not in batch or "cell" not in batch:
        return batch.energy[:, 0] * float("nan")
    row, column = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))[component]
    return observables.total_stress(batch)[:, row, column]


def _describe(spec: RunSpec, tracker: Tracker) -> str:
    parts = [
        f"{count} {stage.method.kind.doing}"
        for stage, count in zip(spec.stages, tracker.in_stage, strict=True)
        if count
    ]
    return ", ".join(parts + ([f"{tracker.done} done"] if tracker.done else []))
