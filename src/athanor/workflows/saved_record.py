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
from athanor.io.regular_file import read_regular
from athanor.workflows.checksums import check_file
from athanor.workflows.columns import note_apart, tell_apart
from athanor.workflows.folder import RUN, SUMMARY_CSV, SUMMARY_JSON
from athanor.workflows.yaml_file import MOST_BYTES, NotYamlError, parse_yaml

_MOST_DIGITS, _LARGEST_PROCESS = 12, 2**31 - 1
_KEYS = {
    "athanor": str, "state": str, "systems": int, "job": dict, "model": dict, "versions": dict, "citations": list,
}  # fmt: skip
_COLUMNS = {
    "index": int, "system": str, "formula": str, "atoms": int, "file": str, "index_in_file": int, "status": str,
}  # fmt: skip
_MOST_BYTES_OF_A_ROW, _MOST_BYTES_OF_A_TABLE = 10_000, 1_000_000_000


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
    if not path.exists():
        whole = next((parent for parent in folder.absolute().parents if (parent / RUN).is_file()), None)
        if whole is not None:
            raise InputError(f"`{folder}` is a part of a results folder. Pass the whole: `{whole}`.")
        what = f"it has no `{RUN}`" if folder.is_dir() else "it is a file" if folder.exists() else "it does not exist"
        raise InputError(f"`{folder}` is not a results folder of athanor: {what}. Pass the folder of `-o`.")
    try:
        text = read_regular(path, MOST_BYTES).decode("utf-8")
        record = parse_yaml(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except NotYamlError as error:
        raise StorageError(f"`{path}` can not be read{error}") from error
    except (OSError, ValueError) as error:
        raise StorageError(f"`{path}` can not be read: {getattr(error, 'strerror', None) or error}.") from error
    missing = [key for key, kind in _KEYS.items() if not isinstance(record, dict) or type(record.get(key)) is not kind]
    if missing:
        raise StorageError(f"`{path}` was not written by athanor, or is damaged: it has no usable `{missing[0]}`.")
    if not isinstance(record.get("process", {}), dict):
        raise StorageError(f"`{path}` was not written by athanor, or is damaged: it has no usable `process`.")
    stages = record["job"].get("stages")
    if not isinstance(stages, list) or not all(map(_is_stage, stages)):
        raise StorageError(f"`{path}` was not written by athanor, or is damaged: its job has no usable `stages`.")
    return record


def _is_stage(stage: Any) -> bool:
    """Whether it is ``{kind: {...}}``."""
    return isinstance(stage, dict) and len(stage) == 1 and all(isinstance(each, dict) for each in stage.values())


def read_summary(folder: Path, systems: int) -> list[dict[str, Any]]:
    """Return the rows of the table, one for each of so many systems.

    Raises
    ------
    StorageError
        If the file is missing or damaged.
    """
    path = folder / SUMMARY_JSON
    check_file(path)
    try:
        rows = json.loads(read_regular(path, min(_MOST_BYTES_OF_A_ROW * (systems + 1), _MOST_BYTES_OF_A_TABLE)))
    except FileNotFoundError:
        raise StorageError(f"`{path}` is missing. Ask for systems by their number, 0 to {systems - 1}.") from None
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or error
        raise StorageError(f"`{path}` can not be read: {why}. Try {SUMMARY_CSV} beside it.") from error
    if not isinstance(rows, list) or list(map(_index_of, rows)) != list(range(systems)):
        raise StorageError(f"`{path}` is not the table of the {systems} systems of this run. Try {SUMMARY_CSV}.")
    return rows


def _index_of(row: Any) -> Any:
    """Number of the system that a row of the table is about; None if it is no such row."""
    is_row = isinstance(row, dict) and all(type(row.get(key)) is kind for key, kind in _COLUMNS.items())
    return row["index"] if is_row else None


def state_of(record: Mapping[str, Any]) -> str:
    """Return the state on record, but ``"killed"`` if it says running and the process is gone from this machine."""
    state = str(record["state"])
    if state == "running" and not is_elsewhere(record) and not _is_alive(record.get("process", {})):
        return "killed"
    return state


def this_process() -> dict[str, Any]:
    """Return what tells this process from every other one, also from a later one that is given its number."""
    return {"host": platform.node(), "id": os.getpid(), "born": _birth(os.getpid())}


def is_elsewhere(record: Mapping[str, Any]) -> bool:
    """Whether a run that has not ended was started on another machine."""
    return record["state"] == "running" and bool(record.get("process", {}).get("host") != platform.node())


def running_process(folder: Path) -> int | None:
    """Return the process, other than this one, whose run on this machine still writes to `folder`."""
    try:
        record = read_record(folder)
        writer = int(record["process"]["id"]) if state_of(record) == "running" and not is_elsewhere(record) else None
    except (InputError, StorageError, KeyError, TypeError):  # a damaged record may be replaced
        return None
    return None if writer == os.getpid() else writer


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
        apart = tell_apart([rows[number] for number in found])[1:]
        notes = [f" ({note_apart(rows[number], apart)})" if apart else "" for number in found[:5]]
        some = ", ".join(f"{number}{note}" for number, note in zip(found, notes, strict=False))
        more = " ..." if len(found) > 5 else ""
        raise InputError(f"{len(found)} systems are called {shown(name)}. Take one by its number: {some}{more}.")
    if name.isdecimal() and len(name) < _MOST_DIGITS and int(name) < len(names):
        return int(name)
    near = difflib.get_close_matches(name, names, n=1)
    listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    hint = f"Did you mean {near[0]!r}?" if near else f"It has {listed}."
    raise InputError(f"{where} has no system {shown(name)}. {hint}")


def _is_alive(process: Mapping[str, Any]) -> bool:
    """Whether the process on record still exists on this machine; True where that can not be asked without harm."""
    number = process.get("id")
    if type(number) is not int or not 0 < number <= _LARGEST_PROCESS:
        return False
    if os.name != "posix":
        return True
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    now, born = _birth(number), process.get("born", "")
    return born == now if born and now else True


def _birth(process: int) -> str:
    """Return when a process began, as text that no other process with its number has; empty where that is not told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        # clock ticks since boot: field 22, counted from the number of the process; a zombie is as good as gone
        return f"{boot}-{'ended' if fields[0] in 'ZX' else fields[19]}"
    except (OSError, IndexError):
        return ""
