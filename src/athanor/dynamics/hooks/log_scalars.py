"""LoggingHook: one row of scalars per system and event, to a CSV file, TensorBoard, or a function of yours.

At AFTER_STEP the system's own `step` and `time` already count the step that was just done, so a row says the state it
shows. Values are read at once, so nothing that happens later leaks into a row.
"""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from athanor._optional import OptionalDependency
from athanor._values import check_whole
from athanor.data import observables
from athanor.errors import ContractError, InputError, ShapeError, StorageError
from athanor.hooks.stages import DynamicsStage

if TYPE_CHECKING:
    from athanor.hooks.context import DynamicsContext

Scalar = Callable[["DynamicsContext"], "torch.Tensor | float"]
Columns = dict[str, np.ndarray]

_FLUSH_SECONDS = 5.0
_FLUSH_ROWS = 2000
BACKENDS = ("csv", "tensorboard", "custom")


class LoggingHook:
    """Record scalars of every system, every `frequency` steps.

    Columns: ``step`` (lifetime steps of the system), ``time_fs``, ``system_id``, ``graph_idx``, ``status``, ``energy``
    (eV), ``fmax`` (eV/Å), ``temperature`` (K, with velocities), ``volume`` (Å³) and ``pressure`` (eV/Å³) with a cell,
    then those of `custom_scalars`.

    Parameters
    ----------
    backend
        ``"csv"``, ``"tensorboard"`` (needs the extra `tensorboard`) or ``"custom"``.
    frequency
        Steps between events, at least 1.
    log_path
        File (csv) or folder (tensorboard). A CSV file that exists is appended to, never truncated; its header must be
        the same.
    custom_scalars
        Name to ``fn(ctx)``, which returns a tensor of one value per system, or one number for all. A name of the list
        above replaces that column.
    writer_fn
        For ``"custom"``: called as ``writer_fn(step, rows)`` with one dictionary per system.
    stage
        Where in the step.

    Raises
    ------
    InputError
        If `backend` is unknown, `log_path` or `writer_fn` is missing for it, or `frequency` is not at least 1.
    ContractError
        If a custom scalar can not be called.
    ShapeError
        From a call: if a custom scalar gives neither one value per system nor one for all.
    StorageError
        From a call: if the file can not be written, or its columns are others. Rows wait in memory for at most about
        five seconds and are written at `close`, which every run calls at its end.
    """

    def __init__(
        self,
        backend: str,
        frequency: int = 1,
        log_path: str | os.PathLike[str] | None = None,
        custom_scalars: Mapping[str, Scalar] | None = None,
        writer_fn: Callable[[int, list[dict[str, Any]]], Any] | None = None,
        stage: Enum = DynamicsStage.AFTER_STEP,
    ) -> None:
        self.backend = backend
        for name, function in (custom_scalars or {}).items():
            if not callable(function):
                raise ContractError(
                    f"`custom_scalars['{name}']` is a {type(function).__name__}; pass a function of the context, for "
                    f"example `lambda ctx: ctx.batch.energy`."
                )
        self.frequency = check_whole(frequency, "frequency", 1)
        self.stage: Enum | None = stage
        self.custom_scalars = dict(custom_scalars or {})
        self._writer = _make_writer(backend, log_path, writer_fn)

    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Record one row per system. Waits for the device."""
        columns = collect_columns(ctx)
        for name, function in self.custom_scalars.items():
            columns[name] = _per_system(name, function(ctx), ctx.batch.num_graphs)
        self._writer.write(int(ctx.step_count), columns)

    def __enter__(self) -> LoggingHook:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what waits and close the file; the hook can be used again afterwards."""
        self._writer.close()

    def state_dict(self) -> dict[str, Any]:
        """Columns and number of rows so far; what waits is written first."""
        return self._writer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the columns and the row count of `state`."""
        self._writer.load_state_dict(state)


def collect_columns(ctx: DynamicsContext) -> Columns:
    """Return the default columns as host arrays of one value per system; NaN where a quantity has no meaning."""
    batch = ctx.batch
    count = batch.num_graphs

    def column(name: str, default: float | int) -> torch.Tensor:
        value = batch.get(name, None)
        return torch.full((count,), default) if value is None else value.reshape(count)

    values: dict[str, torch.Tensor] = {
        "step": column("step", int(ctx.step_count)),
        "time_fs": column("time", float("nan")),
        "system_id": column("system_id", -1),
        "graph_idx": torch.arange(count),
        "status": column("status", 0),
    }
    if "energy" in batch:
        values["energy"] = column("energy", 0.0)
    if "forces" in batch:
        values["fmax"] = observables.fmax(batch)
    if "velocities" in batch:
        values["temperature"] = observables.temperature(batch)
    if "cell" in batch:
        nothing = torch.full((), float("nan"), dtype=batch.cell.dtype, device=batch.cell.device)
        values["volume"] = torch.where(batch.has_cell, batch.volume, nothing)
        if "stress" in batch:
            values["pressure"] = torch.where(batch.has_cell, observables.pressure(batch), nothing)
    return {name: _per_system(name, value, count) for name, value in values.items()}


def _per_system(name: str, value: Any, count: int) -> np.ndarray:
    """One host value per system; a copy."""
    if not isinstance(value, torch.Tensor):
        return np.full(count, value)
    host = value.detach().to("cpu", copy=True)
    if host.dtype in (torch.bfloat16, torch.float16):
        host = host.float()
    if host.numel() == 1:
        return np.repeat(host.reshape(1).numpy(), count)
    if host.numel() != count:
        raise ShapeError(f"The scalar `{name}` has shape {tuple(value.shape)}; it must give one value for each of "
                         f"{count} systems, or one for all.")  # fmt: skip
    return host.reshape(count).numpy()


def _make_writer(backend: str, log_path: Any, writer_fn: Any) -> Any:
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
            with open(self._path, "a", encoding="utf-8", newline="") as file:
                file.write(text.getvalue())
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
