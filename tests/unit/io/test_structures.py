"""Structure files: order, names, and errors that say which file and frame."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from athanor.errors import AthanorWarning, InputError
from athanor.io import read_structures, write_structures
from athanor.io.structures import find_structures


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


def test_what_comes_back_and_what_is_named(tmp_path):
    atoms = bulk("Ar", "fcc", a=5.3) * (3, 1, 1)
    kept = {"large": 2**63, "larger": 2**70, "pairs": [(0, 1), (1, 2)], "virial": np.arange(9.0).reshape(3, 3)}
    atoms.info.update(kept, bonds=[[0, 1], [2]])
    atoms.arrays.update(
        site=np.array(["one", "two", "three"], dtype=object), unsigned=np.arange(3, dtype=np.uint8),
        Z=np.array([1, 2, 3]), symbols=np.array(["H", "He", "Li"]), big=np.array([0, 1, 2**31]),
    )  # fmt: skip
    with pytest.warns(AthanorWarning, match="without `Z`, `big`, `bonds`, `symbols`, of"):
        write_structures(tmp_path / "x.extxyz", [atoms])
    back = read(tmp_path / "x.extxyz")
    assert str(back.symbols) == "Ar3"
    assert back.info["large"] == 2**63
    assert back.info["larger"] == 2**70
    assert back.info["pairs"].tolist() == [[0, 1], [1, 2]]
    assert np.array_equal(back.info["virial"], kept["virial"])
    assert back.arrays["site"].tolist() == ["one", "two", "three"]
    assert back.arrays["unsigned"].tolist() == [0, 1, 2]


class Pipe:
    """Writes into a named pipe from another thread."""

    def __init__(self, path, content: bytes) -> None:
        os.mkfifo(path)
        self.thread = threading.Thread(target=path.write_bytes, args=(content,))
        self.thread.start()


def test_structures_come_through_a_pipe(files, tmp_path):
    content = (files / "three.extxyz").read_bytes()
    pipe = Pipe(tmp_path / "pipe", content)
    found = read_structures(tmp_path / "pipe", "1:")
    pipe.thread.join()
    assert [item.name for item in found] == ["rock salt", "pipe:2"]
    pipe = Pipe(tmp_path / "crystal.cif", (files / "one.cif").read_bytes())
    assert str(read_structures(tmp_path / "crystal.cif")[0].atoms.symbols) == "Ne4"
    pipe.thread.join()


def test_structures_come_from_standard_input(files, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((files / "three.extxyz").read_bytes())))
    assert [(item.name, item.file) for item in read_structures("-", 0)] == [("stdin:0", "-")]
    with pytest.raises(InputError, match="Standard input is empty"):
        read_structures("-")


def test_what_no_pipe_brings(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="`/dev/zero` is a device or socket"):
        read_structures("/dev/zero")
    os.mkfifo(tmp_path / "silent")
    with monkeypatch.context() as patch:
        patch.setattr("athanor.io.pipes.SECONDS_FOR_A_WRITER", 0.0)
        with pytest.raises(InputError, match="silent` is a pipe that nobody writes to"):
            read_structures(tmp_path / "silent")
    pipe = Pipe(tmp_path / "binary", b"1\n\0")
    with pytest.raises(InputError, match="binary` is not text"):
        read_structures(tmp_path / "binary")
    pipe.thread.join()
    monkeypatch.setattr("athanor.io.pipes.MOST_BYTES", 10)
    pipe = Pipe(tmp_path / "long", b"1\nlong\nAr 0 0 0\n")
    with pytest.raises(InputError, match="long` brings more than"):
        read_structures(tmp_path / "long")
    pipe.thread.join()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_read_over(files, tmp_path, encoding):
    for name in ("three.extxyz", "one.cif"):
        (tmp_path / f"marked-{name}").write_text((files / name).read_text(encoding="utf-8"), encoding=encoding)
        plain, marked = read_structures(files / name), read_structures(tmp_path / f"marked-{name}")
        assert [item.atoms for item in plain] == [item.atoms for item in marked]


def test_a_format_that_is_known_by_the_name_of_the_file_may_begin_with_a_mark(tmp_path):
    bulk("Si").write(tmp_path / "POSCAR")
    (tmp_path / "POSCAR").write_text((tmp_path / "POSCAR").read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert str(read_structures(tmp_path / "POSCAR")[0].atoms.symbols) == "Si2"


@pytest.mark.parametrize("separator", ["\f", "\v", "\x1c", "\u2028"])
def test_only_the_end_of_a_line_ends_it(tmp_path, separator):
    text = f"1\na{separator}b\nAr 0 0 0\n1\na{separator}b\nXx 0 0 0\n{separator}1\n\nAr 0 0 0\n"
    (tmp_path / "x.xyz").write_text(text, encoding="utf-8")
    first, second, third = find_structures(tmp_path / "x.xyz")
    assert (len(first.atoms), first.problem) == (1, "")
    assert "`Xx` in line 6" in second.problem
    assert len(third.atoms) == 1 or "Frame 2 of" in third.problem  # as ASE takes the number


def test_a_damaged_frame_costs_only_itself(tmp_path):
    good = "1\n\nAr 0 0 {}\n"
    (tmp_path / "x.xyz").write_text(
        good.format(0) + "2\ntwo are promised\nAr 0 0 1\n" + good.format(2) + "no frame\nat all\n" + good.format("zero")
        + "\n" + good.format(4), encoding="utf-8",
    )  # fmt: skip
    found = find_structures(tmp_path / "x.xyz")
    assert [len(item.atoms) for item in found] == [1, 0, 1, 0, 0, 1]
    assert [item.atoms.positions[0, 2] for item in found if not item.problem] == [0, 2, 4]
    assert "Frame 1 of" in found[1].problem
    assert "it has 1 atoms, expected 2" in found[1].problem
    assert "Line 10 of" in found[3].problem
    assert "'no frame'; a frame begins with its number of atoms" in found[3].problem
    assert "could not convert string to float" in found[4].problem
    assert [item.index for item in find_structures(tmp_path / "x.xyz", "::5")] == [0, 5]


def test_a_dump_that_promises_more_atoms_than_it_has_bytes_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "huge.lammpstrj"
    box = "ITEM: BOX BOUNDS pp pp pp\n0 5\n0 5\n0 5\nITEM: ATOMS id type x y z\n1 1 0 0 0\n"
    file.write_text(f"ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n1000000000\n{box}", encoding="utf-8")
    with pytest.raises(InputError, match=r"promises 1,000,000,000 atoms and has \d+ bytes"):
        read_structures(file)
    file.write_text(f"ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n1\n{box}", encoding="utf-8")
    assert len(read_structures(file)[0].atoms) == 1
