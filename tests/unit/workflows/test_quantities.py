"""Values with units."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from athanor import units
from athanor.errors import InputError
from athanor.workflows.quantities import FORCE, PRESSURE, RATE, TEMPERATURE, TIME, format_quantity, parse_quantity


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("300 K", TEMPERATURE, 300.0),
        ("300K", TEMPERATURE, 300.0),
        (300, TEMPERATURE, 300.0),
        (np.int64(300), TEMPERATURE, 300.0),
        (np.float32(0.5), TIME, 0.5),
        ("1", PRESSURE, units.GPa),
        (1.5, PRESSURE, 1.5 * units.GPa),
        ("-2 GPa", PRESSURE, -2.0 * units.GPa),
        ("10 kbar", PRESSURE, units.GPa),
        ("1e5 Pa", PRESSURE, units.bar),
        ("0.1 eV/A^3", PRESSURE, 0.1),
        ("0.1 eV/Å³", PRESSURE, 0.1),
        ("0.1 eV/A**3", PRESSURE, 0.1),
        ("1ps", TIME, 1000.0),
        (".5 fs", TIME, 0.5),
        ("10 /ps", RATE, 0.01),
        ("0.01 1/fs", RATE, 0.01),
        ("50 meV/A", FORCE, 0.05),
        ("0.05 eV/Ang", FORCE, 0.05),
    ],
)
def test_parse(text: object, kind: object, expected: float) -> None:
    assert parse_quantity(text, kind) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bad", ["", "K", "300 GPa", "3O0 K", "nan K", "inf K", "1 2 K", None, True, [300], "1e999 K"])
def test_what_is_no_temperature_is_refused(bad: object) -> None:
    with pytest.raises(InputError, match="temperature"):
        parse_quantity(bad, TEMPERATURE)


def test_a_wrong_unit_lists_the_right_ones() -> None:
    with pytest.raises(InputError, match=r"unit 'fs'.*GPa, MPa"):
        parse_quantity("3 fs", PRESSURE)


@given(st.floats(min_value=-1e6, max_value=1e6), st.sampled_from([TEMPERATURE, PRESSURE, FORCE, TIME, RATE]))
def test_formatting_is_read_back(value: float, kind: object) -> None:
    assert parse_quantity(format_quantity(value, kind), kind) == pytest.approx(value, rel=1e-9, abs=1e-12)
