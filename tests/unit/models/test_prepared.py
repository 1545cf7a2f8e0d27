"""What models make of a batch is made once for all that are called on the same batch, and anew when it changed."""

from __future__ import annotations

from collections.abc import Hashable

import pytest
import torch

from athanor.models import prepared as home
from athanor.models.prepared import prepared, sharing_prepared

CALLS: list[float] = []


def squares(values: torch.Tensor, *, factor: float = 1.0) -> torch.Tensor:
    CALLS.append(factor)
    return factor * values * values


def check_sharing() -> None:
    CALLS.clear()
    values = torch.arange(4.0)
    with sharing_prepared():
        first = prepared(squares, values)
        assert prepared(squares, values.view(4)) is first
        assert prepared(squares, values, factor=2.0) is not first
        assert prepared(squares, values[:2]).tolist() == [0.0, 1.0]
        values += 1.0
        assert prepared(squares, values).tolist() == [1.0, 4.0, 9.0, 16.0]
        with sharing_prepared():  # a committee in a committee
            prepared(squares, values)
    assert CALLS == [1.0, 2.0, 1.0, 1.0]


def test_what_is_made_once() -> None:
    check_sharing()


def without_versions(tensor: torch.Tensor) -> Hashable:
    """Broken twin: what stands in the tensor does not count."""
    return tensor.data_ptr(), tensor.shape


def test_a_changed_tensor_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "_place", without_versions)
    with pytest.raises(AssertionError):
        check_sharing()


def test_nothing_is_kept_outside() -> None:
    CALLS.clear()
    values = torch.arange(4.0)
    prepared(squares, values)
    prepared(squares, values)
    with sharing_prepared():
        prepared(squares, values)
    assert len(CALLS) == 3
