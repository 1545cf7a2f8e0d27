"""RichReporter: what the dashboard shows, when it draws, and that a terminal is left as it was."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from athanor.data import Batch
from athanor.dynamics import NVTLangevin
from athanor.errors import InputError
from athanor.hooks import (
    BaseRichLayout,
    DynamicsRichLayout,
    DynamicsStage,
    HookContext,
    ReportingOrchestrator,
    ReportingState,
    RichLayout,
    RichReporter,
    TrainContext,
    TrainingRichLayout,
)
from athanor.hooks.reporting.plot import draw
from athanor.testing.dynamics_contract import argon_crystal, argon_model, with_neighbor_hooks

AFTER = DynamicsStage.AFTER_STEP


def terminal(width: int = 120, **arguments) -> Console:
    arguments = {"force_terminal": True, "color_system": None, "legacy_windows": False, **arguments}
    return Console(file=io.StringIO(), width=width, height=50, **arguments)


def text_of(renderable, width: int = 120, **arguments) -> str:
    console = terminal(width, **arguments)
    console.print(renderable)
    return console.file.getvalue()


def run(reporter, steps: int = 12) -> Batch:
    model = argon_model()
    hooks = [*model.make_neighbor_hooks(), ReportingOrchestrator(reporter)]
    engine = NVTLangevin(model, dt=4.0, temperature=60.0, friction=0.01, n_steps=steps, hooks=hooks)
    return with_neighbor_hooks(engine).run(Batch.from_data_list([argon_crystal(1, 0), argon_crystal(1, 1)]))


def test_the_dashboard_of_a_run():
    console = terminal()
    reporter = RichReporter(console=console, refresh_per_second=1e9, title="argon", plot_height=4)
    batch = run(reporter)
    text = text_of(reporter.renderable())
    assert "argon" in text
    for word in ("energy", "temperature", "fmax", "dynamics/num_graphs", "step 11", "History", "so far", "to go"):
        assert word in text, word
    assert f"{float(batch.energy.mean()):.6g}" in text
    assert len(reporter.history["energy"]) == 12
    assert [step for step, _ in reporter.history["energy"]] == list(range(12))
    assert {len(line) for line in text.splitlines()} == {120}, "nothing is wider than the terminal"
    drawn = console.file.getvalue()
    assert drawn.count("\x1b[?25l") == drawn.count("\x1b[?25h") == 1, "the cursor is there again"
    assert drawn.count("argon") > 5


@pytest.mark.parametrize("width", [40, 80, 200])
def test_narrow_and_wide_terminals(width):
    reporter = RichReporter.preview(console=terminal(width))
    text = text_of(reporter.renderable(), width)
    lines = text.splitlines()
    assert {len(line) for line in lines} == {width}
    beside = [line for line in lines if "Systems" in line and "History" in line]
    assert bool(beside) == (width == 200)


def test_few_pictures_and_few_events():
    console = terminal()
    reporter = RichReporter(console=console, refresh_per_second=0.001, history_size=5, max_scalars=2, max_plots=1)
    run(reporter, 20)
    assert console.file.getvalue().count("athanor report") <= 3, "the first one and the last"
    assert [step for step, _ in reporter.history["energy"]] == [15, 16, 17, 18, 19]
    text = text_of(reporter.renderable())
    assert "more" in text
    assert text.count("│     ") < 12


def test_a_pipe_gets_the_last_picture_only():
    console = terminal(force_terminal=False)
    run(RichReporter(console=console, refresh_per_second=1e9))
    assert console.file.getvalue().count("athanor report") == 1
    assert "\x1b" not in console.file.getvalue()


def test_a_terminal_that_knows_no_dots():
    class Latin(io.StringIO):
        encoding = "latin-1"

    console = Console(file=Latin(), width=100, force_terminal=True, color_system=None, legacy_windows=False)
    RichReporter.preview(console=console)
    drawn = console.file.getvalue()
    assert "*" in drawn
    drawn.encode("latin-1")


def test_a_plot():
    rows = draw([0, 1, 2, 3], [0.0, 1.0, 2.0, 3.0], 4, 4, ascii_only=True)
    assert rows == ["   *", "  * ", " *  ", "*   "]
    assert draw([0, 1], [1.0, 1.0], 3, 3, ascii_only=True) == ["   ", "***", "   "]
    assert draw([0, 7], [0.0, 7.0], 4, 2) == ["⠀⠀⡠⠊", "⡠⠊⠀⠀"]


def test_a_curve_leaves_out_what_is_not_finite():
    reporter = RichReporter(layout="dynamics", plot_keys=["a", "b"])
    nan = float("nan")
    reporter.seed_history({"a": [1.0, nan, 2.0], "b": [nan, nan, nan]}, steps=[10, 20, 30])
    text = text_of(reporter.renderable())
    assert "nothing yet" in text
    assert "step 30" in text
    with pytest.raises(InputError, match="`steps` has 2 entries; `a` has 1"):
        reporter.seed_history({"a": [1.0]}, steps=[1, 2])


def test_the_layout_fits_the_context():
    state = ReportingState()
    training = RichReporter(console=terminal())
    training.report(TrainContext(batch=None, loss=torch.tensor(0.5), epoch=3), AFTER, state)
    text = text_of(training.renderable())
    training.close()
    assert "Training" in text
    assert "epoch 3" in text
    assert "dynamics/" not in text
    plain = HookContext(batch=Batch.from_data_list([argon_crystal(1, 0)]))
    quiet = RichReporter(console=terminal())
    quiet.report(plain, AFTER, state)
    assert quiet.history == {}
    with pytest.raises(InputError, match="No layout fits a HookContext"):
        RichReporter(strict_layout=True).report(plain, AFTER, state)


def test_layouts_of_ones_own():
    class Brief(BaseRichLayout):
        def __init__(self):
            super().__init__(name="brief", preferred_plot_keys=(), latest_title="t", history_title="h")

        def render(self, snapshot, history, **how):
            return f"{len(snapshot.scalars)} numbers, {how['precision']} digits"

    for layout in (Brief(), DynamicsRichLayout(), TrainingRichLayout()):
        assert isinstance(layout, RichLayout)
    reporter = RichReporter(layout=Brief(), include_dynamics_scalars=False, console=terminal(), precision=3)
    run(reporter, 2)
    assert "0 numbers, 3 digits" in text_of(reporter.renderable())
    assert "epoch 1" in text_of(RichReporter.preview(layout="training", console=terminal()).renderable())


@pytest.mark.parametrize(
    "arguments",
    [{"precision": 0}, {"max_scalars": 0}, {"history_size": 1}, {"max_plots": -1}, {"plot_height": 1}]
    + [{"refresh_per_second": 0.0}, {"layout": "grand"}, {"layout": 3}, {"rank_reduction": "median"}],
)
def test_what_is_refused(arguments):
    with pytest.raises(InputError, match=next(iter(arguments))):
        RichReporter(**arguments)
