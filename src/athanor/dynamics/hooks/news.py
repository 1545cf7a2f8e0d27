"""Of which systems there is something new since somebody looked: those that moved, finished or failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from athanor.errors import InputError

if TYPE_CHECKING:
    from athanor.data.batch import Batch

_PROGRESS = ("system_id", "step", "status", "failure_code")
"""System fields that tell one look at a system from the next one, int64 [B, 1]."""


class News:
    """Remembers how far each system was.

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

    def of(self, batch: Batch) -> torch.Tensor | None:
        """Return of which systems there is something new, bool [B]; None if of all."""
        if not self._is_once:
            return None
        progress = torch.cat([batch[name] for name in _PROGRESS if name in batch], dim=1)
        before, self._seen = self._seen, progress
        return None if before is None or before.shape != progress.shape else (progress != before).any(dim=1)

    def forget(self) -> None:
        """Start afresh: the next run is another one."""
        self._seen = None
