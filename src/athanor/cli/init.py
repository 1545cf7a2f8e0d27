"""Behind ``athanor init``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from shlex import quote

from athanor.cli.exit_codes import ExitCode
from athanor.errors import InputError
from athanor.workflows.methods import TEMPLATES

Kind = StrEnum("Kind", {name: name for name in TEMPLATES})  # type: ignore[misc]  # made from a table
"""What a job may do."""


def write_job(kind: str, out: str | None, structures: Sequence[str], *, overwrite: bool) -> int:
    """Write a commented job, ``KIND.yaml`` by default; ``-`` prints it."""
    from athanor.workflows.output import replace_text
    from athanor.workflows.template import make_template

    if out == "-":
        sys.stdout.write(make_template(kind, structures))
        return int(ExitCode.DONE)
    file = Path(out or f"{kind}.yaml")
    if file.is_dir():
        raise InputError(f"`{file}` is a folder; give a file, for example `-o {file / kind}.yaml`.")
    if not file.parent.is_dir():
        raise InputError(f"`{file.parent}` is no folder; make it first, or choose another place for `{file.name}`.")
    if file.exists() and not overwrite:
        raise InputError(f"`{file}` exists. Choose another name with -o, or add --overwrite to replace it.")
    seen_from_job = [os.path.relpath(path, file.parent) for path in structures]
    replace_text(file, make_template(kind, seen_from_job, job=file.name))
    print(f"Wrote {file}. Look through it, then: athanor run {quote(str(file))} --check")
    return int(ExitCode.DONE)
