"""How long a run takes and how much memory and disk it needs, from a few timed steps; nothing is written."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from athanor._memory import free_memory, peak_memory, used_memory
from athanor.data.batch import Batch
from athanor.dynamics.failures import describe_failure
from athanor.workflows import build
from athanor.workflows.advice import Advice, advise, estimate_disk, free_disk
from athanor.workflows.plan import Plan
from athanor.workflows.spec import RunSpec
from athanor.workflows.stages import RelaxSpec, StageSpec

_SMALL_SAMPLE = 500
"""Atoms that are timed first; the largest batch is timed too if that promises to be quick."""
_MOST_SECONDS = 20.0
"""Seconds that the timed steps may take together."""
_ENOUGH = 0.5
"""Seconds of steps of one stage that are timed, at least one step and at most `_MOST_STEPS`."""
_MOST_STEPS = 50
_BYTES_PER_SECOND = 5e7
"""How fast frames are compressed and written; measured, rounded down."""
_SECONDS_PER_ATOM = 1.5e-5
"""To write an atom of the final structures; measured, rounded up."""
_SECONDS_TO_OPEN = 1.5
"""To load zarr and make a store; measured."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """About what a run will need if every system goes to the last step of every stage.

    Parameters
    ----------
    steps
        Steps of one system.
    seconds_per_step
        Of the largest batch, for each stage.
    seconds
        Of the whole run with its results, without reading structures and building the model.
    memory, free_memory
        Bytes at the peak on the device, and what is free there beside what is taken already.
    disk, free_disk
        Bytes of frames and log before compression, and what is free; None where nothing is kept.
    sample_systems, sample_atoms, sample_steps
        What was timed. If it is less than the largest batch, times and memory were scaled by the number of atoms.
    failures
        Index and reason of each system that would be set aside: before the first step, or of the sample within the
        timed steps.
    warnings
        What will run but is probably not meant.
    """

    steps: int
    seconds_per_step: list[float]
    seconds: float
    memory: int
    free_memory: int
    disk: int | None
    free_disk: int | None
    sample_systems: int
    sample_atoms: int
    sample_steps: int
    failures: list[tuple[int, str]]
    warnings: list[Advice]


def estimate(plan: Plan[RunSpec]) -> Estimate:
    """Time a few steps of every stage on the largest batch, or on a part of it where that would take long.

    Parameters
    ----------
    plan
        The run. It is not changed, and nothing is written.
    """
    spec, largest = plan.spec, max(plan.chunks, key=plan.count_atoms)
    small = _first_systems(plan, largest, _SMALL_SAMPLE)
    timing = _time(plan, small)
    factor = plan.count_atoms(largest) / timing.atoms
    if len(small) < len(largest) and timing.seconds_taken * factor < _MOST_SECONDS:
        timing, factor = _time(plan, largest), 1.0
    per_step = [seconds * factor for seconds in timing.seconds_per_step]
    stepping = sum(stage.steps * seconds for stage, seconds in zip(spec.stages, per_step, strict=True))
    batches = plan.num_atoms / plan.count_atoms(largest)
    set_aside = [(index, system.problem) for index, system in enumerate(plan.systems) if system.problem]
    disk = None if spec.output is None else estimate_disk(spec, plan.systems)
    writing = 0.0 if disk is None else _SECONDS_TO_OPEN + disk / _BYTES_PER_SECOND + plan.num_atoms * _SECONDS_PER_ATOM
    return Estimate(
        steps=spec.total_steps,
        seconds_per_step=per_step,
        seconds=batches * (timing.first_step * factor + stepping) + writing,
        memory=round(timing.memory_before + (timing.memory_peak - timing.memory_before) * factor),
        free_memory=free_memory(plan.device),
        disk=disk,
        free_disk=None if spec.output is None else free_disk(spec.output),
        sample_systems=timing.systems,
        sample_atoms=timing.atoms,
        sample_steps=timing.steps,
        failures=sorted([*set_aside, *timing.failures]),
        warnings=advise(spec, plan.systems, plan.model),
    )


@dataclass(frozen=True, slots=True)
class _Timing:
    systems: int
    atoms: int
    steps: int
    first_step: float
    seconds_per_step: list[float]
    seconds_taken: float
    memory_before: int
    memory_peak: int
    failures: list[tuple[int, str]]


def _time(plan: Plan[RunSpec], indices: list[int]) -> _Timing:
    """Run a few steps of every stage in memory."""
    started, before = time.monotonic(), used_memory(plan.device)
    endless = plan.spec.model_copy(update={"stages": tuple(_without_end(stage) for stage in plan.spec.stages)})
    batch = plan.batch(indices)
    fused, _, _ = build.build_stages(endless, plan.model, batch)
    first, seconds, steps = 0.0, [], 0
    for number in range(len(endless.stages)):
        batch.ensure_field("status")
        batch.status[batch.status < len(endless.stages)] = number
        entering = _seconds_of(fused, batch, 1)  # compiles, searches neighbours, draws velocities
        first = first or entering
        single = _seconds_of(fused, batch, 1)
        count = max(1, min(_MOST_STEPS, round(_ENOUGH / single)))
        seconds.append(_seconds_of(fused, batch, count) / count)
        steps += count
    codes = batch.failure_code.flatten().tolist()
    failures = [(index, describe_failure(code)) for index, code in zip(indices, codes, strict=True) if code]
    seconds_taken, peak = time.monotonic() - started, max(before, peak_memory(plan.device))
    return _Timing(len(indices), batch.num_nodes, steps, first, seconds, seconds_taken, before, peak, failures)


def _seconds_of(fused: Any, batch: Batch, steps: int) -> float:
    started = time.perf_counter()
    fused.run(batch, steps)
    if batch.device.type == "cuda":
        torch.cuda.synchronize(batch.device)
    return max(time.perf_counter() - started, 1e-9)


def _without_end(stage: StageSpec) -> StageSpec:
    """Return a stage that no system leaves, so that every timed step is a whole one."""
    never = {"steps": 2**31} | ({"fmax": 1e-300, "smax": 1e-300} if isinstance(stage, RelaxSpec) else {})
    return stage.model_copy(update=never)


def _first_systems(plan: Plan[RunSpec], indices: list[int], most_atoms: int) -> list[int]:
    """Return the first systems of a batch, at least one, with no more than `most_atoms` atoms."""
    chosen: list[int] = []
    for index in indices:
        if chosen and plan.count_atoms([*chosen, index]) > most_atoms:
            break
        chosen.append(index)
    return chosen
