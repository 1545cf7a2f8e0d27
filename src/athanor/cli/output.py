"""What a command hands back: one JSON document for programs, warnings on stderr, and the exit code of a result."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from athanor.cli.exit_codes import ExitCode
from athanor.workflows.readable import printable

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
    prints_unicode = (sys.stdout.encoding or "").lower() in ("utf-8", "utf8")
    print(json.dumps(document, indent=1, ensure_ascii=not prints_unicode, allow_nan=False))


def exit_code(result: RunResult, *, allow_failures: bool = False) -> ExitCode:
    """Return the exit code of a finished, interrupted or partly failed calculation."""
    if result.interrupted:
        by_user = result.stopped_by in ("", "SIGINT") or result.checkpoint is None
        return ExitCode.INTERRUPTED if by_user else ExitCode.CHECKPOINT
    return ExitCode.SOME_FAILED if result.failed and not allow_failures else ExitCode.DONE


def document_of(result: RunResult, seconds: float, code: ExitCode) -> dict[str, Any]:
    """Return what ``--json`` prints of a calculation, but for the place of its results."""
    return {
        "rows": result.rows,
        "outcome": result.outcomes,
        "seconds": round(seconds, 3),
        "exit_code": int(code),
    }


@contextmanager
def warnings_as_lines(*, quiet: bool) -> Iterator[None]:
    """Print warnings as ``warning: text``; ours also where a filter would make them errors. Quiet: print none."""
    from athanor import _runtime
    from athanor.errors import AthanorWarning

    _runtime.set_announcing(not quiet)

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if quiet:
            return
        if isinstance(message, AthanorWarning):
            silence = f" [--silence {message.topic}]" if message.topic else ""
            message = f"{message.text}{silence}"
        print(printable(f"warning: {message}"), file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of libraries, for those who write them
        warnings.simplefilter("always", AthanorWarning)
        warnings.showwarning = show
        yield
