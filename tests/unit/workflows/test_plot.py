"""The picture of a run: which panels, what is drawn of whom, and that it leaves matplotlib's settings alone."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

import athanor
from athanor.errors import InputError, StorageError
from athanor.workflows.run import run as run_spec
from athanor.workflows.spec import make_spec
from athanor.workflows.structures import from_python

ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
RELAX = {"relax": {"fmax": 0.005, "smax": 0.02, "steps": 100}}
HEAT = {"md": {"temperature": "30 K", "timestep": "2 fs", "steps": 20}}


def argon(name: str, a: float = 5.3) -> Atoms:
    atoms = bulk("Ar", "fcc", a=a, cubic=True) * (2, 2, 2)
    atoms.rattle(0.05, seed=1)
    atoms.info["name"] = name
    return atoms


def go(out: Path, stages: list[dict[str, object]], structures: list[Atoms]) -> Path:
    settings = {"model": ARGON, "stages": stages, "every": 2, "output": str(out), "silence": ["start"]}
    run_spec(make_spec(settings), from_python(structures))
    return out


@pytest.fixture(scope="module")
def relaxed_and_heated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return go(tmp_path_factory.mktemp("plot") / "two", [RELAX, HEAT], [argon("small", 5.2), argon("large", 5.5)])


@pytest.fixture(scope="module")
def one_explodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hot = argon("hot")
    hot.set_momenta(np.random.default_rng(1).normal(size=(32, 3)) * 600)  # it runs away in 9 steps
    on_top = argon("on top")
    on_top.positions[1] = on_top.positions[0]
    return go(tmp_path_factory.mktemp("plot") / "hot", [HEAT], [argon("calm"), hot, on_top])


def first_words(panels: Sequence[Any]) -> list[str]:
    return [axes.get_ylabel().split()[0] for axes in panels]


def aims(axes: Any) -> list[float]:
    return [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"]


def labels(figure: object) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]  # type: ignore[attr-defined]


def test_panels_lines_and_the_change_of_stage(relaxed_and_heated: Path) -> None:
    figure = athanor.plot(relaxed_and_heated)
    relaxation, dynamics = (column.axes for column in figure.subfigs)
    assert first_words(relaxation) == ["energy", "largest", "volume", "pressure"]
    assert first_words(dynamics)[:3] == ["energy", "drift", "temperature"]
    assert "volume" not in first_words(dynamics)
    assert all("(" in axes.get_ylabel() for axes in figure.axes)
    assert [axes.get_title() for axes in (relaxation[0], dynamics[0])] == ["relaxation", "NVT at 30 K"]
    assert labels(figure) == ["small", "large", "aim"]
    assert relaxation[1].get_yscale() == "log"
    assert [aims(axes) for axes in relaxation] == [[], [0.005], [], [0.0]]
    assert aims(dynamics[2]) == [30.0]
    assert figure.get_suptitle() == "two\n2 systems: 2 converged"


def test_relaxation_is_drawn_against_its_steps_and_dynamics_against_time(relaxed_and_heated: Path) -> None:
    figure = athanor.plot(relaxed_and_heated)
    relaxation, dynamics = (column.axes for column in figure.subfigs)
    assert relaxation[-1].get_xlabel() == "step of the relaxation"
    assert dynamics[-1].get_xlabel() == "time (fs)"
    series = athanor.open(relaxed_and_heated).series("small")
    energy = 1e3 * (series.energy - series.energy.min()) / 32
    before, after = relaxation[0].lines[0], dynamics[0].lines[0]
    assert before.get_xdata() == pytest.approx(series.step[series.stage == 0])
    assert after.get_xdata() == pytest.approx(series.time[series.stage == 1])
    assert before.get_ydata() == pytest.approx(energy[series.stage == 0])
    assert after.get_ydata() == pytest.approx(energy[series.stage == 1])


def test_steps_of_a_relaxation_count_from_its_start(relaxed_and_heated: Path, tmp_path: Path) -> None:
    warm = athanor.open(relaxed_and_heated).structures
    assert warm[0].info["step"] > 20
    figure = athanor.plot(go(tmp_path / "again", [RELAX, HEAT, RELAX], warm))
    first, hot, second = (column.axes[0].lines[0].get_xdata() for column in figure.subfigs)
    assert first[0] == 1
    assert 1 <= second[0] <= 2
    assert hot[0] > warm[0].info["time"] > 0


def test_long_times_are_picoseconds(tmp_path: Path) -> None:
    figure = athanor.plot(go(tmp_path / "out", [{"md": HEAT["md"] | {"timestep": "6 fs", "steps": 400}}], [argon("a")]))
    assert figure.axes[-1].get_xlabel() == "time (ps)"
    assert figure.axes[0].lines[0].get_xdata()[-1] == pytest.approx(2.4, abs=0.02)


def test_constant_volume_has_no_panel_and_relaxation_no_temperature(one_explodes: Path, tmp_path: Path) -> None:
    assert first_words(athanor.plot(one_explodes).axes)[:3] == ["energy", "drift", "temperature"]
    assert not {"volume", "largest"} & set(first_words(athanor.plot(one_explodes).axes))
    figure = athanor.plot(go(tmp_path / "out", [RELAX], [argon("a", 5.5)]))
    assert first_words(figure.axes) == ["energy", "largest", "volume", "pressure"]


def test_a_system_that_failed_is_marked_and_does_not_set_the_scale(one_explodes: Path) -> None:
    figure = athanor.plot(one_explodes)
    assert labels(figure) == ["calm", "hot (failed)", "on top (failed at the start)", "aim"]
    for axes in figure.axes:
        bottom, top = axes.get_ylim()
        assert top < 1e3
        crosses = [line for line in axes.lines if line.get_marker() == "x"]
        assert crosses
        assert all(bottom <= line.get_ydata()[0] <= top for line in crosses)
    assert labels(athanor.plot(one_explodes, systems=["calm"])) == ["calm", "aim"]
    for number in (1, np.int64(1), np.array([1])):
        assert labels(athanor.plot(one_explodes, systems=number)) == ["hot (failed)", "aim"]


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve crystals of one atom to be relaxed: nine converge one after the other, two do not, and one fails."""
    crystals = [bulk("Ar", "fcc", a=a) for a in np.linspace(5.22, 5.3, 9)] + [
        bulk("Ar", "fcc", a=a) for a in (4.5, 4.8)
    ]
    crystals.append(Atoms("Ar2", [[0, 0, 0], [0, 0, 0]], cell=[9, 9, 9], pbc=True))
    stage = {"relax": {"fmax": 0.005, "smax": 0.002, "steps": 14}}
    settings = {"model": ARGON, "stages": [stage], "every": 1, "output": str(tmp_path_factory.mktemp("plot") / "crowd")}
    run_spec(make_spec(settings), from_python(crystals))
    return Path(settings["output"])


