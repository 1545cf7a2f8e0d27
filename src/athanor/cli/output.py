"""What a command hands back: one JSON document for programs, and the exit code that belongs to a result."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from athanor.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from athanor.workflows.results import RunResult


@dataclass(frozen=True, slots=True)
class Screen:
    """How a command talks: nothing but errors, or JSON on stdout; both keep stdout free of anything else."""

    quiet: bool = False
    as_json: bool = False

    @property
    def shows_tables(self) -> bool:
        """Whether tables are printed."""
        return not (self.quiet or self.as_json)


def print_json(document: Mapping[str, Any]) -> None:
    """Print `document`, the only thing on stdout of a command with ``--json``."""
    as_it_is = (sys.stdout.encoding or "").lower() in ("utf-8", "utf8")
    print(json.dumps(document, indent=1, ensure_ascii=not as_it_is, allow_nan=False))


def exit_code(result: RunResult, *, allow_failures: bool = False) -> ExitCode:
    """Return the exit code of a finished, interrupted or partly failed calculation."""
    if result.interrupted:
        return ExitCode.INTERRUPTED
    return ExitCode.SOME_FAILED if result.failed and not allow_failures else ExitCode.DONE


def document_of(result: RunResult, seconds: float, code: ExitCode) -> dict[str, Any]:
    """Return what ``--json`` prints of a calculation, but for the place of its results."""
    return {
        "rows": result.rows,
        "outcome": result.outcomes,
        "seconds": round(seconds, 3),
        "exit_code": int(code),
    }
