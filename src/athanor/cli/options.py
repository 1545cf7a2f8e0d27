"""Options that several commands share: written once, so that a name means the same everywhere.

Defaults stand in `athanor.workflows.spec`; an option that is left out is None and changes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SYSTEMS, MODEL, STAGE, COMPUTING, OUTPUT = "Structures", "Model", "What is done", "Computing", "Output"


def complete_models(incomplete: str) -> list[tuple[str, str]]:
    """Return the models whose name starts with `incomplete`, for the shell."""
    from athanor.models.registry import available

    return [(entry.name, entry.summary) for entry in available() if entry.name.startswith(incomplete)]


def _chosen_from(*values: str) -> object:
    return lambda incomplete: [value for value in values if value.startswith(incomplete)]


Files = Annotated[list[str], typer.Argument(metavar="FILE...", help="Structure files: anything ASE reads, any number.")]
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
        autocompletion=_chosen_from("cpu", "cuda", "mps", "auto"),
        rich_help_panel=COMPUTING,
        help="cpu, cuda, cuda:1, mps, or auto: a GPU if there is one.  [default: cpu]",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE",
        autocompletion=_chosen_from("float64", "float32"),
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
Check = Annotated[
    bool,
    typer.Option("--check", rich_help_panel=OUTPUT, help="Check everything, estimate time, memory and disk; run nothing."),
]
Out = Annotated[Path, typer.Option("-o", "--out", metavar="DIR", rich_help_panel=OUTPUT, help="Folder for the results.")]
Every = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=OUTPUT, help="Steps between frames and rows of the log.  [default: 10]"),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", rich_help_panel=OUTPUT, help="Replace the results of an earlier run.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", rich_help_panel=OUTPUT, help="Print errors only.")]
Json = Annotated[
    bool, typer.Option("--json", rich_help_panel=OUTPUT, help="Print one JSON document instead of tables.")
]
