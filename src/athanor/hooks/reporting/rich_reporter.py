"""RichReporter: a dashboard in the terminal that follows a run."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from athanor._values import check_whole
from athanor.errors import InputError
from athanor.hooks.context import DynamicsContext, HookContext, TrainContext
from athanor.hooks.reporting.layout import DynamicsRichLayout, RichLayout, TrainingRichLayout
from athanor.hooks.reporting.scalars import ScalarCallback, ScalarSnapshot
from athanor.hooks.reporting.source import ScalarSource
from athanor.hooks.reporting.state import ReportingState

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

_LAYOUTS = {"training": TrainingRichLayout, "dynamics": DynamicsRichLayout}
_CONTEXTS = {TrainContext: "training", DynamicsContext: "dynamics"}


class RichReporter:
    """Show numbers and curves of a run in the terminal, on stderr, and the last state of them at its end.

    Parameters
    ----------
    custom_scalars, include_losses, include_optimizer_lrs
        As in `collect_scalars`.
    include_dynamics_scalars
        Whether means and counts over systems are shown; by default as the layout says.
    rank_reduction
        As in `reduce_scalars`.
    title
        Title of the panel.
    precision
        Digits of a number.
    max_scalars
        Numbers in the table; None for all.
    history_size
        Events that a curve shows.
    layout
        ``"dynamics"``, ``"training"`` or a `RichLayout`; by default the one that fits what is run.
    plot_keys
        Numbers that get a curve; by default as the layout says.
    max_plots, plot_height
        Curves, and lines of each.
    refresh_per_second
        Most changes of the picture in a second.
    console
        Where to draw; stderr unless given.
    screen
        Whether to take the whole screen.
    transient
        Whether to remove the dashboard at the end.
    rank_zero_only
        Whether only the first process shows one.
    strict_layout
        Whether a context that no layout fits is an error; else it is passed over.

    Raises
    ------
    InputError
        If a value makes no sense; from a call under `strict_layout`.
    """

    def __init__(
        self,
        *,
        custom_scalars: Mapping[str, ScalarCallback] | None = None,
        include_losses: bool = True,
        include_optimizer_lrs: bool = True,
        include_dynamics_scalars: bool | None = None,
        rank_reduction: str | None = None,
        title: str = "athanor report",
        precision: int = 6,
        max_scalars: int | None = None,
        history_size: int = 200,
        layout: str | RichLayout | None = None,
        plot_keys: Sequence[str] | None = None,
        max_plots: int = 3,
        plot_height: int = 8,
        refresh_per_second: float = 2.0,
        console: Console | None = None,
        screen: bool = False,
        transient: bool = False,
        rank_zero_only: bool = True,
        strict_layout: bool = False,
    ) -> None:
        self._source = ScalarSource(
            custom_scalars=custom_scalars,
            include_losses=include_losses,
            include_optimizer_lrs=include_optimizer_lrs,
            rank_reduction=rank_reduction,
            rank_zero_only=rank_zero_only,
        )
        self.rank_zero_only, self.requires_all_ranks = rank_zero_only, self._source.requires_all_ranks
        self.include_dynamics_scalars, self.title = include_dynamics_scalars, title
        self._format = {
            "precision": check_whole(precision, "precision", 1),
            "max_scalars": None if max_scalars is None else check_whole(max_scalars, "max_scalars", 1),
            "plot_keys": None if plot_keys is None else tuple(plot_keys),
            "max_plots": check_whole(max_plots, "max_plots"),
            "plot_height": check_whole(plot_height, "plot_height", 2),
        }
        self._history_size = check_whole(history_size, "history_size", 2)
        if not refresh_per_second > 0:
            raise InputError(f"`refresh_per_second` is {refresh_per_second!r}; give a positive number.")
        self._seconds = 1.0 / refresh_per_second
        self._layout = _as_layout(layout)
        self._console, self._screen, self._transient = console, screen, transient
        self._strict = strict_layout
        self._live: Live | None = None
        self._drawn_at = -math.inf
        self._snapshot: ScalarSnapshot | None = None
        self.history: dict[str, deque[tuple[float, float]]] = {}
        """Name -> (step, value) of the last events."""

    def __enter__(self) -> RichReporter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def report(self, ctx: HookContext, stage: Enum, state: ReportingState) -> None:
        """Take up one event, and draw it unless the last picture is very young."""
        layout = self._layout or self._fitting(ctx)
        if layout is None:
            return
        self._layout = layout
        dynamics = self.include_dynamics_scalars
        dynamics = getattr(layout, "include_dynamics_scalars", False) if dynamics is None else dynamics
        snapshot = self._source.snapshot(ctx, stage, state, dynamics=dynamics, progress=dynamics)
        if snapshot is None:
            return
        self._snapshot = snapshot
        count = state.event_count if snapshot.step_count is None else snapshot.step_count
        for name, value in snapshot.scalars.items():
            self._curve(name).append((float(count), float(value)))
        self._open()
        if time.monotonic() - self._drawn_at >= self._seconds:
            self._draw()

    def renderable(self) -> RenderableType:
        """Return the dashboard as it is, for rich to print."""
        layout = self._layout or DynamicsRichLayout()
        return layout.render(self._snapshot, self.history, title=self.title, **self._format)  # type: ignore[arg-type]

    def close(self) -> None:
        """Draw the last state, and leave the terminal as it was."""
        live, self._live = self._live, None
        if live is not None:
            live.update(self.renderable(), refresh=True)
            live.stop()

    def seed_history(
        self,
        history: Mapping[str, Sequence[float]],
        *,
        steps: Sequence[int] | None = None,
        stage: str = "AFTER_OPTIMIZER_STEP",
        step_count: int | None = None,
        epoch: int | None = None,
        batch_count: int | None = None,
        global_rank: int = 0,
    ) -> None:
        """Take up values of before, such as those of a run that goes on.

        Parameters
        ----------
        history
            Name -> values, oldest first.
        steps
            Step of each value; counted from 0 unless given.
        stage, step_count, epoch, batch_count, global_rank
            What the dashboard says of the last of them.

        Raises
        ------
        InputError
            If `steps` does not fit the values.
        """
        for name, values in history.items():
            counted = list(range(len(values)) if steps is None else steps)
            if len(counted) != len(values):
                raise InputError(f"`steps` has {len(counted)} entries; `{name}` has {len(values)} values.")
            self._curve(name).extend(zip(map(float, counted), map(float, values), strict=True))
            step_count = counted[-1] if step_count is None and counted else step_count
        self._snapshot = ScalarSnapshot(
            stage=stage,
            scalars={name: float(values[-1]) for name, values in history.items() if len(values)},
            step_count=step_count,
            epoch=epoch,
            batch_count=batch_count,
            global_rank=global_rank,
        )

    @classmethod
    def preview(
        cls,
        *,
        history: Mapping[str, Sequence[float]] | None = None,
        layout: str | RichLayout | None = None,
        steps: Sequence[int] | None = None,
        console: Console | None = None,
        stage: str | None = None,
        step_count: int | None = None,
        epoch: int | None = None,
        batch_count: int | None = None,
        **reporter_kwargs: Any,
    ) -> RichReporter:
        """Print the dashboard with `history`, or with made-up values, and return the reporter.

        Parameters
        ----------
        layout
            As in the class; that of dynamics unless given.
        history, steps, stage, step_count, epoch, batch_count
            As in `seed_history`; by default as the layout says.
        console
            Where to print; stderr unless given.
        **reporter_kwargs
            Further arguments of the class.
        """
        drawn = _as_layout(layout) or DynamicsRichLayout()
        reporter = cls(layout=drawn, console=console, **reporter_kwargs)
        reporter.seed_history(
            drawn.default_preview_history() if history is None else history,
            steps=steps,
            stage=drawn.default_preview_stage() if stage is None else stage,
            step_count=step_count,
            epoch=drawn.default_preview_epoch() if epoch is None else epoch,
            batch_count=drawn.default_preview_batch_count() if batch_count is None else batch_count,
        )
        reporter._screen_to_use().print(reporter.renderable())
        return reporter

    def _curve(self, name: str) -> deque[tuple[float, float]]:
        return self.history.setdefault(name, deque(maxlen=self._history_size))

    def _fitting(self, ctx: HookContext) -> RichLayout | None:
        for kind, name in _CONTEXTS.items():
            if isinstance(ctx, kind):
                return _LAYOUTS[name]()
        if self._strict:
            raise InputError(f"No layout fits a {type(ctx).__name__}. Give one: `RichReporter(layout=...)`.")
        return None

    def _screen_to_use(self) -> Console:
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True)
        return self._console

    def _open(self) -> None:
        if self._live is None:
            from rich.live import Live

            self._live = Live(
                self.renderable(),
                console=self._screen_to_use(),
                screen=self._screen,
                transient=self._transient,
                auto_refresh=False,
            )
            self._live.start()

    def _draw(self) -> None:
        if self._live is not None:
            self._drawn_at = time.monotonic()
            self._live.update(self.renderable(), refresh=True)


def _as_layout(layout: str | RichLayout | None) -> RichLayout | None:
    if isinstance(layout, str):
        if layout not in _LAYOUTS:
            raise InputError(f"`layout` is {layout!r}; use {', '.join(map(repr, _LAYOUTS))} or a RichLayout.")
        return _LAYOUTS[layout]()
    if layout is not None and not isinstance(layout, RichLayout):
        raise InputError(f"`layout` is a {type(layout).__name__}; a RichLayout has `render` and four defaults.")
    return layout
