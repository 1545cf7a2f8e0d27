"""MaxForceClampHook: no force larger than a limit."""

from __future__ import annotations

import warnings
from enum import Enum
from typing import TYPE_CHECKING

import torch

from athanor import _runtime
from athanor._values import check_whole, describe
from athanor.dynamics.state import check_positive
from athanor.errors import AthanorWarning
from athanor.hooks.due import due_systems
from athanor.hooks.stages import DynamicsStage

if TYPE_CHECKING:
    from athanor.hooks.context import DynamicsContext


class MaxForceClampHook:
    """Shorten every force that is longer than a limit to the limit, in its direction; shorter ones keep their bits.

    An infinite force gets the direction of its infinite components. One that is NaN has no direction and becomes zero;
    it is counted, and the end of the run warns of it. Energy and stress stay what the model says, so a system whose
    energy is not finite is set aside all the same, and no energy is conserved while forces are clamped.

    Parameters
    ----------
    max_force
        eV/Å; the longest force of an atom.
    stage
        Where in the step.
    frequency
        Steps between calls, counted by each system for itself.

    Attributes
    ----------
    num_clamped
        int64: forces shortened so far, infinite ones too.
    num_not_finite
        int64: forces so far that were NaN.

    Raises
    ------
    InputError
        If `max_force` is not a positive number, or `frequency` is not at least 1.

    Warns
    -----
    AthanorWarning
        At the end of a run in which a force was NaN.

    Notes
    -----
    Register it before a `NaNDetectorHook`. Does not wait for the device.
    """

    on_active = True
    counts_each_system = True

    def __init__(self, max_force: float, stage: Enum = DynamicsStage.AFTER_COMPUTE, frequency: int = 1) -> None:
        check_positive(max_force, "max_force", "eV/Å")
        self.max_force = float(max_force)
        self.stage: Enum | None = stage
        self.frequency = check_whole(frequency, "frequency", 1)
        self.num_clamped = self.num_not_finite = torch.zeros((), dtype=torch.int64)
        self._warned_of = 0

    def __repr__(self) -> str:
        return describe(self, "max_force", "frequency")

    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Clamp ``ctx.batch.forces`` in place."""
        batch = ctx.batch
        if "forces" not in batch:
            return
        forces = batch.forces.detach()
        clamped, too_long, undefined = clamp_forces(forces, self.max_force)
        due = due_systems(ctx, stage, self.frequency)
        if due is not None:
            atoms = due[batch.batch_idx]
            clamped = torch.where(atoms[:, None], clamped, forces)
            too_long, undefined = too_long & atoms, undefined & atoms
        forces.copy_(clamped)
        self.num_clamped = self.num_clamped.to(forces.device) + too_long.sum()
        self.num_not_finite = self.num_not_finite.to(forces.device) + undefined.sum()

    def state_dict(self) -> dict[str, int]:
        """Return the counts so far. Waits for the device."""
        return {"num_clamped": int(self.num_clamped), "num_not_finite": int(self.num_not_finite)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on with the counts of `state`."""
        self.num_clamped, self.num_not_finite = (torch.tensor(state[name]) for name in self.state_dict())
        self._warned_of = state["num_not_finite"]

    def close(self) -> None:
        """Warn of forces that were NaN since the last time."""
        count = int(self.num_not_finite)
        if count > self._warned_of:
            new, self._warned_of = count - self._warned_of, count
            text = (
                f"MaxForceClampHook set {new} forces that were NaN to zero. Relax these systems first, or do without "
                f"the hook: the engine then sets them aside."
            )
            warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())


def clamp_forces(forces: torch.Tensor, max_force: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return clamped forces, which were too long, and which were NaN.

    Parameters
    ----------
    forces
        [N, 3], eV/Å.
    max_force
        eV/Å.

    Returns
    -------
    tuple
        Forces [N, 3]; bool [N]; bool [N].
    """
    undefined = forces.isnan().any(dim=1)
    too_long = torch.linalg.vector_norm(forces, dim=1) > max_force
    largest = forces.abs().amax(dim=1, keepdim=True)
    infinite = forces.isinf()
    # never inf / inf: what is infinite counts as one, and what is finite beside it as nothing
    direction = torch.where(infinite.any(dim=1, keepdim=True), forces.sign() * infinite, forces / largest)
    shortened = direction / torch.linalg.vector_norm(direction, dim=1, keepdim=True) * max_force
    clamped = torch.where(too_long[:, None], shortened, forces)
    return clamped.masked_fill(undefined[:, None], 0.0), too_long & ~undefined, undefined
