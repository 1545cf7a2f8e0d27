"""What a step of Lennard-Jones dynamics does: kernels called, torch operations, arrays made. Counts, not seconds."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from athanor.data import Batch
from athanor.dynamics import NVE
from athanor.kernels import _threads
from athanor.models.lj import LennardJonesModelWrapper
from athanor.testing.systems import fcc_crystal

KERNELS = {"compare": 1, "wrapped_positions": 1, "lennard_jones_rows": 1, "totals": 1}
MOST_ARRAYS, MOST_OPERATIONS, MOST_MEMORY = 8, 20, 12
VIEWS = {"detach", "to", "as_strided", "unsqueeze", "lift_fresh", "resolve_conj", "resolve_neg", "is_same_size"}
"""Operations of torch that touch no numbers."""


def counts_of_a_step(monkeypatch: pytest.MonkeyPatch, model: torch.nn.Module) -> dict[str, Counter[str]]:
    """Return what one step more takes, in a run in which no list is due."""
    batch = Batch.from_data_list([fcc_crystal(3.8, repeat=(2, 2, 2)) for _ in range(3)])
    engine = NVE(model, dt=1.0, start_temperature=10.0)
    for hook in model.make_neighbor_hooks():
        hook.skin = 1.0
        engine.register_hook(hook)
    engine.run(batch, 2)

    kernels: Counter[str] = Counter()
    arrays: Counter[str] = Counter()
    run_parts, empty = _threads.run_parts, np.empty

    def counted_run_parts(kernel, arguments, bounds):
        kernels[kernel.__name__] += 1
        return run_parts(kernel, arguments, bounds)

    def counted_empty(*arguments, **options):
        arrays["empty"] += 1
        return empty(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", counted_empty)
        for module in [*sys.modules.values()]:
            if getattr(module, "run_parts", None) is run_parts:
                patch.setattr(module, "run_parts", counted_run_parts)

        def counted(steps: int) -> dict[str, Counter[str]]:
            kernels.clear()
            arrays.clear()
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
                engine.run(batch, steps)
            operations = Counter(event.name.removeprefix("aten::") for event in seen.events())
            return {"kernels": kernels.copy(), "arrays": arrays.copy(), "operations": operations}

        few, more = counted(1), counted(2)
    return {kind: more[kind] - few[kind] for kind in few}


def _operations(found: Counter[str]) -> int:
    return sum(count for name, count in found.items() if name not in VIEWS and name != "[memory]")


@pytest.fixture
def argon() -> Callable[[], LennardJonesModelWrapper]:
    return lambda: LennardJonesModelWrapper(epsilon=0.0104, sigma=3.4, cutoff=7.0)


def test_a_step_calls_each_kernel_once_and_makes_few_arrays(
    monkeypatch: pytest.MonkeyPatch, argon: Callable[[], LennardJonesModelWrapper]
) -> None:
    found = counts_of_a_step(monkeypatch, argon())
    assert found["kernels"] == KERNELS
    assert found["arrays"]["empty"] <= MOST_ARRAYS
    assert _operations(found["operations"]) <= MOST_OPERATIONS
    assert found["operations"]["[memory]"] <= MOST_MEMORY


def test_a_step_that_does_more_is_noticed(
    monkeypatch: pytest.MonkeyPatch, argon: Callable[[], LennardJonesModelWrapper]
) -> None:
    """Twins: a second model, and one that asks for a virial that nobody reads and copies what it is given."""
    found = counts_of_a_step(monkeypatch, argon() + argon())
    assert found["kernels"]["lennard_jones_rows"] == 2
    assert found["arrays"]["empty"] > MOST_ARRAYS

    class Wasteful(LennardJonesModelWrapper):
        def forward(self, data, **kwargs):
            outputs = super().forward(data, **kwargs)
            outputs["forces"] = (outputs["forces"].clone() * 2.0).clone() / 2.0 + torch.zeros_like(data.positions)
            return outputs

    found = counts_of_a_step(monkeypatch, Wasteful(epsilon=0.0104, sigma=3.4, cutoff=7.0))
    assert found["kernels"] == KERNELS
    assert found["operations"]["[memory]"] > MOST_MEMORY
