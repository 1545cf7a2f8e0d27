"""What results say of dynamics: means, structure and motion, from Python and from the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule

import athanor
from athanor.cli.main import call
from athanor.errors import InputError
from athanor.units import g_per_cm3
from athanor.workflows import saved_analysis
from athanor.workflows.saved_run import SavedRun

ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 6.5}


def crystal(copies: int = 2):
    return bulk("Ar", "fcc", a=5.4, cubic=True) * (copies, copies, copies)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A relaxation, dynamics at 80 K and at 30 K, of a crystal and a cluster."""
    from athanor.workflows.run import run
    from athanor.workflows.spec import make_spec
    from athanor.workflows.structures import from_python

    out = tmp_path_factory.mktemp("saved") / "out"
    cluster = crystal()
    cluster.pbc = False
    hot, cold = ({"temperature": kelvin, "timestep": 4.0, "friction": 0.02} for kelvin in (80.0, 30.0))
    stages = [{"relax": {"steps": 5}}, {"md": hot | {"steps": 50}}, {"md": cold | {"steps": 600}}]
    silence = ["start", "velocities", "non-periodic"]
    spec = make_spec({"model": ARGON, "stages": stages, "every": 5, "output": out, "silence": silence})
    run(spec, from_python([crystal(), cluster]))
    return out


@pytest.fixture
def saved(folder: Path) -> SavedRun:
    return athanor.open(folder)


def test_means_are_those_of_each_stage_once_it_has_settled(saved: SavedRun) -> None:
    first, last = saved.averages(0)
    assert (first.stage, last.stage) == (1, 2)
    series = saved.series(0)
    late = (series.stage == 2) & (series.time - series.time[series.stage == 2][0] >= last.start)
    assert 0.0 < last.start < last.end
    assert last.detected
    assert last.temperature.mean == pytest.approx(series.temperature[late].mean())
    assert last.energy.mean == pytest.approx(series.energy[late].mean())
    assert last.pressure.mean == pytest.approx(series.pressure[late].mean())
    assert abs(last.temperature.mean - 30.0) < 5.0 * last.temperature.error < 20.0
    density = 32 * 39.948 / (last.volume.mean * g_per_cm3)
    assert last.density.mean == pytest.approx(density, rel=1e-4)
    assert last.volume.error == last.density.error == 0.0


def test_a_start_can_be_given(saved: SavedRun) -> None:
    given = saved.averages(0, start=100)
    assert [stage.start for stage in given] == [100.0, 100.0]
    assert not given[0].detected
    assert given[0].has_settled
    assert [stage.stage for stage in saved.averages(0, start="1 ps")] == [2]
    with pytest.raises(InputError, match="stage 2 was not logged for so long"):
        saved.averages(0, start="3 ps")


def test_a_stage_that_has_not_settled_says_so() -> None:
    average = saved_analysis.StageAverages(0, 600.0, 1000.0, True, *[None] * 5)  # type: ignore[arg-type]
    assert not average.has_settled


def test_a_cluster_has_no_density_and_no_radial_distribution(saved: SavedRun) -> None:
    last = saved.averages(1)[-1]
    assert np.isnan([last.density.mean, last.volume.mean, last.pressure.mean]).all()
    with pytest.raises(InputError, match="periodic along all three"):
        saved.rdf(1)
    assert saved.mean_square_displacement(1).names == ("Ar",)


def test_frames_are_those_of_the_last_stage_once_it_has_settled(saved: SavedRun) -> None:
    """A twin that takes all frames counts those of the hot crystal, which are more and farther apart."""
    last = saved.averages(0)[-1]
    kept = round((last.end - last.start) / 20.0) + 1
    assert saved.rdf(0).frames == kept
    assert saved.mean_square_displacement(0).frames == kept
    assert saved.rdf(0, start=0).frames == 120
    assert len(saved.frames(0)) > 130


def test_a_crystal_shows_its_shells_and_does_not_diffuse(saved: SavedRun) -> None:
    found = saved.rdf(0, cutoff=8.0)
    assert found.coordination("Ar-Ar", 4.6) == pytest.approx(12.0, abs=0.2)
    assert saved.diffusion(0).reached[0] < 0.4
    assert not saved.diffusion(0).is_diffusive().any()
    assert abs(saved.diffusion(0, method="green-kubo", upto="100 fs").range[1] - 100.0) < 1e-9
    thermal = saved.velocity_autocorrelation(0).values[0, 0]
    kelvin = thermal * 39.948 / (3 * 8.617333e-5) * 10.1805**2 * 32 / 31  # the drift is taken off
    assert kelvin == pytest.approx(saved.averages(0)[-1].temperature.mean, rel=0.05)


