"""How a report looks on a terminal: the numbers as they are, curves of what they were, and messages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from athanor.hooks.reporting.plot import LinePlot
from athanor.hooks.reporting.scalars import Scalar, ScalarSnapshot

if TYPE_CHECKING:
    from rich.console import RenderableType

History = Mapping[str, Sequence[tuple[float, float]]]
"""Name -> (step, value) of the last events."""
_TOLD_ABOVE = ("dynamics/progress_fraction", "dynamics/eta_s")
_MESSAGES = 3
_NARROW = 90
_COLOURS = {"info": "dim", "warning": "yellow", "error": "bold red"}


@runtime_checkable
class RichLayout(Protocol):
    """What draws a report, for `RichReporter`."""

    def default_preview_history(self) -> dict[str, list[float]]:
        """Return made-up values, for a preview."""
        ...

    def default_preview_stage(self) -> str:
        """Return the stage that a preview shows."""
        ...

    def default_preview_epoch(self) -> int | None:
        """Return the epoch that a preview shows."""
        ...

    def default_preview_batch_count(self) -> int | None:
        """Return the count of batches that a preview shows."""
        ...

    def render(
        self,
        snapshot: ScalarSnapshot | None,
        history: History,
        *,
        title: str,
        precision: int,
        max_scalars: int | None,
        plot_keys: Sequence[str] | None,
        max_plots: int,
        plot_height: int,
    ) -> RenderableType:
        """Return what rich prints."""
        ...


class BaseRichLayout:
    """A table of the latest numbers beside curves of some of them.

    Parameters
    ----------
    name
        Name of the layout.
    preferred_plot_keys
        Numbers that get a curve, unless others are asked for.
    latest_title, history_title
        Titles of table and curves.
    include_dynamics_scalars
        Whether a reporter with this layout collects means and counts over systems.
    """

    def __init__(
        self,
        *,
        name: str,
        preferred_plot_keys: Sequence[str],
        latest_title: str,
        history_title: str,
        include_dynamics_scalars: bool = False,
    ) -> None:
        self.name, self.preferred_plot_keys = name, tuple(preferred_plot_keys)
        self.latest_title, self.history_title = latest_title, history_title
        self.include_dynamics_scalars = include_dynamics_scalars

    def default_preview_history(self) -> dict[str, list[float]]:
        """Return made-up values of the preferred numbers."""
        return {
            key: [1.2 + math.exp(-0.05 * step) + 0.1 * math.sin(step + place) for step in range(60)]
            for place, key in enumerate(self.preferred_plot_keys)
        }

    def default_preview_stage(self) -> str:
        """Return the stage that a preview shows."""
        return "AFTER_STEP"

    def default_preview_epoch(self) -> int | None:
        """Return the epoch that a preview shows."""
        return None

    def default_preview_batch_count(self) -> int | None:
        """Return the count of batches that a preview shows."""
        return None

    def render(
        self,
        snapshot: ScalarSnapshot | None,
        history: History,
        *,
        title: str,
        precision: int,
        max_scalars: int | None,
        plot_keys: Sequence[str] | None,
        max_plots: int,
        plot_height: int,
    ) -> RenderableType:
        """Return a panel with table and curves, beside each other where there is room."""
        from rich.console import Group
        from rich.panel import Panel

        if snapshot is None:
            return Panel("Nothing reported yet.", title=title)
        wanted = self.preferred_plot_keys if plot_keys is None else plot_keys
        shown = [key for key in wanted if key in history][:max_plots]
        table = _table(snapshot.scalars, precision, max_scalars, self.latest_title)
        curves = _curves(history, shown, plot_height, precision, self.history_title)
        parts: list[Any] = [_headline(snapshot)]
        if "dynamics/progress_fraction" in snapshot.scalars:
            parts.append(_progress_bar(snapshot.scalars))
        parts += [_BesideOrBelow(table, curves), *_messages(snapshot)]
        return Panel(Group(*parts), title=title)


class DynamicsRichLayout(BaseRichLayout):
    """Of a run of dynamics or a relaxation: energy, temperature and largest force, and how many systems are done."""

    def __init__(self) -> None:
        super().__init__(
            name="dynamics",
            preferred_plot_keys=("energy", "temperature", "fmax"),
            latest_title="Systems",
            history_title="History",
            include_dynamics_scalars=True,
        )


class TrainingRichLayout(BaseRichLayout):
    """Of a training: losses and learning rates."""

    def __init__(self) -> None:
        super().__init__(
            name="training", preferred_plot_keys=("loss", "lr"), latest_title="Training", history_title="History"
        )

    def default_preview_stage(self) -> str:
        """Return the stage that a preview shows."""
        return "AFTER_OPTIMIZER_STEP"

    def default_preview_epoch(self) -> int | None:
        """Return the epoch that a preview shows."""
        return 1

    def default_preview_batch_count(self) -> int | None:
        """Return the count of batches that a preview shows."""
        return 60


class _BesideOrBelow:
    """Two renderables beside each other, or one below the other where that is too narrow."""

    def __init__(self, left: Any, right: Any) -> None:
        self._left, self._right = left, right

    def __rich_console__(self, console: Any, options: Any) -> Any:
        from rich.table import Table

        if options.max_width < _NARROW:
            yield self._left
            yield self._right
            return
        grid = Table.grid(expand=True, padding=(0, 2))
        grid.add_column(ratio=2)
        grid.add_column(ratio=3)
        grid.add_row(self._left, self._right)
        yield grid


def _headline(snapshot: ScalarSnapshot) -> Any:
    from rich.text import Text

    parts = [snapshot.stage.lower().replace("_", " ")]
    counters = {"step": snapshot.step_count, "epoch": snapshot.epoch, "batch": snapshot.batch_count}
    parts += [f"{name} {value}" for name, value in counters.items() if value is not None]
    if snapshot.elapsed_s is not None:
        parts.append(f"{_duration(snapshot.elapsed_s)} so far")
    if "dynamics/eta_s" in snapshot.scalars:
        parts.append(f"{_duration(snapshot.scalars['dynamics/eta_s'])} to go")
    return Text("  ".join(parts), style="dim")


def _progress_bar(scalars: Mapping[str, Scalar]) -> Any:
    from rich.padding import Padding
    from rich.progress_bar import ProgressBar

    bar = ProgressBar(total=1.0, completed=float(scalars["dynamics/progress_fraction"]))
    return Padding(bar, 0)  # the bar itself ends no line


def _table(scalars: Mapping[str, Scalar], precision: int, most: int | None, title: str) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 1))
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    entries = [(name, value) for name, value in scalars.items() if name not in _TOLD_ABOVE]
    for name, value in entries[:most]:
        table.add_row(name, str(value) if isinstance(value, int) else f"{value:.{precision}g}")
    if most is not None and len(entries) > most:
        table.add_row(f"and {len(entries) - most} more", "")
    return table


def _curves(history: History, keys: Sequence[str], height: int, precision: int, title: str) -> Any:
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [Text(title, style="italic")] if keys else []
    for key in keys:
        parts += [Text(key, style="bold"), LinePlot(history[key], height, precision)]
    return Group(*parts)


def _messages(snapshot: ScalarSnapshot) -> list[Any]:
    from rich.text import Text

    return [
        Text(f"{message.level}: {message.message}", style=_COLOURS.get(message.level, ""))
        for message in snapshot.messages[-_MESSAGES:]
    ]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
