"""Jobs of any content: each is a run that can be repeated, or a mistake that is told; never a crash or a hang."""

from __future__ import annotations

import copy
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from ase.build import bulk
from ase.io import write
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from athanor.cli.main import call
from athanor.errors import InputError
from athanor.workflows.spec import RunSpec, load_job, make_spec

JOB: dict[str, Any] = {
    "title": "fuzz",
    "structures": [{"file": "argon.extxyz", "index": ":", "compare_cell": False}],
    "model": {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5},
    "stages": [
        {"relax": {"steps": 2, "fmax": "0.05 eV/Å", "smax": 0.1, "pressure": "1 GPa", "fixed_cell": False}},
        {"md": {"steps": 3, "ensemble": "nvt", "temperature": "30 K", "timestep": "2 fs", "friction": "0.01 1/fs"}},
    ],
    "supercell": "1x1x1",
    "every": 2,
    "seed": 3,
    "dtype": "float64",
    "max_atoms": 100,
    "silence": ["small-cell"],
    "allow_failures": False,
}
KEYS = [
    *JOB,
    "file",
    "collection",
    "names",
    "relax",
    "md",
    "kind",
    "time",
    "steps",
    "quick_steps",
    "temperature",
    "name",
]
KEYS += ["stage", "temprature", "time_step", "Seed", "output", "threads", "device", "options", "fmx", "0", ""]

numbers = st.one_of(
    st.integers(-3, 3), st.sampled_from([10**9, 2**63, -(10**20), 0.1, -2.5, 1e-300, 1e300]), st.floats(width=16)
)
quantities = st.builds(
    "{}{}{}".format,
    st.one_of(numbers, st.sampled_from(["", "3,5", "１", "0x3", "--1", "1e999", "nan"])),
    st.sampled_from(["", " ", "  "]),
    st.sampled_from(["K", "fs", "ps", "GPa", "eV/Å", "eV/A", "1/ps", "/fs", "bar", "K K", "°", "\n"]),
)
words = st.one_of(
    st.sampled_from(
        ["nvt", "npt", "relax", "md", "chgnet", "lj", "demo", "float16", "argon.extxyz", "no.cif", "::2", "9:"]
    ),
    st.sampled_from(["2x1x1", "0x1x1", "ase:g2", "ase:no", "../", ".", "small-cell", "cuda:9", "auto"]),
    st.text(max_size=6),
)
leaves = st.one_of(st.none(), st.booleans(), numbers, quantities, words)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of every key and item below `value`."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in inner for found in [(*path, key), *places(item, (*path, key))]]


@st.composite
def jobs(draw: st.DrawFn, values: st.SearchStrategy[Any] = values, most: int = 3) -> dict[str, Any]:
    """A good job with some values replaced, keys renamed, added or taken away."""
    job = copy.deepcopy(JOB)
    for _ in range(draw(st.integers(1, most))):
        *path, last = draw(st.sampled_from(places(job) or [("title",)]))
        owner = job
        for key in path:
            owner = owner[key]
        how = draw(st.sampled_from(["value", "value", "rename", "drop", "add"]))
        if how == "drop" and isinstance(owner, dict):
            del owner[last]
        elif how == "rename" and isinstance(owner, dict):
            owner[draw(st.sampled_from(KEYS))] = owner.pop(last)
        elif how == "add" and isinstance(owner, dict):
            owner[draw(st.sampled_from(KEYS))] = draw(values)
        else:
            owner[last] = draw(values)
    return job


def read(job: Any) -> RunSpec | None:
    """Make a run of `job`, or check what is said about it."""
    try:
        return make_spec(job)
    except InputError as error:
        text = str(error)
        assert text.strip()
        assert "Traceback" not in text
        assert max(map(len, text.splitlines())) < 600, "a message is for people"
        return None


@settings(max_examples=250, derandomize=True)
@given(job=jobs())
def test_a_job_is_a_run_that_can_be_repeated_or_a_mistake(job: dict[str, Any]) -> None:
    spec = read(job)
    event("run" if spec else "mistake")
    if spec is not None:
        assert make_spec(spec.to_job()) == spec


@settings(max_examples=80, derandomize=True)
@given(job=st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=3), numbers), values, max_size=4))
def test_a_job_of_anything(job: dict[Any, Any]) -> None:
    read(job)


@settings(max_examples=80, derandomize=True)
@given(
    text=st.one_of(st.text(max_size=40), jobs().map(yaml.safe_dump), st.binary(max_size=30)), cut=st.integers(0, 400)
)
@example(text="a: &a [*a]", cut=400)
@example(text="- " * 3000, cut=400_000)
@example(text="title: 2024-13-01", cut=400)
def test_a_file_of_anything(text: str | bytes, cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.yaml"
        file.write_bytes(text[:cut] if isinstance(text, bytes) else text[:cut].encode("utf-8", "surrogatepass"))
        try:
            assert load_job(file).structures
        except InputError as error:
            told = str(error)
            if "job.yaml" not in told:
                pytest.fail(f"no file in: {told}")


# No value here makes a run long: large numbers of steps or atoms are legal, and not what is tested.
short_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.sampled_from([0.1, 3.5, 1e300, float("nan"), float("inf"), [], {}, [1, 2], {"a": 1}]),
    st.sampled_from(["1 K", "300 bar", "2 fs", "0 fs", "5 GPa", "nvt", "nve", "lj", "demo", "float32", "2x1x1", "::2"]),
    st.sampled_from(["argon.extxyz", "no.cif", "friction", "cpu", "1e-3 1/fs", "é", "Ar"]),
)


@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(job=jobs(short_values, most=2))
def test_a_command_ends_with_a_code_that_means_something(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], job: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        write(Path(folder, "argon.extxyz"), bulk("Ar", "fcc", a=5.3, cubic=True)[:2])
        Path(folder, "job.yaml").write_text(yaml.safe_dump(job, allow_unicode=True), encoding="utf-8")
        out = Path(folder, "out")
        before = os.getcwd()
        os.chdir(folder)
        try:
            code = call(["run", "job.yaml", "-o", "out", "--quiet"])
        finally:
            os.chdir(before)
        told = capfd.readouterr().err
        event(f"exit code {code}")
        assert code in (0, 65, 69), told
        assert out.exists() == (code != 65)
        assert told.startswith("athanor: ") if code == 65 else told == ""
        for row in json.loads((out / "summary.json").read_text(encoding="utf-8")) if out.exists() else []:
            assert row["status"] == "failed" or math.isfinite(row["energy"])
