"""The table of ensembles and optimizers: whole, consistent, and the one place that everything else follows."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase.build import bulk

import athanor
from athanor._values import keywords_of
from athanor.cli.main import call
from athanor.errors import InputError
from athanor.testing.dynamics_contract import argon_model
from athanor.workflows import build, methods
from athanor.workflows.methods import FMAX, KINDS, MD, METHODS, RELAX, TOPICS, Method, all_settings, find, load, of_kind
from athanor.workflows.problems import Origin
from athanor.workflows.spec import make_spec
from athanor.workflows.structures import from_python

ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
ids = pytest.mark.parametrize("method", METHODS, ids=[method.name for method in METHODS])


def keywords(method: Method) -> set[str]:
    """Everything with which its engine is made."""
    named = {setting.keyword for setting in method.all_settings().values() if setting.keyword}
    return named | set(method.constants) | {"random_seed"}


@ids
def test_an_entry_is_whole(method: Method) -> None:
    assert of_kind(method.kind)[method.name] is method
    assert keywords(method) <= set(keywords_of(load(method.engine))[0])
    if method.cell_engine:
        assert keywords(method) | {"pressure"} <= set(keywords_of(load(method.cell_engine))[0])
    assert method.title
    assert "?" not in method.in_words({name: "1" for name in method.all_settings()})
    assert all("doi:" in text for text in (*method.citations, *method.cell_citations))
    assert method.citations
    assert set(method.advice) <= set(TOPICS)
    assert set(method.ignores) <= set(all_settings(method.kind))


def test_an_entry_with_a_keyword_that_the_engine_lacks_would_be_noticed() -> None:
    wrong = dataclasses.replace(of_kind(MD)["nve"], constants={"fritcion": 0.1})
    assert not keywords(wrong) <= set(keywords_of(load(wrong.engine))[0])


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_a_name_means_one_thing(kind: Any) -> None:
    assert kind.default in of_kind(kind)
    for setting in all_settings(kind).values():
        same = [method.all_settings().get(setting.name, setting) for method in of_kind(kind).values()]
        assert {row.quantity for row in same} == {setting.quantity}
        assert bool(setting.panel) is setting.in_python


def test_a_setting_that_the_method_lacks_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    nve = of_kind(MD)["nve"]
    assert make_spec({"stages": [{"md": {"steps": 1, "ensemble": "nve", "friction": 1}}]}).stages[0].friction == 1.0
    strict = dataclasses.replace(nve, ignores=())
    monkeypatch.setattr(methods, "METHODS", tuple(strict if method is nve else method for method in METHODS))
    with pytest.raises(InputError) as caught:
        make_spec({"stages": [{"md": {"steps": 1, "ensemble": "nve", "friction": 1}}]}, Origin("job.yaml"))
    assert caught.match(
        r"`stages\[0\].md.friction`: ensemble `nve` does not take it. It takes temperature, time, steps"
    )
    assert make_spec({"stages": [{"md": {"steps": 1, "ensemble": "nve"}}]}).stages[0].friction is None


def test_an_unknown_method_is_refused_in_jobs_in_python_and_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    crystal = bulk("Ar", "fcc", a=5.3, cubic=True)
    crystal.write("argon.extxyz")
    with pytest.raises(InputError, match=r"`stages\[0\].relax.optimizer`: input should be .*'fire'.*; got 'anvil'"):
        make_spec({"stages": [{"relax": {"optimizer": "anvil"}}]})
    with pytest.raises(InputError, match=r"`optimizer`: input should be .*'fire'.*; got 'anvil'"):
        athanor.relax(crystal, model=ARGON, optimizer="anvil")
    with pytest.raises(InputError, match=r"`ensemble`: input should be .*'nve'.*; got 'anvil'"):
        athanor.md(crystal, model=ARGON, ensemble="anvil")
    assert call(["relax", "argon.extxyz", "-o", "out", "--optimizer", "anvil", "--model", "demo"]) == 65
    assert re.search("`--optimizer`: input should be .*'fire'.*; got 'anvil'", capsys.readouterr().err)


def test_an_optimizer_that_moves_atoms_only_is_not_asked_to_move_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    fire = of_kind(RELAX)["fire"]
    atoms_only = dataclasses.replace(fire, cell_engine="")
    monkeypatch.setattr(methods, "METHODS", (atoms_only,))
    systems = from_python(bulk("Ar", "fcc", a=5.3))
    with pytest.raises(InputError, match=r"optimizer `fire` does not move the cell of system 0 \(Ar\). Keep cells"):
        build.check_stages(make_spec({"stages": ["relax"]}), systems, argon_model())
    build.check_stages(make_spec({"stages": [{"relax": {"fixed_cell": True}}]}), systems, argon_model())


def test_defaults_are_taken_where_nothing_is_given() -> None:
    crystal = bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 2)
    plain = athanor.md(crystal, model=ARGON, temperature=30, steps=3)
    assert athanor.md(crystal, model=ARGON, temperature=30, steps=3, friction=None).energies == plain.energies
    assert athanor.md(crystal, model=ARGON, temperature=30, steps=3, friction=0.01).energies == plain.energies
    assert athanor.md(crystal, model=ARGON, temperature=30, steps=3, friction=0.3).energies != plain.energies
    assert athanor.md(crystal, model=ARGON, temperature=30, timestep=5.0).steps == [200]  # 1 ps


def test_what_is_conserved_is_logged_and_drawn(tmp_path: Path) -> None:
    crystal = bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 2)
    smooth = ARGON | {"switch_width": 2.0}
    stages = [{"md": {"steps": 10, "temperature": 30}}, {"md": {"steps": 40, "ensemble": "nve"}}]
    job = {"stages": stages, "structures": [], "model": smooth, "every": 1, "output": str(tmp_path / "out")}
    from athanor.workflows.run import run

    run(make_spec({key: value for key, value in job.items() if key != "structures"}), from_python(crystal))
    series = athanor.open(tmp_path / "out").series(0)
    in_nve = series.stage == 1
    total = series.conserved[in_nve]
    heated = series.total_energy[~in_nve]
    assert np.ptp(series.conserved[~in_nve]) < 0.05 * np.ptp(heated) + 1e-6  # the bath is on its account
    assert total.max() - total.min() < 0.02 * (series.energy[in_nve].max() - series.energy[in_nve].min())
    labels = [axes.get_ylabel() for axes in athanor.plot(tmp_path / "out").figure.axes]
    assert "drift of the conserved\nenergy (meV/atom)" in labels
    athanor.relax(crystal, model=smooth, max_steps=3, out=tmp_path / "relaxed")
    assert "conserved" not in (tmp_path / "relaxed/log.csv").read_text(encoding="utf-8")
    athanor.md(crystal, model=smooth, ensemble="brownian", temperature=30, steps=3, out=tmp_path / "brownian")
    assert np.isnan(athanor.open(tmp_path / "brownian").series(0).conserved).all()


def test_runs_of_other_versions_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of an older one, whose record does not name the optimizer, and of a later one with an ensemble unknown here."""
    crystal = bulk("Ar", "fcc", a=5.3, cubic=True)
    for name, run in {"relax": athanor.relax, "md": athanor.md}.items():
        length = {"max_steps": 2} if name == "relax" else {"steps": 2}
        run(crystal, model=ARGON, out=tmp_path / name, silence=["small-cell"], **length)  # type: ignore[operator]
        record = yaml.safe_load((tmp_path / name / "run.yaml").read_text(encoding="utf-8"))
        (settings,) = (stage[name] for stage in record["job"]["stages"])
        if name == "relax":
            del settings["optimizer"]
        else:
            settings["ensemble"] = "later"
        (tmp_path / name / "run.yaml").write_text(yaml.safe_dump(record, allow_unicode=True), encoding="utf-8")
        assert call(["show", str(tmp_path / name)]) == 0
        athanor.plot(tmp_path / name)
    shown = capsys.readouterr().out
    assert "relax atoms and cell to 0.05 eV/Å, 0.05 GPa, at most 2 steps" in shown
    assert "LATER, 2 steps of 1 fs" in shown
    assert find("md", {"ensemble": "later"}) is None
    record["job"]["stages"] = [{"anneal": settings}]
    (tmp_path / "md/run.yaml").write_text(yaml.safe_dump(record, allow_unicode=True), encoding="utf-8")
    for command in ("show", "plot"):
        assert call([command, str(tmp_path / "md")]) == 74
        assert "a stage of the run is 'anneal'" in capsys.readouterr().err
    assert len(athanor.open(tmp_path / "md").frames(0)) == 1
    assert len(athanor.open(tmp_path / "md").series(0)) == 1
    assert FMAX.default_in_words == "0.05 eV/Å"
