"""A CSV file that rows are appended to: what hooks and reporters that write one share."""

from __future__ import annotations

import csv
import io
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from athanor.errors import StorageError

Columns = dict[str, np.ndarray]
"""Name -> values, one for each row, on the host."""
_FLUSH_SECONDS = 5.0
_FLUSH_ROWS = 2000


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


class CsvFile:
    """Appends rows to a file; keeps them in memory for a few seconds.

    Parameters
    ----------
    path
        A file that exists is appended to, never truncated; its header must be the same.

    Attributes
    ----------
    rows
        Rows so far, also those that wait in memory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: list[str] | None = None
        self._checked = False
        self._waiting: list[list[str]] = []
        self.rows = 0
        self._last_flush = time.monotonic()

    @property
    def columns(self) -> list[str] | None:
        """Header of the file; None before the first row."""
        return self._columns

    def write(self, step: int, columns: Columns) -> None:
        """Append rows; `step` stands in no column of its own.

        Raises
        ------
        StorageError
            If the file can not be written, or has other columns.
        """
        self._prepare(list(columns))
        assert self._columns is not None
        unknown = [name for name in columns if name not in self._columns]
        if unknown:
            raise StorageError(
                f"`{unknown[0]}` is not a column of `{self._path}`, whose header is {','.join(self._columns)}. "
                f"Give the hook another `log_path`."
            )
        count = len(next(iter(columns.values())))
        ordered = [columns.get(name) for name in self._columns]
        for index in range(count):
            self._waiting.append(["" if values is None else _text(values[index]) for values in ordered])
        self.rows += count
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
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StorageError(f"`{self._path}` can not be continued: {reason}. Choose another `log_path`.") from error
        return next(csv.reader([line])) if line.strip() else None

    def flush(self) -> None:
        """Write what waits."""
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
                f"`{self._path}` can not be written: {error.strerror or error}. {len(self._waiting)} rows wait in "
                f"memory; make room and call `close()` of the hook."
            ) from error
        self._waiting = []
        self._last_flush = time.monotonic()

    def close(self) -> None:
        """Write what waits; the next row looks at the file anew."""
        self.flush()
        self._checked = False

    def state_dict(self) -> dict[str, Any]:
        """Columns, number of rows and bytes so far; what waits is written first, and brought to the disk."""
        self.flush()
        return {"columns": self._columns, "rows": self.rows, "bytes": self._synced_size()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the columns and the row count of `state`; the file is cut back to the bytes that it had.

        Raises
        ------
        StorageError
            If the file is shorter than it was, or can not be cut.
        """
        if "bytes" in state:
            self._cut(int(state["bytes"]))
        self._columns, self.rows = state["columns"], int(state["rows"])
        self._waiting, self._checked = [], False

    def _synced_size(self) -> int:
        """Bring the file to the disk, and return its length; 0 if there is none."""
        try:
            with open(self._path, "rb+") as file:
                os.fsync(file.fileno())
                return file.seek(0, os.SEEK_END)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise StorageError(f"`{self._path}` can not be brought to the disk: {error.strerror or error}.") from error

    def _cut(self, size: int) -> None:
        found = self._path.stat().st_size if self._path.exists() else 0
        if found < size:
            raise StorageError(
                f"`{self._path}` has {found:,} bytes; it had {size:,} when the checkpoint was written. Put back the "
                f"file that the run wrote, or start the run anew."
            )
        if found > size:
            try:
                os.truncate(self._path, size)
            except OSError as error:
                raise StorageError(f"`{self._path}` can not be cut back: {error.strerror or error}.") from error
