"""Columns of the table: what they say of a cell, of how a system ended, and of systems of one name."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.io import write
from rich.console import Console

import athanor
from athanor.cli.table import print_failures, print_table
from athanor.dynamics.failures import FailureCode, describe_failure
from athanor.errors import InputError
from athanor.workflows.columns import cell_columns, count_outcomes, outcome_columns, tell_apart

ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
CELL = ("a", "b", "c", "alpha", "beta", "gamma", "volume", "volume_per_atom")


def columns(atoms: Atoms) -> list[float | None]:
    return [cell_columns(atoms.cell.array, atoms.pbc, len(atoms))[name] for name in CELL]


def printed(rows: list[dict], width: int = 140) -> str:
    screen = io.StringIO()
    print_table(Console(file=screen, width=width), rows)
    return screen.getvalue()


def test_a_primitive_cell_has_its_own_lengths_and_angles() -> None:
    crystal = bulk("Ar", "fcc", a=5.2)
    edge = 5.2 / 2**0.5
    assert columns(crystal) == pytest.approx([edge] * 3 + [60.0] * 3 + [5.2**3 / 4] * 2)
    hexagonal = bulk("Ar", "hcp", a=3.7, c=6.0)
    volume = 3.7**2 * 6.0 * 3**0.5 / 2
    assert columns(hexagonal) == pytest.approx([3.7, 3.7, 6.0, 90.0, 90.0, 120.0, volume, volume / 2])


@pytest.mark.parametrize("vacuum", [8.0, 20.0])
def test_the_vacuum_of_a_slab_is_no_lattice_constant(vacuum: float) -> None:
    slab = fcc111("Ar", (1, 1, 3), a=5.2, vacuum=vacuum)
    slab.info.clear()
    edge = 5.2 / 2**0.5
    assert columns(slab) == [pytest.approx(edge)] * 2 + [None] * 3 + [pytest.approx(60.0)] + [None] * 2
    row = athanor.relax(slab, ARGON, max_steps=1).rows[0]
    assert "lattice_constant" not in row
    assert row["c"] is row["volume"] is None
    assert f"{row['a']:.3f}       60   " in printed([row])


def test_the_table_shows_lengths_once_where_they_are_equal_and_no_right_angles() -> None:
    cubic, hexagonal = bulk("Ar", "fcc", a=5.3, cubic=True), bulk("Ar", "hcp", a=3.7, c=6.0)
    table = printed(athanor.evaluate([cubic, hexagonal], ARGON).rows)
    assert re.search(r"   5\.300 {10,} 37\.219 ", table)
    assert "   3.700 3.700 6.000   90 90 120 " in table


def test_a_molecule_has_no_cell() -> None:
    assert columns(Atoms("Ar2", [[0, 0, 0], [0, 0, 3.8]])) == [None] * 8


def test_the_cell_of_a_relaxed_system_is_the_relaxed_one() -> None:
    result = athanor.relax(bulk("Ar", "fcc", a=5.2), ARGON)
    assert [result.rows[0][name] for name in CELL] == pytest.approx(columns(result.structures[0]))
    assert result.rows[0]["volume"] == pytest.approx(result.structures[0].cell.volume)


def test_a_supercell_is_told_as_it_was_run_and_compared_as_it_came(tmp_path: Path) -> None:
    bulk("Ar", "fcc", a=5.26, cubic=True).write(tmp_path / "argon.extxyz")
    job = {"structures": [{"file": tmp_path / "argon.extxyz", "compare_cell": True}], "supercell": 2, "model": ARGON}
    from athanor.workflows.run import run
    from athanor.workflows.spec import make_spec
    from athanor.workflows.structures import load_sources

    spec = make_spec(job | {"stages": [{"relax": {}}]})
    row = run(spec, load_sources(spec.structures)).rows[0]
    assert row["a"] == pytest.approx(2 * row["lattice_constant"])
    assert row["reference_lattice_constant"] == pytest.approx(5.26)
    assert "∛V / Å" in printed([row])
    assert "a b c" not in printed([row])


def test_status_is_one_word_and_its_reason_a_column_of_its_own(tmp_path: Path) -> None:
    good, bad = bulk("Ar", "fcc", a=5.0, cubic=True), bulk("Ar", "fcc", a=5.0, cubic=True)
    bad.positions[1] = bad.positions[0]
    result = athanor.relax([good, bad, good], ARGON, max_steps=1, out=tmp_path / "out")
    with (tmp_path / "out" / "summary.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["step_limit", "failed", "step_limit"]
    assert [bool(row["reason"]) for row in rows] == [False, True, False]
    assert result.reasons[1] == f"failed: {rows[1]['reason']}"
    assert result.outcomes == {"step_limit": 2, "failed": 1}
    assert "2 at the step limit, 1 failed" in repr(result)
    assert athanor.open(tmp_path / "out").failed == result.failed == [1]


def test_outcomes_in_words() -> None:
    assert outcome_columns("failed: too close: 0.1 Å") == {"status": "failed", "reason": "too close: 0.1 Å"}
    assert count_outcomes({"step_limit": 1200, "failed": 1}) == "1,201 systems: 1200 at the step limit, 1 failed"


def test_systems_of_one_name_are_told_apart(tmp_path: Path) -> None:
    files = []
    for number, layers in enumerate((3, 3, 4)):
        slab = fcc111("Ar", (1, 1, layers), a=5.26, vacuum=8)
        slab.info.clear()
        files.append(tmp_path / f"set{number}" / "slab.extxyz")
        files[-1].parent.mkdir()
        slab.write(files[-1])
    rows = athanor.relax(files, ARGON, max_steps=1, out=tmp_path / "out").rows
    assert {row["system"] for row in rows} == {"slab"}
    assert tell_apart(rows) == ["index", "formula", "file"]
    table = " ".join(printed(rows, 400).split())
    for number, (file, formula) in enumerate(zip(files, ("Ar3", "Ar3", "Ar4"), strict=True)):
        assert f"{number} {formula} {file} slab" in table
    with pytest.raises(InputError, match=r"3 systems .* by its number: 0 \(Ar3, .*set0.slab.extxyz\), 1 \(Ar3, .*set1"):
        athanor.open(tmp_path / "out").number_of("slab")
    assert tell_apart([row | {"system": str(number)} for number, row in enumerate(rows)]) == []
    assert tell_apart([row | {"file": "", "formula": "Ar3"} for row in rows]) == ["index"]


def test_frames_of_one_system_are_told_apart_by_their_times(tmp_path: Path) -> None:
    crystal = bulk("Ar", "fcc", a=5.26, cubic=True) * (2, 2, 2)
    athanor.md(crystal, ARGON, temperature=30, timestep=2, steps=11, every=5, out=tmp_path / "first")
    frames = athanor.open(tmp_path / "first").atoms(0)
    for frame in frames:
        del frame.arrays["momenta"]
    rows = athanor.relax([*frames, bulk("Ar")], ARGON, max_steps=1, out=tmp_path / "out").rows
    assert [row.get("start_time") for row in rows] == [2.0, 12.0, 22.0, None]
    assert tell_apart(rows) == ["index", "start_time"]
    assert re.search(r"\n +1 +12 +Ar32 ", printed(rows))
    with pytest.raises(InputError, match=r"3 systems .*: 0 \(from 2 fs\), 1 \(from 12 fs\), 2 \(from 22 fs\)\."):
        athanor.open(tmp_path / "out").number_of("Ar32")
    legend = [text.get_text() for text in athanor.plot(tmp_path / "out").legends[0].get_texts()]
    assert [label.partition(" (at")[0] for label in legend[:4]] == [
        "Ar32 (0, from 2 fs)", "Ar32 (1, from 12 fs)", "Ar32 (2, from 22 fs)", "Ar",
    ]  # fmt: skip
    assert tell_apart(athanor.evaluate(frames[0], ARGON).rows) == []


def test_frames_of_a_file_are_told_apart_where_their_number_does_not(tmp_path: Path) -> None:
    frames = [bulk("Ar", "fcc", a=5.2 + 0.1 * number) for number in range(4)]
    for frame in frames:
        frame.info["name"] = "argon"
    write(tmp_path / "many.extxyz", frames)
    assert tell_apart(athanor.evaluate(tmp_path / "many.extxyz", ARGON).rows) == ["index"]
    rows = athanor.relax(f"{tmp_path / 'many.extxyz'}@1::2", ARGON, max_steps=1, out=tmp_path / "out").rows
    assert tell_apart(rows) == ["index", "index_in_file"]
    assert re.search(r"\n +1 +3 +argon ", printed(rows))
    with pytest.raises(InputError, match=r"by its number: 0 \(frame 1\), 1 \(frame 3\)\."):
        athanor.open(tmp_path / "out").number_of("argon")


def test_what_explodes_stretches_no_column() -> None:
    calm = {"index": 0, "system": "Ar4", "status": "done", "energy_per_atom": -0.0842, "fmax": 99_999.0,
            "temperature": 30.2, "temperature_error": 1.2, "temperature_samples": 300}  # fmt: skip
    wild = calm | {"energy_per_atom": -1.2345e12, "fmax": 1.2345e300, "temperature": 4e9, "temperature_error": 5e8}
    table = printed([calm, wild])
    assert re.search(r"-0\.0842 +99999\.000 +30 ± 1 ", table)
    assert re.search(r"-1\.2e\+12 +1\.2e\+300 +4\.0e\+09 ± 5\.0e\+08 ", table)


def test_what_was_not_read_is_not_told_to_look_for_close_atoms(tmp_path: Path) -> None:
    (tmp_path / "bad.cif").write_text("no structure\n", encoding="utf-8")
    row = athanor.evaluate([tmp_path / "bad.cif", bulk("Ar", "fcc", a=5.3)], ARGON).rows[0]
    assert (row["status"], row["atoms"]) == ("failed", 0)
    screen = io.StringIO()
    print_failures(Console(file=screen, width=300), [row])
    assert "repair the file, or leave it out" in screen.getvalue()
    assert "on top of each other" not in screen.getvalue()


@pytest.mark.parametrize(
    ("steps", "reason", "advice"),
    [
        (0, describe_failure(FailureCode.PRESSURE_WITHOUT_CRYSTAL), "choose an ensemble such as nvt"),
        (2, describe_failure(FailureCode.CELL_NOT_FINITE), "try a longer barostat time"),
        (2, describe_failure(FailureCode.POSITIONS_NOT_FINITE), "try a shorter time step or a lower temperature"),
        (0, describe_failure(FailureCode.ATOMS_TOO_CLOSE), "on top of each other"),
    ],
)
def test_what_failed_under_pressure_gets_advice_that_fits(steps: int, reason: str, advice: str) -> None:
    row = {"system": "w", "index": 0, "atoms": 3, "steps": steps, "status": "failed", "reason": f"{reason} (MD)"}
    screen = io.StringIO()
    print_failures(Console(file=screen, width=300), [row])
    assert advice in screen.getvalue()
