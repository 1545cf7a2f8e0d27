"""What list of neighbours a model wants: `NeighborConfig` and `NeighborListFormat`; values only, no behaviour."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field

from athanor._config import Config
from athanor.errors import ArgumentError


class NeighborListFormat(StrEnum):
    """How a model wants to read its neighbours; equal to the plain string."""

    COO = "coo"
    """Pairs (i, j), one row each."""
    MATRIX = "matrix"
    """One padded row per atom."""


class NeighborConfig(Config):
    """The neighbour list that a model needs.

    Parameters
    ----------
    cutoff
        Interaction radius in Å, positive and finite; a pair counts if its distance is strictly smaller.
    format
        View that the model reads. The stored list is the same for both.
    half_list
        Whether each pair is stored once instead of in both directions.
    skin
        Extra search radius in Å (Verlet skin); the list of a system is kept until its own motion uses it up.
        Zero rebuilds at every step. Typical values are 0.5 to 2.

    Raises
    ------
    InputError
        A `ValueError`: for an unknown keyword, ``cutoff <= 0`` or ``skin < 0``; also on assignment.
    """

    cutoff: float = Field(gt=0.0, allow_inf_nan=False)
    format: NeighborListFormat = NeighborListFormat.COO
    half_list: bool = False
    skin: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)


def check_neighbor_config(config: Any) -> None:
    """Raise ArgumentError unless `config` is a `NeighborConfig`."""
    if not isinstance(config, NeighborConfig):
        raise ArgumentError(
            f"`config` is a {type(config).__name__}; pass `NeighborConfig(cutoff=5.0)`, or "
            f"`model.model_config.neighbor_config`."
        )