def test_many_systems_are_coloured_by_outcome_and_all_are_counted(crowd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = Counter(row["status"] for row in athanor.open(crowd).summary)
    assert outcomes == {"converged": 9, "step_limit": 2, "failed": 1}
    figure = athanor.plot(crowd)
    counted = "12 systems: 9 converged, 2 at the step limit, 1 failed"
    assert figure.get_suptitle() == f"crowd\n{counted}"
    drawn = [line for line in figure.axes[0].lines if line.get_linestyle() == "-" and line.get_linewidth() < 1]
    assert len(drawn) == 11  # one failed before it had an energy
    assert len({line.get_color() for line in drawn}) == 2
    assert set(labels(figure)[:3]) == {"9 converged", "2 at the step limit", "1 failed"}
    assert labels(figure)[3:] == ["median", "the middle 90 % of the other 11", "aim"]
    monkeypatch.setattr("athanor.workflows.plot._MOST_DRAWN", 6)
    figure = athanor.plot(crowd)
    assert figure.get_suptitle() == f"crowd\n{counted}"
    assert set(labels(figure)[:3]) == {"4 of 9 converged", "1 of 2 at the step limit", "1 failed"}
    assert labels(figure)[4] == "the middle 90 % of the other 11"


def test_a_median_does_not_jump_where_systems_are_done(crowd: Path) -> None:
    """Mutant: those that are done do not count any more, and the median is that of the ones still on their way."""
    run = athanor.open(crowd)
    going = [
        series
        for series, row in zip(run.series(list(range(12))), run.summary, strict=True)
        if row["status"] != "failed"
    ]
    last = max(series.step[-1] for series in going)
    held = [np.interp(last, series.step, series.volume / series.volume[0]) for series in going]
    alive = [series.volume[-1] / series.volume[0] for series in going if series.step[-1] == last]
    volume = athanor.plot(run).axes[2]
    median = next(line for line in volume.lines if line.get_linewidth() > 1.5)
    end = median.get_ydata()[-1]
    assert end == pytest.approx(100 * (np.median(held) - 1))
    assert abs(end - 100 * (np.median(alive) - 1)) > 1.0, "a median of those on their way would do as well"
    lower, upper = volume.collections[0].get_datalim(volume.transData).intervaly
    assert lower <= median.get_ydata().min() <= median.get_ydata().max() <= upper


def test_the_median_of_dynamics_is_that_of_every_system_that_goes_on(tmp_path: Path) -> None:
    out = go(tmp_path / "many", [HEAT], [argon(str(number)) for number in range(10)])
    temperature = athanor.plot(out).axes[2]
    median = next(line for line in temperature.lines if line.get_linewidth() > 1.5)
    series = athanor.open(out).series(list(range(10)))
    grid = median.get_xdata()
    assert (grid[0], grid[-1]) == (series[0].time[0], series[0].time[-1])
    every = [np.interp(grid, one.time, one.temperature) for one in series]
    assert median.get_ydata() == pytest.approx(np.median(every, axis=0))


def test_systems_of_one_name_are_told_apart(tmp_path: Path) -> None:
    out = go(tmp_path / "out", [HEAT], [argon("slab"), argon("slab") * (2, 1, 1), argon("bulk")])
    assert labels(athanor.plot(out))[:3] == ["slab (0, Ar32)", "slab (1, Ar64)", "bulk"]


def test_the_file(one_explodes: Path, tmp_path: Path) -> None:
    athanor.plot(one_explodes, path=tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    athanor.plot(athanor.open(one_explodes), path=tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(InputError, match=r"a.docx` has no ending of a picture. Use one of .*png"):
        athanor.plot(one_explodes, path=tmp_path / "a.docx")
    with pytest.raises(StorageError, match="can not be written"):
        athanor.plot(one_explodes, path=tmp_path / "nowhere/a.png")
    with pytest.raises(InputError, match="no system 'cold'"):
        athanor.plot(one_explodes, systems=["cold"])


def test_nothing_to_draw(tmp_path: Path) -> None:
    on_top = argon("on top")
    on_top.positions[1] = on_top.positions[0]
    out = go(tmp_path / "out", [HEAT], [on_top])
    with pytest.raises(StorageError, match="no step was logged"):
        athanor.plot(out)


def test_the_settings_of_matplotlib_are_the_users(one_explodes: Path) -> None:
    program = f"""
import matplotlib
matplotlib.rcParams["lines.linewidth"] = 7
before = dict(matplotlib.rcParams)
import athanor
athanor.plot({str(one_explodes)!r})
import sys
assert dict(matplotlib.rcParams) == before
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, env={"PATH": "", "MPLBACKEND": "agg"})
