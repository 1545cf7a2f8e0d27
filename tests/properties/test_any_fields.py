"""Random fields, right and wrong: what is accepted gives a right result or is set aside; what is not is told.

Nothing else may happen: no raw traceback of torch, numpy or ASE, and no NaN that passes as a result.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from athanor.data import AtomicData, Batch
from athanor.data.fields import FIELDS
from athanor.dynamics import NVE
from athanor.errors import AthanorError
from athanor.models.lj import LennardJonesModelWrapper

PROFILE = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
EPSILON, SIGMA, CUTOFF = 0.0104, 3.4, 5.0
DTYPES = (torch.float64, torch.float32, torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64)
NUMBERS = (0.0, 1.0, -1.0, 0.5, 3.8, 18.0, 119.0, 1e-30, 1e9, 1e38, 1e300, math.nan, math.inf, -math.inf)
OTHER = (None, 3, 1.5, True, "Ar", [], [1.0], {}, np.zeros(3), np.ones((3, 3)), torch.tensor(1.0))


def tensors(rows: int, tail: tuple[int | None, ...]) -> st.SearchStrategy[torch.Tensor]:
    """Tensors of about the right shape, of any dtype and with any values."""
    right = (rows, *(size or 2 for size in tail))
    shapes = st.sampled_from([right, right, right, right[1:], (*right, 1), (rows + 1, *right[1:]), (0, *right[1:]), ()])
    few = st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=4)
    return st.builds(_tensor, shapes, st.sampled_from(DTYPES), few)


def _tensor(shape: tuple[int, ...], dtype: torch.dtype, values: list[float]) -> torch.Tensor:
    count = math.prod(shape)
    repeated = torch.tensor((values * (count // len(values) + 1))[:count], dtype=torch.float64)
    if not (dtype.is_floating_point or dtype.is_complex):
        repeated = repeated.nan_to_num(7.0, 200.0, -3.0).clamp(-1e9, 1e9)
    return repeated.reshape(shape).to(dtype)


def field(name: str, rows: int) -> st.SearchStrategy[Any]:
    spec = FIELDS[name]
    count = {"node": rows, "edge": 2, "system": 1}[spec.level]
    return st.one_of(tensors(count, spec.shape), tensors(count, spec.shape), st.sampled_from(OTHER))


@st.composite
def good_fields(draw: st.DrawFn) -> dict[str, Any]:
    """A structure of one to four atoms in a cell of either hand, periodic or not."""
    rows = draw(st.integers(1, 4))
    side = draw(st.sampled_from([3.0, 6.0, 20.0, -9.0]))
    pbc = draw(st.sampled_from([[True] * 3, [True, False, True], [False] * 3]))
    return {
        "atomic_numbers": torch.full((rows,), 18),
        "positions": 3.7 * torch.arange(3 * rows, dtype=torch.float64).reshape(rows, 3) / 3**0.5,
        "cell": side * torch.eye(3, dtype=torch.float64)[None],
        "pbc": torch.tensor([pbc]),
    }


@st.composite
def any_fields(draw: st.DrawFn) -> dict[str, Any]:
    """A good structure, with up to three of its fields replaced by anything."""
    fields = draw(good_fields())
    rows = len(fields["positions"])
    names = draw(st.lists(st.sampled_from([*fields, *fields, *FIELDS]), max_size=3, unique=True))
    return fields | {name: draw(field(name, rows)) for name in names}


def quietly(make: Any) -> Any:
    """Return what `make` gives, or None if it refuses with an exception of athanor's; warnings do not matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return make()
        except AthanorError as error:
            return None if str(error) else pytest.fail("an error without a text")


def energy_of(data: AtomicData) -> float:
    """Sum the pair energies over images, in plain numpy."""
    positions = data.positions.double().numpy()
    cell = np.zeros((3, 3)) if data.cell is None else data.cell[0].double().numpy()
    pbc = [False] * 3 if data.pbc is None else data.pbc[0].tolist()
    counts = [range(-4, 5) if periodic else range(1) for periodic in pbc]
    energy = 0.0
    for shift in np.array(np.meshgrid(*counts)).reshape(3, -1).T:
        distance = np.linalg.norm(positions[None] + shift @ cell - positions[:, None], axis=2)
        near = (distance < CUTOFF) & ((distance > 0) if not shift.any() else True)
        ratio = (SIGMA / distance[near]) ** 6
        energy += float((2.0 * EPSILON * (ratio**2 - ratio)).sum())
    return energy


