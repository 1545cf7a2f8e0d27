"""NeighborListHook: asks for a neighbour list at every step; `athanor.neighbors.skin` keeps it complete."""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING

from athanor._values import check_whole, is_real
from athanor.errors import InputError
from athanor.hooks.context import HookContext
from athanor.hooks.stages import DynamicsStage
from athanor.neighbors.skin import update_pair_list

if TYPE_CHECKING:
    from athanor.neighbors.config import NeighborConfig


class NeighborListHook:
    """Keep the neighbour list of the batch complete for a cutoff.

    Parameters
    ----------
    config
        Cutoff, half or full list, skin.
    skin
        Verlet skin in Å; if 0 the one of `config` counts. With a skin of 0 the list is rebuilt whenever atoms have
        moved, else the list of a system is rebuilt when its own motion or strain has used up the skin.
    max_neighbors
        Smallest width of the matrix view.
    stage
        Where the hook runs; BEFORE_COMPUTE unless given.
    method
        Accepted for compatibility; the search method is chosen by size.

    Raises
    ------
    InputError
        If `skin` is negative or not finite, `max_neighbors` is no count, or `config` is no `NeighborConfig`.

    Notes
    -----
    The list, its reference positions and its stamps live on the batch, so one hook may serve several batches, and
    several hooks one batch: those that ask for nearly the same share a list, others get one each. After the call the
    neighbour names of the batch show the list of this hook; each model finds the list that fits it best.

    Examples
    --------
    >>> from athanor.hooks import NeighborListHook
    >>> from athanor.models.base import NeighborConfig
    >>> NeighborListHook(NeighborConfig(cutoff=5.0), skin=0.5).skin
    0.5
    """

    default_stage = DynamicsStage.BEFORE_COMPUTE
    frequency = 1
    on_active = True

    def __init__(
        self,
        config: NeighborConfig,
        skin: float = 0.0,
        max_neighbors: int | None = None,
        stage: Enum | None = None,
        method: str | None = None,
    ) -> None:
        from athanor.neighbors.config import check_neighbor_config  # here, so that engines load without pydantic

        check_neighbor_config(config)
        if not is_real(skin) or not 0.0 <= skin < math.inf:
            raise InputError(f"`skin` is {skin!r} Å; it must not be negative, and finite. 0.5 to 2 is usual.")
        if max_neighbors is not None:
            check_whole(max_neighbors, "max_neighbors")
        self.config = config
        self.skin = float(skin) or config.skin
        self.max_neighbors = max_neighbors
        self.stage: Enum | None = self.default_stage if stage is None else stage
        self.method = method

    def __call__(self, ctx: HookContext, stage: Enum) -> None:
        """Bring the lists of ``ctx.batch`` up to date and show the one of this hook."""
        config = self.config
        update_pair_list(ctx.batch, config.cutoff, self.skin, config.half_list, self.max_neighbors)

    def __repr__(self) -> str:
        return f"NeighborListHook(cutoff={self.config.cutoff:g}, skin={self.skin:g}, stage={self.stage})"
