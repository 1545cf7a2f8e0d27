"""Behind ``athanor show``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from athanor.cli.exit_codes import ExitCode
from athanor.cli.table import count_outcomes, make_console, print_failures, print_table


def show_run(out: Path, *, all_rows: bool = False) -> int:
    """Print what was run, by which model, how far, what failed, and how to read it."""
    from athanor.workflows.output import read_run

    run, rows = read_run(out)
    console = make_console()
    _print_facts(console, run)
    if not rows:
        console.print("No summary was written: the run did not come to an end.", highlight=False)
    else:
        print_table(console, rows, all_rows=all_rows)
        console.print(f"[bold]{count_outcomes(rows)}[/bold]", highlight=False)
        print_failures(console, rows)
    _print_how_to_read(console, out)
    return int(ExitCode.DONE)


def _print_facts(console: Any, run: dict[str, Any]) -> None:
    from rich.table import Table

    model = run.get("model", {})
    digest = model.get("weights_digest")
    facts = {
        "run": run["job"].get("title") or run.get("command", ""),
        "command": run.get("command", ""),
        "state": _state(run),
        "systems": f"{run.get('systems')} with {run.get('atoms')} atoms",
        "model": model.get("card") or model.get("name", ""),
        "weights": digest.rpartition(":")[2][:16] if digest else "",
        "stages": "; ".join(_stage(stage) for stage in run["job"].get("stages", [])),
        "frames": str(run.get("frames", "")),
        "athanor": f"{run.get('athanor')}, torch {run.get('versions', {}).get('torch', '?')}",
    }
    table = Table.grid(padding=(0, 2))
    for key, value in facts.items():
        if value and not (key == "command" and value == facts["run"]):
            table.add_row(f"[bold]{key}[/bold]", value)
    console.print(table)


def _state(run: dict[str, Any]) -> str:
    took = f", {run['seconds']:g} s" if "seconds" in run else ""
    note = " (or it was killed)" if run.get("state") == "running" else ""
    return f"{run.get('state')}{note}, started {run.get('started')}{took}"


def _stage(stage: dict[str, Any]) -> str:
    (kind, settings), *_ = stage.items()
    if kind == "relax":
        cell = "atoms" if settings.get("fixed_cell") else "atoms and cell"
        return f"relax {cell} to {settings['fmax']}, {settings['smax']}, at most {settings['steps']} steps"
    name, at, step = settings["ensemble"].upper(), settings["temperature"], settings["timestep"]
    return f"{name} at {at}, {settings['steps']} steps of {step}"


def _print_how_to_read(console: Any, out: Path) -> None:
    lines: Sequence[tuple[str, str]] = (
        ("final.extxyz", f'ase.io.read("{out}/final.extxyz", ":")'),
        ("trajectory.zarr", f'athanor.dynamics.ZarrData("{out}/trajectory.zarr", mode="r").read()'),
        ("summary.csv, log.csv", "one row per system; one row per system and logged step"),
        ("run.yaml", "settings, versions, what to cite"),
    )
    console.print()
    for name, how in lines:
        if (out / name.partition(",")[0]).exists():
            console.print(f"  {name:<22}{how}", highlight=False, soft_wrap=True)
