"""The commands whose options are made from tables: what they take, and what they call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import typer

from athanor.cli import options
from athanor.cli.options import (
    CHECK,
    CHECK_OF_MODEL,
    CHECKPOINT,
    COMPUTER,
    EVERY,
    EXTEND,
    FILES,
    FROM_TIME,
    OVERWRITE,
    QUICK,
    RESUME,
    SCREEN,
    SECOND_CHANCES,
    SEED,
    STATUS,
    STOP_ABOVE,
    SYSTEMS,
    SYSTEMS_OF_MODELS,
    TIME_LIMIT,
    Parameter,
)
from athanor.workflows.methods import MD, RELAX, StageKind, load
from athanor.workflows.settings import OUT, OUTPUT


class Command(NamedTuple):
    """One command: the function as typer takes it, and an example for its help."""

    function: Callable[..., None]
    example: str


def _command(name: str, text: str, example: str, parameters: Sequence[Parameter], home: str, *first: Any) -> Command:
    """Return a command: the signature of its function says the options, its docstring is the help.

    What it does stands at `home`, imported when the command runs; it is called with `first` and the options by name.
    """

    def command(**given: Any) -> None:
        raise typer.Exit(load(home)(*first, given))

    command.__name__, command.__doc__ = name, text
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return Command(command, f"athanor {name} {example}".strip())


_JOB = options.argument("job", Path, "JOB.yaml", "Description of the run; `athanor init` writes one. OUT, to resume.")
_FILE = replace(
    OUT, help="File for the structures with energy, forces and stress", absent="only the table", metavar="OUT.extxyz"
)
_PICKED = replace(OUT, help="File for the chosen structures, for the code that labels", absent="only the table",
                  metavar="OUT.extxyz")  # fmt: skip
_ON_SCREEN = [options.flag("quiet", OUTPUT, "Print errors only.", "-q"), options.JSON]
_REPLACE = options.flag("overwrite", OUTPUT, "Replace the file if it exists.")


def _stage_parameters(kind: StageKind) -> list[Parameter]:
    out = options.option(replace(OUT, absent="needed, unless --resume names it"))
    return [
        *(FILES, FROM_TIME, *SYSTEMS, STOP_ABOVE, *options.of_stage(kind), *COMPUTER, *SECOND_CHANCES),
        *(SEED, TIME_LIMIT, out, EVERY, CHECKPOINT, RESUME, *([EXTEND] if kind is MD else [])),
        *(STATUS, OVERWRITE, CHECK, *SCREEN),
    ]


MODELS = _command(
    "models",
    "List the potentials that can be used, and how to install the others; or say all about one.",
    "chgnet",
    [options.MODEL_NAME, options.JSON],
    "athanor.cli.models:show_models",
)
COMMANDS = (
    _command(
        "run",
        "Run a job: structures, a model, and stages that every system goes through in one batch.\n\n"
        "What is given here wins over the job; what is not is taken from the job.",
        "job.yaml --check",
        [
            _JOB,
            *SYSTEMS,
            STOP_ABOVE,
            QUICK,
            *COMPUTER,
            *SECOND_CHANCES,
            SEED,
            TIME_LIMIT,
            options.option(OUT),
            EVERY,
            CHECKPOINT,
            RESUME,
            EXTEND,
            STATUS,
            OVERWRITE,
            CHECK,
            *SCREEN,
        ],
        "athanor.cli.run:run_job",
    ),
    _command(
        "relax",
        "Relax structures: atoms, and the cell of periodic ones.",
        "*.cif --pressure 10GPa -o relaxed",
        _stage_parameters(RELAX),
        "athanor.cli.run:run_files",
        RELAX,
    ),
    _command(
        "md",
        "Run molecular dynamics.",
        "*.cif --min-atoms 100 --temperature 300K --time 1ps -o hot",
        _stage_parameters(MD),
        "athanor.cli.run:run_files",
        MD,
    ),
    _command(
        "evaluate",
        "Compute energies, forces and stress of structures as they are; nothing moves.\n\n"
        "Several models are compared with the last one, and each writes a file: OUT-NAME.extxyz.",
        "*.cif --model chgnet --model chgnet-r2scan -o evaluated.extxyz",
        [FILES, FROM_TIME, *SYSTEMS_OF_MODELS, *COMPUTER, options.option(_FILE), _REPLACE, *SCREEN],
        "athanor.cli.evaluate:evaluate_files",
    ),
    _command(
        "select",
        "Choose the frames of runs that are worth labelling: far from each other, or where a committee disagrees.",
        "hot -n 20 --by uncertainty --above 0.1 -o picked.xyz",
        [options.SOURCES, *options.SELECTING, *COMPUTER, options.option(_PICKED), _REPLACE, *_ON_SCREEN],
        "athanor.cli.select:select_frames",
    ),
    _command(
        "check-model",
        "Check that a potential does what it claims: derivatives, symmetries, batches, cutoffs, memory.\n\n"
        "What it claims and does not hold is a failure (exit code 69); what it does not claim is measured and told.",
        "chgnet --element Li --element O",
        [*CHECK_OF_MODEL, options.JSON],
        "athanor.cli.check_model:check_named_model",
    ),
)
