"""Which lists serve a set of requests: nearly equal ones share a list, far longer ones are kept apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from athanor.data.pair_request import PairRequest

LARGEST_SHARED_RATIO = 1.15
"""A list may be searched this many times as far as a request needs; such a list holds up to 1.5 times the pairs.

Measured with Lennard-Jones at the density of the liquid: a pair costs 4 ns a step to read and 20 to 25 ns to search
anew every 15 steps or so, so up to 1.4 times the pairs sharing is faster, and beyond 1.6 two lists are.
"""


class PlannedList(NamedTuple):
    """A list to be stored, and the requests that it serves."""

    cutoff: float
    radius: float
    half: bool
    min_width: int
    requests: tuple[PairRequest, ...]


def plan_lists(requests: Iterable[PairRequest]) -> list[PlannedList]:
    """Return as few lists as serve `requests` without any of them being far longer than a request needs.

    The longest request starts a list that takes all it may serve, then the longest of what is left, and so on; the
    order of `requests` does not matter. A shared list has the largest cutoff and the largest skin of its requests. A
    request without skin asks for exactly the pairs within its cutoff, and shares with its equals only.
    """
    groups: list[list[PairRequest]] = []
    for request in sorted(set(requests), key=lambda request: (request.radius, *request), reverse=True):
        group = next((group for group in groups if _can_share([*group, request])), None)
        if group is None:
            groups.append([request])
        else:
            group.append(request)
    return [_list_for(group) for group in groups]


def _list_for(requests: Sequence[PairRequest]) -> PlannedList:
    cutoff = max(request.cutoff for request in requests)
    radius = cutoff + max(request.skin for request in requests)
    return PlannedList(
        cutoff, radius, requests[0].half, max(request.min_width for request in requests), tuple(requests)
    )


def _can_share(requests: Sequence[PairRequest]) -> bool:
    first, *others = requests
    if any(request.half != first.half for request in others):
        return False
    if any(request.skin <= 0.0 for request in requests):
        return all((request.cutoff, request.skin) == (first.cutoff, first.skin) for request in others)
    return not any(is_far_longer(_list_for(requests).radius, request.radius) for request in requests)


def is_far_longer(radius: float, needed: float) -> bool:
    """Whether a list searched to `radius`, Å, holds too many pairs for somebody who needs those within `needed`, Å."""
    return radius > LARGEST_SHARED_RATIO * needed
