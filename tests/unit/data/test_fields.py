"""The field table: one row per name, and checks that cost O(1)."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from athanor.data import AtomicData, Batch
from athanor.data.fields import FIELDS, LEVELS, PAIR_VIEWS, STATE_FIELDS, Fields, FieldSpec, Role, names_of
from athanor.errors import DtypeError, ShapeError


def test_names_are_unique_and_every_row_is_complete() -> None:
    assert not FIELDS.keys() & PAIR_VIEWS.keys()
    for name, spec in {**FIELDS, **PAIR_VIEWS}.items():
        assert spec.name == name
        assert spec.level in LEVELS
        assert spec.meaning
        assert not hasattr(AtomicData, name)


def test_the_state_is_what_the_decision_says() -> None:
    named = {"positions", "cell", "velocities", "momenta", "energy", "forces", "stress", "atomic_masses"}
    assert named == STATE_FIELDS


def test_roles_and_exact_dtypes() -> None:
    deviations = ("energy_deviation", "force_deviation", "max_force_deviation")
    assert names_of("result") == (
        *("energy", "forces", "stress", "virial", "atomic_energies", "hessian"), *deviations, "dipole"
    )  # fmt: skip
    assert names_of("identity")[0] == "system_id"
    assert set(names_of(*get_args(Role))) == set(FIELDS)
    data = AtomicData(atomic_numbers=torch.tensor([18]), positions=torch.zeros(1, 3).double())
    batch = Batch.from_data_list([data])
    for name in FIELDS:
        batch.ensure_field(name)
    for name, value in batch.to(torch.float32):
        spec = FIELDS[name]
        assert value.dtype == spec.dtype_to_make(torch.float32), name
        assert spec.accepts_dtype(value.dtype)
    assert batch.to(torch.float32).dof.dtype == torch.float64


def test_an_attribute_of_a_batch_is_a_row_of_the_table() -> None:
    for name, spec in FIELDS.items():
        if spec.level != "edge":  # counts of pairs may have changed, so these are looked up
            assert spec.meaning in getattr(Batch, name).__doc__
        assert name in Fields.__annotations__


def test_check() -> None:
    spec = FieldSpec("mark", "node", (None, 3), "integer")
    spec.check(torch.zeros(2, 5, 3, dtype=torch.int32), 2, owner="a test")
    with pytest.raises(ShapeError, match=r"`mark` has shape \(2, 5, 4\); a test needs \(2, \*, 3\)"):
        spec.check(torch.zeros(2, 5, 4, dtype=torch.int64), 2, owner="a test")
    with pytest.raises(DtypeError, match=r"`mark` has dtype torch.bool; its dtype must be integer"):
        spec.check(torch.zeros(2, 5, 3, dtype=torch.bool), 2, owner="a test")
