"""Settings that change during a stage, as text."""

from __future__ import annotations

import pytest

import athanor
from athanor.errors import InputError
from athanor.workflows.courses import Course, format_course, parse_course
from athanor.workflows.quantities import PRESSURE, TEMPERATURE
from athanor.workflows.spec import RunSpec


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("300 K to 900 K", ((0.0, 300.0), (None, 900.0))),
        ("300 to 900 in 5 ps", ((0.0, 300.0), (5000.0, 900.0))),
        ("300 K to 900 K in 5 ps for 2 ps to 300", ((0.0, 300.0), (5000.0, 900.0), (7000.0, 900.0), (None, 300.0))),
        ("300 K for 1 ps then 600 K", ((0.0, 300.0), (1000.0, 300.0), (1000.0, 600.0))),
    ],
)
def test_courses_are_read_and_written(text, points):
    course = parse_course(text, TEMPERATURE)
    assert course == Course(points)
    assert parse_course(format_course(course, TEMPERATURE), TEMPERATURE) == course


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("300 K in 5 ps", "`in` belongs behind `to`"),
        ("300 K to 600 K to 900 K", "only the last change may have no time"),
        ("300 K to 600 K in -5 ps", "must be a positive time"),
        ("300 K to 600 GPa", "not one of temperature"),
        ("300 K to", "value or a time is missing"),
        ("to 300 K", "value or a time is missing"),
        ("300 K to then 600 K", "value or a time is missing|not a temperature"),
    ],
)
def test_what_can_not_be_read_is_refused(text, match):
    with pytest.raises(InputError, match=match):
        parse_course(text, TEMPERATURE)


def test_a_number_stays_a_number():
    assert parse_course("1 GPa", PRESSURE) == pytest.approx(0.006241509)
    assert parse_course(300, TEMPERATURE) == 300.0


def test_a_course_has_to_fit_into_its_stage():
    def spec(temperature, time="1 ps"):
        return RunSpec(structures=["x.cif"], stages=[{"md": {"temperature": temperature, "time": time}}])

    assert spec("300 K to 900 K in 1 ps").stages[0].temperature.start == 300.0
    for wrong in ("300 K to 900 K in 5 ps", "300 K for 1 ps to 900 K"):
        with pytest.raises(Exception, match="give it more `time`"):
            spec(wrong)
    with pytest.raises(Exception, match="zero or positive"):
        spec("300 K to -5 K")


def test_a_quick_run_goes_through_the_whole_course():
    heat = {"temperature": "300 K to 900 K in 0.5 ps for 0.5 ps", "time": "1 ps", "quick_steps": 10}
    (stage,) = RunSpec(structures=["x.cif"], stages=[{"md": heat}]).quick().stages
    assert stage.temperature.within(stage.steps * stage.timestep) == [(0.0, 300.0), (5.0, 900.0), (10.0, 900.0)]


def test_a_run_heats_as_its_job_says_and_can_be_repeated(tmp_path):
    from ase.build import bulk

    argon = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
    crystal = bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 2)
    options = {"model": argon, "steps": 250, "timestep": 4.0, "friction": 0.05, "threads": 1}
    athanor.md(crystal, temperature="20 K to 80 K", out=tmp_path / "ramp", **options)
    heated = athanor.open(tmp_path / "ramp").series([0])[0].temperature
    assert heated[:6].mean() < 40.0 < 60.0 < heated[-6:].mean()
    job = (tmp_path / "ramp" / "run.yaml").read_text()
    assert "temperature: 20 K to 80 K" in job
