"""The one way a run happens, whoever asks: systems go through all stages in one batch, and make room for others."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor._runtime import using_num_threads
from athanor.dynamics import FusedStage
from athanor.dynamics.evaluate import is_of_model
from athanor.dynamics.hooks import Checkpoint, LoggingHook
from athanor.errors import AthanorWarning, InputError, StorageError, in_words
from athanor.workflows import build
from athanor.workflows.advice import Advice, advise
from athanor.workflows.checksums import write_checksums
from athanor.workflows.extension import let_go_on, made_longer, recorded_steps, with_recorded_length
from athanor.workflows.folder import CHECKPOINTS, CHECKSUMS, FINAL, LOG, RUN, SUMMARY_CSV, SUMMARY_JSON, TRAJECTORY
from athanor.workflows.methods import StageKind, all_settings, stage_of
from athanor.workflows.outcomes import Outcomes
from athanor.workflows.output import check_inputs_outside, check_output, check_place, create_output, write_summary
from athanor.workflows.plan import Plan, make_plan, spec_of_call
from athanor.workflows.progress import TIME_IS_OVER, Progress, StopFlag, StopHook, StopRequested, stop_between_steps
from athanor.workflows.record import RunRecord
from athanor.workflows.recorder import Recorder
from athanor.workflows.reserve import Reserve
from athanor.workflows.results import RunResult
from athanor.workflows.resume import (
    check_can_go_on,
    check_frames,
    describe_job,
    remove_ends,
    take_up_job,
    with_batch_of,
)
from athanor.workflows.settings import SEED
from athanor.workflows.spec import RunSpec
from athanor.workflows.stages import MDSpec, describe_stages
from athanor.workflows.structures import System, from_python
from athanor.workflows.track import Tracker, steps_between_refills
from athanor.workflows.underway import Underway
from athanor.workflows.watch import WatchHook

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.sinks.base import DataSink

_SECONDS_BETWEEN_SUMMARIES = 5.0
_SHARE_OF_SUMMARIES = 0.01
"""Largest part of the time that goes into tables of a run that goes on: one of ten thousand systems takes a while."""


def run(
    spec: RunSpec,
    systems: Sequence[System],
    *,
    model: Any = None,
    overwrite: bool = False,
    resume: bool = False,
    extend: float | str | None = None,
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
    resume
        Go on with the run that is in `spec.output`, from its newest checkpoint: with the same structures and model, it
        ends with the same bits as an undisturbed one.
    extend
        With `resume`: let the dynamics at the end of the run go on for so much longer than it is on record, fs. The run
        may be finished, and ends as one of the whole length would have.
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
    if spec.status is not None:
        check_place(Path(spec.status), overwrite=True, example="status.jsonl")
    if extend is not None and not resume:
        raise InputError("`extend` makes a run longer that is there already; it goes with `resume`.")
    earlier = None
    if resume:
        if spec.output is None:
            raise InputError("`resume` needs `out`: the results folder of the run that is to go on.")
        earlier = check_can_go_on(Path(spec.output), longer=extend is not None)
        overwrite = True
    if extend is not None:
        spec = made_longer(spec, earlier, extend)
    elif earlier is not None:
        spec = with_recorded_length(spec, earlier)
    if spec.output is not None and earlier is None:
        check_output(spec.output, overwrite=overwrite)
        check_inputs_outside(Path(spec.output), [system.file for system in systems])
    if earlier is not None:
        spec = with_batch_of(earlier, spec)
    plan = make_plan(spec, systems, model=model)
    advice = advise(plan.spec, plan.systems, plan.model)
    for found in advice if earlier is None else ():
        warnings.warn(AthanorWarning(found.text, found.topic), stacklevel=4)
    may_be_longer = extend is not None or spec.stages[-1].steps == recorded_steps(earlier)
    return _Run(plan, advice, overwrite, earlier, may_be_longer, progress, command).go()


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
        If it was interrupted by a signal; what was done stands in the results folder.
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
            resume=arguments["resume"],
            extend=arguments.get("extend"),
            progress=arguments["progress"],
            command=f"athanor.{kind.name}(...)",
        )
    if result.interrupted and result.stopped_by != TIME_IS_OVER:
        raise KeyboardInterrupt
    return result


class _Run:
    """One run in progress: owns the results, the sink and the record."""

    def __init__(
        self,
        plan: Plan[RunSpec],
        advice: list[Advice],
        overwrite: bool,
        earlier: Mapping[str, Any] | None,
        may_be_longer: bool,
        progress: bool,
        command: str,
    ) -> None:
        self.plan, self.spec, self.systems = plan, plan.spec, plan.systems
        self.progress = Progress(shown=progress, steps=self.spec.total_steps)
        self.result, self.outcomes = RunResult(seed=self.spec.seed), Outcomes(plan)
        self.sink: Any = None
        self._log: LoggingHook | None = None
        self._checkpoint: Checkpoint | None = None
        self.record: RunRecord | None = None
        self._trouble: StorageError | None = None
        self._missing: list[str] = []
        self._frames_in_words = "it holds no frame"
        self._overwrite, self._command, self._advice, self._earlier = overwrite, command, advice, earlier
        self._may_be_longer = may_be_longer

    def go(self) -> RunResult:
        """Run every system; write results whatever happens."""
        state = "failed"
        with stop_between_steps() as flag:
            self._flag = flag
            flag.ends = None if self.spec.time_limit is None else time.monotonic() + self.spec.time_limit
            if self._earlier is None:
                self._make_folder()
            self.progress.say(f"{self.plan.in_words()}; {describe_stages(self.spec.stages)}{_seed_in_words(self.spec)}")
            try:
                with self.progress:
                    self._run_all(flag)
                state = "interrupted" if self.result.interrupted else "finished"
                self.result.stopped_by = flag.why
            except KeyboardInterrupt:  # while a batch was made ready
                self.result.interrupted, state = True, "interrupted"
            finally:
                flag.is_writing = True
                self._write(state)
        if self._trouble is not None:
            cause, without = str(self._trouble).partition(". ")[0].rstrip("."), ", ".join(self._missing)
            how = "" if self.result.checkpoint is None else " with --resume"
            raise StorageError(
                f"{cause}. The run stopped; what was done is in `{self.result.folder}`"
                f"{f', without {without}' if without else ''}; {self._frames_in_words}. "
                f"Make room, or mend what is wrong, before you go on from there{how}."
            ) from self._trouble
        return self.result

    def _make_folder(self) -> None:
        if self.spec.output is not None:
            self._begin_to_write(create_output(Path(self.spec.output), overwrite=self._overwrite))
        self._write_summary()

    def _begin_to_write(self, folder: Path) -> None:
        self.result.folder, self.result.frames = folder, folder / TRAJECTORY
        self.record = RunRecord(
            folder, self.spec, self.systems, self.plan.model, self._command, self._advice, self._earlier
        )
        self._reserve = Reserve(folder, self.spec, self.systems)

    def _run_all(self, flag: StopFlag) -> None:
        """Run every system through all stages, in a batch that is filled up again as systems leave it."""
        plan, folder = self.plan, None if self.spec.output is None else Path(self.spec.output)
        if folder is not None and self._earlier is not None:
            self.sink = _open_sink(folder / TRAJECTORY)  # another one may have it: nothing was changed yet
        elif folder is not None:
            self.sink = self._attempt(_open_sink, folder / TRAJECTORY)
        sampler = plan.sampler()
        fused, tracker, engines = build.build_stages(
            self.spec,
            plan.model,
            plan.state,
            sampler=sampler,
            init_fn=plan.as_planned(),
            refill_frequency=steps_between_refills(self.spec.every),
        )
        log = None if folder is None else folder / LOG
        underway = Underway(plan, self.outcomes, tracker, self.sink, self._end_as_refused)
        recorder = Recorder(underway, engines, log, self._write_summary_if_due)
        self._log = recorder.log
        checkpoint = None
        if folder is not None and self.spec.checkpoint:
            place, tree, seconds = folder / CHECKPOINTS, partial(describe_job, plan), self.spec.checkpoint
            keep_left = isinstance(self.spec.stages[-1], MDSpec)
            checkpoint = Checkpoint(
                place,
                seconds=seconds,
                extra=tree,
                overwrite=True,
                when_refused=self._end_as_refused,
                when_saved=self._keep_room,
                keep_left=keep_left,
            )
            flag.when_set = checkpoint.request
        self._checkpoint = checkpoint
        watch = WatchHook(underway, sampler, self.progress, flag, checkpoint)
        for hook in (recorder, watch, *([checkpoint] if checkpoint else []), StopHook(flag)):
            fused.register_hook(hook)
        if folder is not None and self._earlier is not None:
            watch.begin(self._go_on_from(folder, fused, tracker))
        while self._trouble is None and not self.result.interrupted and self._go_on(fused, recorder, flag):
            self.result.interrupted |= flag.is_set
        for entry in sampler.set_aside:
            plan.set_aside([plan.usable[entry.order]], entry.reason)
        plan.check_some_left()

    def _go_on_from(self, folder: Path, fused: FusedStage, tracker: Tracker) -> Batch:
        """Take up the newest checkpoint; outputs are cut back to it. Until it is known to fit, nothing is changed."""
        try:
            saved = Checkpoint.load(folder / CHECKPOINTS)
            is_longer = take_up_job(saved, self.plan, folder, may_be_longer=self._may_be_longer)
            check_frames(folder / TRAJECTORY, len(self.sink), saved.tree["sinks"])
            last = f"stages.{len(self.spec.stages) - 1}.n_steps"
            batch = saved.restore(fused, may_differ=[last] if is_longer else ())
            if is_longer:
                batch = let_go_on(saved, fused, tracker, self.outcomes)
                if self._checkpoint is not None:
                    self._checkpoint.forget_left()
            remove_ends(folder)
            self._begin_to_write(folder)
            self._write_summary()
        except BaseException:  # let others have it
            self.sink.abandon()
            held = fused.resumed_folder if self._checkpoint is None else self._checkpoint.folder
            if held is not None:
                held.release()
            raise
        return batch

    def _go_on(self, fused: FusedStage, recorder: Recorder, flag: StopFlag) -> bool:
        """Run until everybody is done, or something stops that; return whether somebody may be left.

        What a model raises for itself is for all systems of the batch; they have failed, and others are tried.
        """
        error: BaseException | None = None
        try:
            try:
                self._attempt(self._go_through_stages, fused)
            finally:
                flag.is_writing = True  # a second Ctrl-C must not prevent that what was done is taken up
        except StopRequested:
            self.result.interrupted = True
        except BaseException as raised:  # Ctrl-C, or of the model: what was done before is kept
            error = raised
            self.result.interrupted = isinstance(error, KeyboardInterrupt)
        batch, fused.active_batch = fused.active_batch, None
        if batch is not None:
            self._take_up(fused, recorder, batch, error)
        flag.is_writing = False
        if error is not None and not self.result.interrupted and (batch is None or not is_of_model(error)):
            raise error
        return batch is not None

    def _go_through_stages(self, fused: FusedStage) -> None:
        """Run to the end of the last stage; a run of no steps evaluates, and its systems are at the end at once."""
        if self.spec.total_steps:
            fused.run()
        elif (batch := fused.run(n_steps=0)) is not None:
            batch.status.fill_(fused.exit_status)

    def _take_up(self, fused: FusedStage, recorder: Recorder, batch: Batch, error: BaseException | None) -> None:
        """Take up what became of the systems of a batch whose run was stopped, by an error or otherwise."""
        if error is not None:
            fused.undo_unfinished_step(batch)
        if error is None or self.result.interrupted:
            self._attempt(recorder.take_up, batch)
        elif bool(recorder.tracker.steps_done(batch).any()):
            self._attempt(recorder.take_up, batch, in_words(error))
        else:
            self.plan.set_aside_all_of(batch, error)

    def _attempt(self, write: Callable[..., Any], *arguments: Any, of: str = "") -> Any:
        """Call `write`; a disk that refuses ends the run, and what else can be written still is.

        `of` says what will be missing then.
        """
        try:
            return write(*arguments)
        except StorageError as error:
            self._note_trouble(error)
            self._missing += [of] if of else []
            return None

    def _note_trouble(self, error: StorageError) -> None:
        cause = error.__cause__  # what failed in the background stands behind where that was told
        self._trouble = self._trouble or (cause if isinstance(cause, StorageError) else error)

    def _end_as_refused(self, error: StorageError) -> None:
        """Let the run end after this step, as the disk refused something that waits: with a checkpoint, in kept room.

        Raises
        ------
        StorageError
            If there are no checkpoints.
        """
        if self._checkpoint is None:
            raise error
        self._note_trouble(error)
        self._reserve.give_back_for_checkpoint()
        self._flag.set("a disk that refuses")

    def _keep_room(self) -> None:
        """Keep room for one more checkpoint, while nothing is wrong."""
        if self._trouble is None and self._checkpoint is not None:
            self._reserve.keep_for_checkpoint(self._checkpoint.last_bytes)

    def _write_summary(self) -> None:
        """Write the table as it stands: a run that is killed then still tells its systems, and which are done."""
        started = time.monotonic()
        if self.result.folder is not None:
            write_summary(self.result.folder, self.outcomes.rows())
        self._summary_written = time.monotonic()
        taken = self._summary_written - started
        self._summary_pause = max(_SECONDS_BETWEEN_SUMMARIES, taken / _SHARE_OF_SUMMARIES)

    def _write_summary_if_due(self) -> None:
        if time.monotonic() - self._summary_written > self._summary_pause:
            try:
                self._write_summary()
            except StorageError as error:
                self._end_as_refused(error)

    def _write(self, state: str) -> None:
        """Complete the lists for systems that were not reached, and write the folder: what matters most comes first."""
        self.outcomes.fill(self.result)
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
        checkpoints = folder / CHECKPOINTS
        if ended == "finished" and self._checkpoint is not None and self._checkpoint.keep_left:
            with suppress(StorageError):  # from there it can be made longer
                self._checkpoint.keep_newest()
        elif ended == "finished":  # on record, so that nobody needs them
            shutil.rmtree(checkpoints, ignore_errors=True)
        else:
            with suppress(OSError):  # a folder that can not be looked into
                self.result.checkpoint = checkpoints if Checkpoint.is_in(checkpoints) else None

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
