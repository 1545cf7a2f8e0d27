"""The results folder OUT: what is in it, when it may be written, and how it is read back.

``trajectory.zarr``, ``final.extxyz``, ``summary.csv``, ``summary.json``, ``run.yaml``, ``log.csv``. Files are replaced
whole, by rename, so a reader never sees half a file.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from athanor.errors import InputError, StorageError

TRAJECTORY = "trajectory.zarr"
FINAL = "final.extxyz"
SUMMARY_CSV = "summary.csv"
SUMMARY_JSON = "summary.json"
RUN = "run.yaml"
LOG = "log.csv"
CONTENT = frozenset({TRAJECTORY, FINAL, SUMMARY_CSV, SUMMARY_JSON, RUN, LOG})


def check_output(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Return `path` if results may go there; changes nothing.

    Raises
    ------
    InputError
        If it exists and `overwrite` is off, or it is not a results folder of athanor.
    """
    folder = Path(path)
    if not folder.exists():
        return folder
    if not folder.is_dir():
        raise InputError(f"`{folder}` is a file; choose a folder for the results.")
    names = {entry.name for entry in folder.iterdir()}
    if not names:
        return folder
    if not overwrite:
        raise InputError(f"`{folder}` exists. Choose another folder, or add --overwrite to replace these results.")
    foreign = sorted(names - CONTENT)
    if foreign or RUN not in names:
        shown = ", ".join(foreign[:3]) if foreign else "no run.yaml"
        raise InputError(
            f"`{folder}` does not look like a results folder of athanor ({shown}); it was left as it is. "
            f"Choose another folder."
        )
    return folder


def create_output(folder: Path, *, overwrite: bool) -> Path:
    """Make `folder` an empty results folder; with `overwrite`, what athanor wrote there before is removed.

    Raises
    ------
    InputError
        As `check_output`.
    StorageError
        If the folder can not be made or emptied.
    """
    check_output(folder, overwrite=overwrite)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in sorted(CONTENT):
            entry = folder / name
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.exists() or entry.is_symlink():
                entry.unlink()
    except OSError as error:
        raise StorageError(f"`{folder}` can not be written: {error.strerror}. Choose another folder.") from error
    return folder


def replace_text(path: Path, text: str) -> None:
    """Write `text` to `path` whole, by rename.

    Raises
    ------
    StorageError
        If the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"`{path}` can not be written: {error.strerror}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values as YAML."""
    import yaml

    replace_text(path, yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=110))


def write_summary(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one row per system, in input order, as CSV and JSON."""
    columns: dict[str, None] = {}
    for row in rows:
        columns.update(dict.fromkeys(row))
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows([{key: "" if value is None else value for key, value in row.items()} for row in rows])
    replace_text(folder / SUMMARY_CSV, text.getvalue())
    replace_text(folder / SUMMARY_JSON, json.dumps(list(rows), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_run(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the content of ``run.yaml`` and the rows of the summary.

    Raises
    ------
    InputError
        If `path` is not a results folder.
    StorageError
        If a file in it can not be read.
    """
    import yaml

    folder = Path(path)
    if not (folder / RUN).is_file():
        raise InputError(f"`{folder}` is not a results folder of athanor: it has no `{RUN}`.")
    try:
        run = yaml.safe_load((folder / RUN).read_text(encoding="utf-8"))
        summary = folder / SUMMARY_JSON
        rows = json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else []
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise StorageError(f"`{folder}` can not be read: {error}.") from error
    if not isinstance(run, dict) or "athanor" not in run:
        raise StorageError(f"`{folder / RUN}` was not written by athanor.")
    return run, rows
