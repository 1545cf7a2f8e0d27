"""Where rows of a log go: a CSV file, TensorBoard, or a function of the user.

A writer has ``write(step, columns)``, ``close()``, after which it can be used again, ``state_dict()`` and
``load_state_dict(state)``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from athanor.errors import InputError
from athanor.hooks.csv_file import Columns, CsvFile
from athanor.hooks.reporting.tensorboard import summary_writer

BACKENDS = ("csv", "tensorboard", "custom")


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
    return CsvFile(Path(log_path)) if backend == "csv" else _TensorBoardWriter(Path(log_path))


class _FunctionWriter:
    """Hands rows to a function of the user; its exceptions come through."""

    def __init__(self, function: Callable[[int, list[dict[str, Any]]], Any]) -> None:
        self._function = function
        self.rows = 0

    def write(self, step: int, columns: Columns) -> None:
        lists = {name: values.tolist() for name, values in columns.items()}
        rows = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
        self.rows += len(rows)
        self._function(step, rows)

    def close(self) -> None:
        """Nothing waits."""

    def state_dict(self) -> dict[str, Any]:
        return {"columns": None, "rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = int(state["rows"])


class _TensorBoardWriter(_FunctionWriter):
    """Scalars under ``name/graph_i``, or ``name`` if there is one system."""

    def __init__(self, folder: Path) -> None:
        super().__init__(self._put)
        self._folder = folder
        self._board: Any = self._open()

    def _open(self) -> Any:
        return summary_writer(self._folder, needed_by="LoggingHook(backend='tensorboard')")

    def _put(self, step: int, rows: list[dict[str, Any]]) -> None:
        if self._board is None:
            self._board = self._open()
        for row in rows:
            suffix = f"/graph_{row['graph_idx']}" if len(rows) > 1 else ""
            for name, value in row.items():
                if name not in ("step", "graph_idx"):
                    self._board.add_scalar(f"{name}{suffix}", value, row["step"])

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None
