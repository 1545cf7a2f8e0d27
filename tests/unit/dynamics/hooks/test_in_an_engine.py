"""The hooks in a real run: how often, with which step and time, and that a run may be continued."""

from __future__ import annotations

import csv

import pytest
import torch

from athanor.data import observables
from athanor.data.batch import Batch
from athanor.dynamics.hooks import ConvergedSnapshotHook, LoggingHook, NaNDetectorHook, SnapshotHook
from athanor.dynamics.integrators import NVE, NVTLangevin
from athanor.dynamics.optimizers.fire import FIREVariableCell
from athanor.dynamics.sinks import HostMemory, ZarrData
from athanor.errors import NonFiniteError
from athanor.testing.dynamics_contract import argon_crystal, argon_model


def argon(systems: int = 2) -> Batch:
    return Batch.from_data_list([argon_crystal(2, number) for number in range(systems)])


def test_frames_and_rows_of_a_run(tmp_path):
    memory, stored = HostMemory(100), ZarrData(tmp_path / "t.zarr")
    log = LoggingHook("csv", frequency=5, log_path=tmp_path / "log.csv")
    model = argon_model()
    snapshots = [SnapshotHook(memory, 5), SnapshotHook(stored, frequency=5)]
    engine = NVE(model, dt=2.0, hooks=[*model.make_neighbor_hooks(), *snapshots, log])
    batch = engine.run(argon(), n_steps=10)
    engine.run(batch, n_steps=10)
    frames = stored.frames(1)
    assert frames.step.flatten().tolist() == [1, 6, 11, 16]
    assert frames.time.flatten().tolist() == [2.0, 12.0, 22.0, 32.0]
    assert torch.equal(memory.read().positions, stored.read().positions)
    assert (frames.positions[:32] != frames.positions[32:64]).any()
    with open(tmp_path / "log.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = [(str(step), str(number)) for step in (1, 6, 11, 16) for number in (0, 1)]
    assert [(row["step"], row["system_id"]) for row in rows] == wanted
    energies = stored.read().energy.flatten().tolist()
    assert [float(row["energy"]) for row in rows] == energies
    assert all(0 < float(row["temperature"]) < 500 for row in rows)


def test_a_detector_turns_a_blow_up_into_an_error():
    batch = argon()
    batch.positions[1] = batch.positions[0]
    model = argon_model()
    engine = NVE(model, dt=2.0, hooks=[*model.make_neighbor_hooks(), NaNDetectorHook()])
    with pytest.raises(NonFiniteError, match=r"system_id 0"):
        engine.run(batch, n_steps=3)


def test_converged_systems_are_written_once():
    from athanor.dynamics.convergence import ConvergenceHook
    from athanor.dynamics.optimizers.fire import FIRE

    sink, model = HostMemory(10), argon_model()
    hooks = [*model.make_neighbor_hooks(), ConvergedSnapshotHook(sink)]
    engine = FIRE(model, dt=0.5, convergence_hook=ConvergenceHook.from_fmax(0.01), hooks=hooks)
    engine.warns_of_start = False
    engine.run(argon(), n_steps=400)
    found = sink.read()
    assert sorted(found.system_id.flatten().tolist()) == [0, 1]
    assert float(found.forces.norm(dim=1).max()) < 0.01


class MovesAsMotion(FIREVariableCell):
    """Mutant: what the method calls velocities stands on the batch, as if it were motion."""

    _selects_active = True

    def pre_update(self, batch):
        super().pre_update(batch)
        batch.velocities.copy_(self._state.velocities)

    def post_update(self, batch):
        super().post_update(batch)


@pytest.mark.parametrize("engine", [FIREVariableCell, MovesAsMotion])
def test_only_systems_in_motion_have_a_kinetic_pressure(engine) -> None:
    model, logged, static, in_all = argon_model(), [], [], []
    model.model_config.active_outputs = {"energy", "forces", "stress"}

    def keep(step, rows):
        logged.append([row["pressure"] for row in rows])
        static.append(observables.pressure(batch, kinetic=False).tolist())
        in_all.append(observables.pressure(batch).tolist())

    relax = engine(model, dt=0.1, n_steps=4)
    relax.warns_of_start = False
    log = LoggingHook("custom", writer_fn=keep)
    batch = argon()
    heat = NVTLangevin(model, dt=2.0, temperature=40.0, friction=0.01, n_steps=3)
    heat.warns_of_start = False
    fused = relax + heat
    for hook in [*model.make_neighbor_hooks(), log]:
        fused.register_hook(hook)
    fused.run(batch)
    still = [[a == b for a, b in zip(*rows, strict=True)] for rows in zip(logged, static, strict=True)]
    assert (still == [[True, True]] * 4 + [[False, False]] * 3) == (engine is FIREVariableCell)
    assert logged == in_all
