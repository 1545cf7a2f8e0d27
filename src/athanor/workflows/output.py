"""The results folder OUT: what is in it, and when it may be written; `saved_run` reads it back.

``trajectory.zarr``, ``final.extxyz``, ``summary.csv``, ``summary.json``, ``run.yaml``, ``log.csv``, and ``plot.png`` if
``athanor plot`` drew it. Summaries and ``run.yaml`` are replaced whole, by rename: a reader never sees half of one.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from athanor.errors import InputError, StorageError
from athanor.io._replace import PARTIAL, replacing
from athanor.io.regular_file import read_regular
from athanor.workflows.folder import CHECKPOINTS, CONTENT, RUN, SUMMARY_CSV, SUMMARY_JSON
from athanor.workflows.saved_record import read_record, running_process, state_of
from athanor.workflows.yaml_file import MOST_BYTES


def check_place(file: Path, *, overwrite: bool, example: str) -> None:
    """Refuse a place where no file may be written; changes nothing.

    Raises
    ------
    InputError
        If it exists and `overwrite` is off, is a folder, lies in a folder that does not exist, or can not be a name.
    """
    try:
        file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise InputError(f"`{file}` can not be the name of a file: {error.strerror}. Choose another.") from error
    if file.is_dir():
        raise InputError(f"`{file}` is a folder; give a file for the results, for example `{file / example}`.")
    if not file.parent.is_dir():
        raise InputError(f"`{file.parent}` is no folder; make it first, or choose another place for `{file.name}`.")
    if file.exists() and not overwrite:
        raise InputError(f"`{file}` exists. Choose another name, or add --overwrite to replace it.")


def check_output(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Return `path` if results may go there; changes nothing.

    Raises
    ------
    InputError
        If it is a file; if it holds something and `overwrite` is off; or if that is not a results folder of athanor,
        or one whose run goes on.
    StorageError
        If it can not be read.
    """
    folder = Path(path)
    try:
        if not folder.exists():
            return folder
    except PermissionError as error:
        raise StorageError(f"`{folder}` can not be reached: {error.strerror}. Choose another folder.") from error
    except OSError as error:
        raise InputError(f"`{folder}` can not be the name of a folder: {error.strerror}. Choose another.") from error
    if not folder.is_dir():
        raise InputError(f"`{folder}` is a file; choose a folder for the results.")
    try:
        names = {entry.name for entry in folder.iterdir() if not _is_partial(entry.name)}
    except OSError as error:
        raise StorageError(f"`{folder}` can not be read: {error.strerror}. Choose another folder.") from error
    if not names:
        return folder
    if not overwrite:
        stopped = "; --resume goes on with the run that was stopped there" if _can_go_on(folder, names) else ""
        raise InputError(
            f"`{folder}` exists. Choose another folder, or add --overwrite to replace these results{stopped}."
        )
    why = _why_not_ours(folder, names)
    if why:
        raise InputError(
            f"`{folder}` does not look like a results folder of athanor ({why}); it was left as it is. "
            f"Choose another folder."
        )
    writer = running_process(folder)
    if writer is not None:
        raise InputError(
            f"`{folder}` is being written by a run that goes on, process {writer}; it was left as it is. "
            f"Choose another folder, or stop that run first."
        )
    return folder


def _can_go_on(folder: Path, names: set[str]) -> bool:
    """Whether there is a run that was stopped, with checkpoints."""
    try:
        return CHECKPOINTS in names and state_of(read_record(folder)) != "finished"
    except (InputError, StorageError):
        return False


def _why_not_ours(folder: Path, names: set[str]) -> str:
    unknown = sorted(names - CONTENT)
    if unknown:
        return ", ".join(unknown[:3])
    if RUN not in names:
        return f"no {RUN}"
    try:
        lines = read_regular(folder / RUN, MOST_BYTES).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    return "" if any(line.startswith("athanor:") for line in lines) else f"its {RUN} is of another program"


def check_inputs_outside(folder: Path, files: Iterable[str]) -> None:
    """Refuse to empty `folder` while structures come from inside it; changes nothing.

    Raises
    ------
    InputError
        If one of `files` is in `folder`; the text names it.
    """
    for file in set(files) - {""}:
        if Path(file).exists() and Path(file).resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"`{file}` is read by this run and lies in `{folder}`, which --overwrite would empty; it was left as "
                f"it is. Choose another folder for the results."
            )


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
        for entry in [entry for entry in folder.iterdir() if entry.name in CONTENT or _is_partial(entry.name)]:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
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
    try:
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8", errors="replace")  # file names need not be text
    except OSError as error:
        raise StorageError(
            f"`{path}` can not be written: {error.strerror}. Make room, or choose another place."
        ) from error


def _is_partial(name: str) -> bool:
    """Whether it is what a killed run left of one of its files."""
    return name.endswith(PARTIAL) and name.startswith(tuple(f".{known}." for known in CONTENT))


def write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values as YAML."""
    import yaml

    text = yaml.safe_dump(_as_text(dict(values)), sort_keys=False, allow_unicode=True, width=110)
    replace_text(path, text)


def _as_text(value: Any) -> Any:
    """Return plain values whose every word can be written: a byte of a file name that is no text becomes ``?``."""
    if isinstance(value, dict):
        return {key: _as_text(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_as_text(entry) for entry in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


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
