"""What a hook or a model asks of the stored pair lists, and who uses a list."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

TOLERANCE = 1e-6
"""Å; cutoffs and radii that differ by less count as equal where a list is chosen or filtered."""


class PairRequest(NamedTuple):
    """The pairs that a hook or a model needs.

    Parameters
    ----------
    cutoff
        Å; every closer pair must be listed.
    skin
        Å; how much further to search, so that a list can be kept while atoms move. With 0 exactly the pairs within
        `cutoff` are listed, anew whenever atoms have moved.
    half
        Whether each pair is stored once instead of in both directions.
    min_width
        Smallest width of the MATRIX view.
    """

    cutoff: float
    skin: float
    half: bool
    min_width: int = 0

    @property
    def radius(self) -> float:
        """How far to search, Å."""
        return self.cutoff + self.skin


class PairUsage:
    """Which requests a list serves at present; this is not stored, copied or selected with the list.

    Attributes
    ----------
    unrepeated
        Requests of the list that were not made again since the list was last searched.
    shorter_requests
        Requests of models that read the list although it is far longer than what they need.
    """

    __slots__ = ("shorter_requests", "unrepeated")

    def __init__(self, unrepeated: Iterable[PairRequest] = ()) -> None:
        self.unrepeated = set(unrepeated)
        self.shorter_requests: set[PairRequest] = set()
