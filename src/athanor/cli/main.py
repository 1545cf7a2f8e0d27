"""The ``athanor`` command: arguments only. What it does is in `athanor.workflows`, loaded when a command runs."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from athanor._interrupts import raised_again
from athanor.cli import commands
from athanor.cli.exit_codes import ExitCode
from athanor.cli.init import Kind
from athanor.cli.output import print_json
from athanor.cli.streams import guard_streams, output_was_refused

_SHORTAGES = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN)
_WORDS_OF_SHORTAGE = (
    "allocate memory", "out of memory", "bad_alloc", "failed to map segment", "can't start new thread",
    "resource temporarily unavailable",
)  # fmt: skip


class _HandedOn(Exception):
    """Ctrl-C, or the early end of a file, for typer to hand on: it makes of either an exit without a word."""


@contextmanager
def _handing_on() -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, EOFError) as error:
        raise _HandedOn from error


class _FlagsWithoutType:
    """Of a command: the help says of a flag what it does, not that it is a `<bool>`."""

    def get_params(self, ctx: Any) -> Any:
        params = super().get_params(ctx)  # type: ignore[misc]  # of the command beside this class
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
        return params


class _Command(_FlagsWithoutType, TyperCommand):
    pass


class _Commands(_FlagsWithoutType, TyperGroup):
    def make_context(self, *arguments: Any, **more: Any) -> Any:
        with _handing_on():
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: Any) -> Any:
        with _handing_on():
            return super().invoke(ctx)


app = typer.Typer(
    name="athanor",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Relax and heat many structures at once, in one batch, with any interatomic potential.",
    epilog="Values may carry a unit: `--temperature 300K`, `--time 1ps`, `--pressure 10GPa`. "
    "Exit codes: 0 done, 65 bad input, 69 some systems or checks failed, 70 internal error, 71 short of memory, "
    "74 storage, 130 interrupted.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from athanor import __version__

        print(f"athanor {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Options before the command."""


