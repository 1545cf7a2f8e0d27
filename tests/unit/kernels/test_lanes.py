"""Eight doubles at once: arithmetic as on floats, loads that stay inside their arrays, sums in a fixed order."""

from __future__ import annotations

import math

import numpy as np
import pytest

from athanor.kernels import _lanes as lanes
from athanor.kernels._numba_options import jit


@jit
def apply(x, out):
    """Write functions of the first eight numbers of x, eight apart."""
    for k in range(0, len(x), 8):
        v = lanes.load(x, k)
        values = (math.exp(v), math.sqrt(v), max(v, 0.5), -v, 2.0 - v / 3.0, lanes.add_product(v, v, v) * v + 1.0)
        for row, value in enumerate(values):
            for lane in range(8):
                out[row, k + lane] = lanes.lane_of(value, lane)


@jit
def read(array, at, count, out):
    """Write ``array[at : at + count]`` and zeros, as lanes read them."""
    found = lanes.as_doubles(lanes.load_indices(array, at, count))
    for lane in range(8):
        out[lane] = lanes.lane_of(found, lane)


@jit
def total(x, count):
    """Add `count` numbers in lanes."""
    found = lanes.spread(0.0)
    for k in range(0, count, 8):
        found = found + lanes.choose(lanes.lanes_before(count - k), lanes.load(x, k), lanes.spread(0.0))
    return lanes.add_up(found)


def test_arithmetic_and_functions_are_those_of_floats() -> None:
    generator = np.random.default_rng(0)
    x = np.concatenate([generator.uniform(-700.0, 700.0, 4000), generator.normal(0.0, 3.0, 4000)])
    found = np.empty((6, len(x)))
    apply(x, found)
    exponential = np.array([math.exp(value) for value in x])
    np.testing.assert_array_max_ulp(found[0], exponential, maxulp=2)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(found[1], np.sqrt(x))
    np.testing.assert_array_equal(found[2], np.maximum(x, 0.5))
    np.testing.assert_array_equal(found[3:5], [-x, 2.0 - x / 3.0])
    np.testing.assert_allclose(found[5], (x + x * x) * x + 1.0, rtol=1e-12)
    with pytest.raises(AssertionError):  # the twin: a power of a rounded base
        np.testing.assert_array_max_ulp(math.e**x, exponential, maxulp=2)


def test_the_exponential_at_its_ends() -> None:
    x = np.array([0.0, -0.0, -744.0, -800.0, -np.inf, 709.7, 710.0, np.inf, np.nan] + [1e300] * 7)
    found = np.empty((6, 16))
    apply(x, found)
    np.testing.assert_array_equal(found[0, :5], [1.0, 1.0, math.exp(-744.0), 0.0, 0.0])
    np.testing.assert_allclose(found[0, 5], math.exp(709.7), rtol=1e-15)
    np.testing.assert_array_equal(found[0, 6:9], [np.inf, np.inf, np.nan])


@pytest.mark.parametrize("kind", [np.int8, np.int32])
@pytest.mark.parametrize("count", [1, 5, 7, 8, 20])
def test_no_more_is_read_than_there_is(kind: type, count: int) -> None:
    array = np.arange(-3, 30, dtype=kind)
    found = np.empty(8)
    read(array, 4, count, found)
    expected = np.where(np.arange(8) < count, array[4:12], 0)
    np.testing.assert_array_equal(found, expected)


def test_term_m_goes_to_lane_m_mod_8_whatever_comes_after() -> None:
    x = np.random.default_rng(1).normal(size=64) * 10.0 ** np.random.default_rng(2).integers(-8, 8, 64)
    for count in range(1, 57):
        by_lane = [sum(x[lane:count:8], start=0.0) for lane in range(8)]
        four = [by_lane[lane] + by_lane[lane + 4] for lane in range(4)]
        expected = (four[0] + four[2]) + (four[1] + four[3])
        assert total(x, count) == expected
    in_order = [sum(x[:count], start=0.0) for count in range(1, 57)]
    assert in_order != [total(x, count) for count in range(1, 57)], "the twin: one after the other"
