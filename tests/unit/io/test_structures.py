"""Structure files: order, names, and errors that say which file and frame."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from athanor.errors import AthanorWarning, InputError
from athanor.io import read_structures, write_structures


@pytest.fixture
def files(tmp_path):
    crystals = [bulk("Cu", cubic=True), bulk("NaCl", "rocksalt", a=5.64), bulk("Si")]
    crystals[1].info["name"] = "rock salt"
    write(tmp_path / "three.extxyz", crystals)
    write(tmp_path / "one.cif", bulk("Ne", cubic=True))
    return tmp_path


def test_order_and_names(files):
    found = read_structures([files / "one.cif", files / "three.extxyz"])
    assert [item.name for item in found] == ["one", "three:0", "rock salt", "three:2"]
    assert [item.index for item in found] == [0, 0, 1, 2]
    assert [len(item.atoms) for item in found] == [4, 4, 2, 2]
    assert found[1].file == str(files / "three.extxyz")


@pytest.mark.parametrize(
    ("index", "wanted"), [(":", [0, 1, 2]), (-1, [2]), ("1", [1]), ("::2", [0, 2]), (slice(1, None), [1, 2])]
)
def test_index_keeps_the_number_in_the_file(files, index, wanted):
    assert [item.index for item in read_structures(files / "three.extxyz", index)] == wanted


def test_at_sign_as_in_ase(files):
    assert [item.index for item in read_structures(f"{files / 'three.extxyz'}@1:")] == [1, 2]


@pytest.mark.parametrize(
    ("name", "content", "index", "text"),
    [
        ("no.xyz", None, ":", r"no\.xyz` does not exist"),
        ("empty.xyz", "", ":", r"empty\.xyz` is empty \(0 bytes\)"),
        (
            "bad.xyz",
            "2\ncomment\nH 0 0 zero\nH 0 0 1\n",
            ":",
            r"bad\.xyz` can not be read: could not convert string to float",
        ),
        ("bad.unknown", "what is this\n", ":", r"bad\.unknown` has an ending and a content that ASE does not know"),
        ("one.xyz", "1\nc\nH 0 0 0\n", "7", r"`index=7` is out of range: `.*one\.xyz` has 1 frames"),
        ("one.xyz", "1\nc\nH 0 0 0\n", "7:", r"`index=7:` leaves no frame"),
        ("one.xyz", "1\nc\nH 0 0 0\n", "last", r"`index='last'` is not an index"),
        ("none.xyz", "1\nc\nH 0 0 0\n0\nc\n", ":", r"Frame 1 of `.*none\.xyz` has no atoms|can not be read"),
    ],
)
def test_errors_name_the_file(tmp_path, name, content, index, text):
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=text):
        read_structures(tmp_path / name, index)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="is a folder; pass the files in it"):
        read_structures(tmp_path)


def test_partly_occupied_sites_are_refused(tmp_path):
    (tmp_path / "brass.cif").write_text(
        "data_brass\n_cell_length_a 3.6\n_cell_length_b 3.6\n_cell_length_c 3.6\n_cell_angle_alpha 90\n"
        "_cell_angle_beta 90\n_cell_angle_gamma 90\n_symmetry_space_group_name_H-M 'P 1'\nloop_\n_atom_site_label\n"
        "_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n_atom_site_occupancy\n"
        "Cu1 Cu 0 0 0 0.6\nZn1 Zn 0 0 0 0.4\nCu2 Cu 0.5 0.5 0 1.0\n",
        encoding="utf-8",
    )
    with pytest.raises(InputError, match=r"Frame 0 of `.*brass\.cif` has partly occupied sites \(Cu 0\.6, Zn 0\.4\)"):
        read_structures(tmp_path / "brass.cif")


def test_written_results_come_back(tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.info["origin"] = "test"
    forces, stress = np.arange(12.0).reshape(4, 3), np.arange(6.0)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.25, forces=forces, stress=stress)
    path = tmp_path / "out.extxyz"
    write_structures(path, [atoms, Atoms("H")])
    write_structures(path, [Atoms("He")], append=True)
    back = read(path, ":")
    assert [str(item.symbols) for item in back] == ["Cu4", "H", "He"]
    assert back[0].get_potential_energy() == -1.25
    np.testing.assert_allclose(back[0].get_forces(), forces)
    np.testing.assert_allclose(back[0].get_stress(), stress)
    assert back[0].info["origin"] == "test"
    assert [item.name for item in tmp_path.iterdir()] == ["out.extxyz"]


def test_nothing_to_write_is_refused(tmp_path):
    with pytest.raises(InputError, match="nothing to write"):
        write_structures(tmp_path / "x.xyz", [])
    with pytest.raises(InputError, match="holds a str"):
        write_structures(tmp_path / "x.xyz", ["Cu"])
    assert not list(tmp_path.iterdir())


def test_a_batch_is_written_with_its_results(tmp_path):
    from athanor.testing.sink_contract import make_batch

    batch = make_batch(0)
    write_structures(tmp_path / "out.extxyz", batch)
    back = read_structures(tmp_path / "out.extxyz")
    assert [len(item.atoms) for item in back] == batch.num_nodes_list
    assert [item.atoms.get_potential_energy() for item in back] == pytest.approx(batch.energy.flatten().tolist())
    np.testing.assert_allclose(back[0].atoms.get_forces(), batch.forces[:2].numpy(), atol=1e-7)


@pytest.mark.parametrize(
    "text",
    ["two\nlines", "001", "T", "1e5", "", "back\\slash", "ends with \\", 'a "b" = c', "a\tb", "_JSON [1", "\u2028"],
)
def test_text_comes_back_as_it_was(tmp_path, text):
    atoms = bulk("Ar", "fcc", a=5.3)
    atoms.pbc = (True, True, False)
    atoms.info = {"comment": text, "behind": 3}
    write_structures(tmp_path / "x.extxyz", [atoms, atoms])
    for back in read(tmp_path / "x.extxyz", ":"):
        assert back.info == {"comment": text, "behind": 3}
        assert back.pbc.tolist() == [True, True, False]


def test_labels_called_like_results_give_way_to_them(tmp_path):
    atoms = bulk("Ar", "fcc", a=5.3)
    atoms.info.update(energy=5.0, stress=np.ones(6), none=None, empty=np.zeros(0))
    atoms.arrays["forces"] = np.full((1, 3), 7.0)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.5, forces=np.zeros((1, 3)), stress=np.arange(6.0))
    write_structures(tmp_path / "x.extxyz", [atoms])
    back = read(tmp_path / "x.extxyz")
    assert back.get_potential_energy() == -1.5
    assert back.get_stress().tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert not back.get_forces().any()
    assert back.info["none"] is None
    assert back.info["empty"].size == 0
    assert atoms.info["energy"] == 5.0


def test_what_the_format_has_no_place_for_is_left_out_and_named(tmp_path):
    atoms = bulk("Ar", "fcc", a=5.3)
    atoms.info.update({"Lattice": "here", "a=b": 1, "": 2, "virial": np.ones(5), 3: "whole"})
    atoms.arrays.update(cube=np.zeros((1, 3, 3)), words=np.array(["two words"]), things=np.array([object()]))
    atoms.arrays["label"] = np.array(["word"])
    with pytest.warns(AthanorWarning, match="without ``, `Lattice`, `a=b`, `cube`, `things`, `virial`, `words`, of"):
        write_structures(tmp_path / "x.extxyz", [atoms])
    back = read(tmp_path / "x.extxyz")
    assert back.info == {"3": "whole"}
    assert back.arrays["label"].tolist() == ["word"]


PROGRAM = """
from ase.build import bulk
from athanor.io.structures import read_structures, write_structures
atoms = bulk("Ar")
atoms.info["name"] = "5.3 \\xc5"
for append in (False, True):
    write_structures("argon.extxyz", [atoms], append=append)
assert [item.name for item in read_structures("argon.extxyz")] == [atoms.info["name"]] * 2
"""


def test_text_is_utf_8_whatever_the_locale_is(tmp_path):
    ascii_only = os.environ | {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, env=ascii_only, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "argon.extxyz").read_text(encoding="utf-8").count("5.3 Å") == 2
