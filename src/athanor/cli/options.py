"""Options that several commands share: written once, so that a name means the same everywhere.

Defaults stand in `athanor.workflows.spec`; an option that is left out is None and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from athanor.cli.output import Screen

SYSTEMS, MODEL, COMPUTING, OUTPUT = "Structures", "Model", "Computing", "Output"


@dataclass(frozen=True, slots=True)
class Shared:
    """What the shared options of one call say.

    Parameters
    ----------
    settings
        Keys of a job; None where an option was left out.
    model_options
        ``KEY=VALUE`` arguments of the model.
    overwrite
        Replace earlier results.
    screen
        What is printed.
    """

    settings: dict[str, Any]
    model_options: list[str]
    overwrite: bool
    screen: Screen


def collect(context: typer.Context) -> Shared:
    """Return the shared options of the command that is being run."""
    given = context.params
    settings = {key: given.get(key) for key in _KEYS} | {"output": given["out"]}
    screen = Screen(given["quiet"], given["as_json"])
    return Shared(settings, given["model_option"] or [], given["overwrite"], screen)


_KEYS = (
    "supercell",
    "min_atoms",
    "model",
    "device",
    "dtype",
    "threads",
    "max_atoms",
    "seed",
    "every",
    "silence",
)
"""Keys of a job that are options of the same name."""


def complete_models(incomplete: str) -> list[tuple[str, str]]:
    """Return the models whose name starts with `incomplete`, for the shell."""
    from athanor.models.registry import available

    return [(entry.name, entry.summary) for entry in available() if entry.name.startswith(incomplete)]


def one_of(*values: str) -> Callable[[str], list[str]]:
    """Return what completes the beginning of one of `values`."""
    return lambda incomplete: [value for value in values if value.startswith(incomplete)]


Files = Annotated[list[str], typer.Argument(metavar="FILE", help="Structure files: anything ASE reads, any number.")]
Supercell = Annotated[
    str | None,
    typer.Option(metavar="NxNxN", rich_help_panel=SYSTEMS, help="Repeats of every cell: 2x2x1, or 2 for all axes."),
]
MinAtoms = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=SYSTEMS, help="Repeat periodic cells up to so many atoms."),
]
Model = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--model",
        metavar="NAME",
        autocompletion=complete_models,
        rich_help_panel=MODEL,
        help="Potential, see `athanor models`. For crystals chgnet if left out.",
    ),
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", rich_help_panel=MODEL, help="Argument of the model; repeatable."),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        autocompletion=one_of("cpu", "cuda", "mps", "auto"),
        rich_help_panel=COMPUTING,
        help="cpu, cuda, cuda:1, mps, or auto: a GPU if there is one.  [default: cpu]",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE",
        autocompletion=one_of("float64", "float32"),
        rich_help_panel=COMPUTING,
        help="Precision: float64 or float32.  [default: float64]",
    ),
]
Threads = Annotated[
    int | None, typer.Option(metavar="N", rich_help_panel=COMPUTING, help="CPU threads.  [default: all cores]")
]
MaxAtoms = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=COMPUTING, help="Most atoms in one batch.  [default: what fits]"),
]
Seed = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=COMPUTING, help="Of velocities and noise.  [default: 42]"),
]
Silence = Annotated[
    list[str] | None,
    typer.Option(metavar="TOPIC", rich_help_panel=OUTPUT, help="Leave out warnings of a topic; repeatable."),
]
Check = Annotated[
    bool,
    typer.Option(
        "--check", metavar="", rich_help_panel=OUTPUT, help="Check all, estimate time, memory, disk; run nothing."
    ),
]
Out = Annotated[
    Path, typer.Option("-o", "--out", metavar="DIR", rich_help_panel=OUTPUT, help="Folder for the results.")
]
Every = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=OUTPUT, help="Steps between frames and rows of the log.  [default: 10]"),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", metavar="", rich_help_panel=OUTPUT, help="Replace the results of an earlier run.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", metavar="", rich_help_panel=OUTPUT, help="Print errors only.")]
Json = Annotated[
    bool, typer.Option("--json", metavar="", rich_help_panel=OUTPUT, help="Print one JSON document instead of tables.")
]
