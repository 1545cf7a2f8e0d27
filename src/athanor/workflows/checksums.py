"""Checksums of the files of a results folder, so that a damaged one is told from one that says so."""

from __future__ import annotations

import hashlib
from pathlib import Path

from athanor.errors import StorageError
from athanor.io._replace import replacing, sync_file
from athanor.io.regular_file import open_regular, read_regular
from athanor.workflows.folder import CHECKSUMS, FINAL, LOG, SUMMARY_CSV, SUMMARY_JSON

_MOST_BYTES = 10_000


def write_checksums(folder: Path) -> None:
    """Bring the results in `folder` to the disk and write their checksums, as ``sha256sum`` does.

    Raises
    ------
    StorageError
        If the disk refuses.
    """
    lines = []
    try:
        for path in (folder / name for name in (FINAL, SUMMARY_CSV, SUMMARY_JSON, LOG)):
            if path.exists():
                sync_file(path)
                lines += [f"# {path.stat().st_size} {path.name}\n", f"{_digest(path)}  {path.name}\n"]
        with replacing(folder / CHECKSUMS) as partial:
            partial.write_text("".join(lines), encoding="ascii")
    except OSError as error:
        raise StorageError(f"`{folder / CHECKSUMS}` can not be written: {error.strerror}. Make room.") from error


def check_file(path: Path) -> None:
    """Raise if a file of a results folder is not what the run wrote; one without a checksum is taken as it is.

    Raises
    ------
    StorageError
        If it is another one.
    """
    try:
        text = read_regular(path.with_name(CHECKSUMS), _MOST_BYTES).decode("ascii", "replace")
        known = dict(line.split("  ", 1)[::-1] for line in text.splitlines() if "  " in line)
        has_its_size = f"# {path.stat().st_size} {path.name}" in text.splitlines()
        if path.name not in known or (has_its_size and _digest(path) == known[path.name]):  # never of one without end
            return
    except OSError:  # what is missing, or no file, is told by who reads it
        return
    raise StorageError(
        f"`{path}` is damaged, or was changed after the run: it is not what `{CHECKSUMS}` beside it says. "
        f"Remove that file to read it all the same."
    )


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()
