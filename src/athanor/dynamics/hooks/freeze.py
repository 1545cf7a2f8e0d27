"""FreezeAtomsHook: hold the atoms of one category in place while an engine moves their system."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

import torch

from athanor._typing import AtomCategory
from athanor._values import check_whole, describe
from athanor.dynamics.hooks.memory import HookMemory
from athanor.hooks.stages import DynamicsStage

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.hooks.context import DynamicsContext


class FreezeAtomsHook:
    """Hold every atom of one category while the engine with this hook moves its system.

    The atoms are marked ``fixed`` for that time: they are displaced at no moment, also not where forces are evaluated,
    they are at rest, and neither temperature nor thermostat, criterion or degrees of freedom count them. Afterwards
    they are free again, unless they were ``fixed`` before. Under a moving cell they keep their fractional positions.

    Parameters
    ----------
    frequency
        Steps between calls that set forces to zero; the atoms are held in every step.
    freeze_category
        Value of ``batch.atom_categories``, or an `AtomCategory`, of the atoms to hold. It is read when the engine takes
        a system on.
    zero_forces
        Show no forces on held atoms. With False ``batch.forces`` are what the model says.
    stage
        Accepted for compatibility: they are held at all stages.

    Raises
    ------
    InputError
        If `frequency` or `freeze_category` is not a whole number.

    Notes
    -----
    On a stage of a fused run only the systems in that stage are held, and they are let go before the next stage draws
    velocities. To hold atoms for good, set ``batch.fixed`` instead.

    Examples
    --------
    >>> from athanor.dynamics.hooks import FreezeAtomsHook
    >>> FreezeAtomsHook(freeze_category=3).freeze_category
    3
    """

    on_active = True

    def __init__(
        self,
        frequency: int = 1,
        freeze_category: int | AtomCategory = AtomCategory.SPECIAL.value,
        zero_forces: bool = True,
        stage: Enum = DynamicsStage.BEFORE_PRE_UPDATE,
    ) -> None:
        self.frequency = check_whole(frequency, "frequency", 1)
        category = freeze_category.value if isinstance(freeze_category, AtomCategory) else freeze_category
        self.freeze_category = check_whole(category, "freeze_category", None)
        self.zero_forces = zero_forces
        self.stage: Enum | None = stage
        self._memory = HookMemory({"held": "node"})

    def __repr__(self) -> str:
        return describe(self, "freeze_category", "zero_forces")

    def _runs_on_stage(self, stage: Enum) -> bool:
        return self.zero_forces and stage is DynamicsStage.AFTER_COMPUTE

    def take_on(self, batch: Batch, systems: torch.Tensor) -> None:
        """Hold the atoms of `systems`, bool [B], in place: they become ``fixed``, and rest."""
        if "atom_categories" not in batch:
            return
        fixed = batch.ensure_field("fixed")
        self._memory.follow(batch)
        held = self._memory.of(batch, lambda: {"held": torch.zeros_like(fixed)})["held"]
        new = (batch.atom_categories == self.freeze_category) & systems[batch.batch_idx] & ~fixed
        held.logical_or_(new)
        fixed.logical_or_(new)
        if "velocities" in batch:
            batch.velocities.masked_fill_(new[:, None], 0.0)

    def release(self, batch: Batch, systems: torch.Tensor) -> None:
        """Let go of the atoms of `systems`, bool [B], that this hook has fixed, in place."""
        held = self._memory.known(batch).get("held")
        if held is not None:
            free = held & systems[batch.batch_idx]
            held.logical_and_(~free)
            batch.fixed.logical_and_(~free)

    def state_dict(self) -> dict[str, Any]:
        """Return which atoms of the batch that was run last are held by this hook; it must still be there."""
        return {"memory": self._memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up which atoms are held."""
        self._memory.load_state_dict(state["memory"])

    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Set the forces on held atoms to zero, in place."""
        batch = ctx.batch
        if "forces" in batch and "fixed" in batch and "atom_categories" in batch:
            held = batch.fixed & (batch.atom_categories == self.freeze_category)
            batch.forces.masked_fill_(held[:, None], 0.0)
