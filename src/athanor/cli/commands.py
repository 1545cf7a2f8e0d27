"""The commands that calculate: their arguments, and nothing else.

Options that all of them share are collected from typer's context, see `athanor.cli.options.collect`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from athanor.cli import options
from athanor.cli.options import COMPUTING, OUTPUT


def run(
    context: typer.Context,
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="Description of the run; `athanor init` writes one.")],
    *,
    supercell: options.Supercell = None,
    min_atoms: options.MinAtoms = None,
    model: options.Model = None,
    model_option: options.ModelOption = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", metavar="", rich_help_panel=COMPUTING, help="Take the `quick_steps` of every stage."),
    ] = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    max_atoms: options.MaxAtoms = None,
    seed: options.Seed = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", rich_help_panel=OUTPUT, help="Folder for the results."),
    ] = None,
    every: options.Every = None,
    overwrite: options.Overwrite = False,
    check: options.Check = False,
    silence: options.Silence = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Run a job: structures, a model, and stages that every system goes through in one batch.

    What is given here wins over the job; what is not is taken from the job.
    """
    from athanor.cli.run import run_job

    raise typer.Exit(run_job(job, options.collect(context), quick=quick, check=check))


def relax(
    context: typer.Context,
    files: options.Files,
    *,
    supercell: options.Supercell = None,
    min_atoms: options.MinAtoms = None,
    model: options.Model = None,
    model_option: options.ModelOption = None,
    fmax: Annotated[
        str | None,
        typer.Option(metavar="FORCE", rich_help_panel="Relaxation", help="Largest force.  [default: 0.05 eV/Å]"),
    ] = None,
    smax: Annotated[
        str | None,
        typer.Option(metavar="STRESS", rich_help_panel="Relaxation", help="Largest stress.  [default: 0.05 GPa]"),
    ] = None,
    max_steps: Annotated[
        int | None,
        typer.Option(
            "--max-steps", "--steps", metavar="N", rich_help_panel="Relaxation", help="At most, each.  [default: 500]"
        ),
    ] = None,
    pressure: Annotated[
        str | None,
        typer.Option(metavar="PRESSURE", rich_help_panel="Relaxation", help="Target pressure.  [default: 0 GPa]"),
    ] = None,
    fixed_cell: Annotated[
        bool, typer.Option("--fixed-cell", metavar="", rich_help_panel="Relaxation", help="Move atoms only.")
    ] = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    max_atoms: options.MaxAtoms = None,
    seed: options.Seed = None,
    out: options.Out,
    every: options.Every = None,
    overwrite: options.Overwrite = False,
    check: options.Check = False,
    silence: options.Silence = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Relax structures: atoms, and the cell of periodic ones, with FIRE."""
    from athanor.cli.run import run_files

    stage = {"fmax": fmax, "smax": smax, "steps": max_steps, "pressure": pressure, "fixed_cell": fixed_cell}
    raise typer.Exit(run_files(files, {"relax": stage}, options.collect(context), check=check))


def md(
    context: typer.Context,
    files: options.Files,
    *,
    supercell: options.Supercell = None,
    min_atoms: options.MinAtoms = None,
    model: options.Model = None,
    model_option: options.ModelOption = None,
    ensemble: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=options.one_of("nvt", "nve"),
            rich_help_panel="Dynamics",
            help="nvt (Langevin) or nve (velocity Verlet).  [default: nvt]",
        ),
    ] = None,
    temperature: Annotated[
        str | None,
        typer.Option(
            "-T",
            "--temperature",
            metavar="T",
            rich_help_panel="Dynamics",
            help="Of the thermostat and of the start.  [default: 300 K]",
        ),
    ] = None,
    time: Annotated[
        str | None, typer.Option(metavar="TIME", rich_help_panel="Dynamics", help="Length of the run.  [default: 1 ps]")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", rich_help_panel="Dynamics", help="Length in steps, instead of --time.")
    ] = None,
    timestep: Annotated[
        str | None, typer.Option(metavar="TIME", rich_help_panel="Dynamics", help="Length of a step.  [default: 1 fs]")
    ] = None,
    friction: Annotated[
        str | None,
        typer.Option(metavar="RATE", rich_help_panel="Dynamics", help="Of the thermostat.  [default: 0.01 1/fs]"),
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    max_atoms: options.MaxAtoms = None,
    seed: options.Seed = None,
    out: options.Out,
    every: options.Every = None,
    overwrite: options.Overwrite = False,
    check: options.Check = False,
    silence: options.Silence = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Run molecular dynamics at constant volume."""
    from athanor.cli.run import run_files

    stage: dict[str, Any] = {"ensemble": ensemble, "temperature": temperature, "timestep": timestep}
    stage |= {"friction": friction, "steps": steps, "time": "1 ps" if time is None and steps is None else time}
    raise typer.Exit(run_files(files, {"md": stage}, options.collect(context), check=check))


def evaluate(
    context: typer.Context,
    files: options.Files,
    *,
    supercell: options.Supercell = None,
    min_atoms: options.MinAtoms = None,
    model: options.Model = None,
    model_option: options.ModelOption = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    max_atoms: options.MaxAtoms = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT.extxyz",
            rich_help_panel=OUTPUT,
            help="File for the structures with energy, forces and stress. Left out: only the table.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", metavar="", rich_help_panel=OUTPUT, help="Replace the file if it exists.")
    ] = False,
    silence: options.Silence = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Compute energies, forces and stress of structures as they are; nothing moves."""
    from athanor.cli.run import evaluate_files

    raise typer.Exit(evaluate_files(files, options.collect(context)))
