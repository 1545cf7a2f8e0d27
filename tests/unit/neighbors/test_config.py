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
    ("wrong", "name"),
    [
        ({"cutoff": 0.0}, "cutoff"),
        ({"cutoff": -1.0}, "cutoff"),
        ({"cutoff": float("nan")}, "cutoff"),
        ({"cutoff": float("inf")}, "cutoff"),
        ({"cutoff": 5.0, "skin": -0.1}, "skin"),
        ({"cutoff": 5.0, "format": "csr"}, "format"),
        ({"cutoff": 5.0, "max_neighbors": 3}, "max_neighbors"),
        ({}, "cutoff"),
    ],
)
def test_wrong_values_are_refused(wrong: dict, name: str) -> None:
    with pytest.raises(InputError, match=f"`{name}`"):
        NeighborConfig(**wrong)


def test_assignment_is_checked_too() -> None:
    config = NeighborConfig(cutoff=5.0)
    config.skin = 1.0
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        config.skin = -1.0
    assert config.skin == 1.0
