"""The directive ``setting-table``: what can be set in a job, from the tables of settings.

``:::{setting-table} job`` shows the keys of a job, ``relax`` and ``md`` those of a stage.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from field_table import make_table
from sphinx.util.docutils import SphinxDirective

from athanor.workflows.methods import KINDS, all_settings
from athanor.workflows.spec import RunSpec


def of_a_job() -> list[list[str]]:
    """Return a row for each key."""
    plain = RunSpec(stages=["relax"]).model_dump(mode="json")
    defaults = {key: "" if value in (None, "", []) or key == "stages" else str(value) for key, value in plain.items()}
    return [[key, defaults[key], field.description or ""] for key, field in RunSpec.model_fields.items()]


def of_a_stage(kind: str) -> list[list[str]]:
    """Return a row for each key."""
    rows = []
    for setting in all_settings(KINDS[kind]).values():
        some = f" Taken by {', '.join(setting.only)}." if setting.only else ""
        rows.append([setting.name, setting.default_in_words, setting.comment + some])
    return rows


class SettingTable(SphinxDirective):
    """A table of keys with their defaults."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        (which,) = self.arguments
        if which != "job" and which not in KINDS:
            raise self.error(f"setting-table: {which!r} is none of job, {', '.join(KINDS)}")
        return [make_table(("key", "default", "meaning"), of_a_job() if which == "job" else of_a_stage(which))]


def setup(app: Any) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("setting-table", SettingTable)
    return {"parallel_read_safe": True}
