"""Behind ``--check``: what a run would be and need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from athanor.cli.exit_codes import ExitCode
from athanor.cli.output import Screen, print_json
from athanor.cli.table import make_console, print_pairs

if TYPE_CHECKING:
    from athanor.workflows.estimate import Estimate
    from athanor.workflows.plan import Plan
    from athanor.workflows.spec import RunSpec
    from athanor.workflows.structures import System


def check_run(spec: RunSpec, systems: Sequence[System], screen: Screen) -> int:
    """Check a run, time a few steps in memory, and print what it needs; nothing is run or written."""
    from athanor.workflows.estimate import estimate
    from athanor.workflows.plan import make_plan

    plan = make_plan(spec, systems)
    found = estimate(plan)
    if screen.as_json:
        print_json({"check": _document(plan, found), "exit_code": 0})
    elif screen.shows_tables:
        _print(plan, found)
    return int(ExitCode.DONE)


def _document(plan: Plan[RunSpec], found: Estimate) -> dict[str, Any]:
    model = plan.spec.model
    head = {
        "systems": len(plan.systems),
        "atoms": plan.num_atoms,
        "batches": len(plan.chunks),
        "model": model.to_job() if model is not None else None,
        "device": str(plan.device),
    }
    return head | asdict(found)


def _by_reason(failures: Sequence[tuple[int, str]]) -> dict[str, list[int]]:
    """Systems that would fail, in one list for each reason."""
    found: dict[str, list[int]] = {}
    for index, reason in failures:
        found.setdefault(reason, []).append(index)
    return found


def _print(plan: Plan[RunSpec], found: Estimate) -> None:
    from athanor.workflows.advice import name_systems
    from athanor.workflows.readable import count, format_bytes, format_seconds, printable
    from athanor.workflows.stages import describe_stages

    largest = max(plan.chunks, key=plan.count_atoms)
    sample = f"{count(found.sample_steps, 'timed step')} of the largest batch"
    if found.sample_systems < len(largest):
        sample = (
            f"{count(found.sample_steps, 'timed step')} of {found.sample_systems} of its {len(largest)} systems "
            f"({count(found.sample_atoms, 'atom')}), scaled by atoms"
        )
    pace = ", then ".join(f"{1000 * seconds:.3g} ms" for seconds in found.seconds_per_step)
    console = make_console()
    pairs = {
        "systems": plan.in_words(),
        "stages": describe_stages(plan.spec.stages),
        "time": f"about {format_seconds(found.seconds)} to the last step: {pace} a step, from {sample}",
        "memory": f"about {format_bytes(found.memory)}; {format_bytes(found.free_memory)} more are free",
        "results": str(plan.spec.output),
    }
    if found.disk is not None and found.free_disk is not None:
        pairs["disk"] = f"at most {format_bytes(found.disk)}; {format_bytes(found.free_disk)} are free"
    print_pairs(console, pairs)
    for advice in found.warnings:
        console.print(printable(f"warning: {advice.text}"), highlight=False, markup=False)
    for reason, indices in _by_reason(found.failures).items():
        text = f"{name_systems(indices, plan.systems)} would be set aside: {reason.rstrip('.')}."
        console.print(printable(text), highlight=False, markup=False)
    console.print("The job is valid; nothing was run or written.", highlight=False)