def _register(panel: str, example: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that makes a function a command, in a panel of the help, with an example below its options."""
    return app.command(cls=_Command, rich_help_panel=panel, epilog=f"Example: `{example}`")


@_register("Get started", "athanor init relax-then-md --structures my.cif -o job.yaml")
def init(
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help="relax, md, or relax-then-md.")],
    *,
    structures: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Structure file to put into the job; repeatable.")
    ] = None,
    out: Annotated[
        str | None, typer.Option("-o", "--out", metavar="FILE", help="Job to write; - prints it.  [default: KIND.yaml]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a job to start from, with a comment on every key."""
    from athanor.cli.init import write_job

    raise typer.Exit(write_job(kind.value, out, structures or [], overwrite=overwrite))


_register("Get started", commands.MODELS.example)(commands.MODELS.function)
for _command in commands.COMMANDS:
    _register("Calculate", _command.example)(_command.function)


@_register("Look at results", "athanor show relaxed --system NaCl")
def show(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a run.")],
    system: Annotated[str | None, typer.Option(metavar="NAME", help="Only this system, by name or number.")] = None,
    all_rows: Annotated[bool, typer.Option("--all", help="Every row of the table, however many.")] = False,
    failed: Annotated[bool, typer.Option(help="Only what failed: where, why, and its last good frame.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what was run, how far it got, what failed and why, and how to read the results."""
    from athanor.cli.show import show_run

    raise typer.Exit(show_run(out, system=system, all_rows=all_rows, failed=failed, as_json=as_json))


@_register("Look at results", "athanor plot relaxed -o relaxed.pdf")
def plot(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a run.")],
    picture: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Picture to write. Default: OUT/plot.png.")
    ] = None,
    system: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this system, by name or number; repeatable.")
    ] = None,
) -> None:
    """Draw relaxations of a run against step and dynamics against time: energy, force, temperature, pressure."""
    from athanor.cli.show import plot_run

    raise typer.Exit(plot_run(out, picture, system or []))


@_register("Look at results", "athanor analyse liquid --plot")
def analyse(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a run with dynamics.")],
    system: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this system, by name or number; repeatable.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(metavar="TIME", help="Leave out what is before.  [default: until it has settled]")
    ] = None,
    cutoff: Annotated[float, typer.Option(metavar="Å", help="Largest distance of radial distributions.")] = 10.0,
    draw: Annotated[bool, typer.Option("--plot", help="Draw them: OUT/analysis.png.")] = False,
    picture: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Picture to write.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what dynamics came to: means with errors, structure, and diffusion."""
    from athanor.cli.analyse import analyse_run

    raise typer.Exit(
        analyse_run(out, systems=system or [], start=start, cutoff=cutoff, plots=draw, picture=picture, as_json=as_json)
    )


@_register("Look at results", "athanor export hot --system NaCl --every 10 -o nacl.extxyz")
def export(
    source: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a run, or a trajectory store.")],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", metavar="FILE", help="File to write: .extxyz .traj .cif .xdatcar .lammpstrj .xtc .h5md"
        ),
    ],
    system: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this system, by name, number or its file; repeatable.  [default: all]"),
    ] = None,
    frames: Annotated[
        str, typer.Option(metavar="FIRST:LAST", help="Frames of each system: 10:20, -5: for the last five.")
    ] = ":",
    every: Annotated[int, typer.Option(metavar="N", help="One in so many of these.")] = 1,
    start: Annotated[str | None, typer.Option(metavar="TIME", help="Leave out what is before.")] = None,
    end: Annotated[str | None, typer.Option(metavar="TIME", help="Leave out what is after.")] = None,
    wrap: Annotated[bool, typer.Option("--wrap", help="Put every atom into the cell.")] = False,
    name: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="Format, where FILE does not say it; poscar: a folder."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write frames of a run as a file that other programs open: ASE, OVITO, VMD, MDAnalysis, VASP, LAMMPS."""
    from athanor.cli.export import export_frames

    choice = {"system": system or None, "frames": frames, "every": every, "start": start, "end": end}
    raise typer.Exit(
        export_frames(source, out, choice | {"wrap": wrap, "format": name, "overwrite": overwrite}, quiet, as_json)
    )


@_register("Look at results", "athanor compare chgnet.extxyz dft.extxyz --plot parity.png")
def compare(
    sides: Annotated[
        list[Path], typer.Argument(metavar="RESULTS", help="Two or more: folders of runs, or files with results.")
    ],
    frames: Annotated[
        bool, typer.Option("--frames", help="Frames of trajectories at common steps, not how the runs ended.")
    ] = False,
    energy_key: Annotated[str, typer.Option(metavar="NAME", help="Energy of the last one, in `info`.")] = "energy",
    forces_key: Annotated[str, typer.Option(metavar="NAME", help="Forces of the last one, in `arrays`.")] = "forces",
    picture: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Picture to write: each side against the last one.")
    ] = None,
    all_rows: Annotated[bool, typer.Option("--all", help="Every row of the table, however many.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say how far results differ from those of the last one: energies, forces, cells, and where atoms are."""
    from athanor.cli.compare import compare_results

    raise typer.Exit(
        compare_results(
            sides,
            frames=frames,
            energy_key=energy_key,
            forces_key=forces_key,
            picture=picture,
            all_rows=all_rows,
            as_json=as_json,
        )
    )


@_register("Look at results", "athanor store verify OUT")
def store(
    action: Annotated[
        str, typer.Argument(metavar="ACTION", help="`info`, `verify`, `repair`, `upgrade` or `defragment`.")
    ],
    place: Annotated[
        str, typer.Argument(metavar="OUT", help="Results folder, or a trajectory store: a folder or an address.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what a trajectory holds, check every byte of it, or mend it; bring one of an older version up to date."""
    from athanor.cli.store import run_store

    raise typer.Exit(run_store(action, place, as_json=as_json))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; the one place where errors become messages and exit codes."""
    # Threads of torch wait without spinning: on shared cores a spinning wait costs milliseconds. Read by the OpenMP
    # library when torch loads, so it is set here, before any command imports it.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    files = guard_streams()
    code = call(sys.argv[1:] if arguments is None else arguments)
    refused = output_was_refused(files)
    if refused is not None and code == ExitCode.DONE:  # the results are there; what asked for this output is not served
        code = _report(_of_the_system(refused), ExitCode.STORAGE, as_json=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end is near, and would be told with a traceback of threading
    sys.exit(code)


def call(arguments: list[str]) -> int:
    """Run the command line and return its exit code."""
    as_json = "--json" in arguments
    try:
        with raised_again():
            code = int(app(arguments, prog_name="athanor", standalone_mode=False) or ExitCode.DONE)
        sys.stdout.flush()
        return code
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        text, code = _explain(error)
        if code is ExitCode.OUR_ERROR and os.environ.get("ATHANOR_DEBUG"):
            raise
        return _report(text, code, as_json)


def _explain(error: BaseException) -> tuple[str, ExitCode]:
    """Return what is said of an error, and the exit code that goes with it."""
    from athanor.errors import InputError, OptionalDependencyError, StorageError

    if isinstance(error, _HandedOn) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        return "interrupted.", ExitCode.INTERRUPTED
    if isinstance(error, (InputError, OptionalDependencyError)):
        return str(error), ExitCode.BAD_INPUT
    if isinstance(error, StorageError):
        return str(error), ExitCode.STORAGE
    if _is_usage_error(error):
        return _usage_text(error), ExitCode.BAD_INPUT
    if _is_shortage(error):
        why = " ".join(str(error).split())[:200] or type(error).__name__
        return (
            f"the machine has not enough memory, threads or open files for this: {why}\n"
            f"  Use a smaller --max-atoms or --threads, or raise the limits of this process (`ulimit -a`).",
            ExitCode.SHORTAGE,
        )
    if isinstance(error, OSError):
        return _of_the_system(error), ExitCode.STORAGE
    if isinstance(error, SystemExit):
        return "the program was ended by code that it ran: a model or another package.", ExitCode.OUR_ERROR
    return (
        f"internal error: {type(error).__name__}: {error}\n"
        f"  This is a mistake in athanor. Run it again with ATHANOR_DEBUG=1 and report the traceback.",
        ExitCode.OUR_ERROR,
    )


def _of_the_system(error: OSError) -> str:
    return f"{error.filename or 'the output'}: {error.strerror or error}."


def _is_shortage(error: BaseException) -> bool:
    """Whether the machine, or a limit on this process, refused memory, threads or files; libraries say it in words."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _SHORTAGES
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _WORDS_OF_SHORTAGE)


def _is_usage_error(error: BaseException) -> bool:
    """Whether typer says so; which copy of click it raises from differs between its versions."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _usage_text(error: Any) -> str:
    context = getattr(error, "ctx", None)
    hint = f" See `{context.command_path} --help`." if context is not None else ""
    text = error.format_message().rstrip(".")
    return f"{text}{'' if text.endswith('?') else '.'}{hint}"


def _report(text: str, code: ExitCode, as_json: bool) -> int:
    from athanor.workflows.readable import printable

    with suppress(OSError):  # the terminal may be gone
        print(printable(f"athanor: {text}"), file=sys.stderr)
        if as_json:
            print_json({"error": text, "exit_code": int(code)})
    return int(code)


if __name__ == "__main__":
    main()
