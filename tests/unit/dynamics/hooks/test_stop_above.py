"""A system stops when a value passes its bound; the others go on as they would have, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ase.build import bulk

from athanor.data import AtomicData, Batch
from athanor.dynamics import NVE, FusedStage, NVTLangevin
from athanor.dynamics.hooks import StopAboveHook
from athanor.errors import InputError
from athanor.models import CommitteeModelWrapper, LennardJonesModelWrapper
from athanor.testing.dynamics_contract import argon_crystal

Make = Callable[..., Any]
BOUND = 0.0054
"""eV/Å; some of the systems below pass it on their way."""


def committee() -> CommitteeModelWrapper:
    pairs = [{"epsilon": 0.0104, "sigma": sigma, "cutoff": 8.0, "switch_width": 1.0} for sigma in (3.36, 3.40, 3.44)]
    return CommitteeModelWrapper([LennardJonesModelWrapper(**pair) for pair in pairs])


def heated(*hooks: Any, steps: int = 40, systems: tuple[int, ...] = (1, 2, 3)) -> tuple[Batch, NVTLangevin]:
    """Langevin dynamics of crystals that are the hotter the higher their number."""
    model = committee()
    crystal = AtomicData.from_atoms(bulk("Ar", "fcc", a=5.26, cubic=True), dtype=torch.float64)
    batch = Batch.from_data_list([crystal] * len(systems))
    batch.system_id = torch.tensor(systems)[:, None]
    temperature = torch.tensor([10.0 * number**2 for number in systems])
    engine = NVTLangevin(model, dt=4.0, temperature=temperature, friction=0.01, random_seed=1)
    for hook in (*model.make_neighbor_hooks(), *hooks):
        engine.register_hook(hook)
    return engine.run(batch, steps), engine


def check_stopping(make: Make) -> None:
    hook = make({"max_force_deviation": BOUND})
    path: list[torch.Tensor] = []

    class Watch:
        frequency, stage, observes = 1, hook.stage, True

        def __call__(self, ctx: Any, stage: Any) -> None:
            path.append(ctx.batch.max_force_deviation[:, 0].clone())

    free, _ = heated(Watch())
    deviations, path[:] = torch.stack(path), []
    above = deviations > BOUND
    assert above.any(0).tolist() == [False, True, True], "the systems of this test are not what it needs"
    stops = [int(column.nonzero()[0]) + 1 if column.any() else 40 for column in above.T]
    batch, _ = heated(hook)
    assert batch.step[:, 0].tolist() == stops
    assert hook.stopped(batch).tolist() == [False, True, True]
    for place, reason in enumerate(hook.reasons(batch)):
        value = batch.max_force_deviation[place, 0]
        assert value == deviations[stops[place] - 1, place]  # it keeps what it had when it stopped
        assert reason == ("" if place == 0 else f"max_force_deviation {value:.3g} eV/Å is above {BOUND:g} eV/Å")
    first = batch.batch_idx == 0
    assert torch.equal(batch.positions[first], free.positions[first])  # who goes on does not notice
    alone, _ = heated(make({"max_force_deviation": BOUND}), systems=(3,))
    assert torch.equal(alone.positions, batch.positions[batch.batch_idx == 2])


def test_who_passes_the_bound_stops() -> None:
    check_stopping(StopAboveHook)


class NeverLooks(StopAboveHook):
    """Broken twin: a bound that is never checked."""

    def __call__(self, ctx: Any, stage: Any) -> None:
        pass


class StopsAll(StopAboveHook):
    """Broken twin: one system above its bound stops all."""

    def __call__(self, ctx: Any, stage: Any) -> None:
        super().__call__(ctx, stage)
        if bool(self.stopped(ctx.batch).any()):
            ctx.batch.status.fill_(ctx.workflow.exit_status)


@pytest.mark.parametrize("twin", [NeverLooks, StopsAll])
def test_twins_are_found(twin: Make) -> None:
    with pytest.raises(AssertionError):
        check_stopping(twin)


def test_what_was_stopped_follows_its_system() -> None:
    hook = StopAboveHook({"max_force_deviation": BOUND})
    batch, _ = heated(hook)
    reasons = hook.reasons(batch)
    assert hook.reasons(batch.index_select([2, 0])) == [reasons[2], ""]
    newcomer = Batch.from_data_list([argon_crystal(1, 0)])
    assert hook.reasons(newcomer) == [""]
    assert hook.stopped(newcomer).tolist() == [False]


def test_newcomers_start_afresh_and_the_others_keep_theirs() -> None:
    """Batches are filled up between runs: who takes the place of a stopped system has passed no bound."""
    hook = StopAboveHook({"max_force_deviation": BOUND})
    batch, engine = heated(hook, steps=20)
    reasons = hook.reasons(batch)
    assert [bool(reason) for reason in reasons] == [False, False, True]
    values = batch.max_force_deviation.clone()
    newcomer = AtomicData.from_atoms(bulk("Ar", "fcc", a=5.26, cubic=True), dtype=torch.float64)
    newcomer.system_id = torch.tensor([[9]])
    batch.append_data([newcomer])
    assert hook.reasons(batch) == [*reasons, ""]
    assert torch.equal(batch.max_force_deviation[:3], values)
    engine.temperature = torch.tensor([10.0, 10.0, 10.0, 90.0])
    engine.run(batch, 20)
    assert hook.reasons(batch)[2] == reasons[2]
    assert torch.equal(batch.max_force_deviation[2], values[2])
    assert batch.step[:, 0].tolist()[2] < 20 < batch.step[:, 0].tolist()[0]
    batch.replace_systems([2], Batch.from_data_list([newcomer]))
    assert hook.reasons(batch)[2] == ""


def test_memory_is_saved() -> None:
    hook, other = (StopAboveHook({"max_force_deviation": BOUND}) for _ in range(2))
    batch, _ = heated(hook)
    other.load_state_dict(hook.state_dict())
    assert other.reasons(batch) == hook.reasons(batch)


def test_frequency_counts_the_steps_of_each_system() -> None:
    every, tenth = (StopAboveHook({"max_force_deviation": BOUND}, frequency) for frequency in (1, 10))
    soon, _ = heated(every)
    late, _ = heated(tenth)
    assert (late.step >= soon.step).all()
    assert all(step in (1, 11, 21, 31, 40) for step in late.step[:, 0].tolist())


def test_in_a_fused_run_a_system_leaves_all_stages() -> None:
    model, hook = committee(), StopAboveHook({"max_force_deviation": 0.0})
    hot = {"start_temperature": 40.0}
    fused = FusedStage([(0, NVE(model, 2.0, n_steps=3, **hot)), (1, NVE(model, 2.0, n_steps=5, **hot))])
    for each in (*model.make_neighbor_hooks(), hook):
        fused.register_hook(each)
    batch = fused.run(Batch.from_data_list([argon_crystal(1, number) for number in (0, 1)]))
    assert batch.step[:, 0].tolist() == [1, 1]
    assert batch.status[:, 0].tolist() == [2, 2]
    assert hook.stopped(batch).all()


def test_other_fields() -> None:
    """Of vectors the length counts; what the engine does without is computed."""
    hook = StopAboveHook({"stress": 1e-9, "forces": 1e9})
    batch, _ = heated(hook, steps=3)
    assert batch.step[:, 0].tolist() == [1, 1, 1]
    assert all(reason.startswith("stress ") for reason in hook.reasons(batch))
    longest = torch.linalg.vector_norm(batch.forces, dim=1).max()
    assert longest > batch.forces.abs().max()
    hook = StopAboveHook({"forces": 0.5 * float(longest + batch.forces.abs().max())})
    heated(hook, steps=1)


def test_refusals() -> None:
    for bounds in ({}, None, [0.3]):
        with pytest.raises(InputError, match="give fields and their bounds"):
            StopAboveHook(bounds)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="threshold"):
        StopAboveHook({"max_force_deviation": "much"})  # type: ignore[dict-item]
    with pytest.raises(KeyError, match="max_force_deviatoin"):
        heated(StopAboveHook({"max_force_deviatoin": 0.3}), steps=1)
