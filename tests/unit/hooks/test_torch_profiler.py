"""TorchProfilerHook: traces of a run, by steps of a schedule or whole."""

from __future__ import annotations

import json

import pytest
import torch
from torch.profiler import ProfilerActivity, schedule

from athanor.data import Batch
from athanor.dynamics import NVE
from athanor.errors import InputError
from athanor.hooks import TorchProfilerHook
from athanor.testing.dynamics_contract import argon_cluster, argon_model, with_neighbor_hooks


def run(hook, steps: int) -> Batch:
    engine = with_neighbor_hooks(NVE(argon_model(), dt=2.0, hooks=[hook], keep_velocities=True))
    return engine.run(Batch.from_data_list([argon_cluster(3, 0)]), steps)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_whole_run_is_one_trace(tmp_path):
    hook = TorchProfilerHook(output_dir=tmp_path, activities="cpu", with_flops=False)
    batch = run(hook, 3)
    folder = tmp_path / "rank_0"
    assert names(folder) == ["torch_0.json", "torch_0.txt"]
    events = json.loads((folder / "torch_0.json").read_text(encoding="utf-8"))["traceEvents"]
    assert sum(event["name"] == "aten::add_" for event in events) >= 3
    assert "aten::" in (folder / "torch_0.txt").read_text(encoding="utf-8")
    assert torch.equal(run(hook, 3).positions, batch.positions)
    assert names(folder) == ["torch_0.json", "torch_0.txt", "torch_1.json", "torch_1.txt"], "nothing is overwritten"


def test_a_schedule_records_some_steps(tmp_path):
    hook = TorchProfilerHook(
        output_dir=tmp_path / "unused",
        on_trace_ready_path=tmp_path / "here",
        schedule=schedule(wait=1, warmup=1, active=1, repeat=2),
        activities=["cpu"],
        rank_subdirs=False,
        name="md",
    )
    run(hook, 7)
    assert names(tmp_path) == ["here"]
    assert names(tmp_path / "here") == ["md_0.json", "md_0.txt", "md_1.json", "md_1.txt"]


def test_arguments():
    hook = TorchProfilerHook(output_dir="x", activities=["cpu", "cuda"])
    assert hook.activities == (ProfilerActivity.CPU, ProfilerActivity.CUDA)
    for wrong in ({"activities": ["tpu"]}, {"colour": "red"}, {"frequency": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            TorchProfilerHook(output_dir="x", **wrong)
    with pytest.raises(InputError, match="output_dir"):
        TorchProfilerHook()
