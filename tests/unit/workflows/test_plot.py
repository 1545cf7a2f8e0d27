"""The picture of a run: which panels, what is drawn of whom, and that it leaves matplotlib's settings alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
    settings = {"model": ARGON, "stages": stages, "every": 2, "output": str(out)}
    run_spec(make_spec(settings), from_python(structures))
    return out


@pytest.fixture(scope="module")
def relaxed_and_heated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return go(tmp_path_factory.mktemp("plot") / "two", [RELAX, HEAT], [argon("small", 5.2), argon("large", 5.5)])


@pytest.fixture(scope="module")
def one_explodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hot = argon("hot")
    hot.set_momenta(np.random.default_rng(1).normal(size=(32, 3)) * 60)
    on_top = argon("on top")
    on_top.positions[1] = on_top.positions[0]
    return go(tmp_path_factory.mktemp("plot") / "hot", [HEAT], [argon("calm"), hot, on_top])


def labels(figure: object) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]  # type: ignore[attr-defined]


def test_panels_lines_and_the_change_of_stage(relaxed_and_heated: Path) -> None:
    figure = athanor.plot(relaxed_and_heated)
    assert [axes.get_ylabel().split()[0] for axes in figure.axes] == ["energy", "temperature", "volume", "largest"]
    assert all("(" in axes.get_ylabel() for axes in figure.axes)
    assert figure.axes[-1].get_xlabel() == "step"
    assert labels(figure) == ["small", "large", "next stage"]
    run = athanor.open(relaxed_and_heated)
    series = run.series("small")
    line = figure.axes[0].lines[0]
    assert (line.get_xdata() == series.step).all()
    assert line.get_ydata() == pytest.approx(1e3 * (series.energy - series.energy.min()) / 32)
    change = figure.axes[0].lines[1].get_xdata()
    assert change.tolist() == [series.step[np.argmax(series.stage == 1)]]
    assert {text.get_text().strip() for text in figure.axes[0].texts} == {"relaxation", "MD"}
    assert figure.axes[3].get_yscale() == "log"
    aims = [line.get_ydata()[0] for line in figure.axes[1].lines if line.get_linestyle() == "--"]
    assert aims == [30.0]


def test_constant_volume_has_no_panel_and_relaxation_no_temperature(one_explodes: Path, tmp_path: Path) -> None:
    figure = athanor.plot(one_explodes)
    assert [axes.get_ylabel().split()[0] for axes in figure.axes] == ["energy", "temperature", "largest"]
    figure = athanor.plot(go(tmp_path / "out", [RELAX], [argon("a", 5.5)]))
    assert [axes.get_ylabel().split()[0] for axes in figure.axes] == ["energy", "volume", "largest"]


def test_a_system_that_failed_is_marked_and_does_not_set_the_scale(one_explodes: Path) -> None:
    figure = athanor.plot(one_explodes)
    assert labels(figure) == ["calm", "hot (failed)", "on top (failed at the start)"]
    for axes in figure.axes:
        bottom, top = axes.get_ylim()
        assert top < 1e3
        crosses = [line for line in axes.lines if line.get_marker() == "x"]
        assert crosses
        assert all(bottom <= line.get_ydata()[0] <= top for line in crosses)
    assert labels(athanor.plot(one_explodes, systems=["calm"])) == ["calm"]
    assert labels(athanor.plot(one_explodes, systems=1)) == ["hot (failed)"]


def test_many_systems_are_grey_with_their_median(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = go(tmp_path / "many", [HEAT], [argon(str(number)) for number in range(10)])
    figure = athanor.plot(out)
    assert labels(figure) == ["10 systems (axes: the middle 96 % of points)", "median"]
    temperature = figure.axes[1]
    lines = [line for line in temperature.lines if line.get_linestyle() == "-"]
    assert len(lines) == 11
    every = np.array([series.temperature for series in athanor.open(out).series(list(range(10)))])
    assert lines[-1].get_ydata() == pytest.approx(np.median(every, axis=0))
    monkeypatch.setattr("athanor.workflows.plot._MOST_DRAWN", 9)
    assert labels(athanor.plot(out))[0].startswith("9 of 10 systems")


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
