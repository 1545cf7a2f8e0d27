"""Status codes, step budgets and the counters of a system.

A stage owns a status code; a system is in the stage whose code is its status. Systems leave by a criterion or a step
budget, at most one stage a step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.data.fields import IDENTITY

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.dynamics.inactive import ActiveSet


@dataclass(slots=True)
class StageSpec:
    """One stage of a run.

    Parameters
    ----------
    engine
        Integrator or optimizer that moves the systems.
    code
        Status of the systems in this stage, or None for every system below the exit status.
    next_status
        Status that a system gets when it leaves; None in a plain engine, where nothing leaves.
    """

    engine: Any
    code: int | None
    next_status: int | None
    active: ActiveSet = field(init=False)

    def mask(self, batch: Batch, exit_status: int) -> Tensor:
        """Healthy systems of this stage, bool [B]."""
        status = batch.status.reshape(-1)
        here = status < exit_status if self.code is None else status == self.code
        return here & (batch.failure_code.reshape(-1) == 0)


def ensure_bookkeeping(batch: Batch) -> None:
    """Create missing identity and progress fields, and number systems that have no id, in place.

    Systems without an id get the next free numbers after the largest present.
    """
    for name in IDENTITY:
        if name not in batch:
            batch.ensure_field(name)
    ids = batch.system_id
    missing = ids.reshape(-1) < 0
    if bool(missing.any()):
        start = int(ids.max()) + 1 if bool((~missing).any()) else 0
        ids[missing] = torch.arange(start, start + int(missing.sum()), dtype=ids.dtype, device=ids.device)[:, None]
