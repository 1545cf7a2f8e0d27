"""Behind ``athanor models``."""

from __future__ import annotations

from athanor.cli.exit_codes import ExitCode
from athanor.cli.output import print_json
from athanor.cli.table import make_console


def show_models(*, as_json: bool = False) -> int:
    """Print the list of models: what they are for, whether they can be used, and how to install the others."""
    from athanor.models.registry import available

    entries = available()
    if as_json:
        keys = ("name", "kind", "num_elements", "licence", "installed", "install", "summary")
        print_json({"models": [{key: getattr(entry, key) for key in keys} for entry in entries], "exit_code": 0})
        return int(ExitCode.DONE)
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    console = make_console()
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("elements", justify="right")
    for title in ("licence", "installed", "what it is"):
        table.add_column(title)
    for entry in entries:
        elements = "" if entry.num_elements is None else str(entry.num_elements)
        installed = "yes" if entry.installed else "no"
        table.add_row(entry.name, entry.kind, elements, entry.licence, installed, entry.summary)
    console.print(table)
    missing = [f"  {entry.name}: {entry.install}" for entry in entries if not entry.installed]
    if missing:
        console.print("To install:\n" + "\n".join(missing), highlight=False, markup=False)
    console.print("Your own: an entry point in the group `athanor.models` (see docs/conventions.md).", highlight=False)
    return int(ExitCode.DONE)
