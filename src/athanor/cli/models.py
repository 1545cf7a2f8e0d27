"""Behind ``athanor models``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from athanor.cli.exit_codes import ExitCode
from athanor.cli.output import print_json
from athanor.cli.table import make_console, print_pairs

if TYPE_CHECKING:
    from athanor.models.registry import ModelEntry


def show_models(given: Mapping[str, Any]) -> int:
    """Print the list of models: what they are for, whether they can be used, and how to install the others."""
    from athanor.models.registry import available

    entries = available()
    if given["json"]:
        keys = ("name", "kind", "num_elements", "licence", "installed", "install", "summary")
        print_json({"models": [{key: getattr(entry, key) for key in keys} for entry in entries], "exit_code": 0})
        return int(ExitCode.DONE)
    console = make_console()
    print_pairs(console, {entry.name: f"{_facts(entry)}\n{entry.summary}" for entry in entries})
    console.print(
        "\nChoose one with --model NAME. Your own: an entry point in the group `athanor.models`.", highlight=False
    )
    return int(ExitCode.DONE)


def _facts(entry: ModelEntry) -> str:
    elements = "" if entry.num_elements is None else f"{entry.num_elements} elements"
    installed = "installed" if entry.installed else f"not installed: {entry.install}"
    return ", ".join(fact for fact in (entry.kind, elements, entry.licence, installed) if fact)
