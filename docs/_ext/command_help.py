"""The directive ``command-help``: what ``athanor COMMAND --help`` prints, so that the page can not drift from it."""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any
from unittest import mock

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from athanor.cli.main import call


class CommandHelp(SphinxDirective):
    """The help of one command, or of ``athanor`` itself."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return a block of text."""
        printed = io.StringIO()
        plain = {"COLUMNS": "96", "NO_COLOR": "1", "TERM": "dumb"}
        with mock.patch.dict(os.environ, plain), contextlib.redirect_stdout(printed):
            code = call([*self.arguments, "--help"])
        if code:
            raise self.error(f"athanor {' '.join(self.arguments)} --help ended with {code}")
        text = "\n".join(line.rstrip() for line in printed.getvalue().strip("\n").splitlines())
        return [nodes.literal_block(text, text, language="text")]


def setup(app: Any) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
