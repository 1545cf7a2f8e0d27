"""Where systems come from, and what no run takes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from athanor.data import AtomicData, Batch
from athanor.errors import InputError
from athanor.workflows.spec import SourceSpec
from athanor.workflows.structures import from_python, load_sources, usable_indices


def test_files_frames_and_collections_keep_their_order(tmp_path: Path) -> None:
    write(tmp_path / "many.extxyz", [bulk("Cu"), bulk("Al")])
    write(tmp_path / "one.cif", bulk("Ni"))
    sources = [
        SourceSpec(file=tmp_path / "many.extxyz"),
        SourceSpec(collection="ase:dcdft", names=("Si", "C")),
        SourceSpec(file=tmp_path / "one.cif"),
    ]
    systems = load_sources(sources)
    assert [system.atoms.symbols[0] for system in systems] == ["Cu", "Al", "Si", "C", "Ni"]
    assert [system.index for system in systems] == [0, 1, 13, 5, 0]
    assert systems[1].file == str(tmp_path / "many.extxyz")
    assert systems[4].name == "one"


def test_everything_that_python_may_hand_in(tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", [bulk("Cu"), bulk("Al")])
    data = AtomicData.from_atoms(bulk("Ni"))
    systems = from_python([bulk("Si"), tmp_path / "a.extxyz", str(tmp_path / "a.extxyz"), data])
    assert [str(system.atoms.symbols[0]) for system in systems] == ["Si", "Cu", "Al", "Cu", "Al", "Ni"]
    batch = Batch.from_data_list([data, data])
    assert len(from_python(batch)) == 2
    assert len(from_python(data)) == 1
    assert len(from_python(bulk("Si"))) == 1
    assert len(from_python(tmp_path / "a.extxyz")) == 2


def broken(what: str) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    if what == "nan":
        atoms.positions[2, 1] = np.nan
    elif what == "flat":
        atoms.cell[2] = 0.0
    elif what == "empty":
        atoms = Atoms()
    return atoms


@pytest.mark.parametrize(
    ("what", "words"),
    [("nan", r"atom 2 .* must be finite"), ("flat", "no volume"), ("empty", "has no atoms")],
)
def test_structures_that_no_run_takes(what: str, words: str) -> None:
    good, bad = from_python([bulk("Cu"), broken(what)])
    assert good.problem == ""
    assert re.search(words, bad.problem)
    assert usable_indices([good, bad]) == [0]
    with pytest.raises(InputError, match=rf"(?s)^system 1 \(.*\): .*{words}"):
        usable_indices([good, bad], strict=True)
    with pytest.raises(InputError, match=words):
        usable_indices([bad])


def test_other_mistakes() -> None:
    with pytest.raises(InputError, match="holds a float"):
        from_python([3.0])
    with pytest.raises(InputError, match="no structure"):
        from_python([])
    with pytest.raises(InputError, match=r"ase:NAME"):
        load_sources([SourceSpec(collection="mp:all")])
    with pytest.raises(InputError, match="dcdft"):
        load_sources([SourceSpec(collection="ase:nothing")])
    with pytest.raises(InputError, match="has no Unobtainium"):
        load_sources([SourceSpec(collection="ase:dcdft", names=("Unobtainium",))])
