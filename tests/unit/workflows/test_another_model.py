"""A run that goes on with another model than it had."""

from __future__ import annotations

import warnings

import pytest
from ase.build import bulk

import athanor
from athanor.errors import AthanorWarning

ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}


def test_going_on_with_another_model_is_told(tmp_path):
    crystal = bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 2)
    options = {"temperature": 30, "steps": 2, "threads": 1}
    athanor.md(crystal, model=ARGON, out=tmp_path / "first", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AthanorWarning)
        athanor.md(tmp_path / "first", model=ARGON, out=tmp_path / "same", **options)
    other = [ARGON, {"name": "lennard-jones", "epsilon": 0.001, "sigma": 3.0, "cutoff": 6.0}]
    with pytest.warns(AthanorWarning, match=r"ran with Lennard-Jones, and now .* computes it"):
        athanor.md(tmp_path / "first", model=other, out=tmp_path / "other", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AthanorWarning)
        athanor.md(tmp_path / "first", model=other, silence=["model"], out=tmp_path / "silent", **options)
