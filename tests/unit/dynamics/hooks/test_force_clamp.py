"""MaxForceClampHook: long forces get shorter, and nothing that is finite becomes anything else."""

from __future__ import annotations

import math

import pytest
import torch

from athanor.dynamics import NVE
from athanor.dynamics.hooks import MaxForceClampHook, NaNDetectorHook
from athanor.dynamics.hooks.force_clamp import clamp_forces
from athanor.errors import AthanorWarning, InputError
from athanor.hooks.stages import DynamicsStage

from .runs import AFTER_COMPUTE, argon, bare, engine_with

INF, NAN = math.inf, math.nan
GIVEN = torch.tensor(
    [[3.0, 0, 4], [3, 0, 4.1], [0, 0, 0], [0.1, 0.2, 0.3], [-INF, 2, 0], [INF, -INF, 1], [1e200, 0, 0], [NAN, 1, 1]],
    dtype=torch.float64,
)
FINITE_AND_TOO_LONG, INFINITE, UNDEFINED = [1, 6], [4, 5], [7]


def scaled(forces, max_force):
    """Mutant: an infinite force is multiplied by zero."""
    norm = forces.norm(dim=1, keepdim=True)
    clamped = torch.where(norm > max_force, forces * (max_force / norm), forces)
    return clamped, (norm > max_force)[:, 0], forces.isnan().any(dim=1)


@pytest.mark.parametrize("clamp", [clamp_forces, scaled])
def test_directions_lengths_and_bits(clamp):
    found, too_long, undefined = clamp(GIVEN, 5.0)
    kept = [0, 2, 3]
    assert torch.equal(found[kept], GIVEN[kept]), "what is not longer than the limit keeps its bits"
    assert undefined.nonzero().flatten().tolist() == UNDEFINED
    if clamp is scaled:
        assert bool(found[INFINITE].isnan().any()), "the mutant is noticed"
        return
    assert too_long.nonzero().flatten().tolist() == sorted(FINITE_AND_TOO_LONG + INFINITE)
    torch.testing.assert_close(found[1], GIVEN[1] * 5.0 / GIVEN[1].norm(), rtol=1e-15, atol=0)
    root = math.sqrt(12.5)
    wanted = torch.tensor([[-5.0, 0, 0], [root, -root, 0], [5, 0, 0], [0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(found[[*INFINITE, 6, 7]], wanted, rtol=1e-15, atol=0)


def test_what_was_clamped_is_counted_and_nan_is_told_of():
    hook = MaxForceClampHook(5.0)
    ctx = bare(forces=GIVEN[:7])
    hook(ctx, AFTER_COMPUTE)
    assert (int(hook.num_clamped), int(hook.num_not_finite)) == (4, 0)
    hook.close()
    ctx.batch.forces[0] = NAN
    hook(ctx, AFTER_COMPUTE)
    assert bool(ctx.batch.forces.isfinite().all())
    with pytest.warns(AthanorWarning, match="1 forces that were NaN"):
        hook.close()
    hook.close()
    other = MaxForceClampHook(5.0)
    other.load_state_dict(hook.state_dict())
    other.close()
    assert (int(other.num_clamped), int(other.num_not_finite)) == (4, 1)


def test_a_run_is_clamped_before_the_detector_looks():
    batch = argon(0, 1)

    def break_it(ctx, stage):
        ctx.batch.forces[3] = torch.tensor([INF, 1.0, 0.0])

    break_it.frequency = 1
    engine = engine_with(NVE, dt=2.0)
    engine.register_hook(break_it, DynamicsStage.AFTER_COMPUTE)
    hook = MaxForceClampHook(0.05)
    engine.register_hook(hook)
    engine.register_hook(NaNDetectorHook())
    engine.run(batch, 5)
    assert float(batch.forces.norm(dim=1).max()) <= 0.05 * (1 + 1e-14)
    assert batch.forces[3].tolist() == [0.05, 0.0, 0.0]
    assert batch.failure_code.flatten().tolist() == [0, 0]
    assert int(hook.num_clamped) > 12


def test_finished_systems_and_companions_change_nothing():
    alone, together = argon(1), argon(0, 1, 2)
    together.status = torch.tensor([[1], [0], [0]])
    before = together.positions[:32].clone()
    for batch in (alone, together):
        engine_with(NVE, MaxForceClampHook(0.05, frequency=2), dt=2.0).run(batch, 10)
    assert torch.equal(together.positions[32:64], alone.positions)
    assert torch.equal(together.positions[:32], before)
    free = argon(1)
    engine_with(NVE, dt=2.0).run(free, 10)
    assert not torch.equal(free.positions, alone.positions)


def test_it_can_be_compiled_whole():
    eager, compiled = bare(forces=GIVEN[:7]), bare(forces=GIVEN[:7].clone())
    MaxForceClampHook(5.0)(eager, AFTER_COMPUTE)
    torch.compile(MaxForceClampHook(5.0).__call__, fullgraph=True, backend="eager")(compiled, AFTER_COMPUTE)
    assert torch.equal(eager.batch.forces, compiled.batch.forces)


@pytest.mark.parametrize("limit", [0.0, -1.0, NAN])
def test_what_is_refused(limit):
    with pytest.raises(InputError, match="max_force"):
        MaxForceClampHook(limit)
