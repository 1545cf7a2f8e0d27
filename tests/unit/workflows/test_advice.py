"""Warnings before the first step: each topic at its threshold, counted over systems, silenced by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms

from athanor.errors import InputError
from athanor.models.card import ModelCard
from athanor.models.registry import get
from athanor.workflows.advice import advise, estimate_disk
from athanor.workflows.readable import format_bytes
from athanor.workflows.spec import make_spec
from athanor.workflows.structures import from_python

MODEL = get("lennard-jones", epsilon=0.0104, sigma=3.4, cutoff=8.5)
MODEL.model_card = ModelCard(
    "Crystal model", kind="materials", elements=frozenset({1, 8, 18, 84}), trained_elements=frozenset({1, 8, 18})
)
ARGON = bulk("Ar", "fcc", a=5.26, cubic=True)  # 4 atoms


def advice(structures: Any, stage: dict[str, Any] | None = None, **settings: Any) -> dict[str, str]:
    spec = make_spec({"stages": [{"md": {"steps": 10} | (stage or {})}], **settings})
    return {found.topic: found.text for found in advise(spec, from_python(structures), MODEL)}


def test_nothing_to_say() -> None:
    assert advice(ARGON * (2, 2, 2), {"timestep": 5.0}) == {}


def test_a_molecule_with_a_model_of_crystals() -> None:
    text = advice([ARGON * (2, 2, 2), molecule("H2O")])["non-periodic"]
    assert "Crystal model is made for crystals" in text
    assert "system 1 (H2O)" in text


def test_elements_outside_the_fit_but_inside_the_model() -> None:
    polonium, uranium = bulk("Po", "sc", a=3.3) * (2, 2, 2), bulk("U", "fcc", a=3.3) * (2, 2, 2)
    text = advice([ARGON * (2, 2, 2), polonium, uranium])["elements"]
    assert "not fitted to Po, found in system 1 (Po8)" in text
    assert "elements" not in advice([uranium])  # the model does not know it at all: that sets the system aside


def test_small_cells_are_those_of_seven_atoms_and_fewer() -> None:
    def cells(count: int) -> Atoms:
        return bulk("Ar", "fcc", a=5.26) * (count, 1, 1)

    text = advice([cells(8), cells(7), cells(1)])["small-cell"]
    assert "2 of 3 systems, the first is system 1 (Ar7)" in text
    assert "82 %" in text
    assert "--supercell" in text
    assert advice(cells(8)) == {}
    relaxation = make_spec({"stages": [{"relax": {"steps": 3}}]})
    assert advise(relaxation, from_python(cells(1)), MODEL) == []


@pytest.mark.parametrize(("timestep", "warned"), [(1.0, False), (1.1, True)])
def test_a_time_step_too_long_for_hydrogen(timestep: float, warned: bool) -> None:
    ice = bulk("O", "fcc", a=5.0, cubic=True) * (2, 1, 1) + Atoms("H", [(1.0, 0.0, 0.0)])
    assert ("time-step" in advice(ice, {"timestep": timestep})) is warned


def test_the_time_step_grows_with_the_root_of_the_mass_and_fixed_atoms_do_not_count() -> None:
    crystal = ARGON * (2, 2, 2)
    limit = np.sqrt(39.95 / 1.008)
    assert "time-step" not in advice(crystal, {"timestep": 0.99 * limit})
    assert "--timestep" in advice(crystal, {"timestep": 1.02 * limit})["time-step"]
    crystal.symbols[0] = "H"
    assert "time-step" in advice(crystal, {"timestep": 2.0})
    crystal.set_constraint(FixAtoms([0]))
    assert "time-step" not in advice(crystal, {"timestep": 2.0})


def test_friction_that_damps_within_one_step() -> None:
    crystal = ARGON * (2, 2, 2)
    assert "friction" not in advice(crystal, {"friction": 0.9, "timestep": 1.0})
    assert "damps all motion within 0.5 fs" in advice(crystal, {"friction": 2.0, "timestep": 1.0})["friction"]
    assert "friction" not in advice(crystal, {"friction": 2.0, "ensemble": "nve"})


def test_frames_that_do_not_fit_on_the_disk(tmp_path: Any) -> None:
    crystal = ARGON * (2, 2, 2)
    text = advice(crystal, {"steps": 10**15}, output=str(tmp_path / "not/there/yet"))["disk"]
    assert "--every" in text
    assert "disk" not in advice(crystal, {"steps": 1000}, output=str(tmp_path / "out"))
    assert "disk" not in advice(crystal, {"steps": 10**15})  # nothing is kept


def test_the_estimate_of_the_disk_is_what_a_run_takes(tmp_path: Any) -> None:
    import athanor

    crystals = [ARGON * (3, 3, 3), ARGON * (2, 2, 2)]
    argon = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
    athanor.md(crystals, model=argon, temperature=30, steps=30, every=2, out=tmp_path / "out")
    taken = sum(path.stat().st_size for path in (tmp_path / "out/trajectory.zarr").rglob("*") if path.is_file())
    spec = make_spec({"stages": [{"md": {"steps": 30}}], "every": 2})
    assert taken == pytest.approx(estimate_disk(spec, from_python(crystals)), rel=0.25)


def test_one_topic_speaks_once_and_can_be_silenced() -> None:
    hasty = {"md": {"steps": 10, "timestep": 20.0, "friction": 1.0}}
    values = {"stages": [hasty, hasty], "silence": "friction"}
    assert [found.topic for found in advise(make_spec(values), from_python(ARGON), MODEL)] == [
        "small-cell",
        "time-step",
    ]
    with pytest.raises(InputError, match="silence"):
        make_spec(values | {"silence": ["everything"]})


def test_sizes_for_people() -> None:
    assert [format_bytes(count) for count in (12, 1_500, 3_100_000_000, 2 * 10**15)] == [
        "12 B", "1.5 kB", "3.1 GB", "2,000 TB",
    ]  # fmt: skip
