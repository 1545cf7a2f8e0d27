"""Of which systems there is something new since somebody looked: those that moved, finished or failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from athanor.errors import InputError

if TYPE_CHECKING:
    from athanor.data.batch import Batch

_PROGRESS = ("system_id", "step", "status", "failure_code")
"""System fields that tell one look at a system from the next one, int64 [B, 1]."""
_NEVER = -(2**62)
"""Of no field of any system."""


class News:
    """Remembers how far each system was. A system is known by its `system_id`, in whatever place of the batch it is.

    Parameters
    ----------
    finished
        ``"every"``: everybody is always new. ``"once"``: a system that stands still is new once more, as it then is.

    Raises
    ------
    InputError
        If `finished` is another word.
    """

    def __init__(self, finished: str) -> None:
        if finished not in ("every", "once"):
            raise InputError(f'`finished={finished!r}` is unknown. Use "every" or "once".')
        self._is_once = finished == "once"
        self._seen: torch.Tensor | None = None

    def of(self, batch: Batch, systems: torch.Tensor | None = None) -> torch.Tensor | None:
        """Return of which systems there is something new, bool [B]; None if of all.

        With a mask of `systems`, somebody looks at these alone: of the others nothing is told, nor seen.
        """
        if not self._is_once:
            return systems
        progress = torch.cat([batch[name] for name in _PROGRESS if name in batch], dim=1)
        before = self._seen_of(progress, "system_id" in batch)
        new = (progress != before).any(dim=1)
        if systems is None:
            self._seen = progress
            return new
        self._seen = torch.where(systems[:, None], progress, before)
        if "system_id" in batch:
            self._seen[:, 0] = progress[:, 0]
        return new & systems

    def _seen_of(self, now: torch.Tensor, by_id: bool) -> torch.Tensor:
        """Return what was seen last of the systems of `now`; what no system ever has where it was nothing."""
        before, unseen = self._seen, torch.full_like(now, _NEVER)
        before = None if before is None else before.to(now.device)
        if before is None or before.shape[1] != now.shape[1] or not len(before):
            return unseen
        if not by_id:
            return before if len(before) == len(now) else unseen
        if len(before) == len(now) and torch.equal(before[:, 0], now[:, 0]):
            return before
        order = before[:, 0].argsort()
        place = torch.searchsorted(before[order, 0], now[:, 0].contiguous()).clamp(max=len(before) - 1)
        found = before[order[place]]
        return torch.where((found[:, 0] == now[:, 0])[:, None], found, unseen)

    def state_dict(self) -> dict[str, Any]:
        """Return how far each system was when somebody looked; None before."""
        return {"seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._seen = state["seen"]

    def forget(self) -> None:
        """Start afresh: the next run is another one."""
        self._seen = None
