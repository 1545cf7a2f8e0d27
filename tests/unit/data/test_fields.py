"""The field table: one row per name, and checks that cost O(1)."""

from __future__ import annotations

import pytest
import torch

from athanor.data.atomic_data import AtomicData
from athanor.data.fields import FIELDS, LEVELS, PAIR_VIEWS, STATE_FIELDS, FieldSpec
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


def test_check() -> None:
    spec = FieldSpec("mark", "node", (None, 3), "integer")
    spec.check(torch.zeros(2, 5, 3, dtype=torch.int32), 2, owner="a test")
    with pytest.raises(ShapeError, match=r"`mark` has shape \(2, 5, 4\); a test needs \(2, \*, 3\)"):
        spec.check(torch.zeros(2, 5, 4, dtype=torch.int64), 2, owner="a test")
    with pytest.raises(DtypeError, match=r"`mark` has dtype torch.bool; its dtype must be integer"):
        spec.check(torch.zeros(2, 5, 3, dtype=torch.bool), 2, owner="a test")
