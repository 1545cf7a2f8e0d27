"""Behind ``athanor show`` and ``athanor plot``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from athanor.cli.exit_codes import ExitCode
from athanor.cli.output import print_json
from athanor.cli.table import make_console, print_counts, print_failures, print_pairs, print_table

if TYPE_CHECKING:
    from athanor.workflows.saved_run import SavedRun


def show_run(
    out: Path, *, system: str | None = None, all_rows: bool = False, failed: bool = False, as_json: bool = False
) -> int:
    """Print what was run, by which model, how far, what failed and what to do, and how to read it.

    With `failed` only what failed, one system after the other, or one of them.
    """
    from athanor.workflows.saved_run import SavedRun

    run = SavedRun(out)
    if failed:
        return _show_failures(run, None if system is None else run.number_of(system), as_json=as_json)
    if as_json:
        rows = run.summary if system is None else [run.summary[run.number_of(system)]]
        print_json(_facts(run) | {"rows": rows})
        return int(ExitCode.DONE)
    console = make_console()
    if system is not None:
        row = run.summary[run.number_of(system)]
        print_pairs(console, {key: _short(value) for key, value in row.items() if value is not None})
        print_failures(console, [row])
        _print_how_to_read(console, run, row)
        return int(ExitCode.DONE)
    print_pairs(console, _headline(run))
    print_table(console, run.summary, all_rows=all_rows)
    print_counts(console, run.summary)
    print_failures(console, run.summary)
    _print_how_to_read(console, run, run.summary[0])
    return int(ExitCode.DONE)


def _show_failures(run: SavedRun, number: int | None, *, as_json: bool) -> int:
    """Print where and why systems failed, and where the last good frame of each is."""
    failures = [failure for failure in run.failures if number in (None, failure["index"])]
    if as_json:
        print_json({"folder": str(run.folder), "state": run.state, "failures": failures})
        return int(ExitCode.DONE)
    console = make_console()
    print_counts(console, run.summary)
    for failure in failures:
        given, last, stage = failure["file"], failure["last_good"], failure["stage"]
        which = "the last one" if last["index"] is None else f"frame {last['index']}"
        console.print()
        pairs = {
            "system": f"{failure['system']} ({failure['formula']}), number {failure['index']}",
            "from": f"frame {failure['index_in_file']} of {given}" if given else "",
            "failed": failure["reason"],
            "after": f"step {failure['step']}{f', in the {stage}' if stage else ''}",
            "retries": str(failure["retries"] or ""),
            "last good": f"{which} in {last['file']}",
        }
        print_pairs(console, pairs)
    return int(ExitCode.DONE)


def plot_run(out: Path, picture: Path | None, systems: list[str]) -> int:
    """Draw a run into a file, by default ``plot.png`` in its folder."""
    from athanor.workflows.folder import PLOT
    from athanor.workflows.plot import plot

    path = picture or out / PLOT
    plot(out, systems or None, path)
    print(f"Plot: {path}")
    return int(ExitCode.DONE)


def _facts(run: SavedRun) -> dict[str, Any]:
    """Everything but the table, as plain values."""
    facts = {key: value for key, value in run.record.items() if key != "process"}
    facts |= {"folder": str(run.folder), "state": run.state}
    if not run.has_ended:
        facts |= {"frames": run.num_frames, "last_step": run.last_step}
    return facts


def _headline(run: SavedRun) -> dict[str, str]:
    record, model = run.record, run.model
    digest = model.get("weights_digest", "")
    command = record.get("command", "")
    title = run.settings.get("title") or command
    return {
        "run": title,
        "command": command if command != title else "",
        "state": _state(run),
        "go on": _how_to_go_on(run),
        "systems": f"{len(run):,} with {record['atoms']:,} atoms",
        "model": model.get("card") or model.get("name", ""),
        "weights": digest.rpartition(":")[2][:16],
        "stages": ", then ".join(_stage(kind, settings) for kind, settings in run.stages),
        "seed": str(run.settings.get("seed", "")) if _has_dynamics(run) else "",
        "frames": f"{record['frames']:,}"
        if run.has_ended
        else f"{run.num_frames:,} so far, up to step {run.last_step:,}",
        "warned": "\n".join(record.get("warnings", ())),
        "athanor": f"{record['athanor']}, torch {run.versions.get('torch', '?')}",
    }


def _state(run: SavedRun) -> str:
    from athanor.workflows.readable import format_seconds

    record = run.record
    started = f"started {record['started']}"
    if run.has_ended:
        return f"{run.state}, {started}, took {format_seconds(record['seconds'])}"
    note = " (its process is gone)" if run.state == "killed" else " (on another machine, or killed there)"
    ago = f"last written {format_seconds(max(0.0, time.time() - run.last_written))} ago"  # a clock may go back
    return f"{run.state}{note if run.state == 'killed' or run.is_elsewhere else ''}, {started}, {ago}"


def _how_to_go_on(run: SavedRun) -> str:
    """Say how a run goes on that was stopped before its end; nothing where it can not."""
    if not run.can_go_on:
        return ""
    if {"model", "structures"} <= run.settings.keys():
        return f"athanor run --resume {quote(str(run.folder))}"
    return "in Python, by the same call with resume=True: structures or model came from there"


def _has_dynamics(run: SavedRun) -> bool:
    return any(kind == "md" for kind, _ in run.stages)


def _stage(kind: str, settings: dict[str, Any]) -> str:
    from athanor.workflows import methods

    method, stage_kind = methods.find(kind, settings), methods.KINDS[kind]
    name = settings.get(stage_kind.chooser, stage_kind.default)
    if kind == "relax":
        cell = "atoms" if settings.get("fixed_cell") else "atoms and cell"
        by = "" if name == stage_kind.default else f" by {name}"
        return f"relax {cell}{by} to {settings['fmax']}, {settings['smax']}, at most {settings['steps']} steps"
    words = name.upper() if method is None else method.in_words(settings)
    return f"{words}, {settings['steps']} steps of {settings['timestep']}"


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _in_quotes(path: Path) -> str:
    """Return a path as Python reads it, in double quotes where it has none."""
    return json.dumps(str(path), ensure_ascii=False)


def _print_how_to_read(console: Any, run: SavedRun, row: dict[str, Any]) -> None:
    from athanor.workflows.folder import FINAL, LOG, PLOT, RUN, SUMMARY_CSV
    from athanor.workflows.readable import printable

    name = row["system"] if run.names.count(row["system"]) == 1 else row["index"]
    lines = [
        ("run.summary", "the table; run.to_pandas() as a DataFrame"),
        ("run.structures", "ASE atoms as the run left them") if run.has_ended else
        (f"run.atoms(step={run.last_step})", "the last frame of each system, as ASE atoms"),
        (f"run.frames({name!r})", "one system; .atoms(...) as ASE atoms"),
        ("run.frames(step=1)", "all systems at one step; or time=..., in fs"),
        (f"run.series({name!r}).energy", "array; also .step, .time, .temperature, ..."),
        *[(f"run.averages({name!r})", "means of dynamics; also .rdf(...), .diffusion(...)")] * _has_dynamics(run),
        ("athanor.plot(run)", f"or: athanor plot {quote(str(run.folder))}"),
    ]  # fmt: skip
    width = max(len(call) for call, _ in lines)
    opening = f"import athanor; run = athanor.open({_in_quotes(run.folder)})"
    console.print(printable(f"\nTo read it in Python: {opening}"), highlight=False, markup=False, soft_wrap=True)
    for call, what in lines:
        console.print(printable(f"  {call:<{width}}  {what}"), highlight=False, markup=False, soft_wrap=True)
    files = [name for name in (FINAL, SUMMARY_CSV, LOG, PLOT) if (run.folder / name).exists()]
    console.print(f"Files: {', '.join(files)}; settings and citations: {RUN}.", highlight=False, soft_wrap=True)
