"""What a person sees who prints an engine, a sink, a hook or a structure."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from athanor.data import AtomicData, Batch
from athanor.data.elements import chemical_formula
from athanor.dynamics import FIRE, NVE, ConvergenceHook, FIREVariableCell, NVTLangevin
from athanor.dynamics.hooks import ConvergedSnapshotHook, LoggingHook, NaNDetectorHook, SnapshotHook
from athanor.hooks import WrapPeriodicHook
from athanor.sinks import GPUBuffer, HostMemory, ZarrData
from athanor.testing.dynamics_contract import argon_model

MODEL = argon_model()


def water() -> AtomicData:
    return AtomicData(atomic_numbers=torch.tensor([8, 1, 1]), positions=torch.rand(3, 3))


def test_an_engine_says_its_settings_with_units() -> None:
    assert "dt=2 fs, temperature=30 K, friction=0.01 1/fs" in repr(NVTLangevin(MODEL, 2.0, 30.0, 0.01))
    assert "temperature=30 to 50 K" in repr(NVTLangevin(MODEL, 2.0, torch.tensor([30.0, 50.0]), 0.01))
    assert "dt=0.5 fs, n_steps=7" in repr(NVE(MODEL, 0.5, n_steps=7))
    assert "pressure=0.1 eV/Å³" in repr(FIREVariableCell(MODEL, 0.1, pressure=0.1))


def test_what_is_at_its_default_is_not_said() -> None:
    assert "random_seed" not in repr(NVTLangevin(MODEL, 2.0, 30.0, 0.01))
    assert "random_seed=7" in repr(NVTLangevin(MODEL, 2.0, 30.0, 0.01, random_seed=7))
    assert not {"pressure", "f_dec", "n_min"} & set(repr(FIREVariableCell(MODEL, 0.1)).replace("=", " ").split())


def test_a_parameter_that_is_assigned_is_seen() -> None:
    engine = NVTLangevin(MODEL, 2.0, 30.0, 0.01)
    engine.temperature = 600.0
    assert "temperature=600 K" in repr(engine)


def test_a_fused_run_says_its_stages() -> None:
    relax = FIRE(MODEL, 0.1, n_steps=9, convergence_hook=ConvergenceHook.from_fmax(0.01))
    assert "1: NVTLangevin(dt=2 fs, temperature=30 K" in repr(relax + NVTLangevin(MODEL, 2.0, 30.0, 0.01, n_steps=9))


def test_sinks_and_hooks_count(tmp_path: Path) -> None:
    sink = HostMemory(10)
    sink.write(Batch.from_data_list([water(), water()]))
    assert repr(sink) == "HostMemory(2 frames of at most 10)"
    assert repr(GPUBuffer(3)) == "GPUBuffer(0 frames of at most 3)"
    assert repr(ZarrData(tmp_path / "frames.zarr")) == "ZarrData(0 frames)"
    assert repr(SnapshotHook(sink, 3)) == "SnapshotHook(sink=HostMemory(2 frames of at most 10), frequency=3)"
    assert repr(ConvergedSnapshotHook(sink)).startswith("ConvergedSnapshotHook(sink=HostMemory(")
    assert "log.csv" in repr(LoggingHook("csv", 2, tmp_path / "log.csv"))
    assert repr(NaNDetectorHook(4, "charges")) == "NaNDetectorHook(frequency=4, extra_keys=('charges',))"
    assert repr(WrapPeriodicHook(5)) == "WrapPeriodicHook(frequency=5)"


def test_a_structure_says_its_formula() -> None:
    assert repr(water()).startswith("AtomicData(H2O, ")
    assert "systems=[H2O, H2O]" in repr(Batch.from_data_list([water(), water()]))


@pytest.mark.parametrize(
    ("numbers", "formula"),
    [([6, 1, 1, 8, 6], "C2H2O"), ([1, 1, 8], "H2O"), ([17, 11], "ClNa"), ([35, 1], "BrH"), ([], ""), ([200], "[200]")],
)
def test_formulas_are_in_the_order_of_hill(numbers: list[int], formula: str) -> None:
    assert chemical_formula(numbers) == formula
