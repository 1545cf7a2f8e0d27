"""Farthest points, largest values, and both out of a stream with bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from athanor.analysis import picking
from athanor.analysis.picking import Candidates, Pool, pick


def candidates(features: np.ndarray | None, values: np.ndarray | None = None, **more: np.ndarray) -> Candidates:
    count = len(features if features is not None else values)  # type: ignore[arg-type]
    rows = np.arange(count)
    values = np.full(count, np.nan) if values is None else values
    return Candidates(rows[:, None], values, features, more.get("groups", rows), more.get("times", np.zeros(count)))


def cloud(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3))


def radius(points: np.ndarray, chosen: np.ndarray) -> float:
    """How far the farthest point is from those that were chosen."""
    return float(np.linalg.norm(points[:, None] - points[chosen][None], axis=2).min(1).max())


def check_no_duplicates() -> None:
    points = np.repeat(cloud(10), 5, axis=0)
    rows, distances = pick(candidates(points), 50)
    assert len(rows) == 10
    assert len(np.unique(points[rows], axis=0)) == 10
    assert (distances[1:] > 0).all()


def test_nothing_is_chosen_twice() -> None:
    check_no_duplicates()


def test_a_choice_with_duplicates_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picking, "_SAME", -1.0)  # broken twin: what is the same counts as far
    with pytest.raises(AssertionError):
        check_no_duplicates()


def test_farthest_points_cover() -> None:
    """Within a factor of two of any choice (Gonzalez), so no worse than twice what a grid of intervals does."""
    line = np.sort(np.random.default_rng(1).uniform(0.0, 1.0, 500))[:, None]
    rows, distances = pick(candidates(line), 10)
    assert radius(line, rows) <= 2 * 0.5 / 10
    assert (np.diff(distances[1:]) <= 0).all()  # each adds less than the one before
    assert radius(line, rows) < 0.5 * radius(line, np.arange(10))  # the first ten, as a broken twin would take


def test_what_is_known_is_not_chosen() -> None:
    points = cloud(100)
    rows, distances = pick(candidates(points), 5, known=points[:50])
    assert (rows >= 50).all()
    expected = np.linalg.norm(points[:, None] - points[None, :50], axis=2).min(1).max()
    assert distances[0] == pytest.approx(expected)
    assert len(pick(candidates(points), 5, known=points)[0]) == 0


def test_largest_values_without_features() -> None:
    values = np.array([0.1, 0.5, np.nan, 0.4, 0.5])
    assert pick(candidates(None, values), 3)[0].tolist() == [1, 4, 3]


def test_the_largest_value_first_then_the_farthest() -> None:
    points, values = cloud(30), np.zeros(30)
    values[[3, 4]] = 1.0, 2.0
    rows, _ = pick(candidates(points, values), 2)
    assert rows[0] == 4
    assert rows[1] == np.linalg.norm(points - points[4], axis=1).argmax()


def test_spacing_holds_within_a_group() -> None:
    times, values = np.arange(20.0), np.linspace(0.0, 1.0, 20)
    groups = np.repeat([0, 1], 10)
    rows, _ = pick(candidates(None, values, groups=groups, times=times % 10), 20, spacing=4.0)
    assert sorted(rows.tolist()) == [1, 5, 9, 11, 15, 19]


@pytest.mark.parametrize("block", [7, 100])
def test_a_stream_that_fits_is_chosen_from_as_a_whole(block: int) -> None:
    points = cloud(300)
    whole, distances = pick(candidates(points), 12)
    pool = Pool(300)
    for start in range(0, 300, block):
        rows = np.arange(start, min(300, start + block))
        pool.add(candidates(points).take(rows))
    chosen, found = pool.choose(12)
    assert chosen is not None
    assert chosen.keys[:, 0].tolist() == whole.tolist()
    np.testing.assert_array_equal(found, distances)
    assert pool.seen == 300


def test_a_long_stream_in_little_memory() -> None:
    points = cloud(5000)
    rows, _ = pick(candidates(points), 20)
    pool = Pool(400)
    for start in range(0, 5000, 500):
        pool.add(candidates(points).take(np.arange(start, start + 500)))
        assert len(pool._held) <= 400  # type: ignore[arg-type]
    chosen, _ = pool.choose(20)
    again = Pool(400)
    again.add(candidates(points))
    assert chosen is not None
    assert again.choose(20)[0].keys.tolist() == chosen.keys.tolist()  # type: ignore[union-attr]
    assert radius(points, chosen.keys[:, 0]) < 1.3 * radius(points, rows)


def test_nothing_to_choose_from() -> None:
    assert Pool(10).choose(3)[0] is None
