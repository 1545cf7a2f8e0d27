"""Every usual mistake on the command line, one row each: what is typed, the exit code, and what the user reads.

A mistake is found before anything runs: nothing is written and no traceback is shown. What is wrong with the physics of
one system sets that system aside, and the others are what they are without it, bit by bit.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest
from ase.build import bulk, molecule
from ase.io import write

from athanor.cli.main import call

LJ = ["--model", "lennard-jones"]
for _option in ("epsilon=0.0104", "sigma=3.4", "cutoff=8.5"):
    LJ += ["--model-option", _option]
MODEL = "model: {name: lennard-jones, epsilon: 0.0104, sigma: 3.4, cutoff: 8.5}\n"
FILES = "structures: [argon.extxyz]\n"
STAGES = "stages:\n  - md: {steps: 2, temperature: 30}\n"
CELL = 'Lattice="6 0 0 0 6 0 0 0 6" pbc="T T T" '


def extxyz(line: str, header: str = CELL, columns: str = "species:S:1:pos:R:3") -> str:
    return f"2\n{header}Properties={columns}\nAr 3 3 3{' 0' * (len(line.split()) - 4)}\n{line}\n"


BAD_FILES: dict[str, str | bytes] = {
    "empty.xyz": "",
    "binary.xyz": b"\x00\x01\x02\xff" * 50,
    "garbled.cif": bytes(range(1, 255)) * 3,
    "short.extxyz": "4\nfour atoms are promised\nAr 0 0 0\n",
    "late.extxyz": "1\n\nAr 0 0 0\n1\n\nAr 0 0 zero\n",
    "words.unknown": "what is this\n",
    "half.vasp": "Ar\n1.0\n",
    "element.xyz": "2\n\nAr 0 0 0\nQq 0 0 3.7\n",
    "dummy.extxyz": extxyz("X 0 0 0"),
    "nan.extxyz": extxyz("Ar nan 0 3"),
    "infinite.extxyz": extxyz("Ar 0 inf 3"),
    "momenta.extxyz": extxyz("Ar 0 0 0 nan 0 0", columns="species:S:1:pos:R:3:momenta:R:3"),
    "massless.extxyz": extxyz("Ar 0 0 0 0", columns="species:S:1:pos:R:3:masses:R:1"),
    "charge.extxyz": extxyz("Ar 0 0 0", header=CELL + "charge=0.5 "),
    "no-cell.extxyz": extxyz("Ar 0 0 0", header='pbc="T T T" '),
    "flat.extxyz": extxyz("Ar 0 0 0", header='Lattice="6 0 0 0 6 0 6 6 0" pbc="T T T" '),
    "nothing.xyz": "0\n\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good structures, bad ones, earlier results, and things that are in the way; no test changes it."""
    path = tmp_path_factory.mktemp("mistakes")
    for name, content in BAD_FILES.items():
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    crystals = [bulk("Ar", "fcc", a=a, cubic=True) for a in (5.2, 5.3, 5.4)]
    for number, atoms in enumerate(crystals):
        atoms.rattle(0.02, seed=number)
    write(path / "argon.extxyz", crystals)
    write(path / "water.xyz", molecule("H2O"))
    (path / "folder").mkdir()
    (path / "file").write_text("in the way", encoding="utf-8")
    (path / "thesis").mkdir()
    (path / "thesis/chapter.tex").write_text("precious", encoding="utf-8")
    (path / "other").mkdir()
    (path / "other/run.yaml").write_text("program: another\n", encoding="utf-8")
    (path / "damaged").mkdir()
    (path / "damaged/run.yaml").write_text("athanor: '1'\njob: [", encoding="utf-8")
    assert call(["relax", str(path / "argon.extxyz"), "-o", str(path / "done"), "--max-steps", "2", "-q", *LJ]) == 0
    return path


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below `folder` with size and time, to see that nothing was written."""
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


class Mistake(NamedTuple):
    """What is typed, and words of the answer, in order."""

    command: list[str]
    words: str
    code: int = 65


def relax(*arguments: str, model: list[str] = LJ) -> list[str]:
    return ["relax", *arguments, "-o", "out", "--max-steps", "2", *model]


def md(*arguments: str) -> list[str]:
    length = [] if {"--steps", "--time"} & set(arguments) else ["--steps", "2"]
    return ["md", "argon.extxyz", "-o", "out", *length, *arguments, *LJ]


def with_option(option: str, model: list[str] = LJ) -> list[str]:
    return relax("argon.extxyz", model=[*model, "--model-option", option])


STRUCTURES = {
    "empty file": Mistake(relax("empty.xyz"), r"`empty\.xyz` is empty"),
    "binary file": Mistake(relax("binary.xyz"), r"`binary\.xyz` is not text"),
    "garbled file": Mistake(relax("garbled.cif"), r"`garbled\.cif` (can not be read|is not text)"),
    "file cut short": Mistake(relax("short.extxyz"), r"`short\.extxyz` can not be read: .*1 atoms, expected 4"),
    "second frame garbled": Mistake(
        relax("late.extxyz", "--strict"), r"Frame 1 of `late\.extxyz` can not be read: .*'zero'"
    ),
    "half a file": Mistake(relax("half.vasp"), r"`half\.vasp` can not be read as \.vasp: its content does not fit"),
    "unknown ending": Mistake(relax("words.unknown"), r"`words\.unknown` has an ending .* Convert it to extended XYZ"),
    "missing file": Mistake(relax("no.cif"), r"`no\.cif` does not exist\. .*current folder"),
    "folder as a file": Mistake(relax("folder"), r"`folder` is a folder; .*`folder/\*`"),
    "frame that is not there": Mistake(relax("argon.extxyz@7"), r"`index=7` is out of range: .* has 3 frames"),
    "unknown element": Mistake(relax("element.xyz"), r"`element\.xyz` has the element `Qq` in line 4"),
    "dummy atom": Mistake(relax("dummy.extxyz"), r"system 0 \(dummy, frame 0 .*\): atom 1 is `X`.* no element"),
    "position NaN": Mistake(
        relax("argon.extxyz", "nan.extxyz", "--strict"),
        r"system 3 \(nan, frame 0 of `nan\.extxyz`\): atom 1 \(Ar\) has positions \(nan, 0, 3\).*finite",
    ),
    "position infinite": Mistake(relax("infinite.extxyz"), r"atom 1 \(Ar\) .*positions \(0, inf, 3\)"),
    "momentum NaN": Mistake(relax("momenta.extxyz"), r"atom 1 \(Ar\) .*momenta \(nan, 0, 0\)"),
    "mass zero": Mistake(relax("massless.extxyz"), r"system 0 \(massless, frame 0 of .*mass.* 0"),
    "periodic without a cell": Mistake(relax("no-cell.extxyz"), r"periodic along a, b, c, .*no volume.*`pbc` to False"),
    "cell without volume": Mistake(relax("flat.extxyz"), r"\(flat, frame 0 of `flat\.extxyz`\): .*cell has no volume"),
    "zero atoms": Mistake(relax("nothing.xyz"), r"Frame 0 of `nothing\.xyz` has no atoms"),
    "supercell of a molecule": Mistake(
        relax("water.xyz", "--supercell", "2x2x2"), r"\(water, .*supercell.*not periodic"
    ),
    "supercell of billions": Mistake(
        relax("argon.extxyz", "--supercell", "9999"), "system 0 .* 3,998,.* atoms of it.*Use fewer"
    ),
}
MODELS = {
    "unknown model": Mistake(relax("argon.extxyz", model=["--model", "lenard-jones"]), "Did you mean `lennard-jones`"),
    "options missing": Mistake(
        relax("argon.extxyz", model=LJ[:2]), "needs `epsilon`, `sigma`, `cutoff`.*--model-option epsilon=VALUE"
    ),
    "option misspelt": Mistake(with_option("epsilonn=1"), "no option `epsilonn`. Did you mean `epsilon`"),
    "option without value": Mistake(with_option("cutoff"), "KEY=VALUE"),
    "option without model": Mistake(with_option("cutoff=3", []), "--model-option needs --model"),
    "cutoff zero": Mistake(with_option("cutoff=0"), r"'lennard-jones': `cutoff` is 0\.0 Å; .*positive"),
    "cutoff negative": Mistake(with_option("cutoff=-3"), r"`cutoff` is -3\.0 Å; .*positive"),
    "cutoff a word": Mistake(with_option("cutoff=wide"), "`cutoff` is 'wide'; .*number"),
    "no stress for a cell": Mistake(
        relax("argon.extxyz", model=["--model", "demo"]), r"Demo computes no stress.*system 0 \(argon:0.*--fixed-cell"
    ),
    "molecule, default model": Mistake(relax("water.xyz", model=[]), r"system 0 \(water.*not periodic.*--model"),
    "device that is not there": Mistake(relax("argon.extxyz", "--device", "cuda:77"), r"cuda:77.*not there.*cpu"),
}
VALUES = {
    "wrong unit": Mistake(md("--temperature", "300bar"), "--temperature.*'300bar' has the unit 'bar'.*use K"),
    "temperature negative": Mistake(md("--temperature", "-5"), "--temperature.*positive; got -5 K"),
    "temperature NaN": Mistake(md("--temperature", "nan"), "--temperature.*'nan' is not a temperature.*300 K"),
    "temperature infinite": Mistake(md("--temperature", "inf"), "--temperature.*'inf' is not a temperature"),
    "temperature absurd": Mistake(md("--temperature", "1e300"), "--temperature.*beyond any temperature"),
    "timestep zero": Mistake(md("--timestep", "0"), "--timestep.*positive"),
    "timestep negative": Mistake(md("--timestep", "-1 fs"), "--timestep.*positive"),
    "timestep NaN": Mistake(md("--timestep", "nan"), "--timestep.*not a time"),
    "timestep infinite": Mistake(md("--timestep", "inf fs"), "--timestep.*not a time"),
    "friction negative": Mistake(md("--friction", "-0.1"), "--friction.*positive; got -0.1"),
    "ensemble unknown": Mistake(md("--ensemble", "anvil"), "--ensemble.*'nvt'.*'nve'"),
    "steps zero": Mistake(md("--steps", "0"), "--steps.*1; got .0"),
    "steps negative": Mistake(md("--steps", "-3"), "--steps.*1; got .-3"),
    "steps a word": Mistake(md("--steps", "many"), "--steps.*integer"),
    "time and steps": Mistake(md("--time", "1ps", "--steps", "2"), "`time` or `steps`, not both"),
    "time endless": Mistake(md("--time", "1e15", "--timestep", "1e-300"), "time"),
    "fmax zero": Mistake(relax("argon.extxyz", "--fmax", "0"), "--fmax.*positive"),
    "fmax negative": Mistake(relax("argon.extxyz", "--fmax", "-1"), "--fmax.*positive"),
    "fmax NaN": Mistake(relax("argon.extxyz", "--fmax", "nan"), "--fmax.*not a force.*eV/Å"),
    "pressure absurd": Mistake(relax("argon.extxyz", "--pressure", "10 eV/A3"), "--pressure.*1602.*GPa.*at most 1000"),
    "pressure a list": Mistake(relax("argon.extxyz", "--pressure", "[1, 2, 3]"), "--pressure.*not a pressure.*GPa"),
    "max-atoms zero": Mistake(md("--max-atoms", "0"), "--max-atoms.*1; got .0"),
    "threads zero": Mistake(md("--threads", "0"), "--threads.*1; got .0"),
    "threads absurd": Mistake(md("--threads", "1000000"), "1,000,000 threads.*cores"),
    "every zero": Mistake(md("--every", "0"), "--every.*1; got .0"),
    "seed negative": Mistake(md("--seed", "-1"), "--seed.*0; got .-1"),
    "dtype unknown": Mistake(md("--dtype", "float16"), "--dtype.*'float32' or 'float64'"),
    "silence unknown": Mistake(md("--silence", "everything"), "--silence.*small-cell"),
    "option unknown": Mistake(md("--tempertaure", "3"), "No such option.*--temp"),
    "command unknown": Mistake(["relaxe", "argon.extxyz"], "No such command.*relax"),
    "no structures": Mistake(["relax", "-o", "out"], "Missing argument"),
}
PLACES = {
    "OUT exists": Mistake(["relax", "argon.extxyz", "-o", "done", *LJ], "`done` exists.*--overwrite"),
    "OUT is a file": Mistake(["relax", "argon.extxyz", "-o", "file", *LJ], "`file` is a file"),
    "OUT holds other files": Mistake(
        ["relax", "argon.extxyz", "-o", "thesis", "--overwrite", *LJ], r"not look like a results.*chapter\.tex"
    ),
    "OUT of another program": Mistake(
        ["relax", "argon.extxyz", "-o", "other", "--overwrite", *LJ], r"run\.yaml is of another program"
    ),
    "OUT holds the input": Mistake(
        ["relax", "done/final.extxyz", "-o", "done", "--overwrite", *LJ], r"`done/final\.extxyz` is read.*--overwrite"
    ),
    "OUT holds the input, through a detour": Mistake(
        ["relax", "folder/../done/final.extxyz", "-o", "./done/", "--overwrite", *LJ], "lies in `done`"
    ),
    "OUT below a file": Mistake(["relax", "argon.extxyz", "-o", "file/out", *LJ], "`file/out` can not be written", 74),
    "show nothing": Mistake(["show", "nowhere"], "`nowhere`.*does not exist"),
    "show a file": Mistake(["show", "file"], "`file`.*is a file"),
    "show an empty folder": Mistake(["show", "folder"], r"`folder`.*has no `run\.yaml`"),
    "show another program": Mistake(["show", "other"], r"`other/run\.yaml` was not written by athanor", 74),
    "show a damaged run": Mistake(["show", "damaged"], r"`damaged/run\.yaml` can not be read", 74),
    "show the trajectory": Mistake(["show", "done/trajectory.zarr"], r"trajectory\.zarr"),
}
ALL = STRUCTURES | MODELS | VALUES | PLACES


@pytest.mark.parametrize("name", ALL)
def test_a_mistake(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    command, words, code = ALL[name]
    monkeypatch.chdir(folder)
    before = snapshot(folder)
    found = call(command)
    told = capsys.readouterr()
    assert found == code, told.err
    assert told.err.startswith("athanor: ")
    assert re.search(words, told.err, re.DOTALL), told.err
    assert "Traceback" not in told.err + told.out
    assert told.out == ""
    assert snapshot(folder) == before


JOBS = {
    "empty job": ("", r"job\.yaml` is empty; a job is a mapping"),
    "job of comments": ("# later\n", r"is empty; a job is a mapping"),
    "job is a list": ("- relax\n- md\n", "holds a list; a job is a mapping"),
    "job is text": ("relax everything", "holds only text"),
    "not text": ("\x00\x01", "is not text"),
    "no structures": (MODEL + STAGES, "`structures` is missing.*- file:"),
    "structures empty": ("structures: []\n" + MODEL + STAGES, "`structures` is missing"),
    "structure misspelt": ("structures: [{fil: a.cif}]\n" + STAGES, "line 1.*`structures.0..fil`.*Did you mean `file`"),
    "no stages": (FILES + MODEL, "`stages` is missing"),
    "stages empty": (FILES + MODEL + "stages: []\n", "line 3.*at least one stage"),
    "stages nothing": (FILES + MODEL + "stages:\n", "line 3.*stages"),
    "stage unknown": (FILES + "stages:\n  - bake: {steps: 3}\n", "'bake'; use `relax` or `md`"),
    "two stages in one": (FILES + "stages:\n  - {md: {steps: 3}, relax: {}}\n", "has the keys md, relax"),
    "n steps missing": (FILES + MODEL + "stages:\n  - md: {temperature: 3}\n", "line 4.*steps.*is missing"),
    "unknown key": (FILES + MODEL + STAGES + "sed: 1\n", r"job\.yaml`, line 5: `sed`.*Did you mean `seed`"),
    "unknown key of a stage": (
        FILES + MODEL + "stages:\n  - md:\n      steps: 3\n      temprature: 3\n", "line 6.*temprature.*`temperature`",
    ),
    "wrong unit": (FILES + "stages:\n  - md: {steps: 3, timestep: 1 GPa}\n", "line 3.*timestep.*'GPa'.*fs"),
    "wrong type": (FILES + "stages:\n  - md: {steps: many}\n", "line 3.*steps.*integer.*'many'"),
    "steps in fractions": (FILES + "stages:\n  - md: {steps: 3.5}\n", "line 3.*steps.*3.5"),
    "steps true": (FILES + "stages:\n  - md: {steps: true}\n", "line 3.*steps.*True"),
    "pressure a list": (FILES + "stages:\n  - relax: {pressure: [1, 2, 3]}\n", r"line 3.*pressure.*\[1, 2, 3\]"),
    "model in a list a number": (FILES + "model: [lj, 3]\n" + STAGES, "line 2.*model"),
    "model an empty list": (FILES + "model: []\n" + STAGES, "line 2.*model.*empty"),
    "model without a name": (FILES + "model: {cutoff: 3}\n" + STAGES, "line 2.*model.*name"),
    "bad indentation": (FILES + "stages:\n   - relax\n  - md: {steps: 1}\n", "line 4, column 3: not valid YAML"),
    "tabs": (FILES + "stages:\n\t- relax\n", "line 3, column 1: not valid YAML"),
    "tag": (FILES + "title: !!python/object/apply:os.system [ls]\n", "line 2, column 8: .*python/object"),
    "key twice": (FILES + STAGES + "seed: 1\nseed: 2\n", "line 5: `seed` is there twice, first in line 4"),
    "nested in itself": (FILES + "stages: &x\n  - relax\n  - *x\n", "line 2|line 4"),
}  # fmt: skip


@pytest.mark.parametrize("name", JOBS)
def test_a_mistake_in_a_job(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    text, words = JOBS[name]
    monkeypatch.chdir(folder)
    (folder / "job.yaml").write_text(text, encoding="utf-8")
    before = snapshot(folder)
    found = call(["run", "job.yaml", "-o", "out"])
    told = capsys.readouterr()
    assert found == 65, told.err
    assert told.err.startswith("athanor: `job.yaml`")
    assert re.search(words, told.err, re.DOTALL), told.err
    assert "Traceback" not in told.err
    assert snapshot(folder) == before


@pytest.mark.parametrize("job", ["no.yaml", "folder", "garbled.cif"])
def test_what_is_no_job(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], job: str
) -> None:
    monkeypatch.chdir(folder)
    assert call(["run", job]) == 65
    assert f"`{job}`" in capsys.readouterr().err
