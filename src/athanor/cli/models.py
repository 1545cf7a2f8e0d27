"""Behind ``athanor models``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from athanor.cli.exit_codes import ExitCode
from athanor.cli.output import print_json
from athanor.cli.table import make_console, print_pairs

if TYPE_CHECKING:
    from athanor.models.entry import ModelEntry


def show_models(given: Mapping[str, Any]) -> int:
    """Print the list of models, or all that is known of one: what it is for, of whom, how to install and to set it."""
    from athanor.models.registry import available, find

    entries = [find(given["name"])] if given["name"] else available()
    if given["json"]:
        print_json({"models": [_document(entry) for entry in entries], "exit_code": 0})
        return int(ExitCode.DONE)
    console = make_console()
    if given["name"]:
        print_pairs(console, _details(entries[0]))
        return int(ExitCode.DONE)
    print_pairs(console, {entry.name: f"{_facts(entry)}\n{entry.summary}" for entry in entries if entry.installed})
    absent = dict.fromkeys(entry.install for entry in entries if not entry.installed)
    if absent:
        console.print("\nNot installed:", highlight=False)
        names = {each: ", ".join(entry.name for entry in entries if entry.install == each) for each in absent}
        print_pairs(console, names)
    console.print(
        "\nChoose one with --model NAME; `athanor models NAME` says more of it. Your own: an entry point in the group "
        "`athanor.models`.",
        highlight=False,
    )
    return int(ExitCode.DONE)


def _document(entry: ModelEntry) -> dict[str, Any]:
    keys = ("name", "kind", "num_elements", "licence", "installed", "install", "summary", "weights", "training_set")
    return {key: getattr(entry, key) for key in (*keys, "citation", "url", "inputs")}


def _details(entry: ModelEntry) -> dict[str, str]:
    """Return what is known of a model, by what it is called, without what is unknown."""
    origin = {
        "": "",
        "shipped": "come with its package",
        "downloaded": "its package downloads them",
        "yours": "in a file of yours",
    }
    found = {
        entry.name: f"{_facts(entry)}\n{entry.summary}",
        "parameters": origin[entry.weights],
        "fitted to": entry.training_set,
        "reads": ", ".join(f"{name} of each system" for name in entry.inputs),
        "cite": entry.citation,
        "more": entry.url,
        "options": _options(entry),
    }
    return {name: text for name, text in found.items() if text}


def _options(entry: ModelEntry) -> str:
    """Return the options of a model as its signature has them: name and default."""
    import inspect
    import json

    if not entry.installed:
        return ""
    builder: Any = entry.load()
    rows = inspect.signature(builder.__init__ if inspect.isclass(builder) else builder).parameters.values()
    named = [row for row in rows if row.name != "self" and row.kind not in (row.VAR_KEYWORD, row.VAR_POSITIONAL)]
    defaults = {row.name: json.dumps(row.default, default=str).strip('"') for row in named}
    return ", ".join(row.name if row.default is row.empty else f"{row.name}={defaults[row.name]}" for row in named)


def _facts(entry: ModelEntry) -> str:
    elements = "" if entry.num_elements is None else f"{entry.num_elements} elements"
    absent = "" if entry.installed else f"not installed: {entry.install}"
    return ", ".join(fact for fact in (entry.kind, elements, entry.licence, absent) if fact)
