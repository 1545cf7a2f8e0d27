"""The small files of a results folder, checked: ``run.yaml`` and ``summary.json``; and whether their run goes on."""

from __future__ import annotations

import difflib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from athanor._values import shown
from athanor.errors import InputError, StorageError
from athanor.workflows.columns import tell_apart
from athanor.workflows.folder import RUN, SUMMARY_CSV, SUMMARY_JSON

_KEYS = ("athanor", "state", "systems", "job", "model", "versions", "citations")


def read_record(folder: Path) -> dict[str, Any]:
    """Return the content of ``run.yaml``.

    Raises
    ------
    InputError
        If `folder` is not a results folder.
    StorageError
        If the file is damaged, or was not written by athanor.
    """
    import yaml

    path = folder / RUN
    if not path.is_file():
        whole = next((parent for parent in folder.absolute().parents if (parent / RUN).is_file()), None)
        if whole is not None:
            raise InputError(f"`{folder}` is a part of a results folder. Pass the whole: `{whole}`.")
        what = f"it has no `{RUN}`" if folder.is_dir() else "it is a file" if folder.exists() else "it does not exist"
        raise InputError(f"`{folder}` is not a results folder of athanor: {what}. Pass the folder of `-o`.")
    try:
        record = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise StorageError(f"`{path}` can not be read: {' '.join(str(error).split())}.") from error
    missing = [key for key in _KEYS if not isinstance(record, dict) or key not in record]
    if missing:
        raise StorageError(f"`{path}` was not written by athanor, or is damaged: it has no `{missing[0]}`.")
    return record


def read_summary(folder: Path, systems: int) -> list[dict[str, Any]]:
    """Return the rows of the table, one for each of so many systems.

    Raises
    ------
    StorageError
        If the file is missing or damaged.
    """
    path = folder / SUMMARY_JSON
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StorageError(f"`{path}` is missing. Ask for systems by their number, 0 to {systems - 1}.") from None
    except (OSError, ValueError) as error:
        raise StorageError(f"`{path}` can not be read: {error}. Try {SUMMARY_CSV} beside it.") from error
    if not isinstance(rows, list) or len(rows) != systems:
        raise StorageError(f"`{path}` is not the table of the {systems} systems of this run. Try {SUMMARY_CSV}.")
    return rows


def state_of(record: Mapping[str, Any]) -> str:
    """Return the state on record, but ``"killed"`` if it says running and the process is gone from this machine."""
    state = str(record["state"])
    if state == "running" and not is_elsewhere(record) and not _is_alive(int(record["process"]["id"])):
        return "killed"
    return state


def is_elsewhere(record: Mapping[str, Any]) -> bool:
    """Whether a run that has not ended was started on another machine."""
    return record["state"] == "running" and bool(record.get("process", {}).get("host") != platform.node())


def find_system(rows: Sequence[Mapping[str, Any]], name: str, where: str) -> int:
    """Return the number of the system called `name` in the table `rows`, or that `name` spells.

    Raises
    ------
    InputError
        If it is not there, or several times; the text says which there are.
    """
    names = [row["system"] for row in rows]
    found = [number for number, other in enumerate(names) if other == name]
    if len(found) == 1:
        return found[0]
    if found:
        some = ", ".join(_number_and_origin(rows, number) for number in found[:5]) + (" ..." if len(found) > 5 else "")
        raise InputError(f"{len(found)} systems are called {shown(name)}. Take one by its number: {some}.")
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    near = difflib.get_close_matches(name, names, n=1)
    listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    hint = f"Did you mean {near[0]!r}?" if near else f"It has {listed}."
    raise InputError(f"{where} has no system {shown(name)}. {hint}")


def _number_and_origin(rows: Sequence[Mapping[str, Any]], number: int) -> str:
    """Return ``3 (Cu4, slabs/b.cif)``: the number, and what else tells it from others of its name."""
    origin = ", ".join(str(rows[number][key]) for key in tell_apart(rows)[1:])
    return f"{number} ({origin})" if origin else str(number)


def _is_alive(process: int) -> bool:
    """Whether a process of this machine still exists; True where that can not be asked without harm."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
