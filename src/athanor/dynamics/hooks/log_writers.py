"""Where rows of a log go: a CSV file, TensorBoard, or a function of the user.

A writer has ``write(step, columns)``, ``close()``, after which it can be used again, ``state_dict()`` and
``load_state_dict(state)``.
"""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from athanor._optional import OptionalDependency
from athanor.errors import InputError, StorageError

Columns = dict[str, np.ndarray]
"""Name -> one value for each system, on the host."""
BACKENDS = ("csv", "tensorboard", "custom")
_FLUSH_SECONDS = 5.0
_FLUSH_ROWS = 2000


def make_writer(backend: str, log_path: Any, writer_fn: Any) -> Any:
    """Return the writer for a `backend`, see `LoggingHook`.

    Raises
    ------
    InputError
        If `backend` is unknown, or `log_path` or `writer_fn` is missing for it.
    """
    if backend not in BACKENDS:
        raise InputError(f"`backend={backend!r}` is unknown. Use one of {', '.join(map(repr, BACKENDS))}.")
    if backend == "custom":
        if not callable(writer_fn):
            raise InputError("`backend='custom'` needs `writer_fn`. Pass a function that takes (step, rows).")
        return _FunctionWriter(writer_fn)
    if log_path is None:
        raise InputError(f"`backend={backend!r}` needs `log_path`. Pass where to write.")
    return _CsvWriter(Path(log_path)) if backend == "csv" else _TensorBoardWriter(Path(log_path))


def _summary_writer(folder: Path) -> Any:
    """TensorBoard's writer, which torch brings and the package tensorboard completes."""
    OptionalDependency.TENSORBOARD.load(needed_by="LoggingHook(backend='tensorboard')")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))


def _text(value: Any) -> str:
    """Shortest text that reads back to the same number; integers stay integers; nothing for NaN."""
    if isinstance(value, np.bool_):
        return str(int(value))
    if isinstance(value, np.floating) and np.isnan(value):
        return ""
    return str(value)


def _write_all(file: io.RawIOBase, text: bytes) -> None:
    while text:
        text = text[file.write(text) or 0 :]


class _CsvWriter:
    """Appends rows to a file; keeps them in memory for a few seconds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: list[str] | None = None
        self._checked = False
        self._waiting: list[list[str]] = []
        self._rows = 0
        self._last_flush = time.monotonic()

    def write(self, step: int, columns: Columns) -> None:
        self._prepare(list(columns))
        assert self._columns is not None
        unknown = [name for name in columns if name not in self._columns]
        if unknown:
            raise StorageError(
                f"`{unknown[0]}` is not a column of `{self._path}`, whose header is {','.join(self._columns)}. "
                f"Give the hook another `log_path`."
            )
        count = len(columns["graph_idx"])
        ordered = [columns.get(name) for name in self._columns]
        for index in range(count):
            self._waiting.append(["" if values is None else _text(values[index]) for values in ordered])
        self._rows += count
        if len(self._waiting) >= _FLUSH_ROWS or time.monotonic() - self._last_flush >= _FLUSH_SECONDS:
            self.flush()

    def _prepare(self, names: list[str]) -> None:
        """Once after each opening: compare the header of the file, or decide on one."""
        if self._checked:
            return
        found = self._read_header()
        if found is not None:
            self._columns = found
        elif self._columns is None:
            self._columns = names
        self._checked = True

    def _read_header(self) -> list[str] | None:
        """Header of the file, after cutting off a half-written last line; None if there is no file or it is empty."""
        if not self._path.exists():
            return None
        try:
            with open(self._path, "rb+") as file:
                end = file.seek(0, os.SEEK_END)
                start = max(0, end - 65536)
                file.seek(start)
                last = file.read()
                if last and not last.endswith(b"\n"):
                    file.truncate(start + last.rfind(b"\n") + 1)
                file.seek(0)
                line = file.readline().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"`{self._path}` can not be continued: {error}. Choose another `log_path`.") from error
        return next(csv.reader([line])) if line.strip() else None

    def flush(self) -> None:
        if not self._waiting:
            return
        header, ours = self._read_header(), self._columns or []
        if header is not None and header != ours:
            raise StorageError(
                f"The header of `{self._path}` is {','.join(header)} by now; this hook writes {','.join(ours)}. "
                f"Give each hook a `log_path` of its own."
            )
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*([ours] if header is None else []), *self._waiting])
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "ab", buffering=0) as file:
                start = file.seek(0, os.SEEK_END)
                try:
                    _write_all(file, text.getvalue().encode("utf-8"))
                except BaseException:
                    file.truncate(start)  # the rows wait, and are written once
                    raise
        except OSError as error:
            raise StorageError(
                f"`{self._path}` can not be written: {error}. {len(self._waiting)} rows wait in memory; make room and "
                f"call `close()` of the hook."
            ) from error
        self._waiting = []
        self._last_flush = time.monotonic()

    def close(self) -> None:
        self.flush()
        self._checked = False

    def state_dict(self) -> dict[str, Any]:
        self.flush()
        return {"columns": self._columns, "rows": self._rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._columns, self._rows = state["columns"], int(state["rows"])


class _FunctionWriter:
    """Hands rows to a function of the user; its exceptions come through."""

    def __init__(self, function: Callable[[int, list[dict[str, Any]]], Any]) -> None:
        self._function = function
        self._rows = 0

    def write(self, step: int, columns: Columns) -> None:
        lists = {name: values.tolist() for name, values in columns.items()}
        rows = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
        self._rows += len(rows)
        self._function(step, rows)

    def close(self) -> None:
        """Nothing waits."""

    def state_dict(self) -> dict[str, Any]:
        return {"columns": None, "rows": self._rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rows = int(state["rows"])


class _TensorBoardWriter(_FunctionWriter):
    """Scalars under ``name/graph_i``, or ``name`` if there is one system."""

    def __init__(self, folder: Path) -> None:
        super().__init__(self._put)
        self._folder = folder
        self._board: Any = _summary_writer(folder)

    def _put(self, step: int, rows: list[dict[str, Any]]) -> None:
        if self._board is None:
            self._board = _summary_writer(self._folder)
        for row in rows:
            suffix = f"/graph_{row['graph_idx']}" if len(rows) > 1 else ""
            for name, value in row.items():
                if name not in ("step", "graph_idx"):
                    self._board.add_scalar(f"{name}{suffix}", value, row["step"])

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None
