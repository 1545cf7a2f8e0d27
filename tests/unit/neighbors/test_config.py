"""NeighborConfig holds sensible values or is refused."""

from __future__ import annotations

import pytest

from athanor.errors import InputError
from athanor.neighbors import NeighborConfig, NeighborListFormat


def test_defaults_and_plain_strings() -> None:
    config = NeighborConfig(cutoff=5)
    assert (config.cutoff, config.format, config.half_list, config.skin) == (5.0, "coo", False, 0.0)
    assert NeighborConfig(cutoff=5.0, format="matrix").format is NeighborListFormat.MATRIX
    assert NeighborConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    "wrong",
    [
        {"cutoff": 0.0},
        {"cutoff": -1.0},
        {"cutoff": float("nan")},
        {"cutoff": float("inf")},
        {"cutoff": 5.0, "skin": -0.1},
        {"cutoff": 5.0, "format": "csr"},
        {"cutoff": 5.0, "max_neighbors": 3},
        {},
    ],
)
def test_wrong_values_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError):
        NeighborConfig(**wrong)


def test_assignment_is_checked_too() -> None:
    config = NeighborConfig(cutoff=5.0)
    config.skin = 1.0
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        config.skin = -1.0
    assert config.skin == 1.0
