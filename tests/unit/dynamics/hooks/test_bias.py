"""BiasedPotentialHook: energy, forces and stress of a bias, as if the model had them."""

from __future__ import annotations

import pytest
import torch

from athanor.data import Batch
from athanor.dynamics import NPH, NVE
from athanor.dynamics.hooks.bias import evaluate_bias
from athanor.errors import AthanorWarning, ContractError, InputError, ModelOutputError
from athanor.hooks import BiasedPotentialHook
from athanor.hooks.stages import DynamicsStage
from athanor.testing.dynamics_contract import argon_crystal
from athanor.units import GPa

from .runs import AFTER_COMPUTE, AFTER_STEP, argon, bare, engine_with


def spring(batch: Batch) -> torch.Tensor:
    """Harmonic in the distance of the first two atoms of each system, through no boundary."""
    first = batch.batch_ptr[:-1].long()
    distance = (batch.positions[first + 1] - batch.positions[first]).norm(dim=1)
    return 0.5 * (distance - 4.5) ** 2


def of_volume(batch: Batch) -> torch.Tensor:
    """Depends on the cell alone."""
    return 1e-4 * (batch.volume - 1000.0) ** 2 / 1000.0


def by_hand(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Energy and forces of `spring`; no stress."""
    found = evaluate_bias(spring, batch)
    return found["energy"], found["forces"]


def with_stress(batch: Batch) -> tuple[torch.Tensor, ...]:
    found = evaluate_bias(spring, batch)
    return found["energy"], found["forces"], found["stress"]


@pytest.mark.parametrize("bias", [spring, of_volume])
def test_forces_and_stress_are_derivatives_of_the_energy(bias):
    ctx = bare([argon_crystal(1, 0), argon_crystal(2, 1)])
    batch, step = ctx.batch, 1e-5
    found = evaluate_bias(bias, batch)
    shifted = batch.clone()
    for atom, axis in ((0, 0), (1, 2), (5, 1)):
        ends = []
        for sign in (1, -1):
            shifted.positions.copy_(batch.positions)
            shifted.positions[atom, axis] += sign * step
            ends.append(bias(shifted).sum())
        slope = float(ends[0] - ends[1]) / (2 * step)
        assert float(found["forces"][atom, axis]) == pytest.approx(-slope, abs=1e-8)
    for row, column in ((0, 0), (0, 1), (2, 1)):
        strain, ends = torch.zeros(3, 3, dtype=torch.float64), []
        strain[row, column] += 0.5 * step
        strain[column, row] += 0.5 * step
        for sign in (1, -1):
            deform = torch.eye(3, dtype=torch.float64) + sign * strain
            shifted.positions, shifted.cell = batch.positions @ deform, batch.cell @ deform
            ends.append(bias(shifted))
        slope = (ends[0] - ends[1]) / (2 * step) / batch.volume
        torch.testing.assert_close(found["stress"][:, row, column], slope, rtol=0, atol=1e-9)


def test_it_is_added_to_what_the_model_says():
    plain, biased = argon(0, 1), argon(0, 1)
    for batch, hooks in ((plain, []), (biased, [BiasedPotentialHook(spring)])):
        engine_with(NVE, *hooks, dt=2.0).run(batch, 0)
    found = evaluate_bias(spring, plain)
    torch.testing.assert_close(biased.energy, plain.energy + found["energy"], rtol=0, atol=1e-12)
    torch.testing.assert_close(biased.forces, plain.forces + found["forces"], rtol=0, atol=1e-12)
    assert float(found["forces"].norm()) > 0.1


def enthalpy_error(hook, dt: float) -> float:
    batch = Batch.from_data_list([argon_crystal(2, k, 40.0) for k in range(2)])
    seen = []
    engine = engine_with(NPH, hook, dt=dt, pressure=0.01 * GPa, barostat_time=200.0)

    def watch(ctx, stage):
        seen.append(engine.conserved_energy(ctx.batch))

    watch.frequency, watch.observes = 1, True
    engine.register_hook(watch, AFTER_STEP)
    engine.run(batch, round(400 / dt))
    return float((torch.stack(seen) - seen[0]).abs().max())


class WithoutStress(BiasedPotentialHook):
    """Mutant: energy and forces are added, and the stress of the bias forgotten."""

    def _say_that_stress_is_missing(self, ctx):
        """Say nothing."""


@pytest.mark.parametrize("bias", [spring, of_volume])
def test_a_moving_cell_conserves_its_enthalpy(bias):
    error, half = (enthalpy_error(BiasedPotentialHook(bias), dt) for dt in (4.0, 2.0))
    assert 3.0 < error / half < 5.0

    def energy_and_forces(batch):
        found = evaluate_bias(bias, batch)
        return found["energy"], found["forces"]

    wrong = enthalpy_error(WithoutStress(energy_and_forces), 2.0)
    assert wrong > 10 * half, f"{wrong} eV with and {half} eV without the mistake"


def test_a_bias_without_stress_is_refused_or_told_of():
    with pytest.raises(InputError, match=r"NPH moves cells.*stress as a third output"):
        engine_with(NPH, BiasedPotentialHook(by_hand), dt=2.0, pressure=0.0, barostat_time=200.0).run(argon(0), 1)
    hook = BiasedPotentialHook(by_hand)
    engine = engine_with(NVE, hook, dt=2.0)
    engine.model.model_config.active_outputs = {"energy", "forces", "stress"}
    with pytest.warns(AthanorWarning, match="without the bias") as told:
        engine.run(argon(0), 3)
    assert len(told) == 1
    engine_with(NPH, BiasedPotentialHook(with_stress), dt=2.0, pressure=0.0, barostat_time=200.0).run(argon(0), 1)


def test_runs_in_a_row_and_runs_without_it():
    once, twice = argon(0, 1), argon(0, 1)
    engine = engine_with(NVE, BiasedPotentialHook(spring), dt=2.0)
    engine.run(twice, 4)
    engine.run(twice, 6)
    engine_with(NVE, BiasedPotentialHook(spring), dt=2.0).run(once, 10)
    assert torch.equal(once.positions, twice.positions)
    free, fresh = once.clone(), once.clone()
    fresh.forces = None
    for batch in (free, fresh):
        engine_with(NVE, dt=2.0, model=engine.model).run(batch, 3)
    assert torch.equal(free.positions, fresh.positions), "forces of the bias are not taken for the model's"


class EverySystem(NVE):
    """An engine with something outside its state for each system, which is given finished systems, too."""

    _selects_active = True

    def pre_update(self, batch):
        super().pre_update(batch)

    def post_update(self, batch):
        super().post_update(batch)


@pytest.mark.parametrize("kind", [NVE, EverySystem])
def test_it_does_not_add_up_where_nothing_is_evaluated(kind):
    batch = argon(0, 1, 2)
    engine = engine_with(kind, BiasedPotentialHook(spring), dt=2.0)
    if kind is EverySystem:
        engine.weights = torch.ones(3)
    engine.run(batch, 2)
    batch.status = torch.tensor([[0], [1], [0]])
    before = batch.energy.clone()
    engine.run(batch, 5)
    assert float(batch.energy[1]) == float(before[1])
    batch.status = torch.zeros(3, 1, dtype=torch.int64)
    engine.run(batch, 0)
    assert float(batch.energy[1]) == pytest.approx(float(before[1]), abs=1e-12)


def test_companions_and_tensors():
    alone, together, exchanged = argon(1), argon(0, 1, 2), argon(0, 1, 2)
    together.status = torch.tensor([[1], [0], [0]])
    for batch, inplace in ((alone, True), (together, True), (exchanged, False)):
        engine_with(NVE, BiasedPotentialHook(spring, frequency=2, inplace=inplace), dt=2.0).run(batch, 7)
    assert torch.equal(together.positions[32:64], alone.positions)
    assert torch.equal(exchanged.positions[32:64], alone.positions)


def test_it_can_be_compiled_whole():
    def tether(batch):
        return 0.5 * batch.positions.square().sum().expand(2, 1), -batch.positions

    fields = {"energy": torch.zeros(2, 1, dtype=torch.float64), "forces": torch.zeros(7, 3, dtype=torch.float64)}
    eager, compiled = (bare(**{name: value.clone() for name, value in fields.items()}) for _ in range(2))
    BiasedPotentialHook(tether)(eager, AFTER_COMPUTE)
    hook = BiasedPotentialHook(tether)
    torch.compile(hook.__call__, fullgraph=True, backend="eager")(compiled, AFTER_COMPUTE)
    assert torch.equal(eager.batch.forces, compiled.batch.forces)
    assert torch.equal(eager.batch.energy, compiled.batch.energy)


@pytest.mark.parametrize(
    ("returned", "error", "text"),
    [
        (lambda b: (torch.zeros(2, 1), torch.zeros(3, 3)), ModelOutputError, r"`forces` of shape \(3, 3\).*\(7, 3\)"),
        (lambda b: torch.zeros(3), ModelOutputError, r"`energy` of shape \(3,\); expected \(2, 1\)"),
        (lambda b: (torch.zeros(2, 1), None), ModelOutputError, "NoneType"),
        (lambda b: {"energy": 1}, ModelOutputError, "dict of 0 outputs"),
        (lambda b: torch.zeros(2, 1), ContractError, "not attached"),
    ],
)
def test_wrong_outputs_say_what_was_expected(returned, error, text):
    ctx = bare(forces=torch.zeros(7, 3, dtype=torch.float64), energy=torch.zeros(2, 1, dtype=torch.float64))
    with pytest.raises(error, match=text):
        BiasedPotentialHook(returned)(ctx, AFTER_COMPUTE)
    with pytest.raises(ContractError, match="bias_fn"):
        BiasedPotentialHook(3.0)


def test_its_place_in_the_step():
    assert BiasedPotentialHook(spring).stage is DynamicsStage.AFTER_COMPUTE
