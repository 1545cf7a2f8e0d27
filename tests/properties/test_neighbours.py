"""A system takes the path that it takes alone, bit for bit: in any batch, order and size, beside anybody, whoever fails
or is finished, and with a time step, temperature and pressure of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch import Tensor

from athanor.data import AtomicData, Batch
from athanor.dynamics import FIRE, NPT, NVE, BaseDynamics, NVTLangevin, NVTNoseHoover
from athanor.testing.dynamics_contract import BlowUp, argon_cluster, argon_crystal, argon_model, with_neighbor_hooks

FIELDS = ("positions", "velocities", "forces", "energy", "cell", "time", "stage_step")
STEPS, KNOWN, LARGEST = 50, 10, 64

Own = Callable[[Callable[[int], float]], Any]
"""Makes a setting of a function of the id: the number of one system, or a tensor with a row for each."""

ENGINES: dict[str, Callable[[Any, Own], BaseDynamics]] = {
    "NVE": lambda model, own: NVE(model, dt=own(dt_of)),
    "Langevin": lambda model, own: NVTLangevin(model, own(dt_of), own(heat_of), friction=0.02, random_seed=7),
    "Nose-Hoover": lambda model, own: NVTNoseHoover(model, own(dt_of), own(heat_of), thermostat_time=60.0),
    "NPT": lambda model, own: NPT(
        model, own(dt_of), own(heat_of), own(pressure_of), barostat_time=300.0, thermostat_time=80.0,
        pressure_coupling="triclinic",
    ),
    "FIRE": lambda model, own: FIRE(model, dt=own(lambda number: 0.2 + 0.05 * (number % 3)), dt_max=1.0, dt_min=0.01),
}  # fmt: skip


def dt_of(number: int) -> float:
    return 2.0 + number % 3


def heat_of(number: int) -> float:
    return 40.0 + 5.0 * (number % 4)


def pressure_of(number: int) -> float:
    return 1e-4 * (number % 5)


@cache
def system(name: str, number: int) -> AtomicData:
    if name == "NPT":
        return argon_crystal(1, number, strain=0.01 * (number % 3))
    return argon_crystal(1, number) if number % 4 == 0 else argon_cluster(1 + number % 13, number)


@cache
def alone(name: str, number: int) -> AtomicData:
    engine = with_neighbor_hooks(ENGINES[name](argon_model(), lambda setting: setting(number)))
    return engine.run(Batch.from_data_list([system(name, number).clone()]), STEPS).get_data(0)


def together(name: str, numbers: Sequence[int], failing: int | None, finished: int | None, make: Any = None) -> Batch:
    def own(setting: Callable[[int], float]) -> Tensor:
        return torch.tensor([setting(number) for number in numbers], dtype=torch.float64)

    engine = with_neighbor_hooks((make or ENGINES[name])(argon_model(), own))
    if failing is not None:
        engine.register_hook(BlowUp(failing, 17))
    batch = Batch.from_data_list([system(name, number).clone() for number in numbers])
    if finished is not None:
        batch.status = (batch.system_id == finished).long()
    return engine.run(batch, STEPS)


def strays(name: str, batch: Batch, left_out: Sequence[int | None] = ()) -> list[str]:
    """What differs from a run alone, of the systems that are known."""
    found = []
    for place, number in enumerate(batch.system_id.flatten().tolist()):
        if number < KNOWN and number not in left_out:
            one, expected = batch.get_data(place), alone(name, number)
            found += [f"{field} of {number}" for field in FIELDS if not same(one[field], expected[field])]
    return found


def same(one: Tensor | None, other: Tensor | None) -> bool:
    """Equal bits; a system without a cell has one of zeros beside a crystal."""
    if one is None or other is None:
        given = one if other is None else other
        return given is None or not bool(given.any())
    return torch.equal(one, other)


@st.composite
def batches(draw: Any) -> tuple[list[int], int | None, int | None]:
    known = draw(st.lists(st.integers(0, KNOWN - 1), unique=True, min_size=1))
    others = draw(st.lists(st.integers(KNOWN, 10_000), unique=True, max_size=draw(st.sampled_from([3, 12, LARGEST]))))
    numbers = draw(st.permutations([*known, *others][:LARGEST]))
    chance = st.one_of(st.none(), st.sampled_from(numbers))
    failing, finished = draw(chance), draw(chance)
    return numbers, failing, None if finished == failing or len(numbers) == 1 else finished


@pytest.mark.parametrize("name", ENGINES)
@hypothesis.settings(max_examples=40)
@hypothesis.given(drawn=batches())
def test_a_path_does_not_depend_on_neighbours(name: str, drawn: tuple[list[int], int | None, int | None]) -> None:
    numbers, failing, finished = drawn
    assert strays(name, together(name, numbers, failing, finished), (failing, finished)) == []


class Shares(NVE):
    """Broken twin: something is subtracted that is summed over the batch."""

    _selects_active = True

    def pre_update(self, batch: Batch) -> None:
        super().pre_update(batch)
        batch.velocities -= 1e-12 * batch.positions.mean(dim=0)

    def post_update(self, batch: Batch) -> None:
        super().post_update(batch)


class NoiseOfSlots(NVTLangevin):
    """Broken twin: noise is keyed by the place in the batch."""

    _selects_active = True

    def pre_update(self, batch: Batch) -> None:
        ids = batch.system_id.clone()
        batch.system_id.copy_(torch.arange(len(batch))[:, None])
        super().pre_update(batch)
        batch.system_id.copy_(ids)

    def post_update(self, batch: Batch) -> None:
        super().post_update(batch)


TWINS: dict[str, Callable[[Any, Own], BaseDynamics]] = {
    "NVE": lambda model, own: Shares(model, dt=own(dt_of)),
    "Langevin": lambda model, own: NoiseOfSlots(model, own(dt_of), own(heat_of), friction=0.02, random_seed=7),
    "Nose-Hoover": lambda model, own: NVTNoseHoover(model, own(dt_of), own(lambda number: 40.0), thermostat_time=60.0),
}
"""Broken twins; the last one has one temperature for all."""


@pytest.mark.parametrize("name", TWINS)
def test_it_would_be_seen(name: str) -> None:
    assert strays(name, together(name, [5, 2, 40, 3], None, None)) == []
    assert strays(name, together(name, [5, 2, 40, 3], None, None, TWINS[name])) != []
