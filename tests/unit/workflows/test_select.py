"""Frames worth labelling: out of runs, stores, files and lists, with where they are from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import read

import athanor
from athanor.cli.main import call
from athanor.errors import InputError, StorageError
from athanor.workflows import select as home

PAIR = {"name": "lennard-jones", "epsilon": 0.0104, "cutoff": 8.0, "switch_width": 1.0}
COMMITTEE = {"name": "committee", "members": [{**PAIR, "sigma": sigma} for sigma in (3.36, 3.40, 3.44)]}


@pytest.fixture(scope="module")
def hot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of dynamics with a committee: two systems, 20 frames each."""
    out = tmp_path_factory.mktemp("runs") / "hot"
    crystals = [bulk("Ar", "fcc", a=a, cubic=True) for a in (5.1, 5.4)]
    athanor.md(crystals, COMMITTEE, temperature=40.0, steps=60, timestep=4.0, every=3, out=out,
               silence=["small-cell"])  # fmt: skip
    return out


def frames_of(run: Path) -> dict[tuple[int, int], float]:
    """(system_id, step) -> deviation, of every frame."""
    saved = athanor.open(run)
    return {
        (number, int(step)): float(value)
        for number in range(len(saved))
        for step, value in zip(
            saved.frames(number).step[:, 0], saved.frames(number).max_force_deviation[:, 0], strict=True
        )
    }


def check_uncertain(run: Path) -> None:
    deviations = frames_of(run)
    above = float(np.median(list(deviations.values())))
    picked = athanor.select(run, 8, by="uncertainty", above=above, spacing="20 fs")
    assert 2 < len(picked) <= 8
    assert picked.seen == len(deviations)
    assert picked.eligible == sum(value > above for value in deviations.values())
    keys = [(row["system_id"], row["step"]) for row in picked.rows]
    assert len(set(keys)) == len(keys)
    values = [deviations[key] for key in keys]
    assert values == [row["max_force_deviation"] for row in picked.rows] == sorted(values, reverse=True)
    assert values[0] == max(deviations.values())
    assert min(values) > above
    for number in (0, 1):
        times = sorted(row["time"] for row in picked.rows if row["system_id"] == number)
        assert (np.diff(times) >= 20.0).all()


def test_where_a_committee_disagrees(hot: Path) -> None:
    check_uncertain(hot)


