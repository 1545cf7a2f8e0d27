"""Runs that are saved at every step boundary, and go on from some of them in another process."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from athanor.data import Batch
from athanor.dynamics import (
    FIRE,
    NPH,
    NPT,
    NVE,
    NVTCSVR,
    Brownian,
    ConvergenceHook,
    FIREVariableCell,
    FusedStage,
    NPTCRescale,
    NPTLangevin,
    NVTAndersen,
    NVTLangevin,
    NVTNoseHoover,
    SizeAwareSampler,
    ramp,
)
from athanor.dynamics.checkpoint import SavedCheckpoint
from athanor.dynamics.hooks import (
    AlignCellHook,
    Checkpoint,
    ConvergedSnapshotHook,
    EnergyDriftMonitorHook,
    FreezeAtomsHook,
    LoggingHook,
    MaxForceClampHook,
    SnapshotHook,
    StopAboveHook,
)
from athanor.hooks import DynamicsStage
from athanor.io.checkpoint import CheckpointFolder
from athanor.io.store.folder import Disk
from athanor.models.demo import DemoModel, DemoModelWrapper
from athanor.models.lj import LennardJonesModelWrapper
from athanor.sinks import HostMemory, ZarrData
from athanor.testing.dynamics_contract import argon_cluster, argon_crystal, argon_model, with_neighbor_hooks

STEPS, CLUSTERS = 20, 11
PLACES = (0, 4, 9, 13, 19)
BATH = {"temperature": 60.0, "random_seed": 5}
CRYSTAL = {"temperature": 60.0, "pressure": 0.001, "barostat_time": 400.0}

Make = Callable[..., Any]
FIXED_CELL: dict[str, Make] = {
    "NVE": partial(NVE, dt=4.0, start_temperature=60.0),
    "Langevin": partial(NVTLangevin, dt=4.0, friction=0.02, **BATH),
    "Nose-Hoover": partial(NVTNoseHoover, dt=4.0, temperature=60.0, thermostat_time=100.0),
    "CSVR": partial(NVTCSVR, dt=4.0, thermostat_time=100.0, **BATH),
    "Andersen": partial(NVTAndersen, dt=4.0, collision_rate=0.02, **BATH),
    "Brownian": partial(Brownian, dt=4.0, friction=0.02, **BATH),
    "ramp": partial(NVTLangevin, dt=4.0, temperature=ramp(20.0, 90.0, 60.0), friction=0.02, random_seed=5),
    "FIRE": partial(FIRE, dt=0.3, convergence_hook=ConvergenceHook.from_fmax(0.05)),
    "second chances": partial(NVTLangevin, dt=4.0, friction=0.02, on_error="retry", **BATH),
}
CELLS: dict[str, Make] = {
    "NPH": partial(NPH, dt=4.0, pressure=0.001, barostat_time=400.0, start_temperature=60.0),
    "NPT": partial(NPT, dt=4.0, thermostat_time=100.0, **CRYSTAL),
    "NPT-Langevin": partial(NPTLangevin, dt=4.0, friction=0.02, random_seed=5, **CRYSTAL),
    "NPT-C-rescale": partial(NPTCRescale, dt=4.0, thermostat_time=100.0, random_seed=5, **CRYSTAL),
    "variable cell": partial(FIREVariableCell, dt=0.2, convergence_hook=ConvergenceHook.from_fmax(0.02)),
}


def relax_and_heat(model: Any, **options: Any) -> FusedStage:
    relax = FIRE(model, dt=0.3, n_steps=6, convergence_hook=ConvergenceHook.from_fmax(0.03))
    heat = NVTLangevin(model, dt=4.0, friction=0.02, n_steps=9, **BATH)
    return FusedStage([(0, relax), (1, heat)], **options)


def in_flight(make: Make, model: Any, sink: Any, **options: Any) -> Any:
    """Many clusters in a batch of at most three; results in a store or in memory."""
    clusters = [argon_cluster(2 + number % 4, number) for number in range(CLUSTERS)]
    if make is relax_and_heat and not options.pop("is_stream", False):
        source: Any = clusters
    else:
        source = (each for each in clusters)
    sampler = SizeAwareSampler(source, max_atoms=14, max_batch_size=3)
    return make(model, sampler=sampler, sinks=[sink], **options)


def lacks_memory(model: Any, arguments: Any) -> None:
    """Raise for more than eight atoms, when one of the systems has done three steps."""
    (batch,) = arguments
    if batch.num_nodes > 8 and int(batch.step.max()) >= 3:
        raise MemoryError("there is none left")


class Breaks:
    """Breaks the second system at its seventh step."""

    frequency, stage, on_active = 1, DynamicsStage.AFTER_PRE_UPDATE, True

    def __call__(self, ctx: Any, stage: Any) -> None:
        batch = ctx.batch
        broken = ((batch.system_id == 1) & (batch.step == 6)).reshape(-1)
        batch.positions[broken[batch.batch_idx]] = float("nan")


def held_and_broken(model: Any, *, hooks: Any) -> Any:
    """Dynamics in which atoms are held, forces limited, cells turned, and a system fails half way."""
    more = [FreezeAtomsHook(freeze_category=3), MaxForceClampHook(0.05), AlignCellHook(4), Breaks()]
    more.append(StopAboveHook({"energy": 1e9}, frequency=3))
    return NVTNoseHoover(model, dt=4.0, temperature=60.0, thermostat_time=100.0, hooks=[*more, *hooks])


def two_lists(model: Any, *, hooks: Any) -> Any:
    """A sum of two models, each with a list of its own; one that relaxes is soon done."""
    both = model + LennardJonesModelWrapper(epsilon=0.002, sigma=3.0, cutoff=4.5)
    relax = FIRE(both, dt=0.3, n_steps=9, convergence_hook=ConvergenceHook.from_fmax(0.04))
    return FusedStage([(0, relax), (1, NVE(both, dt=4.0, n_steps=30, start_temperature=60.0))], hooks=hooks)


def demo_model() -> DemoModelWrapper:
    torch.manual_seed(3)
    return DemoModelWrapper(DemoModel(hidden_dim=8).double())


OTHERS = {"relax and heat": relax_and_heat, "held and broken": held_and_broken, "two lists": two_lists}


class BreaksTwice:
    """Breaks a system twice, which tries again then."""

    frequency, stage, on_active = 1, DynamicsStage.AFTER_PRE_UPDATE, True

    def __call__(self, ctx: Any, stage: Any) -> None:
        """Change positions in place."""
        batch = ctx.batch
        breaks = (batch.system_id == 3) & ((batch.step == 3) | (batch.step == 11))
        batch.positions[breaks[:, 0][batch.batch_idx]] = float("nan")


FLYING = {
    "in flight, NVE": (FIXED_CELL["NVE"], {"n_steps": 5}),
    "in flight, FIRE": (
        partial(FIRE, dt=0.3, convergence_hook=ConvergenceHook.from_fmax(0.003)),
        {"n_steps": 17, "ordered": True},
    ),
    "in flight, want of memory": (relax_and_heat, {"ordered": True}),
    "in flight, stages": (relax_and_heat, {"ordered": True}),
    "in flight, second chances": (FIXED_CELL["second chances"], {"n_steps": 15, "ordered": True}),
    "in flight, stages of a stream": (relax_and_heat, {"is_stream": True, "refill_frequency": 3}),
}
NAMES = (
    *FIXED_CELL, *CELLS, *OTHERS, *FLYING,
    *(f"{name}, demo" for name in (*FIXED_CELL, "relax and heat")),
)  # fmt: skip


class Unsynced(Disk):
    """A disk that is not waited for, as only a power cut would tell."""

    def sync(self, descriptor: int) -> None:
        pass

    def sync_folder(self, path: Path) -> None:
        pass


class Case:
    """One run, in a folder of its own."""

    def __init__(self, name: str, place: Path) -> None:
        self.name, self.place = name, place
        name, _, _kind = name.partition(", demo") if ", demo" in name else (name, "", "")
        model = demo_model() if self.name.endswith(", demo") else argon_model()
        if "memory" in name:
            model.register_forward_pre_hook(lacks_memory)
        place.mkdir(exist_ok=True, parents=True)
        self.checkpoint = Checkpoint(place / "C", every=1, seconds=None, keep=100)
        self.checkpoint.folder = CheckpointFolder(place / "C", 100, disk=Unsynced())
        self.store = ZarrData(place / "frames.zarr", durability="none")
        in_memory = name == "in flight, NVE"
        self.results = HostMemory(100) if in_memory else ZarrData(place / "results.zarr", durability="none")
        hooks = [
            SnapshotHook(self.store, 2, first=True, last=True, finished="once"),
            LoggingHook("csv", 1, place / "log.csv", finished="once"),
            EnergyDriftMonitorHook(1e-9, "absolute", frequency=2),
            ConvergedSnapshotHook(HostMemory(100), frequency=4),
            self.checkpoint,
        ]
        if name in FLYING:
            make, options = FLYING[name]
            self.engine = in_flight(make, model, self.results, hooks=hooks, **options)
        else:
            make = {**FIXED_CELL, **CELLS, **OTHERS}[name]
            self.engine = make(model, hooks=hooks)
        with_neighbor_hooks(self.engine)
        if "second chances" in name:
            self.engine.register_hook(BreaksTwice())
        self.is_flying = name in FLYING
        self.cells = name in CELLS

    def start(self) -> Batch | None:
        if self.is_flying:
            return None
        last = argon_crystal(2, 4, strain=0.01) if self.cells else argon_cluster(9, 1)
        batch = Batch.from_data_list([argon_crystal(2, 3), last])
        batch.atom_categories = torch.arange(batch.num_nodes) % 5
        return batch

    def run(self, batch: Batch | None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.engine.run(batch) if self.is_flying else self.engine.run(batch, STEPS)
        self.store.close()
        self.results.close()


def outcome(place: Path) -> dict[str, Any]:
    """What a run leaves: its last state with all that belongs to it, its frames as read, its log."""
    found: dict[str, Any] = {"log": (place / "log.csv").read_text(), "state": CheckpointFolder(place / "C").load().tree}
    for name in ("frames", "results"):
        sink = ZarrData(place / f"{name}.zarr", mode="r") if (place / f"{name}.zarr").exists() else ()
        found[name] = sink.read().state_dict() if len(sink) else None
    return found


def write(name: str, place: Path) -> int:
    """Run a case, saved at every boundary; number of the last checkpoint."""
    case = Case(name, place)
    case.run(case.start())
    return CheckpointFolder(place / "C").numbers()[-1]


def go_on(name: str, place: Path, number: int, scratch: Path) -> list[str]:
    """Go on from a checkpoint of a case, with outputs as the whole run left them; what differs at the end."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(place, scratch, ignore=lambda folder, names: [each for each in names if Path(folder).name == "C"])
    shutil.copytree(place / "C" / f"{number:08d}", scratch / "C" / f"{number:08d}")
    case = Case(name, scratch)
    case.checkpoint.every = 1000
    case.run(SavedCheckpoint.load(scratch / "C").restore(case.engine))
    return list(differences(outcome(place), outcome(scratch), ""))


def differences(one: Any, other: Any, where: str) -> Any:
    """Where two trees differ in a bit, a type, or the order of keys."""
    if type(one) is not type(other):
        yield f"{where}: {type(one).__name__} and {type(other).__name__}"
    elif isinstance(one, torch.Tensor):
        bits = [each.contiguous().as_strided((each.numel(),), (1,)).view(torch.uint8) for each in (one, other)]
        if (one.dtype, one.shape) != (other.dtype, other.shape) or not torch.equal(*bits):
            yield where
    elif isinstance(one, dict):
        if list(one) != list(other):
            yield f"{where}: {list(one)} and {list(other)}"
        for key in one.keys() & other.keys():
            yield from differences(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            yield f"{where}: {len(one)} and {len(other)} entries"
        for place, pair in enumerate(zip(one, other, strict=False)):
            yield from differences(*pair, f"{where}/{place}")
    elif one != other and not (one != one and other != other):
        yield f"{where}: {one!r:.200} and {other!r:.200}"


if __name__ == "__main__":
    for each in json.loads(sys.stdin.read()):
        found = go_on(each["name"], Path(each["place"]), each["number"], Path(each["scratch"]))
        print(json.dumps({**each, "found": found}), flush=True)
