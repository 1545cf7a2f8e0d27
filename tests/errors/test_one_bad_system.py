"""One bad system among good ones: it is set aside with its reason, exit code 69, and the others keep their bits."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, graphene, nanotube
from ase.constraints import FixBondLength
from ase.io import read, write

import athanor
from athanor.cli.main import call
from athanor.data import AtomicData, Batch
from athanor.dynamics import NVE, BaseDynamics, FailureCode, explain_failure
from athanor.errors import InputError, SimulationError
from athanor.models.lj import LennardJonesModelWrapper
from athanor.testing.dynamics_contract import argon_model, with_neighbor_hooks

ARGON = ["--model", "lennard-jones"]  # with parameters for argon alone
for _option in ("epsilon={18: 0.0104}", "sigma={18: 3.4}", "cutoff=8.5"):
    ARGON += ["--model-option", _option]
CELL = 'Lattice="6 0 0 0 6 0 0 0 6" pbc="T T T" '
CIF = (
    "data_x\n_cell_length_a 5.3\n_cell_length_b 5.3\n_cell_length_c 5.3\n_cell_angle_alpha 90\n_cell_angle_beta 90\n"
    "_cell_angle_gamma 90\n_symmetry_space_group_name_H-M 'P 1'\nloop_\n_atom_site_label\n_atom_site_type_symbol\n"
    "_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n_atom_site_occupancy\nAr1 Ar 0 0 0 {}\n"
)


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


def thin() -> Atoms:
    atoms = crystal(0)
    atoms.set_cell([5.2, 5.2, 5e-7], scale_atoms=True)
    return atoms


def dense(number: int, side: float, pbc: bool) -> Atoms:
    positions = np.random.default_rng(1).random((number, 3)) * side
    return Atoms(f"Ar{number}", positions=positions, cell=[side] * 3, pbc=pbc)


def not_a_number() -> Atoms:
    atoms = crystal(0)
    atoms.positions[2, 1] = np.nan
    return atoms


def constrained() -> Atoms:
    atoms = crystal(0)
    atoms.set_constraint(FixBondLength(0, 1))
    return atoms


BAD = {
    "atoms on top of each other": (on_top_of_each_other, "NaN or infinite|closer than the model allows"),
    "element outside the model": (other_element, "an element that the model does not know"),
}
BEFORE_IT_RUNS: dict[str, tuple[str | bytes | Callable[[], Atoms], str]] = {
    "empty.xyz": ("", "is empty"),
    "binary.xyz": (b"\x00\x01\x02\xff" * 50, "is not text"),
    "words.unknown": ("what is this\n", "ASE does not know"),
    "short.extxyz": ("4\nfour atoms\nAr 0 0 0\n", "1 atoms, expected 4"),
    "billion.extxyz": ("1000000000\nmany\nAr 0 0 0\n", "1 atoms, expected 1000000000"),
    "element.xyz": ("1\n\nQq 0 0 0\n", "the element `Qq` in line 3, which does not exist"),
    "label.xyz": ("1\n\nAr1 0 0 0\n", "the label `Ar1` in line 3 .*Write `Ar`"),
    "number.xyz": ("1\n\n18 0 0 0\n", r"the number 18 \(Ar\) in line 3 .*`Properties=Z:I:1:pos:R:3`"),
    "dummy.extxyz": (f"1\n{CELL}\nX 0 0 0\n", "`X`, which is no element"),
    "half.vasp": ("Ar\n1.0\n", "its content does not fit"),
    "partly.cif": (CIF.format("0.6"), r"partly occupied sites \(Ar 0\.6\)"),
    "unknown.cif": (CIF.format("?"), r"partly occupied sites \(Ar \?\).*write 1 where a site is full"),
    "no-cell.extxyz": ('1\npbc="T T T"\nAr 0 0 0\n', "its cell has no volume"),
    "flat.extxyz": ('1\nLattice="6 0 0 0 6 0 6 6 0" pbc="T T T"\nAr 0 0 0\n', "its cell has no volume"),
    "massless.extxyz": (f"1\n{CELL}Properties=species:S:1:pos:R:3:masses:R:1\nAr 0 0 0 0\n", "a mass is positive"),
    "nan.extxyz": (not_a_number, r"atom 2 \(Ar\) has positions \(.*nan"),
    "thin.extxyz": (thin, "its cell is too flat for pairs within"),
    "crowd.extxyz": (lambda: dense(60, 2.0, pbc=True), "its 60 atoms are too dense: about 2.,... neighbours"),
    "cloud.extxyz": (lambda: dense(30_000, 8.0, pbc=False), "its 30,000 atoms are too dense"),
    "neon.extxyz": (other_element, r"an element that the model does not know: Ne \(Z = 10\), atom 0"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(name: str) -> str:
    """Write a bad file, and return what is said of it."""
    content, reason = BEFORE_IT_RUNS[name]
    if callable(content):
        write(name, content())
    else:
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return reason


def frames(path: str) -> list[Atoms]:
    """What ASE reads, whose files are in the encoding of the locale unless it gets them open."""
    with open(path, encoding="utf-8") as file:
        return read(file, ":", format="extxyz")


def results(out: str) -> tuple[list[dict[str, Any]], list[Atoms]]:
    return json.loads(Path(out, "summary.json").read_text(encoding="utf-8")), frames(f"{out}/final.extxyz")


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("command", ["relax --max-steps 20", "md --steps 20 -T 30"])
def test_it_is_set_aside_and_the_others_keep_their_bits(
    capsys: pytest.CaptureFixture[str], name: str, command: str
) -> None:
    make, reason = BAD[name]
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


def test_those_that_can_not_be_used_are_rows_wherever_they_stand() -> None:
    reasons = {name: put(name) for name in BEFORE_IT_RUNS}
    write("one.extxyz", crystal(1))
    write("two.extxyz", crystal(2))
    relax = ["relax", "--max-steps", "3", "-q", *ARGON]
    assert call([*relax, "one.extxyz", "two.extxyz", "-o", "alone"]) == 0
    files = [*reasons]
    files[12:12], files[3:3] = ["two.extxyz"], ["one.extxyz"]
    assert call([*relax, *files, "-o", "out"]) == 69
    rows, structures = results("out")
    assert [row["index"] for row in rows] == [*range(len(files))]
    assert [row["file"] for row in rows] == files
    good = {files.index(name): place for place, name in enumerate(("one.extxyz", "two.extxyz"))}
    expected_rows, expected = results("alone")
    for index, (row, atoms) in enumerate(zip(rows, structures, strict=True)):
        if index in good:
            assert row | {"index": good[index], "system_id": good[index]} == expected_rows[good[index]]
            assert np.array_equal(atoms.positions, expected[good[index]].positions)
        else:
            assert row["status"] == "failed"
            assert re.search(reasons[row["file"]], row["reason"]), row["reason"]
            assert (row["index_in_file"], row["steps"]) == (0, 0)
            assert atoms.info["source_file"] == row["file"]
            assert atoms.calc is None


@pytest.mark.parametrize("name", BEFORE_IT_RUNS)
def test_alone_or_with_strict_it_is_refused_before_anything_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    reason = put(name)
    write("good.extxyz", crystal(1))
    for command in (["md", "--steps", "2", "-o", "out", name], ["evaluate", "good.extxyz", name, "--strict"]):
        assert call([*command, *ARGON]) == 65
        told = capsys.readouterr()
        assert re.search(reason, told.err, re.DOTALL), told.err
        assert told.out == ""
        assert not Path("out").exists()


def test_a_constraint_that_is_not_known_matters_to_what_moves() -> None:
    given, model = [crystal(1), constrained()], argon_model()
    assert athanor.evaluate(given, model).reasons == ["done", "done"]
    for run in (athanor.relax, partial(athanor.md, steps=2, silence=["small-cell"])):
        result = run(given, model)
        assert not result.reasons[0].startswith("failed")
        assert re.match("failed: .*FixBondLength.*only FixAtoms is known", result.reasons[1])
        with pytest.raises(InputError, match=r"^system 1 \(Ar4\): .*FixBondLength"):
            run(given, model, strict=True)
    with pytest.raises(InputError, match="FixBondLength"):
        athanor.relax([constrained()], model)


def test_a_job_says_that_it_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    write("bad.extxyz", [crystal(1), other_element()])
    job = (
        "structures: [bad.extxyz]\nmodel: {name: lennard-jones, epsilon: {18: 0.01}, sigma: {18: 3.4}, cutoff: 8.5}\n"
        "stages: [{md: {steps: 1, temperature: 3}}]\n"
    )
    Path("job.yaml").write_text(job, encoding="utf-8")
    assert call(["run", "job.yaml", "-o", "out", "-q"]) == 69
    assert call(["run", "job.yaml", "--check"]) == 0
    assert re.search(r"system 1 \(.*bad.extxyz.*\) would be set aside: it holds an element", capsys.readouterr().out)
    Path("job.yaml").write_text(job + "strict: true\n", encoding="utf-8")
    assert call(["run", "job.yaml", "-o", "other"]) == 65
    assert "Ne (Z = 10)" in capsys.readouterr().err


LABELS: dict[str, Callable[[Atoms], Any]] = {
    "spin": lambda atoms: atoms.info.update(spin=0),
    "charge": lambda atoms: atoms.info.update(charge=0.3),
    "charge of words": lambda atoms: atoms.info.update(charge="neutral"),
    "partial charges": lambda atoms: atoms.set_initial_charges([0.05, 0, 0, 0]),
    "vector moments": lambda atoms: atoms.set_initial_magnetic_moments(np.eye(4, 3)),
    "a stress of words": lambda atoms: atoms.info.update(stress="large"),
    "a step of words": lambda atoms: atoms.info.update(step="third"),
    "occupancy of another meaning": lambda atoms: atoms.info.update(occupancy="full"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_the_model_does_not_read_never_stop_a_run(name: str) -> None:
    labelled = crystal(1)
    LABELS[name](labelled)
    given = {key: labelled.info[key] for key in ("charge", "spin") if key in labelled.info}
    given |= {key: labelled.arrays[key] for key in labelled.arrays if key.startswith("initial")}
    for run in (athanor.evaluate, athanor.relax):
        result = run([labelled, crystal(1)], argon_model())
        assert result.failed == []
        assert result.energies[0] == result.energies[1]
        back = {**result.structures[0].info, **result.structures[0].arrays}
        assert all(np.array_equal(back[key], value) for key, value in given.items())


class Charged(LennardJonesModelWrapper):
    """Reads the charge of a system."""

    def __init__(self) -> None:
        super().__init__(0.0104, 3.4, 8.5)
        self.model_config = self.model_config.model_copy(update={"optional_inputs": frozenset({"charge"})})


def test_labels_that_the_model_reads_set_their_system_aside() -> None:
    labelled = crystal(1)
    labelled.info["charge"] = 0.3
    result = athanor.evaluate([labelled, crystal(2)], Charged())
    assert result.failed == [0]
    assert "`info['charge']` is 0.3; it must be an integer" in result.reasons[0]


def test_a_model_that_raises_sets_that_system_aside() -> None:
    calls: list[tuple[Any, dict[str, Any]]] = [(athanor.evaluate, {}), (athanor.relax, {"max_steps": 3})]
    for run, more in [*calls, (athanor.md, {"steps": 3, "temperature": 5, "silence": ["small-cell"]})]:
        plain = run([crystal(1), crystal(2)], Fragile(), **more)
        result = run([crystal(1), crystal(2), other_element()], Fragile(), **more)
        assert result.reasons[2].startswith("failed: the model raised an error: KeyError: 'no parameters for Z = 10'")
        assert result.energies[:2] == plain.energies
    with pytest.raises(InputError, match="KeyError: 'no parameters for Z = 10'") as caught:
        athanor.relax(other_element(), Fragile())
    assert isinstance(caught.value.__cause__, KeyError)


class Fragile(LennardJonesModelWrapper):
    """Has no card that says what it knows, and raises what Python raises."""

    def __init__(self, at: int = 10) -> None:
        super().__init__(0.0104, 3.4, 8.5)
        self.at = at

    def forward(self, data: Any, **kwargs: Any) -> Any:
        if bool((data.atomic_numbers == self.at).any()):
            raise KeyError(f"no parameters for Z = {self.at}")
        return super().forward(data, **kwargs)


def batch_of(*structures: Atoms) -> Batch:
    return Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in structures])


def test_in_an_engine_too_and_in_the_middle_of_a_run() -> None:
    class Later(Fragile):
        def forward(self, data: Any, **kwargs: Any) -> Any:
            self.at = 10 if bool((data.step >= 2).any()) else 0
            return super().forward(data, **kwargs)

    whole = with_neighbor_hooks(NVE(Fragile(), dt=1.0)).run(batch_of(crystal(1), crystal(2)), 5)
    engine = with_neighbor_hooks(NVE(Later(), dt=1.0))
    batch = engine.run(batch_of(crystal(1), other_element(), crystal(2)), 5)
    assert batch.failure_code.flatten().tolist() == [0, FailureCode.MODEL_RAISED, 0]
    assert batch.failure_step.flatten().tolist() == [-1, 3, -1]
    assert batch.step.flatten().tolist() == [5, 2, 5]
    assert torch.equal(batch.index_select([0, 2]).positions, whole.positions)
    assert "KeyError" in explain_failure(batch, 1, notes=engine.failure_notes)
    with pytest.raises(KeyError):
        with_neighbor_hooks(NVE(Later(), dt=1.0, on_error="raise")).run(batch_of(crystal(1), other_element()), 5)


class Counting(LennardJonesModelWrapper):
    """Counts the atoms that it was asked about."""

    def __init__(self) -> None:
        super().__init__(0.0104, 3.4, 8.5)
        self.model_card = argon_model().model_card.__class__(minimum_distance=0.5)
        self.asked = 0

    def forward(self, data: Any, **kwargs: Any) -> Any:
        self.asked += data.num_nodes
        return super().forward(data, **kwargs)


def test_distances_and_densities_are_looked_at_before_the_model_is_asked() -> None:
    bad = {"close": on_top_of_each_other(), "crowd": dense(60, 2.0, pbc=True), "thin": thin()}
    for atoms in bad.values():
        model = Counting()
        batch = batch_of(atoms, crystal(1))
        with_neighbor_hooks(BaseDynamics(model, n_steps=0)).run(batch)
        assert batch.failure_code[0] > 0
        assert batch.failure_code[1] == 0
        assert model.asked == 4
        with pytest.raises(SimulationError):
            with_neighbor_hooks(BaseDynamics(Counting(), n_steps=0, on_error="raise")).run(batch_of(atoms))


@pytest.mark.parametrize("make", [lambda: graphene("C2", a=4.2), lambda: nanotube(4, 0, bond=2.2)])
def test_sheets_and_tubes_as_ase_builds_them(make: Callable[[], Atoms]) -> None:
    atoms = make()
    atoms.symbols[:] = "Ar"
    unset = ~atoms.cell.array.any(axis=1)
    wide = atoms.copy()
    wide.set_cell(atoms.cell.complete().array * np.where(unset, 60.0, 1.0)[:, None])
    result = athanor.evaluate([atoms, wide], argon_model())
    assert result.energies[0] == pytest.approx(result.energies[1], abs=1e-9)
    bare, boxed = (found.get_forces() for found in result.structures)
    assert np.allclose(bare, boxed, atol=1e-9)
    relaxed = athanor.relax(atoms, argon_model(), max_steps=2).structures[0]
    assert not relaxed.cell.array[unset].any()
    assert not np.allclose(relaxed.cell.array, atoms.cell.array)


def test_the_box_of_a_molecule_comes_back() -> None:
    dimer = Atoms("Ar2", positions=[[5, 5, 5], [5, 5, 8.9]], cell=[10, 11, 12])
    for run in (athanor.relax, partial(athanor.md, steps=2, silence=["small-cell"]), athanor.evaluate):
        assert run(dimer, argon_model()).structures[0].cell.lengths().tolist() == [10, 11, 12]


def test_all_may_be_bad(capsys: pytest.CaptureFixture[str]) -> None:
    write("bad.extxyz", [make() for make, _ in BAD.values()])
    assert call(["relax", "bad.extxyz", "-o", "out", *ARGON]) == 69
    assert "2 systems: 2 failed" in capsys.readouterr().out
    assert len(frames("out/final.extxyz")) == 2


def test_a_mistake_in_an_argument_refuses_everything(capsys: pytest.CaptureFixture[str]) -> None:
    write("good.extxyz", crystal(1))
    os.symlink("nowhere", "dangling.xyz")
    for wrong in ("no.xyz", "good.extxyz@7", "."):
        assert call(["relax", "good.extxyz", wrong, "-o", "out", *ARGON]) == 65
        assert capsys.readouterr().out == ""
    assert call(["relax", "good.extxyz", "dangling.xyz", "-o", "out", "-q", *ARGON]) == 69  # as `*.xyz` names it


def test_a_left_handed_cell_is_legal() -> None:
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
