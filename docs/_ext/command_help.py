"""The directive ``command-help``: what each ``athanor COMMAND --help`` prints, so that the page can not drift."""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any
from unittest import mock

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from athanor.cli.main import app, call

PLAIN = {"COLUMNS": "92", "NO_COLOR": "1", "TERM": "dumb"}


def help_of(*command: str) -> nodes.literal_block:
    """Return the help of one command as a block of text."""
    printed = io.StringIO()
    with mock.patch.dict(os.environ, PLAIN), contextlib.redirect_stdout(printed):
        code = call([*command, "--help"])
    assert code == 0, f"athanor {' '.join(command)} --help ended with {code}"
    text = "\n".join(line.rstrip() for line in printed.getvalue().strip("\n").splitlines())
    return nodes.literal_block(text, text, language="text")


class CommandHelp(SphinxDirective):
    """The help of ``athanor``, then a section for each command."""

    def run(self) -> list[nodes.Node]:
        """Return the block and the sections."""
        names = [command.name or command.callback.__name__ for command in app.registered_commands]
        sections = []
        for name in names:
            title = f"athanor {name}"
            sections.append(nodes.section("", nodes.title(title, title), help_of(name), ids=[title.replace(" ", "-")]))
        return [help_of(), *sections]


def setup(app: Any) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
