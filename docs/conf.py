"""How the pages are built: `make docs`, or `python -m sphinx -W docs docs/_build`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))

from sphinx.util import inspect  # noqa: E402

from athanor import __version__  # noqa: E402

project = "athanor"
author = "The athanor developers"
copyright = "The athanor developers, Apache-2.0"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
extensions += ["field_table", "setting_table", "command_help", "step_picture", "model_table"]
exclude_patterns = ["_build"]
default_role = "code"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# The docstrings have NumPy sections, types in the signature only, and the constructor's parameters on the class.
napoleon_google_docstring = False
napoleon_use_ivar = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 120
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = f"athanor {release}"
html_static_path = ["_static"]
html_css_files = ["athanor.css"]
html_copy_source = False
html_show_sphinx = False

FROM_THE_ROOT = {"architecture": "ARCHITECTURE.md", "changelog": "CHANGELOG.md", "contributing": "CONTRIBUTING.md"}
"""Pages whose text stands in the root of the repository."""


def _take_from_the_root(app: Any, name: str, source: list[str]) -> None:
    """Replace a page of `FROM_THE_ROOT` by the file, with its links as seen from here."""
    if name in FROM_THE_ROOT:
        text = (DOCS.parent / FROM_THE_ROOT[name]).read_text(encoding="utf-8")
        for page, file in FROM_THE_ROOT.items():
            text = text.replace(f"]({file})", f"]({page}.md)")
        source[0] = text.replace("](docs/", "](")


def _list_references(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make the footnotes ``.. [1]`` of docstrings plain lists: numbers repeat from one docstring to the next."""
    for place, line in enumerate(lines):
        lines[place] = re.sub(r"\[(\d+)\]_", r"[\1]", re.sub(r"^(\s*)\.\. (\[\d+\])", r"\1* \2", line))


def _keep_colons(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Put "Empty: nothing is learned" together again: napoleon takes what stands before a colon for a type."""
    types = [place for place, line in enumerate(lines) if line.startswith(":type: ")]
    if what in ("attribute", "property") and types:
        kind = lines.pop(types[0]).removeprefix(":type: ")
        lines[0] = f"{kind}: {lines[0]}"


def _take_signature_of_init(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, None] | None:
    """Show the constructor of a model: its metaclass has a `__call__`, which autodoc would show instead."""
    if what != "class" or type(obj).__name__ != "_ModelMeta":
        return None
    constructor = inspect.signature(obj.__init__, bound_method=True)
    return inspect.stringify_signature(constructor, show_return_annotation=False, unqualified_typehints=True), None


def setup(app: Any) -> None:
    """Connect the functions above."""
    app.connect("source-read", _take_from_the_root)
    app.connect("autodoc-process-docstring", _list_references)
    app.connect("autodoc-process-docstring", _keep_colons)
    app.connect("autodoc-process-signature", _take_signature_of_init)
