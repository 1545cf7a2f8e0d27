"""The directive ``field-table``: rows of `athanor.data.fields` as a table, so that the page can not drift from it.

``:::{field-table} node`` shows the stored fields of that level, ``:::{field-table} pairs`` the views of the pair list.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from athanor.data.fields import FIELDS, LEVELS, PAIR_VIEWS, REQUIRED, FieldSpec

LEADING = {"node": "N", "edge": "E", "system": "B"}
DTYPES = {"state": "state", "float": "floating", "integer": "integer", "boolean": "bool", "any": "any"}
HEADER = ("name", "shape", "dtype", "unit", "meaning", "if absent", "role")


def shape(row: FieldSpec) -> str:
    """Return the shape on a batch as text, such as ``[N, 3]``."""
    return f"[{', '.join([LEADING[row.level], *('*' if size is None else str(size) for size in row.shape)])}]"


def dtype(row: FieldSpec) -> str:
    """Return the exact dtype, or the kind of dtypes that the field takes."""
    return DTYPES[row.kind] if row.dtype is None else str(row.dtype).removeprefix("torch.")


def if_absent(row: FieldSpec) -> str:
    """Return what a batch holds for systems that lack the field when others have it."""
    if row.name in REQUIRED:
        return "required"
    if row.default is not None:
        return f"{row.default}" if row.kind == "boolean" else f"{row.default:g}"
    assumed = "" if row.assumed is None else f"; models read {row.assumed:g}"
    return f"NaN{assumed}" if row.kind in ("state", "float") else "refused"


class FieldTable(SphinxDirective):
    """A table of the fields of one level."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        (which,) = self.arguments
        if which == "pairs":
            header, rows = HEADER[:-2], list(PAIR_VIEWS.values())
        elif which in LEVELS:
            header, rows = HEADER, [row for row in FIELDS.values() if row.level == which]
        else:
            raise self.error(f"field-table: {which!r} is none of {', '.join(LEVELS)}, pairs")
        body = [[row.name, shape(row), dtype(row), row.unit, row.meaning, if_absent(row), row.role] for row in rows]
        return [make_table(header, [cells[: len(header)] for cells in body])]


def make_table(header: tuple[str, ...], rows: list[list[str]], kind: str = "field-table") -> nodes.table:
    """Return a table of a `kind` that the style sheet knows; the first two columns stand in the type of code."""
    group = nodes.tgroup(cols=len(header))
    group += [nodes.colspec(colwidth=1) for _ in header]
    group += nodes.thead("", _row(header, code=False))
    group += nodes.tbody("", *(_row(cells, code=True) for cells in rows))
    return nodes.table("", group, classes=[kind])


def _row(cells: tuple[str, ...] | list[str], *, code: bool) -> nodes.row:
    row = nodes.row()
    for place, text in enumerate(cells):
        inline = nodes.literal(text, text) if code and place < 2 else nodes.inline(text, text)
        row += nodes.entry("", nodes.paragraph("", "", inline))
    return row


def setup(app: Any) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("field-table", FieldTable)
    return {"parallel_read_safe": True}
