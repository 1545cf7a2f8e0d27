"""NaNDetectorHook: says where, in which fields, how many."""

from __future__ import annotations

import pytest

from athanor.dynamics.hooks import NaNDetectorHook
from athanor.errors import NonFiniteError
from athanor.hooks.context import DynamicsContext
from athanor.hooks.stages import DynamicsStage
from athanor.testing.sink_contract import make_batch

AT = DynamicsStage.AFTER_COMPUTE


def test_finite_is_fine():
    hook = NaNDetectorHook(extra_keys=["stress", "not_there", "atomic_numbers"])
    hook(DynamicsContext(batch=make_batch(0)), AT)
    assert hook.stage is AT
    assert hook.raises_on_failure


def test_report():
    batch = make_batch(40)
    batch.forces[2, 0] = float("nan")
    batch.forces[5] = float("inf")
    batch.energy[2] = -float("inf")
    with pytest.raises(NonFiniteError) as caught:
        NaNDetectorHook()(DynamicsContext(batch=batch, step_count=17), AT)
    text = str(caught.value)
    assert isinstance(caught.value, RuntimeError)
    for part in ("step 17", "`forces` (4 values)", "`energy` (1 values)", "2 of 3 systems", "system_id 41 (graph 1)",
                 "system_id 42 (graph 2)", "[1, 2]"):  # fmt: skip
        assert part in text


def test_extra_keys():
    batch = make_batch(0)
    batch.stress[0, 0, 0] = float("nan")
    NaNDetectorHook()(DynamicsContext(batch=batch), AT)
    with pytest.raises(RuntimeError, match=r"`stress` \(1 values\)"):
        NaNDetectorHook(extra_keys=["stress"])(DynamicsContext(batch=batch), AT)
