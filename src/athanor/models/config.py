"""ModelConfig: what a model can do (fixed), and what it is asked to do (free to change)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationInfo, field_serializer, field_validator, model_validator

from athanor._config import Config
from athanor.data._levels import level_of
from athanor.data.fields import FIELDS, Level
from athanor.neighbors.config import NeighborConfig, NeighborListFormat

__all__ = ["ModelConfig", "NeighborConfig", "NeighborListFormat"]

_SETS_OF_NAMES = (
    "outputs", "autograd_outputs", "autograd_inputs", "required_inputs", "optional_inputs", "active_outputs",
    "gradient_keys",
)  # fmt: skip


class ModelConfig(Config):
    """Capabilities of a model and what it computes on each call.

    Every wrapper sets one as ``self.model_config`` in its constructor. Names of outputs and inputs are free strings;
    well known are ``energy``, ``forces``, ``stress``, ``hessian``, ``dipole``, ``charges``.

    Parameters
    ----------
    outputs
        Everything the model can produce. Fixed.
    autograd_outputs
        Those of `outputs` that come from differentiating the energy. Fixed.
    autograd_inputs
        Inputs that need gradients while an autograd output is active. Fixed.
    required_inputs
        Inputs needed beyond positions and atomic_numbers. Fixed.
    optional_inputs
        Inputs used if present. Fixed.
    supports_pbc, needs_pbc
        Whether periodic systems work, and whether nothing else does. Fixed.
    neighbor_config
        The neighbour list the model needs, or ``None``. Fixed.
    output_levels
        Name -> ``"node"`` (or ``"atom"``), ``"edge"`` or ``"system"``: what the rows of an output belong to that is not
        in the field table, such as an uncertainty. Without it their number tells, which it can not where every system
        has one atom. Such outputs are stored on the batch of a run, except those of pairs. Fixed.
    active_outputs
        What to compute; all of `outputs` unless given. May be changed at any time.
    gradient_keys
        More inputs that get ``requires_grad``. May be changed at any time.

    Raises
    ------
    InputError
        A `ValueError`: for an unknown keyword, or on assignment to a fixed field.
    """

    outputs: frozenset[str] = Field(default=frozenset({"energy"}), frozen=True)
    autograd_outputs: frozenset[str] = Field(default=frozenset(), frozen=True)
    autograd_inputs: frozenset[str] = Field(default=frozenset({"positions"}), frozen=True)
    required_inputs: frozenset[str] = Field(default=frozenset(), frozen=True)
    optional_inputs: frozenset[str] = Field(default=frozenset(), frozen=True)
    supports_pbc: bool = Field(default=False, frozen=True)
    needs_pbc: bool = Field(default=False, frozen=True)
    neighbor_config: NeighborConfig | None = Field(default=None, frozen=True)
    output_levels: dict[str, Level] = Field(default_factory=dict, frozen=True)
    active_outputs: set[str] | None = Field(default=None, validate_default=True)
    gradient_keys: set[str] = Field(default_factory=set)

    @property
    def needs_neighborlist(self) -> bool:
        """Whether the model needs a neighbour list."""
        return self.neighbor_config is not None

    @field_validator("output_levels", mode="before")
    @classmethod
    def _known_levels(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, Mapping):
            return value
        levels = {name: level_of(name, level) for name, level in value.items()}
        for name, level in levels.items():
            if name in info.data.get("outputs", ()) and (name not in FIELDS or FIELDS[name].level == level):
                continue
            what = f"is {FIELDS[name].level}-level" if name in FIELDS else f"is not in `outputs` ({level}-level)"
            raise ValueError(f"`output_levels` names `{name}`, which {what}. Leave it out, or correct it.")
        return levels

    @field_validator("active_outputs", mode="after")
    @classmethod
    def _all_outputs_by_default(cls, value: set[str] | None, info: ValidationInfo) -> set[str] | None:
        return set(info.data["outputs"]) if value is None and "outputs" in info.data else value

    @model_validator(mode="before")
    @classmethod
    def _warn_about_autograd_outputs(cls, data: Any) -> Any:
        if isinstance(data, dict):
            extra = set(data.get("autograd_outputs") or ()) - set(data.get("outputs") or ("energy",))
            if extra:
                warnings.warn(
                    f"`autograd_outputs` names {sorted(extra)}, which are not in `outputs`. Add them to `outputs`.",
                    UserWarning,
                    stacklevel=3,
                )
        return data

    @field_serializer(*_SETS_OF_NAMES, when_used="json")
    def _sorted(self, value: frozenset[str] | set[str] | None) -> list[str] | None:
        return None if value is None else sorted(value)
