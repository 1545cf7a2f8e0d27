"""Behind ``athanor export``: a file, and a line that says what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from athanor.cli.exit_codes import ExitCode
from athanor.cli.output import Screen, print_json, warnings_as_lines


def export_frames(source: Path, out: Path, choice: dict[str, Any], quiet: bool, as_json: bool) -> int:
    """Write the frames that were chosen, as `athanor.export` takes the choice; say how many there are, and where."""
    from athanor.workflows.export import export
    from athanor.workflows.readable import count, format_bytes, printable

    screen = Screen(quiet, as_json)
    with warnings_as_lines(quiet=quiet):
        found = export(source, out, progress=not quiet, **choice)
    if as_json:
        facts = {"format": found.format, "frames": found.frames, "systems": found.systems, "bytes": found.size}
        print_json({"file": str(found.path), **facts})
    elif screen.shows_tables:
        what = f"{count(found.frames, 'frame')} of {count(found.systems, 'system')}"
        print(printable(f"{what} ({format_bytes(found.size)}): {found.path}"))
    return int(ExitCode.DONE)
