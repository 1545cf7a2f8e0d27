"""Which lists serve which requests."""

from __future__ import annotations

from itertools import permutations

import pytest

from athanor.data.pair_request import PairRequest
from athanor.neighbors.plan import LARGEST_SHARED_RATIO, PlannedList, plan_lists


def planned(*requests: tuple) -> list[tuple[float, float, bool]]:
    """Cutoff, radius and kind of the lists for the requests; the same in whatever order they come."""
    made = [PairRequest(*request) for request in requests]
    plans = [plan_lists(order) for order in permutations(made)]
    assert all(plan == plans[0] for plan in plans)
    assert sorted(one for plan in plans[0] for one in plan.requests) == sorted(set(made))
    return [(plan.cutoff, plan.radius, plan.half) for plan in plans[0]]


def test_one_request_is_one_list_of_its_very_numbers() -> None:
    assert planned((6.1, 0.3, False)) == [(6.1, 6.1 + 0.3, False)]


@pytest.mark.parametrize(
    ("requests", "lists"),
    [
        ([(8.0, 0.5, False), (7.5, 0.5, False)], [(8.0, 8.5, False)]),
        ([(8.0, 0.5, False), (6.0, 0.5, False)], [(8.0, 8.5, False), (6.0, 6.5, False)]),
        ([(8.0, 0.3, False), (7.9, 1.0, False)], [(8.0, 9.0, False)]),
        ([(8.0, 0.5, False), (8.0, 0.5, True)], [(8.0, 8.5, True), (8.0, 8.5, False)]),
        ([(8.0, 0.5, False), (8.0, 0.0, False)], [(8.0, 8.5, False), (8.0, 8.0, False)]),
        ([(8.0, 0.0, False), (7.9, 0.0, False)], [(8.0, 8.0, False), (7.9, 7.9, False)]),
        ([(8.4, 0.5, False), (7.7, 0.5, False), (7.0, 0.5, False)], [(8.4, 8.9, False), (7.0, 7.5, False)]),
        ([(50.0, 0.5, False), (6.0, 0.5, False), (6.2, 0.5, False)], [(50.0, 50.5, False), (6.2, 6.7, False)]),
    ],
)
def test_nearly_equal_requests_share_and_far_longer_ones_stand_apart(requests: list, lists: list) -> None:
    assert planned(*requests) == lists


def test_nobody_is_given_a_list_far_beyond_its_own_radius() -> None:
    requests = [PairRequest(3.0 + 0.37 * number, 0.2 * (number % 4), number % 5 == 0) for number in range(20)]
    plans = plan_lists(requests)
    assert len(plans) < len(requests)
    for plan in plans:
        for request in plan.requests:
            assert request.half == plan.half
            assert request.cutoff <= plan.cutoff
            assert request.radius <= plan.radius <= LARGEST_SHARED_RATIO * request.radius


def test_the_widest_matrix_is_kept() -> None:
    narrow, wide = PairRequest(6.0, 0.5, False), PairRequest(6.0, 0.5, False, 80)
    assert plan_lists([narrow, wide]) == [PlannedList(6.0, 6.5, False, 80, (wide, narrow))]