def test_twins_are_found(hot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = home._Selecting._inside
    monkeypatch.setattr(home._Selecting, "_inside", lambda self, values: np.isfinite(values))  # no bound is looked at
    with pytest.raises(AssertionError):
        check_uncertain(hot)
    monkeypatch.setattr(home._Selecting, "_inside", inside)
    monkeypatch.setattr(home._Selecting, "_group", lambda self, number, origin, row: row)  # no spacing
    with pytest.raises(AssertionError):
        check_uncertain(hot)


def test_a_frame_is_the_one_it_says(hot: Path) -> None:
    picked, saved = athanor.select(hot, 3, by="uncertainty"), athanor.open(hot)
    for atoms, row in zip(picked.structures, picked.rows, strict=True):
        there = saved.atoms(row["system_id"], step=row["step"])[0]
        np.testing.assert_array_equal(atoms.positions, there.positions)
        told = {name: row[name] for name in ("source", "frame", "system_id", "step", "time")}
        assert {name: atoms.info[name] for name in told} == told
        assert atoms.info["selected_by"] == "uncertainty"
        assert (row["source"], row["system"], atoms.info["name"]) == (str(hot), "Ar4", "Ar4")


def test_what_is_written_carries_no_labels(hot: Path, tmp_path: Path) -> None:
    path = tmp_path / "picked.xyz"
    picked = athanor.select(hot, 3, by="uncertainty", out=path)
    found = read(path, ":")
    assert len(found) == 3
    for atoms, row in zip(found, picked.rows, strict=True):
        assert atoms.calc is None
        assert not {"energy", "stress", "free_energy"} & atoms.info.keys()
        assert "forces" not in atoms.arrays
        assert (int(atoms.info["system_id"]), int(atoms.info["step"])) == (row["system_id"], row["step"])
    with pytest.raises(InputError, match="exists"):
        athanor.select(hot, 3, by="uncertainty", out=path)


def test_sources_are_alike(hot: Path, tmp_path: Path) -> None:
    """A folder, its store, what `open` gives, its frames in memory and its structures give the same choice."""
    whole = [(row["system_id"], row["step"]) for row in athanor.select(hot, 4, by="uncertainty").rows]
    saved = athanor.open(hot)
    batches = [saved.frames(number) for number in range(2)]
    for source in (str(hot), hot / "trajectory.zarr", saved, [hot, str(hot)], batches):
        rows = athanor.select(source, 4, by="uncertainty", model=COMMITTEE).rows
        assert [(row["system_id"], row["step"]) for row in rows] == whole


def test_values_are_computed_where_frames_hold_none(hot: Path, tmp_path: Path) -> None:
    frames = [atoms for number in range(2) for atoms in athanor.open(hot).atoms(number)]
    for atoms in frames:
        atoms.info.pop("max_force_deviation", None)
    with pytest.raises(InputError, match="no model is given"):
        athanor.select(frames, 4, by="uncertainty")
    whole = athanor.select(hot, 4, by="uncertainty").rows
    found = athanor.select(frames, 4, by="uncertainty", model=COMMITTEE, max_atoms=9).rows
    assert [(row["system_id"], row["step"]) for row in found] == [(row["system_id"], row["step"]) for row in whole]
    with pytest.raises(InputError, match="does not compute it"):
        athanor.select(frames, 4, by="uncertainty", model="demo")


def test_farthest_points_do_not_depend_on_blocks(hot: Path) -> None:
    picks = [athanor.select(hot, 5, model="demo", max_atoms=most) for most in (4, 50, 10_000)]
    keys = [[(row["system_id"], row["step"]) for row in picked.rows] for picked in picks]
    assert keys[0] == keys[1] == keys[2]
    assert len(set(keys[0])) == 5


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_the_same_structure_is_chosen_once(pooling: str) -> None:
    names = ("H2O", "CH4", "CH4", "NH3", "H2O")
    molecules = [molecule(name) for name in names]
    picked = athanor.select(molecules, 5, model="demo", pooling=pooling)
    assert sorted(atoms.get_chemical_formula() for atoms in picked.structures) == ["CH4", "H2O", "H3N"]
    rest = athanor.select(molecules, 5, model="demo", pooling=pooling, known=[molecule("CH4")])
    assert sorted(atoms.get_chemical_formula() for atoms in rest.structures) == ["H2O", "H3N"]
    assert len(athanor.select(molecules, 5, model="demo", known=molecules)) == 0


def test_uncertain_and_diverse() -> None:
    molecules = [molecule(name) for name in ("H2O", "H2O", "CH4", "NH3")]
    for atoms, value in zip(molecules, (0.5, 0.4, 0.3, 0.0), strict=True):
        atoms.info["max_force_deviation"] = value
    found = athanor.select(molecules, 4, by="uncertainty", above=0.1, model="demo")
    assert [row["frame"] for row in found.rows] == [0, 2]  # the second water is the first one again
    assert [row["frame"] for row in athanor.select(molecules, 4, by="uncertainty", above=0.1).rows] == [0, 1, 2]
    assert [row["frame"] for row in athanor.select(molecules, 4, by="uncertainty", below=0.35).rows] == [2, 3]


def test_features_that_a_run_kept(tmp_path: Path) -> None:
    """With `properties: [node_embeddings]` no model is needed to choose."""
    out = tmp_path / "out"
    molecules = [molecule("CH3CH2OH"), molecule("H2O")]
    demo = athanor.models.get("demo")

    class Kept(type(demo)):  # type: ignore[misc]
        """The demo model with its features among the outputs."""

        def attached_energy(self, data: Any, strain: Any, wanted: Any) -> Any:
            found = super().attached_energy(data, strain, wanted)
            inputs = self.adapt_input(data)
            return found | {"node_embeddings": self.model.node_features(inputs["atomic_numbers"], inputs["positions"])}

    model = Kept(demo.model)
    model.model_config = model.model_config.model_copy(
        update={"outputs": frozenset({"energy", "forces", "node_embeddings"})}
    )
    athanor.md(molecules, model, steps=6, timestep=0.2, every=2, properties=["node_embeddings"], out=out,
               silence=["model", "non-periodic"])  # fmt: skip
    kept = athanor.select(out, 3).rows
    computed = athanor.select(out, 3, model="demo").rows
    assert [(row["system_id"], row["step"]) for row in kept] == [(row["system_id"], row["step"]) for row in computed]


def test_steps_of_a_relaxation_take_no_time(tmp_path: Path) -> None:
    """So no time can lie between them; with dynamics after it, there is some. Mutant: all are at the same time."""
    out, crystal = tmp_path / "relaxed", bulk("Ar", "fcc", a=5.0)
    crystal.rattle(0.1, seed=0)
    athanor.relax(crystal, COMMITTEE, max_steps=6, every=1, out=out, silence=["small-cell"])
    assert len(athanor.select(out, 3, by="uncertainty")) == 3
    for source in (out, athanor.open(out).atoms(0)):
        with pytest.raises(InputError, match=r"have none: they are steps of a relaxation\. Leave `spacing` out"):
            athanor.select(source, 3, by="uncertainty", spacing="1 fs")


def test_refusals(hot: Path, tmp_path: Path) -> None:
    for arguments, words in (
        ({"n": 0}, "`n`"),
        ({"by": "luck"}, "farthest"),
        ({"spacing": "3 GPa"}, "time"),
        ({"by": "farthest"}, "node_embeddings"),  # Lennard-Jones has none
        ({"by": "uncertainty", "field": "doubt"}, "doubt"),
        ({"by": "uncertainty", "field": "force_deviation"}, "no single number of a frame"),
        ({"by": "uncertainty", "above": 0.5, "below": 0.1}, "nothing lies between"),
        ({"by": "uncertainty", "above": 1e9, "out": tmp_path / "none.xyz"}, "change `above`"),
    ):
        with pytest.raises(InputError, match=words):
            athanor.select(hot, **arguments)
    with pytest.raises((InputError, StorageError), match="nothing-there"):
        athanor.select(tmp_path / "nothing-there")
    assert not (tmp_path / "none.xyz").exists()


def test_command_line(hot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    rest = ["-n", "3", "--by", "uncertainty", "--spacing", "20fs"]
    assert call(["select", str(hot), *rest, "-o", "picked.xyz"]) == 0
    screen = capsys.readouterr().out
    assert "3 of 40 frames were chosen." in screen
    assert "Structures: picked.xyz" in screen
    assert call(["select", str(hot), *rest, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["step"] for row in found["rows"]] == [int(atoms.info["step"]) for atoms in read("picked.xyz", ":")]
    assert call(["select", str(hot), "picked.xyz", "--model", "demo", "--known", "picked.xyz", "-n", "2", "-q"]) == 0
    assert call(["select", str(hot), "-n", "none"]) == 65
    assert "--n" in capsys.readouterr().err
