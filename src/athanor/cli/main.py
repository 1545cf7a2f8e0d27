"""The ``athanor`` command: arguments only. What it does is in `athanor.workflows`, loaded when a command runs."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from athanor.cli import commands
from athanor.cli.exit_codes import ExitCode
from athanor.cli.init import Kind
from athanor.cli.output import print_json


class _Interrupted(Exception):
    """Ctrl-C, in a form that typer hands on: of a KeyboardInterrupt it makes an exit without a word."""


@contextmanager
def _interrupts_raised() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise _Interrupted from None


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
        with _interrupts_raised():
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: Any) -> Any:
        with _interrupts_raised():
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
    "Exit codes: 0 done, 65 bad input, 69 some systems failed, 70 internal error, 74 storage, 130 interrupted.",
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
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what was run, how far it got, what failed and why, and how to read the results."""
    from athanor.cli.show import show_run

    raise typer.Exit(show_run(out, system=system, all_rows=all_rows, as_json=as_json))


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


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; the one place where errors become messages and exit codes."""
    # Threads of torch wait without spinning: on shared cores a spinning wait costs milliseconds. Read by the OpenMP
    # library when torch loads, so it is set here, before any command imports it.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by who started us; a file of the run must not get its number
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Å gets a question mark, not the end of the run
    sys.exit(call(sys.argv[1:] if arguments is None else arguments))


def call(arguments: list[str]) -> int:
    """Run the command line and return its exit code."""
    from athanor.errors import InputError, OptionalDependencyError, StorageError

    as_json = "--json" in arguments
    try:
        code = int(app(arguments, prog_name="athanor", standalone_mode=False) or ExitCode.DONE)
        sys.stdout.flush()  # here, where a closed pipe or a full disk can still be reported
        return code
    except (InputError, OptionalDependencyError) as error:
        return _report(str(error), ExitCode.BAD_INPUT, as_json)
    except StorageError as error:
        return _report(str(error), ExitCode.STORAGE, as_json)
    except (KeyboardInterrupt, _Interrupted):
        return _report("interrupted.", ExitCode.INTERRUPTED, as_json)
    except SystemExit:  # what rich and click make of a closed pipe; the command itself never exits
        return int(ExitCode.DONE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.DONE)
    except OSError as error:
        return _report(f"{error.filename or 'the output'}: {error.strerror or error}.", ExitCode.STORAGE, as_json)
    except Exception as error:
        if _is_usage_error(error):
            return _report(_usage_text(error), ExitCode.BAD_INPUT, as_json)
        if type(error).__name__ == "Abort":
            return _report("interrupted.", ExitCode.INTERRUPTED, as_json)
        if os.environ.get("ATHANOR_DEBUG"):
            raise
        return _report(
            f"internal error: {type(error).__name__}: {error}\n"
            f"  This is a mistake in athanor. Run it again with ATHANOR_DEBUG=1 and report the traceback.",
            ExitCode.OUR_ERROR,
            as_json,
        )


def _is_usage_error(error: Exception) -> bool:
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
