"""LoggingHook: one row of scalars per system and event; where rows go is in `log_writers`.

At AFTER_STEP the system's own `step` and `time` already count the step that was just done, so a row says the state it
shows. Values are read at once, so nothing that happens later leaks into a row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from athanor._values import check_whole, describe
from athanor.data import observables
from athanor.dynamics.hooks.log_writers import make_writer
from athanor.dynamics.hooks.news import News
from athanor.errors import ContractError, ShapeError
from athanor.hooks.csv_file import Columns
from athanor.hooks.stages import DynamicsStage

if TYPE_CHECKING:
    from athanor.hooks.context import DynamicsContext

Scalar = Callable[["DynamicsContext"], "torch.Tensor | float"]


class LoggingHook:
    """Record scalars of every system, every `frequency` steps.

    Columns: ``step`` (lifetime steps of the system), ``time_fs``, ``system_id``, ``graph_idx``, ``status``, ``energy``
    (eV), ``fmax`` (eV/Å), ``kinetic_energy`` and ``total_energy`` (eV), ``temperature`` (K), with a cell ``volume``
    (Å³) and, with a stress, ``pressure`` (eV/Å³, with its kinetic part), then those of `custom_scalars`. From
    ``energy`` on, what the batch lacks is left out; kinetic energy and temperature are NaN where velocities are not
    known, as in a relaxation.

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
    outputs
        Outputs of the model that are computed for the rows where the engine does without, such as ``{"stress"}``.
    finished
        ``"every"`` or ``"once"``, as in `SnapshotHook`.

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

    observes = True

    def __init__(
        self,
        backend: str,
        frequency: int = 1,
        log_path: str | os.PathLike[str] | None = None,
        custom_scalars: Mapping[str, Scalar] | None = None,
        writer_fn: Callable[[int, list[dict[str, Any]]], Any] | None = None,
        stage: Enum = DynamicsStage.AFTER_STEP,
        *,
        outputs: Iterable[str] = (),
        finished: str = "every",
    ) -> None:
        self.backend, self.log_path = backend, log_path
        for name, function in (custom_scalars or {}).items():
            if not callable(function):
                raise ContractError(
                    f"`custom_scalars['{name}']` is a {type(function).__name__}; pass a function of the context, for "
                    f"example `lambda ctx: ctx.batch.energy`."
                )
        self.frequency = check_whole(frequency, "frequency", 1)
        self.stage: Enum | None = stage
        self.custom_scalars = dict(custom_scalars or {})
        self.wants = frozenset(outputs)
        self.finished, self._news = finished, News(finished)
        self._writer = make_writer(backend, log_path, writer_fn)

    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Record one row per system. Waits for the device."""
        self.record(ctx, self._news.of(ctx.batch))

    @property
    def rows(self) -> int:
        """Rows so far, also those that wait in memory."""
        return self._writer.rows

    def record(self, ctx: DynamicsContext, systems: torch.Tensor | None = None) -> None:
        """Record one row for each of the `systems` of a mask [B], or for all. Waits for the device."""
        columns = collect_columns(ctx)
        for name, function in self.custom_scalars.items():
            columns[name] = _per_system(name, function(ctx), ctx.batch.num_graphs)
        if systems is not None:
            chosen = systems.cpu().numpy()
            columns = {name: values[chosen] for name, values in columns.items()}
        self._writer.write(int(ctx.step_count), columns)

    def __repr__(self) -> str:
        return describe(self, "backend", "frequency", "log_path")

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
        self._news.forget()
        self._writer.close()

    def state_dict(self) -> dict[str, Any]:
        """Columns, number of rows and length of the file so far; what waits is written first."""
        return {**self._writer.state_dict(), "news": self._news.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the columns and the row count of `state`; a file is cut back to the length that it had.

        Raises
        ------
        StorageError
            If the file is shorter than it was, or can not be cut.
        """
        self._writer.load_state_dict(state)
        if "news" in state:
            self._news.load_state_dict(state["news"])


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
        values["kinetic_energy"] = observables.kinetic_energy(batch)
        if "energy" in batch:
            values["total_energy"] = batch.energy + values["kinetic_energy"]
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
