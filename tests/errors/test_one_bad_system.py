"""One bad system among good ones: it is set aside with its reason, exit code 69, and the others keep their bits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read, write

from athanor.cli.main import call

ARGON = ["--model", "lennard-jones"]  # with parameters for argon alone
for _option in ("epsilon={18: 0.0104}", "sigma={18: 3.4}", "cutoff=8.5"):
    ARGON += ["--model-option", _option]


def crystal(number: int) -> Atoms:
    atoms = bulk("Ar", "fcc", a=5.2 + 0.1 * number, cubic=True)
    atoms.rattle(0.05, seed=number)
    return atoms


def on_top_of_each_other() -> Atoms:
    atoms = crystal(0)
    atoms.positions[1] = atoms.positions[0]
    return atoms


def other_element() -> Atoms:
    return bulk("Ne", "fcc", a=4.4, cubic=True)


BAD = {
    "atoms on top of each other": (on_top_of_each_other, "NaN or infinite|closer than the model allows"),
    "element outside the model": (other_element, "an element that the model does not know"),
}


def results(out: str) -> tuple[list[dict[str, Any]], list[Atoms]]:
    return json.loads(Path(out, "summary.json").read_text(encoding="utf-8")), read(f"{out}/final.extxyz", ":")


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("command", ["relax --max-steps 20", "md --steps 20 -T 30"])
def test_it_is_set_aside_and_the_others_keep_their_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, command: str
) -> None:
    make, reason = BAD[name]
    monkeypatch.chdir(tmp_path)
    write("good.extxyz", [crystal(1), crystal(2)])
    write("bad.extxyz", make())
    assert call([*command.split(), "good.extxyz", "-o", "alone", *ARGON]) == 0
    capsys.readouterr()
    assert call([*command.split(), "good.extxyz", "bad.extxyz", "-o", "together", *ARGON]) == 69
    screen = capsys.readouterr()
    assert "1 failed" in screen.out
    assert "bad (frame 0 of bad.extxyz) failed after step 0: " in " ".join(screen.out.split())
    assert "Traceback" not in screen.err
    rows, structures = results("together")
    expected_rows, expected = results("alone")
    assert rows[:2] == expected_rows
    assert np.array_equal([atoms.positions for atoms in structures[:2]], [atoms.positions for atoms in expected])
    assert [atoms.get_potential_energy() for atoms in structures[:2]] == [
        atoms.get_potential_energy() for atoms in expected
    ]
    assert rows[2]["status"] == "failed"
    assert re.search(reason, rows[2]["reason"])
    assert call(["show", "together"]) == 0
    assert "failed after step 0" in capsys.readouterr().out


def test_all_may_be_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write("bad.extxyz", [make() for make, _ in BAD.values()])
    assert call(["relax", "bad.extxyz", "-o", "out", *ARGON]) == 69
    assert "2 systems: 2 failed" in capsys.readouterr().out
    assert len(read("out/final.extxyz", ":")) == 2


def test_a_left_handed_cell_is_legal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    right = crystal(1)
    left = Atoms(right.symbols, right.positions[:, [1, 0, 2]], cell=right.cell.array[[1, 0, 2]][:, [1, 0, 2]], pbc=True)
    left.set_cell(left.cell.array[[1, 0, 2]])
    assert left.cell.volume > 0
    assert np.linalg.det(left.cell.array) < 0
    write("both.extxyz", [right, left])
    assert call(["relax", "both.extxyz", "-o", "out", "-q", *ARGON]) == 0
    rows, _ = results("out")
    assert rows[0]["energy"] == pytest.approx(rows[1]["energy"], abs=1e-9)
    assert rows[0]["volume"] == pytest.approx(rows[1]["volume"], rel=1e-6)
