"""Jobs: what is accepted, and what a mistake is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from athanor import units
from athanor.errors import InputError
from athanor.workflows.problems import Origin
from athanor.workflows.spec import load_job, make_spec
from athanor.workflows.stages import MDSpec, RelaxSpec, describe_stages

RELAX = {"stages": [{"relax": {}}]}


def test_defaults_are_those_of_the_manual() -> None:
    spec = make_spec({"stages": ["relax", {"md": {"steps": 5}}]})
    relax, md = spec.stages
    assert isinstance(relax, RelaxSpec)
    assert isinstance(md, MDSpec)
    assert (relax.fmax, relax.steps, relax.pressure, relax.fixed_cell) == (0.05, 500, 0.0, False)
    assert relax.smax == pytest.approx(0.05 * units.GPa)
    assert (md.ensemble, md.temperature, md.timestep, md.friction) == ("nvt", 300.0, 1.0, 0.01)
    assert (spec.every, spec.seed, spec.dtype, spec.allow_failures) == (10, 42, "float64", False)


def test_time_becomes_steps() -> None:
    spec = make_spec({"stages": [{"md": {"time": "1 ps", "timestep": "2 fs"}}]})
    assert spec.stages[0].steps == 500
    assert spec.total_steps == 500


def test_stages_in_words_say_how_warm_they_are() -> None:
    spec = make_spec({"stages": [{"md": {"steps": 6, "temperature": 90, "ensemble": name}} for name in ("nvt", "nve")]})
    assert describe_stages(spec.stages) == "NVT at 90 K, 6 steps, then NVE from 90 K, 6 steps"


def test_quick_takes_the_quick_steps_and_nothing_else() -> None:
    stages = [{"relax": {"steps": 300, "quick_steps": 60}}, {"md": {"steps": 500}}]
    spec = make_spec({"stages": stages, "every": 7})
    assert [stage.steps for stage in spec.quick().stages] == [60, 500]
    assert spec.quick().every == 7


def test_the_resolved_job_is_a_job() -> None:
    spec = make_spec(
        {
            "structures": ["a.cif", {"collection": "ase:dcdft", "names": ["Si"], "compare_cell": True}],
            "model": {"name": "lennard-jones", "epsilon": 0.01, "sigma": 3.4, "cutoff": 8.5},
            "stages": [{"relax": {"pressure": "10 GPa"}}, {"md": {"steps": 3, "friction": "1 1/ps"}}],
            "output": "somewhere",
        }
    )
    again = make_spec(yaml.safe_load(yaml.safe_dump(spec.to_job())))
    assert again.to_job() == spec.to_job()
    assert again.model == spec.model
    assert again.stages[0].pressure == pytest.approx(10 * units.GPa)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"stages": [{"relax": {"fmx": 1}}]}, [r"`stages\[0\].relax.fmx`", "Did you mean `fmax`"]),
        (RELAX | {"everry": 3}, ["`everry` is not a key", "Did you mean `every`"]),
        ({"stages": [{"relax": {"smax": "1 K"}}]}, [r"`stages\[0\].relax.smax`", "unit 'K'", "GPa"]),
        ({"stages": [{"relax": {"fmax": 0}}]}, ["fmax", "positive"]),
        ({"stages": [{"relax": {"steps": -1}}]}, ["steps", "greater than or equal to 0", "got -1"]),
        ({"stages": [{"relax": {"steps": 0}}, {"md": {"steps": 3}}]}, ["steps: 0", "the only stage"]),
        ({"stages": [{"relax": {"fmax": "9" * 500 + " eV"}}]}, ["...", "has the unit"]),
        ({"stages": [{"md": {"steps": "many"}}]}, [r"`stages\[0\].md.steps`", "integer", "'many'"]),
        ({"stages": [{"md": {}}]}, [r"`stages\[0\].md.steps` is missing"]),
        ({"stages": [{"md": {"steps": 3, "time": 4}}]}, ["`time` or `steps`, not both"]),
        ({"stages": [{"md": {"steps": 3, "ensemble": "anvil"}}]}, ["ensemble", "'nvt'.*'nve'", "'anvil'"]),
        ({"stages": [{"md": {"steps": 3, "temperature": -1}}]}, ["must be zero or positive; got -1 K"]),
        ({"stages": [{"md": {"steps": 3, "timestep": 0}}]}, ["timestep", "positive"]),
        ({"stages": [{"bake": {}}]}, ["stage 0 is 'bake'", "`relax` or `md`"]),
        ({"stages": [{"relax": {}, "md": {}}]}, ["name one of"]),
        ({"stages": [{"relax": 3}]}, ["must hold settings", "got 3"]),
        ({"stages": []}, ["at least one stage"]),
        ({}, ["`stages` is missing"]),
        (RELAX | {"structures": [{"file": "a", "collection": "b"}]}, ["exactly one of `file` and `collection`"]),
        (RELAX | {"structures": [{"file": "a", "names": ["b"]}]}, ["`names` picks members"]),
        (RELAX | {"dtype": "float16"}, ["dtype", "'float32' or 'float64'"]),
        (RELAX | {"seed": -1}, ["seed", "got -1"]),
        (RELAX | {"model": {"epsilon": 1}}, ["model.name"]),
    ],
)
def test_mistakes(values: dict, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        make_spec(values, Origin("job.yaml"))
    assert str(caught.value).startswith("`job.yaml`: ")
    for word in words:
        assert caught.match(word)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        make_spec({"stages": [{"relax": {"fmx": 1}}], "everry": 3})
    assert caught.match("fmx")
    assert caught.match("everry")


def job(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_files_are_relative_to_the_job(tmp_path: Path) -> None:
    spec = load_job(job(tmp_path, "structures: [data/a.cif, /abs/b.cif]\nstages: [relax]\n"))
    assert [source.file for source in spec.structures] == [tmp_path / "data/a.cif", Path("/abs/b.cif")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("structures: [a\nstages: 3", "line 2, column"),
        ("every: 3\nstages: [relax]\nevery: 4", "line 3: `every` is there twice, first in line 1. Remove one"),
        ("stages:\n  - md:\n      steps: 3\n      steps: 4", "line 4: `steps` is there twice, first in line 3"),
        ("title: 2024-13-01", "not valid YAML: month must be"),
        ("title: " + "[" * 600, "nested too deeply"),
        ("a: \x00", "is not text"),
        ("\tstructures: a", "line 1, column 1"),
        ("- a\n- b", "holds a list"),
        ("", "is empty; a job is a mapping"),
        ("stages: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("stages: [relax]", "`structures` is missing"),
    ],
)
def test_files_that_are_no_job(tmp_path: Path, text: str, words: str) -> None:
    path = job(tmp_path, text)
    with pytest.raises(InputError, match=words) as caught:
        load_job(path)
    assert str(path) in str(caught.value)


def test_problems_carry_the_line_of_their_key(tmp_path: Path) -> None:
    text = """structures: a.cif
