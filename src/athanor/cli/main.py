"""The ``athanor`` command: arguments only. What it does is in `athanor.workflows`, loaded when a command runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from athanor.cli.exit_codes import ExitCode

app = typer.Typer(
    name="athanor",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Relax and heat many structures at once, in one batch, with any interatomic potential.",
    epilog="Values may carry a unit: `--temperature 300K`, `--time 1ps`, `--pressure 10GPa`. "
    "Exit codes: 0 done, 65 bad input, 69 some systems failed, 70 internal error, 74 storage, 130 interrupted.",
)

Files = Annotated[list[str], typer.Argument(metavar="FILE...", help="Structure files: anything ASE reads, any number.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="Folder for the results.")]
Model = Annotated[str | None, typer.Option(help="Potential, see `athanor models`. Default for crystals: chgnet.")]
ModelOption = Annotated[
    list[str] | None, typer.Option("--model-option", metavar="KEY=VALUE", help="Argument of the model; repeatable.")
]
MaxAtoms = Annotated[int | None, typer.Option(help="Largest number of atoms in one batch. Default: from memory.")]
Every = Annotated[int, typer.Option(help="Steps between frames and rows of the log.")]
Seed = Annotated[int, typer.Option(help="Seed of velocities and noise.")]
Dtype = Annotated[str, typer.Option(help="Precision of the state: float64 or float32.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads. Default: all cores.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the results of an earlier run.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        from athanor import __version__

        print(f"athanor {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


@app.command()
def run(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="Description of the run.")],
    quick: Annotated[bool, typer.Option("--quick", help="Take the `quick_steps` of every stage.")] = False,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for the results. Default: `output` of the job.")
    ] = None,
    model: Model = None,
    model_option: ModelOption = None,
    max_atoms: MaxAtoms = None,
    every: Annotated[int | None, typer.Option(help="Steps between frames. Default: `every` of the job.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed. Default: `seed` of the job.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float64 or float32. Default: `dtype` of the job.")] = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Run a job: structures, a model, and stages that every system goes through in one batch."""
    from athanor.cli.run import run_job

    changes = {"max_atoms": max_atoms, "every": every, "seed": seed, "dtype": dtype, "threads": threads}
    raise typer.Exit(run_job(job, quick, out, model, model_option or [], changes, overwrite, quiet))


@app.command()
def relax(
    files: Files,
    out: Out,
    fmax: Annotated[str, typer.Option(metavar="FORCE", help="Largest force; bare number: eV/Å.")] = "0.05",
    smax: Annotated[str, typer.Option(metavar="STRESS", help="Largest stress; bare number: GPa.")] = "0.05",
    max_steps: Annotated[int, typer.Option("--max-steps", "--steps", help="At most so many steps each.")] = 500,
    pressure: Annotated[str, typer.Option(metavar="PRESSURE", help="Target pressure; bare number: GPa.")] = "0",
    fixed_cell: Annotated[bool, typer.Option("--fixed-cell", help="Move atoms only.")] = False,
    model: Model = None,
    model_option: ModelOption = None,
    max_atoms: MaxAtoms = None,
    every: Every = 10,
    seed: Seed = 42,
    dtype: Dtype = "float64",
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Relax structures: atoms, and the cell of periodic ones, with FIRE."""
    from athanor.cli.run import run_files

    stage = {"fmax": fmax, "smax": smax, "steps": max_steps, "pressure": pressure, "fixed_cell": fixed_cell}
    settings = {"max_atoms": max_atoms, "every": every, "seed": seed, "dtype": dtype, "threads": threads}
    raise typer.Exit(run_files(files, {"relax": stage}, model, model_option or [], out, settings, overwrite, quiet))


@app.command()
def md(
    files: Files,
    out: Out,
    ensemble: Annotated[str, typer.Option(help="nvt (Langevin) or nve (velocity Verlet).")] = "nvt",
    temperature: Annotated[str, typer.Option("-T", "--temperature", help="Bare number: K.")] = "300 K",
    time: Annotated[str | None, typer.Option(help="Length of the run; bare number: fs. Default: 1 ps.")] = None,
    steps: Annotated[int | None, typer.Option(help="Length in steps, instead of --time.")] = None,
    timestep: Annotated[str, typer.Option(help="Bare number: fs.")] = "1 fs",
    friction: Annotated[str, typer.Option(help="Of the thermostat; bare number: 1/fs.")] = "0.01 1/fs",
    model: Model = None,
    model_option: ModelOption = None,
    max_atoms: MaxAtoms = None,
    every: Every = 10,
    seed: Seed = 42,
    dtype: Dtype = "float64",
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Run molecular dynamics at constant volume."""
    from athanor.cli.run import run_files

    stage: dict[str, Any] = {"ensemble": ensemble, "temperature": temperature}
    stage |= {"timestep": timestep, "friction": friction}
    if time is not None or steps is None:
        stage["time"] = time if time is not None else "1 ps"
    if steps is not None:
        stage["steps"] = steps
    settings = {"max_atoms": max_atoms, "every": every, "seed": seed, "dtype": dtype, "threads": threads}
    raise typer.Exit(run_files(files, {"md": stage}, model, model_option or [], out, settings, overwrite, quiet))


@app.command()
def show(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a run.")],
    all_rows: Annotated[bool, typer.Option("--all", help="Every row of the table, however many.")] = False,
) -> None:
    """Say what was run, how far it got, what failed and why, and how to read the results."""
    from athanor.cli.show import show_run

    raise typer.Exit(show_run(out, all_rows=all_rows))


@app.command()
def models() -> None:
    """List the potentials that can be used, and how to install the others."""
    from athanor.cli.show import show_models

    raise typer.Exit(show_models())


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; the one place where errors become messages and exit codes."""
    # Threads of torch wait without spinning: on shared cores a spinning wait costs milliseconds. Read by the OpenMP
    # library when torch loads, so it is set here, before any command imports it.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.exit(call(sys.argv[1:] if arguments is None else arguments))


def call(arguments: list[str]) -> int:
    """Run the command line and return its exit code."""
    from athanor.errors import InputError, OptionalDependencyError, StorageError

    try:
        return int(app(arguments, prog_name="athanor", standalone_mode=False) or ExitCode.DONE)
    except (InputError, OptionalDependencyError) as error:
        return _complain(str(error), ExitCode.BAD_INPUT)
    except StorageError as error:
        return _complain(str(error), ExitCode.STORAGE)
    except KeyboardInterrupt:
        return _complain("interrupted.", ExitCode.INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.DONE)
    except Exception as error:
        if _is_usage_error(error):
            return _complain(_usage_text(error), ExitCode.BAD_INPUT)
        if type(error).__name__ == "Abort":
            return _complain("interrupted.", ExitCode.INTERRUPTED)
        if os.environ.get("ATHANOR_DEBUG"):
            raise
        return _complain(
            f"internal error: {type(error).__name__}: {error}\n"
            f"  This is a mistake in athanor. Run it again with ATHANOR_DEBUG=1 and report the traceback.",
            ExitCode.OUR_ERROR,
        )


def _is_usage_error(error: Exception) -> bool:
    """Whether typer says so; which copy of click it raises from differs between its versions."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _usage_text(error: Any) -> str:
    context = getattr(error, "ctx", None)
    hint = f" See `{context.command_path} --help`." if context is not None else ""
    text = error.format_message().rstrip(".")
    return f"{text}{'' if text.endswith('?') else '.'}{hint}"


def _complain(text: str, code: ExitCode) -> int:
    print(f"athanor: {text}", file=sys.stderr)
    return int(code)


if __name__ == "__main__":
    main()
