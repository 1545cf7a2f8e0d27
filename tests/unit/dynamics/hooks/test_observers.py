"""Whoever only looks changes no bit, wherever in the step, in every kind of run; and nothing grows while they look."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from athanor.data import Batch
from athanor.dynamics import (
    FIRE,
    NPH,
    NPT,
    NVE,
    NVTCSVR,
    BaseDynamics,
    Brownian,
    ConvergenceHook,
    DemoDynamics,
    FIREVariableCell,
    FusedStage,
    HostMemory,
    NPTCRescale,
    NPTLangevin,
    NVTAndersen,
    NVTLangevin,
    NVTNoseHoover,
)
from athanor.dynamics.hooks import (
    AlignCellHook,
    ConvergedSnapshotHook,
    EnergyDriftMonitorHook,
    FreezeAtomsHook,
    LoggingHook,
    MaxForceClampHook,
    NaNDetectorHook,
    SnapshotHook,
    StopAboveHook,
)
from athanor.hooks import (
    BiasedPotentialHook,
    CSVReporter,
    DynamicsStage,
    ReportingOrchestrator,
    StageTimingHook,
    TorchProfilerHook,
    WrapPeriodicHook,
)
from athanor.testing.dynamics_contract import argon_cluster, argon_crystal, argon_model, with_neighbor_hooks

FIELDS = ("positions", "velocities", "forces", "energy", "cell", "step", "time", "stage_step", "status", "dof")
IN_A_STEP = [stage for stage in DynamicsStage if stage is not DynamicsStage.ON_CONVERGE]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# -- who only looks --------------------------------------------------------------------------------------------------


class Reads:
    """Reads everything that there is to read."""

    frequency, observes = 1, True

    def __init__(self, stage: DynamicsStage) -> None:
        self.stage = stage

    def __call__(self, ctx: Any, stage: Any) -> None:
        batch, engine = ctx.batch, ctx.workflow
        for name, _ in batch:
            batch[name].sum()
        for name in ("neighbor_matrix", "neighbor_list", "shifts", "num_neighbors"):
            batch.get(name)
        if "energy" in batch:
            engine.conserved_energy(batch)
        engine.state_dict()
        batch.clone().get_data(0)


class Writes(Reads):
    """The broken twin: says that it only looks, and moves an atom by less than anybody sees."""

    def __call__(self, ctx: Any, stage: Any) -> None:
        ctx.batch.positions[0, 0] += 1e-15


def observers() -> list[Any]:
    hooks: list[Any] = [StageTimingHook("detailed"), StageTimingHook("step"), NaNDetectorHook()]
    hooks.append(ConvergedSnapshotHook(HostMemory(100)))
    for stage in IN_A_STEP:
        hooks += [
            Reads(stage),
            SnapshotHook(HostMemory(10_000), stage=stage),
            LoggingHook("custom", writer_fn=lambda step, rows: None, stage=stage),
        ]
    computed = IN_A_STEP[IN_A_STEP.index(DynamicsStage.AFTER_COMPUTE) :]
    hooks += [EnergyDriftMonitorHook(1e9, metric="absolute", stage=stage) for stage in computed]
    return [*hooks, ReportingOrchestrator(CSVReporter("report.csv"), stages=computed)]


def in_two_stages(model: Any, **options: Any) -> BaseDynamics:
    relax = FIRE(model, dt=0.3, n_steps=9, convergence_hook=ConvergenceHook.from_fmax(0.02))
    return FusedStage([(0, relax), (1, NVTLangevin(model, 4.0, 60.0, friction=0.02, n_steps=9))], **options)


RUNS: dict[str, Callable[..., BaseDynamics]] = {
    "NVE": lambda model, **more: NVE(model, dt=4.0, **more),
    "Langevin": lambda model, **more: NVTLangevin(model, 4.0, 60.0, friction=0.02, **more),
    "NPT": lambda model, **more: NPT(
        model, 4.0, 60.0, 0.001, barostat_time=300.0, thermostat_time=80.0, pressure_coupling="triclinic", **more
    ),
    "cell": lambda model, **more: FIREVariableCell(
        model, dt=0.3, convergence_hook=ConvergenceHook.from_fmax(0.05), **more
    ),
    "two stages": in_two_stages,
}


def end_of(name: str, hooks: Iterable[Any]) -> Batch:
    engine = with_neighbor_hooks(RUNS[name](argon_model()))
    for hook in hooks:
        engine.register_hook(hook)
    second = argon_crystal(1, 8) if name in ("NPT", "cell") else argon_cluster(9, 8)
    return engine.run(Batch.from_data_list([argon_crystal(2, 3), second, argon_crystal(1, 5)]), 18)


def differs(name: str, hooks: Iterable[Any]) -> list[str]:
    free, looked_at = end_of(name, ()), end_of(name, hooks)
    return [field for field in FIELDS if not torch.equal(free[field], looked_at[field])]


@pytest.mark.parametrize("name", RUNS)
def test_all_observers_at_every_stage_change_no_bit(name: str) -> None:
    assert differs(name, observers()) == []


@pytest.mark.parametrize("stage", IN_A_STEP)
def test_one_that_writes_would_be_found(stage: DynamicsStage) -> None:
    assert "positions" in differs("NVE", [Writes(stage)])


# -- nothing grows ---------------------------------------------------------------------------------------------------


ENGINES: dict[str, Callable[[Any], BaseDynamics]] = {
    "NVE": RUNS["NVE"],
    "DemoDynamics": lambda model: DemoDynamics(model, n_steps=1, dt=0.4),
    "NVTLangevin": RUNS["Langevin"],
    "NVTNoseHoover": lambda model: NVTNoseHoover(model, 4.0, 60.0, thermostat_time=80.0),
    "NVTCSVR": lambda model: NVTCSVR(model, 4.0, 60.0, thermostat_time=80.0),
    "NVTAndersen": lambda model: NVTAndersen(model, 4.0, 60.0, collision_rate=0.01),
    "Brownian": lambda model: Brownian(model, 2.0, 60.0, friction=0.1),
    "NPH": lambda model: NPH(model, 4.0, 0.0, barostat_time=500.0),
    "NPT": RUNS["NPT"],
    "NPTLangevin": lambda model: NPTLangevin(model, 4.0, 60.0, 0.0, friction=0.01, barostat_time=500.0),
    "NPTCRescale": lambda model: NPTCRescale(model, 4.0, 60.0, 0.0, barostat_time=500.0, thermostat_time=80.0),
    "FIRE": lambda model: FIRE(model, dt=1e-3),
    "FIREVariableCell": lambda model: FIREVariableCell(model, dt=1e-3),
    "two stages": lambda model: FusedStage(
        [(0, FIRE(model, dt=1e-3, n_steps=30)), (1, NVTLangevin(model, 4.0, 60.0, friction=0.02))], on_error="retry"
    ),
}


class Counts:
    """A sink that keeps nothing, however much is written."""

    def __init__(self) -> None:
        self.frames = 0

    def __len__(self) -> int:
        return self.frames

    def write(self, batch: Batch, mask: Any = None) -> None:
        self.frames += len(batch)


def pull(batch: Batch) -> torch.Tensor:
    """A weak pull of the first atom of each system to the origin."""
    first = batch.batch_ptr[:-1].long()
    return 1e-4 * batch.positions[first].square().sum(dim=1)


def every_hook() -> list[Any]:
    return [
        AlignCellHook(10),
        BiasedPotentialHook(pull),
        MaxForceClampHook(50.0),
        FreezeAtomsHook(),
        NaNDetectorHook(),
        WrapPeriodicHook(),
        StopAboveHook({"energy": 1e9}),
        EnergyDriftMonitorHook(1e9),
        SnapshotHook(Counts(), frequency=5),
        ConvergedSnapshotHook(Counts()),
        LoggingHook("csv", log_path="log.csv", frequency=5),
        StageTimingHook("all", log_path="times.csv"),
        ReportingOrchestrator(CSVReporter("report.csv"), frequency=5),
    ]


class Stock:
    """What a process holds: tensors, how many of them belong to a graph, descriptors, threads."""

    def __init__(self) -> None:
        gc.collect()
        tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
        self.tensors = len(tensors)
        self.in_graphs = sum(tensor.grad_fn is not None for tensor in tensors)
        self.files = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
        self.threads = threading.active_count()


def growth(name: str, hooks: Iterable[Any]) -> dict[str, int]:
    """What 500 steps leave behind, after 50."""
    engine = with_neighbor_hooks(ENGINES[name](argon_model()))
    for hook in hooks:
        engine.register_hook(hook)
    batch, stocks = Batch.from_data_list([argon_crystal(1, 3), argon_crystal(1, 5)]), []

    class Looks:
        frequency, stage, observes = 1, DynamicsStage.AFTER_STEP, True

        def __call__(self, ctx: Any, stage: Any) -> None:
            if ctx.step_count in (49, 549):
                stocks.append(vars(Stock()))

    engine.register_hook(Looks())
    engine.run(batch, 550)
    before, after = stocks
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


@pytest.mark.parametrize("name", ENGINES)
def test_nothing_grows_in_500_steps_with_every_hook(name: str) -> None:
    grown = growth(name, every_hook())
    assert grown.pop("tensors", 0) <= 1
    assert grown == {}


def leaks_tensors() -> Any:
    class Leaks(Reads):
        kept: list[torch.Tensor] = []

        def __call__(self, ctx: Any, stage: Any) -> None:
            self.kept.append(ctx.batch.energy.clone())

    return Leaks(DynamicsStage.AFTER_STEP)


def leaks_graphs() -> Any:
    class Leaks(Reads):
        total = torch.zeros(1, requires_grad=True)

        def __call__(self, ctx: Any, stage: Any) -> None:
            with torch.enable_grad():
                kept.append(self.total * 2.0)

    kept: list[torch.Tensor] = []
    return Leaks(DynamicsStage.AFTER_STEP)


def leaks_files() -> Any:
    class Leaks(Reads):
        def __call__(self, ctx: Any, stage: Any) -> None:
            if ctx.step_count % 50 == 0:
                kept.append(os.open("left-open", os.O_CREAT))

        def __del__(self) -> None:
            for descriptor in kept:
                os.close(descriptor)

    kept: list[int] = []
    return Leaks(DynamicsStage.AFTER_STEP)


def leaks_threads() -> Any:
    class Leaks(Reads):
        def __call__(self, ctx: Any, stage: Any) -> None:
            if ctx.step_count == 200:
                threading.Thread(target=end.wait, daemon=True).start()

        def __del__(self) -> None:
            end.set()

    end = threading.Event()
    return Leaks(DynamicsStage.AFTER_STEP)


@pytest.mark.parametrize(
    ("leak", "what"),
    [(leaks_tensors, "tensors"), (leaks_graphs, "in_graphs"), (leaks_files, "files"), (leaks_threads, "threads")],
)
def test_what_grows_is_found(leak: Callable[[], Any], what: str) -> None:
    assert growth("NVE", [leak()])[what] > 0


def test_a_profiler_leaves_nothing_open() -> None:
    before = Stock()
    for _ in range(2):
        engine = with_neighbor_hooks(NVE(argon_model(), dt=2.0))
        engine.register_hook(TorchProfilerHook(output_dir="traces", activities="cpu"))
        engine.run(Batch.from_data_list([argon_crystal(1, 3)]), 3)
        del engine
    after = Stock()
    assert (after.files, after.threads, after.in_graphs) == (before.files, before.threads, before.in_graphs)
