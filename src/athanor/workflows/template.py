"""A job to start from: every key with its default, and a line above it that says what it is and in which unit.

Keys, defaults and lines are those of the descriptions, so a template can not fall behind them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from shlex import quote
from typing import Any

from pydantic import BaseModel

from athanor.workflows.methods import TEMPLATES
from athanor.workflows.spec import DEFAULT_MODEL, ModelSpec, SourceSpec, make_spec
from athanor.workflows.stages import StageSpec

_EXAMPLE = "structures.extxyz"
_MD_STEPS = 1000
"""The one key of a stage without a default: 1 ps at the default time step."""


def make_template(kind: str, structures: Sequence[str] = (), *, job: str = "job.yaml") -> str:
    """Return a job as commented YAML.

    Parameters
    ----------
    kind
        One of `athanor.workflows.methods.TEMPLATES`.
    structures
        Files, as seen from the job.
    job
        Name of the job, for the comments.
    """
    spec = make_spec(
        {
            "title": kind,
            "structures": [{"file": file} for file in structures or (_EXAMPLE,)],
            "model": DEFAULT_MODEL,
            "stages": [{name: {"steps": _MD_STEPS} if name == "md" else {}} for name in TEMPLATES[kind]],
            "output": f"{job.removesuffix('.yaml')}-output",
        }
    )
    head = [
        "# A job for athanor: what to run, on what, with which model. Every key is here with its default.",
        f"# Check it with `athanor run {quote(job)} --check`, run it with `athanor run {quote(job)}`.",
        "",
    ]
    return "\n".join([*head, *_entries(spec)]) + "\n"


def _entries(description: BaseModel) -> Iterator[str]:
    """Yield the lines of a description: for each key a comment, then the key with its value."""
    plain = description.model_dump(mode="json")
    comments = {name: field.description for name, field in type(description).model_fields.items() if name != "kind"}
    if isinstance(description, StageSpec):
        taken = description.method.all_settings()
        chooser = description.method.kind.chooser
        comments = {name: taken[name].comment if name in taken else text for name, text in comments.items()
                    if name in taken or name == chooser}  # fmt: skip
    for name, comment in comments.items():
        yield f"# {comment}"
        value = getattr(description, name)
        if name == "stages":
            yield "stages:"
            for stage in value:
                yield f"  - {stage.kind}:"
                yield from (f"      {line}" for line in _entries(stage))
        elif name == "structures":
            yield "structures:"
            yield from _sources(value)
        elif isinstance(value, ModelSpec):
            yield _entry(name, value.to_job())
        else:
            yield _entry(name, plain[name])


def _sources(sources: Sequence[SourceSpec]) -> Iterator[str]:
    """Yield the first source with all its keys, and of the others the file."""
    comment, first, *rest = _entries(sources[0])
    yield f"  {comment}"
    yield f"  - {first}"
    yield from (f"    {line}" for line in rest)
    yield from (f"  - {_entry('file', str(source.file))}" for source in sources[1:])


def _entry(name: str, value: Any) -> str:
    import yaml

    return str(yaml.safe_dump({name: value}, allow_unicode=True, default_flow_style=False, width=10_000).strip())