everry: 3
stages:
  - relax:
      fmx: 1
  - md: {steps: 3, temperature: 1 GPa}
  - kind: md
    steps: many
"""
    path = job(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load_job(path)
    assert str(caught.value).splitlines() == [
        f"`{path}`, line 5: `stages[0].relax.fmx` is not a key here. Did you mean `fmax`?",
        f"  `{path}`, line 6: `stages[1].md.temperature`: '1 GPa' has the unit 'GPa', which is not one of temperature: "
        "use K.",
        f"  `{path}`, line 8: `stages[2].md.steps`: input should be a valid integer, unable to parse string as an "
        "integer; got 'many'.",
        f"  `{path}`, line 2: `everry` is not a key here. Did you mean `every`?",
    ]


def test_aliases_that_hold_themselves_are_no_trap(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 2: this refers to itself"):
        load_job(job(tmp_path, "structures: a.cif\nstages: &again [*again]\n"))


def test_a_missing_job(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_job(tmp_path / "no.yaml")


def test_every_job_of_the_examples_is_valid(repository: Path) -> None:
    jobs = sorted((repository / "examples" / "jobs").glob("*.yaml"))
    assert jobs
    for path in jobs:
        assert load_job(path).structures


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("1:3", "1:3"), ("10:59", "10:59"), ("010", "010"), ("12", 12), ("-1", -1), ("0x10", 16)],
)
def test_frames_are_what_was_written(tmp_path: Path, text: str, wanted: object) -> None:
    job = f"structures:\n  - file: a.cif\n    index: {text}\nmodel: demo\nstages: [relax]\n"
    (tmp_path / "job.yaml").write_text(job, encoding="utf-8")
    assert load_job(tmp_path / "job.yaml").structures[0].index == wanted


@pytest.mark.parametrize(
    ("text", "steps"), [("1e3", 1000), ("1.0e3", 1000), ("010", 10), ("1_000", 1000), ("1:30", None), ("yes", None)]
)
def test_numbers_of_a_job(tmp_path: Path, text: str, steps: int | None) -> None:
    (tmp_path / "job.yaml").write_text(
        f"structures: [a.cif]\nmodel: demo\nstages:\n  - md: {{steps: {text}}}\n", encoding="utf-8"
    )
    if steps is None:
        with pytest.raises(InputError, match=r"line 4: `stages\[0\]\.md\.steps`"):
            load_job(tmp_path / "job.yaml")
    else:
        assert load_job(tmp_path / "job.yaml").stages[0].steps == steps


def test_true_is_no_frame() -> None:
    with pytest.raises(InputError, match=r"`structures\[0\]\.index`: True chooses no frames"):
        make_spec({"structures": [{"file": "a.cif", "index": True}], **RELAX})


def test_standard_input_of_a_job_is_no_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("structures: ['-', a.cif]\nstages: [relax]\n", encoding="utf-8")
    job = load_job(tmp_path / "job.yaml")
    assert [str(source.file) for source in job.structures] == ["-", str(tmp_path / "a.cif")]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"ensemble": "npt", "temperature": 0}, "must be positive"),
        ({"ensemble": "npt-langevin", "temperature": "40 K to 0 K"}, "must be positive"),
        ({"ensemble": "nvt-nose-hoover", "temperature": "0 K to 40 K"}, "must be positive"),
        ({"ensemble": "brownian", "friction": 0}, "must be positive"),
        ({"ensemble": "nph", "temperature": "40 K to 80 K"}, "can not change during a stage of ensemble `nph`"),
        ({"ensemble": "nve", "temperature": "40 K to 80 K"}, "can not change during a stage of ensemble `nve`"),
    ],
)
def test_a_method_is_narrower_than_the_setting_that_it_shares(settings, match):
    with pytest.raises(InputError, match=match):
        make_spec({"structures": ["x.cif"], "stages": [{"md": {"steps": 5, **settings}}]})


@pytest.mark.parametrize(
    "settings",
    [
        {"ensemble": "nvt", "temperature": 0, "friction": 0},
        {"ensemble": "nvt-csvr", "temperature": "40 K to 0 K"},
        {"ensemble": "npt-crescale", "temperature": "40 K to 0 K"},
        {"ensemble": "nve", "temperature": 0, "friction": 0},
    ],
)
def test_a_method_that_is_not_narrower_takes_it(settings):
    make_spec({"structures": ["x.cif"], "stages": [{"md": {"steps": 5, **settings}}]})