def test_what_can_not_be_asked(saved: SavedRun, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds 2 systems; say which one"):
        saved.rdf()
    with pytest.raises(InputError, match="`method='kubo'` is unknown"):
        saved.diffusion(0, method="kubo")
    with pytest.raises(InputError, match="eighth of the time"):
        saved.diffusion(0, fit=("1 ps", "2 ps"))
    athanor.relax(crystal(1), model=ARGON, out=tmp_path / "relaxed")
    with pytest.raises(InputError, match="without dynamics"):
        athanor.open(tmp_path / "relaxed").averages()


def test_the_table_agrees_with_the_log(saved: SavedRun) -> None:
    """The summary averages while the run goes on, the log afterwards; both detect when it had settled."""
    [row, of_cluster], last = saved.summary, saved.averages(0)[-1]
    error = np.hypot(row["temperature_error"], last.temperature.error)
    assert abs(row["temperature"] - last.temperature.mean) < 3.0 * error
    assert abs(row["mean_energy"] - last.energy.mean) < 3.0 * np.hypot(row["mean_energy_error"], last.energy.error)
    assert 0.0 < row["settled_after_fs"] < 2400.0
    assert row["density_g_per_cm3"] == pytest.approx(last.density.mean)
    assert "mean_volume" not in row  # it is constant
    assert of_cluster.get("density_g_per_cm3") is None


def test_the_command_prints_and_draws(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "picture.png"
    assert call(["analyse", str(folder), "-o", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert "Ar32" in printed
    assert "±" in printed
    assert "D is no diffusion coefficient" in " ".join(printed.split())
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert call(["analyse", str(folder), "--system", "0", "--start", "0.5ps", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    [row] = document["rows"]
    assert row["from_fs"] == 500.0
    assert row["peak"].startswith("Ar-Ar")
    assert row["temperature_error"] > 0.0
    assert call(["analyse", str(folder), "--system", "nobody"]) == 65


def test_a_short_run_says_what_it_can_not_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    athanor.md(crystal(), model=ARGON, temperature=30, steps=20, timestep=4.0, out=tmp_path / "short")
    assert call(["analyse", str(tmp_path / "short")]) == 0
    assert "too few to see motion" in " ".join(capsys.readouterr().out.split())


def test_a_molecule_alone(tmp_path: Path) -> None:
    water = molecule("H2O")
    settings = {"temperature": 30, "steps": 60, "timestep": 0.1, "every": 2, "silence": ["time-step"]}
    athanor.md(water, model={**ARGON, "sigma": 0.5}, out=tmp_path / "water", **settings)
    found = athanor.open(tmp_path / "water").mean_square_displacement(start=0)
    assert found.names == ("all", "O", "H")


# ------------------------------------------------------------------------------------------------------------- plots
def test_pictures_hold_what_was_found(saved: SavedRun) -> None:
    pytest.importorskip("matplotlib")
    from athanor.workflows.plot_analysis import plot_analysis

    found = [saved.rdf(0), saved.mean_square_displacement(0), saved.diffusion(0), saved.velocity_autocorrelation(0)]
    figure = plot_analysis([("Ar32", found)], title="argon")
    radial, displacement, velocities = figure.axes
    np.testing.assert_array_equal(radial.lines[0].get_ydata(), found[0].g[0])
    assert displacement.get_legend().get_texts()[0].get_text() == "Ar: no diffusion is seen"
    flowing = replace(
        found[2], exponent=np.ones(1), reached=np.ones(1), values=np.array([2e-4]), error=np.array([1e-5])
    )
    displacement = plot_analysis([("Ar32", [found[1], flowing])]).axes[0]
    assert displacement.get_legend().get_texts()[0].get_text() == "Ar: D = (2.00 ± 0.10) $10^{-5}$ cm²/s"
    fitted = displacement.lines[1].get_xydata()  # Å² against ps
    assert np.diff(fitted[:, 1]) / np.diff(fitted[:, 0]) == pytest.approx(6.0 * 2e-4 * 1000.0)
    assert velocities.lines[0].get_ydata()[0] == 1.0
    assert len(plot_analysis([("a", [found[0]]), ("b", [found[0]])]).axes[0].get_legend().get_texts()) == 2
    with pytest.raises(InputError, match="nothing to draw"):
        plot_analysis([("Ar32", [])])
    with pytest.raises(InputError, match="9 systems are too many"):
        plot_analysis([("Ar32", found)] * 9)


# ------------------------------------------------------------------------------------------------- a cell that moves
def test_density_under_pressure_and_motion_without_the_barostat(tmp_path: Path) -> None:
    """Log and table agree on the density; paths do not have what the barostat does to all atoms alike."""
    moved = crystal()
    moved.positions += 500.0  # far from the origin, where a twin that takes positions as they are sees strides
    settings = {"ensemble": "npt-crescale", "temperature": 40, "pressure": "0.1 GPa", "barostat_time": 400}
    settings |= {"steps": 800, "timestep": 4.0, "every": 4}
    athanor.md(moved, model=ARGON, out=tmp_path / "npt", **settings)
    run = athanor.open(tmp_path / "npt")
    [row], [means] = run.summary, run.averages()
    assert means.density.error > 0.0
    error = np.hypot(row["density_error_g_per_cm3"], means.density.error)
    assert abs(row["density_g_per_cm3"] - means.density.mean) < 3.0 * error
    assert abs(row["mean_volume"] - means.volume.mean) < 3.0 * np.hypot(row["mean_volume_error"], means.volume.error)
    found = run.mean_square_displacement(start=0)
    assert found.values.max() < 1.5
    frames = run.frames(0)
    cells = frames.cell.numpy()
    raw = frames.positions.reshape(len(frames), -1, 3).numpy()
    assert np.ptp(np.linalg.det(cells)) > 10.0
    assert np.square(raw - raw[0]).sum(axis=2).max() > 10.0
    assert run.rdf().coordination("Ar-Ar", 4.6) == pytest.approx(12.0, abs=0.3)
