"""IdSet is a set, kept as ranges."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from athanor.dynamics.id_set import IdSet


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=40))
def test_it_is_a_set(changes: list[tuple[bool, int]]) -> None:
    ids = IdSet()
    plain: set[int] = set()
    for comes, number in changes:
        (ids.add if comes else ids.discard)(number)
        (plain.add if comes else plain.discard)(number)
        assert [one for one in range(-1, 14) if one in ids] == sorted(plain)
        assert ids.largest == max(plain, default=-1)
        assert all(first[1] + 1 < second[0] for first, second in zip(ids.ranges, ids.ranges[1:], strict=False))
        assert IdSet(ids.ranges).ranges == ids.ranges


def test_ids_in_a_row_take_one_range() -> None:
    ids = IdSet()
    for number in range(10_000):
        ids.add(number)
    assert ids.ranges == [(0, 9999)]