def check_one_step(data: AtomicData) -> None:
    """One step beside a sound system: a right energy or a reason, and the sound system is what it is alone."""
    model = LennardJonesModelWrapper(EPSILON, SIGMA, CUTOFF)
    sound = AtomicData(
        atomic_numbers=torch.full((2,), 18),
        positions=torch.tensor([[0.0, 0.0, 0.0], [3.7, 0.0, 0.0]], dtype=data.dtype),
        system_id=torch.tensor([[2**32 - 1]]),
    )

    def go(systems: list[AtomicData]) -> Batch:
        return NVE(model, dt=1e-3, hooks=model.make_neighbor_hooks(), keep_velocities=True).run(
            Batch.from_data_list(systems), 1
        )

    found = quietly(lambda: go([data, sound]))
    if found is None:
        return
    alone = go([sound])
    for name in ("positions", "velocities", "forces", "energy"):
        assert torch.equal(found.get_data(1)[name], alone.get_data(0)[name]), name
    if int(found.failure_code[0]) or int(found.status[0]):
        return
    for name in ("positions", "velocities", "forces", "energy"):
        assert torch.isfinite(found.get_data(0)[name]).all(), name
    expected = energy_of(found.get_data(0))
    assert float(found.energy[0]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@PROFILE
@given(any_fields())
def test_structures_of_any_fields(fields: dict[str, Any]) -> None:
    data = quietly(lambda: AtomicData(**fields))
    if data is not None:
        check_one_step(data)


@PROFILE
@given(good_fields(), st.sampled_from([*FIELDS, "num_graphs", "forcs", "neighbor_list", "pair_list"]), st.data())
def test_any_assignment(fields: dict[str, Any], name: str, drawn: st.DataObject) -> None:
    data = AtomicData(**fields)
    joined = Batch.from_data_list([data])
    value = drawn.draw(field(name if name in FIELDS else "forces", data.num_nodes))
    for owner in (data, joined):
        before, others = owner.get(name), {key: tensor for key, tensor in owner.to_dict().items() if key != name}
        quietly(lambda owner=owner: setattr(owner, name, value))
        assert owner.get(name) is value or owner.get(name) is before or name in ("neighbor_list", "atom_categories")
        assert all(owner.get(key) is tensor for key, tensor in others.items())
    if quietly(lambda: joined.debug() is None):
        check_one_step(joined.get_data(0))


@PROFILE
@given(
    st.integers(0, 3),
    st.lists(st.sampled_from(NUMBERS), min_size=3, max_size=9),
    st.sampled_from([None, [6.0, 7.0, 8.0], [0.0, 7.0, 8.0], [-6.0, 7.0, 8.0], [math.nan, 1.0, 1.0]]),
    st.dictionaries(
        st.sampled_from(["energy", "stress", "dipole", "charge", "spin", "system_id", "step", "time", "note"]),
        st.sampled_from([*NUMBERS[:7], math.nan, 2**40, 2**70, "a", None, [1.0, 2.0], np.ones((3, 3)), np.ones(6)]),
        max_size=3,
    ),
)
def test_atoms_of_any_content(count: int, numbers: list[float], cell: list[float] | None, info: dict[str, Any]) -> None:
    positions = np.array((numbers * (3 * count))[: 3 * count]).reshape(count, 3)
    atoms = Atoms([18] * count, positions=positions, cell=cell, pbc=cell is not None)
    atoms.info.update(info)
    data = quietly(lambda: AtomicData.from_atoms(atoms, dtype=torch.float64))
    if data is not None:
        check_one_step(data)


class BelievesAnything(AtomicData):
    """Broken twin: a structure that is not checked."""

    def __init__(self, **fields: Any) -> None:
        object.__setattr__(self, "info", {})
        object.__setattr__(self, "_extras", {})
        object.__setattr__(self, "_custom", {})
        object.__setattr__(self, "_fields", {name: value for name, value in fields.items() if value is not None})


def test_broken_twin_is_caught() -> None:
    fields = {"atomic_numbers": torch.tensor([18]), "positions": torch.zeros(1, 3), "energy": "a"}
    assert quietly(lambda: AtomicData(**fields)) is None, "refused in words"
    with pytest.raises(AttributeError, match="'str' object has no attribute 'shape'"):
        check_one_step(BelievesAnything(**fields))
