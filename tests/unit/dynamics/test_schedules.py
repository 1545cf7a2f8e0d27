"""Parameters that change while systems move."""

from __future__ import annotations

import pytest
import torch

from athanor.data import Batch
from athanor.dynamics import FIRE, NPT, NVE, NVTCSVR, NVTLangevin, NVTNoseHoover, Schedule, anneal, ramp, steps
from athanor.errors import InputError
from athanor.testing.dynamics_contract import argon_crystal, argon_model, with_neighbor_hooks
from athanor.units import GPa


def crystals(*ids):
    return Batch.from_data_list([argon_crystal(2, k) for k in ids])


def heat(temperature, **options):
    return with_neighbor_hooks(NVTLangevin(argon_model(), 4.0, temperature, 0.02, random_seed=3, **options))


def test_values_between_and_beyond_points():
    elapsed = torch.tensor([0.0, 500.0, 1000.0, 1500.0, 9000.0])
    assert ramp(100.0, 300.0, 1000.0).at(elapsed).tolist() == [100.0, 200.0, 300.0, 300.0, 300.0]
    assert steps([1.0, 5.0], 1000.0).at(elapsed).tolist() == [1.0, 1.0, 5.0, 5.0, 5.0]
    assert anneal(400.0, 100.0, 1000.0).at(elapsed)[1].item() == pytest.approx(200.0)
    each = ramp(torch.tensor([0.0, 10.0]), torch.tensor([100.0, 10.0]), 100.0).at(torch.tensor([50.0, 50.0]))
    assert each.tolist() == [50.0, 10.0]
    tensors = ramp(torch.zeros(2, 3), torch.ones(2, 3), 100.0).at(torch.tensor([25.0, 75.0]))
    assert tensors.tolist() == [[0.25] * 3, [0.75] * 3]


@pytest.mark.parametrize(
    ("points", "shape", "match"),
    [
        ([(1.0, 2.0)], "linear", "start at 0"),
        ([(0.0, 1.0), (5.0, 1.0), (4.0, 1.0)], "linear", "in order"),
        ([], "linear", "start at 0"),
        ([(0.0, float("nan"))], "linear", "finite"),
        ([(0.0, 300.0), (1.0, 0.0)], "exponential", "positive"),
        ([(0.0, 300.0)], "cubic", "use one of linear, exponential"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(points, shape, match):
    with pytest.raises(InputError, match=match):
        Schedule(points, shape)


def test_every_value_of_a_schedule_is_checked_and_optimizers_have_none():
    with pytest.raises(InputError, match="`temperature` is -1"):
        heat(ramp(300.0, -1.0, 100.0))
    with pytest.raises(InputError, match="`dt` of FIRE can not follow a schedule"):
        FIRE(argon_model(), dt=ramp(0.1, 0.2, 10.0), dt_max=1.0, dt_min=0.1)


def test_a_ramp_is_followed_in_parts_and_after_a_restart():
    """A system counts the time from its own entry: twin that starts over at each run would differ."""
    whole, halves = crystals(1, 2), crystals(1, 2)
    heat(ramp(20.0, 80.0, 400.0)).run(whole, 100)
    engine = heat(ramp(20.0, 80.0, 400.0))
    engine.run(halves, 40)
    again = heat(ramp(20.0, 80.0, 400.0))
    again.load_state_dict(engine.state_dict())
    again.run(halves, 60)
    assert torch.equal(whole.positions, halves.positions)
    assert again._state.temperature.tolist() == pytest.approx([80.0 - 60.0 / 100.0] * 2)
    fresh = crystals(1, 2)
    heat(ramp(20.0, 80.0, 400.0)).run(fresh, 40)
    heat(ramp(20.0, 80.0, 400.0)).run(fresh, 60)  # the twin: another engine, which begins with the ramp
    assert not torch.equal(whole.positions, fresh.positions)


def test_each_system_follows_its_own_clock():
    """One that arrives later in a fused run is at the start of its ramp; alone it takes the same path."""
    model = argon_model()

    def fused(first_steps):
        first = NVE(model, 4.0, n_steps=first_steps)
        second = NVTLangevin(model, 4.0, ramp(20.0, 80.0, 400.0), 0.02, n_steps=50, random_seed=3)
        return with_neighbor_hooks(first + second)

    batch = crystals(1, 2)
    batch.status = torch.tensor([[0], [1]])
    fused(25).run(batch)
    alone = crystals(2)
    alone.status = torch.tensor([[1]])
    fused(25).run(alone)
    assert torch.equal(alone.positions, batch.get_data(1).positions)
    late = crystals(1)
    fused(25).run(late)
    assert torch.equal(late.positions, batch.get_data(0).positions)


def test_values_for_each_system_equal_single_runs():
    together = crystals(1, 2)
    ends = torch.tensor([80.0, 40.0])
    heat(ramp(torch.tensor([20.0, 30.0]), ends, 200.0)).run(together, 60)
    for place, (start, end) in enumerate(((20.0, 80.0), (30.0, 40.0))):
        alone = crystals(place + 1)
        heat(ramp(start, end, 200.0)).run(alone, 60)
        assert torch.equal(alone.positions, together.get_data(place).positions)


class TimesReset(NVTNoseHoover):
    """Broken twin: forgets that the bath's own energy changes with its temperature."""

    def _book_(self, energy):
        super()._book_(energy * 60.0 / self._state.temperature)


@pytest.mark.parametrize(
    "make",
    [
        lambda model: NVTNoseHoover(model, 4.0, ramp(40.0, 120.0, 1600.0), ramp(100.0, 300.0, 800.0)),
        lambda model: NVTCSVR(model, 4.0, ramp(40.0, 120.0, 1600.0), 100.0),
        lambda model: NPT(model, 4.0, ramp(40.0, 120.0, 1600.0), ramp(0.0, 0.3 * GPa, 1600.0), 500.0, 100.0),
    ],
    ids=["chain", "rescaling", "moving cell"],
)
def test_the_conserved_energy_is_conserved_while_temperature_and_pressure_change(make):
    assert _drift(make) < 1e-3


def test_a_bath_that_forgets_its_temperature_is_found():
    assert _drift(lambda model: TimesReset(model, 4.0, ramp(40.0, 120.0, 1600.0), 100.0)) > 1e-2


def _drift(make):
    """Largest change of the conserved energy, eV, of systems that take up about 0.3 eV each."""
    engine, batch = with_neighbor_hooks(make(argon_model())), crystals(1, 2)
    engine.run(batch, 0)
    start = engine.conserved_energy(batch).clone()
    engine.run(batch, 400)
    return float((engine.conserved_energy(batch) - start).abs().max())


def test_a_schedule_with_rows_of_other_systems_is_refused_in_words():
    schedule = ramp(torch.tensor([40.0, 50.0, 60.0]), 100.0, 10.0)
    with pytest.raises(InputError, match="values with 3 rows; the batch has 2 systems"):
        schedule.at(torch.zeros(2))
    assert schedule.at(torch.zeros(3)).tolist() == [40.0, 50.0, 60.0]
