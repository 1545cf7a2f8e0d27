"""Frames as files of other programs: what ASE and h5py read is what the run kept, or the export is refused."""

from __future__ import annotations

import json
import shutil
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.io import read, write

import athanor
from athanor.cli.main import call
from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.errors import InputError, OptionalDependencyError, StorageError
from athanor.io.export import lammps_dump, standard_cell
from athanor.io.export.formats import FORMATS, Contents
from athanor.io.export.standard_cell import standard_frame
from athanor.io.trajectory import TrajectoryReader
from athanor.sinks import ZarrData
from athanor.units import FS_PER_INTERNAL_TIME

MODEL = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.0, "cutoff": 7.0}
FEMTOSECOND = 2.0


def crystal(name: str = "skewed") -> Atoms:
    """A cell that is neither along x nor right-angled, with two elements in turn."""
    atoms = bulk("NaCl", "rocksalt", a=5.6) * (2, 2, 1)
    atoms.info["name"] = name
    return atoms


def cluster() -> Atoms:
    atoms = Atoms("ArKrXe", [[0, 0, 0], [3.5, 0, 0], [0.5, 3.4, 0.7]])
    atoms.info["name"] = "cluster"
    return atoms


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a skewed crystal, a cubic one out of a file and a cluster without a cell: 11 frames each."""
    place = tmp_path_factory.mktemp("export")
    write(place / "cubic.cif", bulk("Ar", "fcc", a=5.0, cubic=True))
    write(place / "cubes.extxyz", [bulk("Ar", "fcc", a=5.0, cubic=True)] * 2)
    sources = [crystal(), str(place / "cubic.cif"), cluster()]
    structures = [read(item) if isinstance(item, str) else item for item in sources]
    structures[1].info["name"] = "cubic"
    athanor.md(structures, MODEL, temperature=60.0, steps=51, timestep=FEMTOSECOND, every=5, out=place / "run",
               silence=["small-cell", "non-periodic"])  # fmt: skip
    return place / "run"


def images_of(folder: Path, system: str, **choice: Any) -> list[Atoms]:
    """The frames that the store holds, read another way."""
    batch = athanor.open(folder).frames(system)
    return batch.to_atoms()[choice.get("frames", slice(None))]


def gram(atoms: Atoms, *vectors: np.ndarray) -> np.ndarray:
    """All products of positions and other vectors of atoms: what no rotation changes."""
    every = np.concatenate([atoms.positions, *vectors])
    return np.asarray(every @ every.T)


def between(atoms: Atoms) -> np.ndarray:
    """The same of where atoms are from the first one: what no translation changes either."""
    vectors = atoms.positions - atoms.positions[0]
    return np.asarray(vectors @ vectors.T)


def handedness(atoms: Atoms) -> list[float]:
    """What a reflection changes: signed volumes between the first atoms."""
    vectors = atoms.positions[1:6] - atoms.positions[0]
    return [float(np.linalg.det(vectors[list(three)])) for three in combinations(range(len(vectors)), 3)]


def check_same(found: list[Atoms], kept: list[Atoms], tolerance: float, fields: str = "") -> None:
    """Elements, positions and cells of each frame, and `fields`, letters of velocities, forces and energy."""
    assert len(found) == len(kept)
    for ours, theirs in zip(kept, found, strict=True):
        assert theirs.get_chemical_symbols() == ours.get_chemical_symbols()
        assert theirs.positions == pytest.approx(ours.positions, abs=tolerance)
        assert theirs.cell.array == pytest.approx(ours.cell.array, abs=tolerance)
        if "v" in fields:
            assert theirs.get_velocities() == pytest.approx(ours.get_velocities(), abs=1e-7)
        if "f" in fields:
            assert theirs.get_forces() == pytest.approx(ours.get_forces(), abs=1e-7)
        if "e" in fields:
            assert theirs.get_potential_energy() == pytest.approx(ours.get_potential_energy(), abs=1e-8)


@pytest.mark.parametrize(
    ("name", "tolerance", "fields", "how"),
    [
        ("x.extxyz", 1e-8, "vfe", {}),
        ("x.xyz", 1e-8, "vfe", {"format": "extxyz"}),
        ("x.traj", 0.0, "vfe", {}),
        ("XDATCAR_1", 1e-5, "", {"format": "vasp-xdatcar"}),
        ("x.xdatcar", 1e-5, "", {"format": "vasp-xdatcar"}),
    ],
)
def test_what_ase_reads_is_what_was_kept(folder, tmp_path, name, tolerance, fields, how):
    done = athanor.export(folder, tmp_path / name, system="skewed")
    assert (done.path, done.frames, done.systems) == (tmp_path / name, 11, 1)
    assert done.size == (tmp_path / name).stat().st_size
    check_same(read(tmp_path / name, ":", **how), images_of(folder, "skewed"), tolerance, fields)


def test_times_and_names_are_noted_where_there_is_a_place(folder, tmp_path):
    for name in ("x.extxyz", "x.traj"):
        athanor.export(folder, tmp_path / name)
        found = read(tmp_path / name, ":")
        assert [image.info["name"] for image in found] == ["skewed"] * 11 + ["cubic"] * 11 + ["cluster"] * 11
        kept = [time for system in range(3) for time in athanor.open(folder).frames(system).time[:, 0].tolist()]
        assert [image.info["time"] for image in found] == kept
        assert kept[1] - kept[0] == pytest.approx(5 * FEMTOSECOND)
        assert not found[-1].pbc.any()


def test_a_cif_holds_a_block_for_each_frame(folder, tmp_path):
    athanor.export(folder, tmp_path / "x.cif", system=["skewed", "cubic"], frames="-2:")
    found = read(tmp_path / "x.cif", ":")
    kept = images_of(folder, "skewed")[-2:] + images_of(folder, "cubic")[-2:]
    for theirs, ours in zip(found, kept, strict=True):
        assert theirs.cell.cellpar() == pytest.approx(ours.cell.cellpar(), abs=1e-6)
        difference = theirs.get_scaled_positions() - ours.get_scaled_positions()
        assert difference - np.round(difference) == pytest.approx(0.0, abs=1e-9)


def test_a_folder_of_poscars_has_one_for_each_frame(folder, tmp_path):
    athanor.export(folder, tmp_path / "frames", format="poscar", system=["skewed", "cubic"])
    files = sorted((tmp_path / "frames").iterdir())
    steps = athanor.open(folder).frames("cubic").step[:, 0].tolist()
    assert [file.name for file in files[:11]] == [f"POSCAR_cubic_{step:08d}" for step in steps]
    check_same([read(file) for file in files[11:]], images_of(folder, "skewed"), 1e-12, "v")


# ----------------------------------------------------------------------------------------- cells that have to be turned
def left_handed(atoms: Atoms) -> Atoms:
    other = atoms.copy()
    other.set_cell(atoms.cell.array[[1, 0, 2]], scale_atoms=False)
    return other


def check_turned(atoms: Atoms) -> None:
    frame = standard_frame(atoms)
    assert frame.cell is not None
    assert np.triu(frame.cell, 1) == pytest.approx(0.0, abs=0.0)
    assert (np.diagonal(frame.cell) > 0).all()
    moved = Atoms(atoms.numbers, frame.positions, cell=frame.cell, pbc=True)
    assert between(moved) == pytest.approx(between(atoms), abs=1e-9)
    assert handedness(moved) == pytest.approx(handedness(atoms), rel=1e-9, abs=1e-9)
    # the lattice is the same one: its vectors are whole numbers of those of the other, seen from the atoms
    before, after = (np.linalg.solve(each.positions[1:4] - each.positions[0], np.eye(3)) for each in (atoms, moved))
    coefficients = (before.T @ atoms.cell.array.T).T @ np.linalg.inv((after.T @ moved.cell.array.T).T)
    assert coefficients == pytest.approx(np.round(coefficients), abs=1e-8)
    assert abs(np.linalg.det(coefficients)) == pytest.approx(1.0)
    wrapped = atoms.copy()
    wrapped.wrap()
    frame = standard_frame(wrapped)
    assert frame.cell is not None
    places = frame.positions @ np.linalg.inv(frame.cell)
    assert -1e-9 < places.min() <= places.max() < 1.0 + 1e-9


def skewed(seed: int) -> Atoms:
    generator = np.random.default_rng(seed)
    cell = np.diag(generator.uniform(4.0, 8.0, 3)) + generator.normal(size=(3, 3))
    return Atoms("HCNOFSi", generator.normal(scale=4.0, size=(6, 3)), cell=cell, pbc=True)


@pytest.mark.parametrize("seed", range(6))
def test_a_turned_frame_is_the_same_crystal(seed):
    check_turned(skewed(seed))
    check_turned(left_handed(skewed(seed)))


def reflecting(cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The named mutant: positions are reflected where the cell is left-handed."""
    q, r = np.linalg.qr(cell.T)
    signs = np.sign(np.diagonal(r))
    return np.tril((signs[:, None] * r).T), q * signs


def cell_alone(cell: np.ndarray) -> tuple[np.ndarray, None]:
    """The named mutant: the cell is turned and the atoms are not."""
    return reflecting(cell)[0], None


@pytest.mark.parametrize("mutant", [reflecting, cell_alone])
def test_a_frame_that_is_turned_wrongly_is_noticed(mutant, monkeypatch):
    monkeypatch.setattr(standard_cell, "standard_cell", mutant)
    with pytest.raises(AssertionError):
        check_turned(left_handed(skewed(0)))


def test_a_cell_in_standard_orientation_keeps_its_numbers():
    atoms = bulk("Ar", "fcc", a=5.0, cubic=True)
    assert standard_frame(atoms).positions is atoms.positions


# --------------------------------------------------------------------------------------------------------- LAMMPS, H5MD
def check_dump(folder: Path, place: Path, system: str) -> None:
    found = read(place, ":", format="lammps-dump-text")
    kept = images_of(folder, system)
    steps = athanor.open(folder).frames(system).step[:, 0].tolist()
    assert [image.info["timestep"] for image in found] == steps
    for theirs, ours in zip(found, kept, strict=True):
        assert theirs.get_chemical_symbols() == ours.get_chemical_symbols()
        # ASE has another second than athanor, by 3 in 10^8
        vectors = [(100.0 * image.get_velocities(), image.get_forces()) for image in (theirs, ours)]
        assert gram(theirs, *vectors[0]) == pytest.approx(gram(ours, *vectors[1]), rel=1e-6, abs=1e-6)
        assert handedness(theirs) == pytest.approx(handedness(ours), abs=1e-6)
        assert theirs.pbc.tolist() == ours.pbc.tolist()
        if ours.pbc.any():
            assert theirs.cell.cellpar() == pytest.approx(ours.cell.cellpar(), abs=1e-7)
            assert theirs.get_scaled_positions(wrap=False) == pytest.approx(
                ours.get_scaled_positions(wrap=False), abs=1e-8
            )


@pytest.mark.parametrize("system", ["skewed", "cubic", "cluster"])
def test_a_lammps_dump(folder, tmp_path, system):
    athanor.export(folder, tmp_path / "x.lammpstrj", system=system)
    check_dump(folder, tmp_path / "x.lammpstrj", system)


def test_a_lammps_dump_in_other_units_is_noticed(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(lammps_dump, "ps", 1.0)  # the named mutant: velocities in Å/fs
    athanor.export(folder, tmp_path / "x.lammpstrj", system="skewed")
    with pytest.raises(AssertionError):
        check_dump(folder, tmp_path / "x.lammpstrj", "skewed")


def check_h5md(file: h5py.File, label: str, batch: Batch) -> None:
    group = file[f"particles/{label}"]
    kept = batch.to_atoms()
    assert group["species"][:].tolist() == kept[0].numbers.tolist()
    assert group["mass"][:] == pytest.approx(kept[0].get_masses())
    for name in ("position", "velocity", "force", *(["box/edges"] if kept[0].pbc.any() else [])):
        assert group[f"{name}/step"][:].tolist() == batch.step[:, 0].tolist()
        assert group[f"{name}/time"][:].tolist() == batch.time[:, 0].tolist()
        assert group[f"{name}/value"].attrs["unit"]
    assert group["position/time"].attrs["unit"] == "fs"
    energy = file[f"observables/{label}/potential_energy/value"]
    assert energy[:].tolist() == batch.energy[:, 0].tolist()
    per_mol = units.mol / units.kJ
    for number, atoms in enumerate(kept):
        theirs = Atoms(atoms.numbers, group["position/value"][number])
        velocities = group["velocity/value"][number], atoms.get_velocities() / FS_PER_INTERNAL_TIME
        forces = group["force/value"][number], atoms.get_forces() * per_mol
        ours = [velocities[1], forces[1]]
        assert gram(theirs, velocities[0], forces[0]) == pytest.approx(gram(atoms, *ours), rel=1e-7, abs=1e-9)
        if atoms.pbc.any():
            theirs.set_cell(group["box/edges/value"][number])
            assert theirs.cell.cellpar() == pytest.approx(atoms.cell.cellpar(), abs=1e-9)
            assert group["box"].attrs["boundary"].tolist() == [b"periodic"] * 3
        else:
            assert "edges" not in group["box"]


def test_an_h5md_file(folder, tmp_path):
    run = athanor.open(folder)
    athanor.export(run, tmp_path / "one.h5md", system="skewed")
    with h5py.File(tmp_path / "one.h5md") as file:
        assert file["h5md"].attrs["version"].tolist() == [1, 1]
        assert file["h5md/creator"].attrs["name"] == "athanor"
        check_h5md(file, "trajectory", run.frames("skewed"))
    athanor.export(run, tmp_path / "all.h5md")
    with h5py.File(tmp_path / "all.h5md") as file:
        for name in run.names:
            check_h5md(file, name, run.frames(name))


def test_what_is_known_of_some_frames_only_is_nan_in_the_others(tmp_path):
    athanor_run = athanor.relax(bulk("Ar", "fcc", a=5.0, cubic=True), MODEL, max_steps=4, every=1, out=tmp_path / "run",
                                silence=["small-cell", "non-periodic"])  # fmt: skip
    athanor.export(athanor_run, tmp_path / "x.h5md")
    with h5py.File(tmp_path / "x.h5md") as file:
        assert "velocity" not in file["particles/trajectory"]
    store = tmp_path / "some.zarr"
    with ZarrData(store) as sink:
        for step in range(4):
            sink.write(frame(step, velocities=step >= 2))
    athanor.export(store, tmp_path / "some.h5md")
    with h5py.File(tmp_path / "some.h5md") as file:
        velocities = file["particles/trajectory/velocity/value"][:]
    assert np.isnan(velocities[:2]).all()
    assert np.isfinite(velocities[2:]).all()


# ------------------------------------------------------------------------------------------------- stores without a run
def frame(step: int, system_id: int = 0, atoms: int = 4, *, velocities: bool = False, **more: torch.Tensor) -> Batch:
    generator = np.random.default_rng(step)
    image = Atoms("H" * atoms, generator.normal(size=(atoms, 3)), cell=[6.0, 7.0, 8.0], pbc=True)
    if velocities:
        image.set_velocities(generator.normal(size=(atoms, 3)))
    image.info |= {"step": step, "time": 10.0 * step} | ({} if system_id < 0 else {"system_id": system_id})
    batch = Batch.from_data_list([AtomicData.from_atoms(image, dtype=torch.float64)])
    for name, value in more.items():
        batch[name] = value
    return batch


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three frames of each of two systems of different sizes, written in turn."""
    with ZarrData(tmp_path / "store.zarr") as sink:
        for step in range(3):
            for number in (7, 3):
                sink.write(frame(step, number, atoms=number, charges=torch.full((number,), 0.1 * step)))
    return tmp_path / "store.zarr"


def test_systems_of_a_store_go_by_their_ids(store, tmp_path):
    athanor.export(store, tmp_path / "x.traj")
    found = read(tmp_path / "x.traj", ":")
    assert [len(image) for image in found] == [3, 3, 3, 7, 7, 7]
    assert athanor.export(store, tmp_path / "y.traj", system=["7", 3], frames=-1).frames == 2
    assert [len(image) for image in read(tmp_path / "y.traj", ":")] == [7, 3]
    with pytest.raises(InputError, match=r"go by their ids: 3, 7\. It has no 'water'"):
        athanor.export(store, tmp_path / "z.traj", system="water")
    athanor.export(store, tmp_path / "poscars", format="poscar")
    assert sorted(file.name for file in (tmp_path / "poscars").iterdir())[0] == "POSCAR_system-3_00000000"


def test_names_that_no_disk_takes_become_words():
    labels = {0: "a/b", 1: "a b", 2: "ä", 3: "NaCl (1)"}
    contents = Contents(labels, {}, all_periodic=True)
    assert contents.words() == {0: "a-b-0", 1: "a-b-1", 2: "-2", 3: "NaCl-1-3"}
    assert Contents({5: "x/y", 6: "x"}, {}, all_periodic=True).words() == {5: "x-y", 6: "x"}


def test_nothing_is_written_into_the_store(store):
    with pytest.raises(InputError, match="lies in the store that is read"):
        athanor.export(store, store / "x.traj")


def test_charges_of_a_dump(store, tmp_path):
    athanor.export(store, tmp_path / "x.lammpstrj", system=3)
    last = read(tmp_path / "x.lammpstrj", "-1", format="lammps-dump-text")
    assert last.get_initial_charges() == pytest.approx([0.2] * 3)


def test_frames_without_an_id_are_all_kept(tmp_path):
    with ZarrData(tmp_path / "s.zarr") as sink:
        for atoms in (2, 3, 3):
            sink.write(frame(0, -1, atoms=atoms))
    athanor.export(tmp_path / "s.zarr", tmp_path / "x.extxyz")
    assert [len(image) for image in read(tmp_path / "x.extxyz", ":")] == [2, 3, 3]
    athanor.export(tmp_path / "s.zarr", tmp_path / "p", format="poscar")
    assert len(list((tmp_path / "p").iterdir())) == 3
    with pytest.raises(InputError, match=r"one size, and these have 2 to 3 atoms\. Write extxyz, traj, cif or poscar"):
        athanor.export(tmp_path / "s.zarr", tmp_path / "x.lammpstrj")


def test_other_atoms_in_the_same_number_are_refused_and_nothing_is_left(tmp_path):
    other = frame(1, -1)
    other["atomic_numbers"] = torch.full_like(other.atomic_numbers, 8)
    with ZarrData(tmp_path / "s.zarr") as sink:
        sink.write(frame(0, -1))
        sink.write(other)
    with pytest.raises(InputError, match="frame 1 has other atoms than frame 0"):
        athanor.export(tmp_path / "s.zarr", tmp_path / "x.lammpstrj")
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


def test_a_store_of_version_0(tmp_path, repository):
    with zipfile.ZipFile(repository / "tests" / "data" / "store_without_empty_chunks.zip") as archive:
        archive.extractall(tmp_path / "old")
    store = next(path.parent for path in sorted((tmp_path / "old").rglob("format.json")))
    kept = TrajectoryReader(store).read()
    done = athanor.export(store, tmp_path / "x.traj")
    found = read(tmp_path / "x.traj", ":")
    assert len(found) == done.frames == len(kept)
    assert sorted(map(len, found)) == sorted(kept.num_nodes_list)


# --------------------------------------------------------------------------------------------------------- which frames
@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({}, range(11)),
        ({"frames": "2:5"}, range(2, 5)),
        ({"frames": "-3:"}, range(8, 11)),
        ({"frames": -1}, [10]),
        ({"frames": "4"}, [4]),
        ({"frames": slice(1, 9, 3)}, range(1, 9, 3)),
        ({"frames": "1:9:3"}, range(1, 9, 3)),
        ({"every": 4}, [0, 4, 8]),
        ({"frames": "1:", "every": 4}, [1, 5, 9]),
        ({"start": "0.02 ps"}, range(2, 11)),
        ({"end": 32.0}, range(4)),
        ({"start": 32.0, "end": "52 fs"}, [3, 4, 5]),
        ({"start": 32.0, "frames": "1:3"}, [4, 5]),
    ],
)
def test_which_frames(folder, tmp_path, choice, expected):
    times = athanor.open(folder).frames("cubic").time[:, 0]
    assert times[:4].tolist() == pytest.approx([2.0, 12.0, 22.0, 32.0])
    wanted = times[list(expected)].tolist()
    athanor.export(folder, tmp_path / "x.traj", system="cubic", **choice)
    assert [image.info["time"] for image in read(tmp_path / "x.traj", ":")] == wanted
    assert [float(data.time) for data in athanor.open(folder).stream("cubic", **choice)] == wanted


def test_systems_by_name_number_and_file(tmp_path):
    write(tmp_path / "two.extxyz", [bulk("Ar", "fcc", a=5.0, cubic=True), bulk("Kr", "fcc", a=5.2, cubic=True)])
    write(tmp_path / "one.extxyz", bulk("Xe", "fcc", a=5.4, cubic=True))
    files = [str(tmp_path / name) for name in ("two.extxyz", "one.extxyz")]
    run = athanor.md(files, MODEL, steps=2, timestep=1.0, temperature=10.0, every=1, out=tmp_path / "run",
                     silence=["small-cell", "non-periodic"])  # fmt: skip
    saved = athanor.open(run.folder)
    for system, elements in (
        ("two.extxyz", ["Ar", "Kr"]),
        (str(tmp_path / "one.extxyz"), ["Xe"]),
        ("one", ["Xe"]),
        (1, ["Kr"]),
        (["one", 0], ["Xe", "Ar"]),
    ):
        found = [data.to_atoms().symbols[0] for data in saved.stream(system, frames=0)]
        assert found == elements, system
    with pytest.raises(InputError, match="has no system 'three'"):
        saved.stream("three")


def test_a_system_that_stood_still_is_written_once(tmp_path):
    with ZarrData(tmp_path / "s.zarr") as sink:
        for step in (0, 1, 1, 1, 2):
            sink.write(frame(step))
    assert athanor.export(tmp_path / "s.zarr", tmp_path / "x.traj").frames == 3


def test_atoms_are_wrapped_when_asked(folder, tmp_path):
    plain, wrapped = tmp_path / "plain.traj", tmp_path / "wrapped.traj"
    athanor.export(folder, plain)
    athanor.export(folder, wrapped, wrap=True)
    pairs = list(zip(read(plain, ":"), read(wrapped, ":"), strict=True))
    outside = [ours.get_scaled_positions(wrap=False) for ours, _ in pairs if ours.pbc.all()]
    assert min(places.min() for places in outside) < -1e-6
    for ours, theirs in pairs:
        if not ours.pbc.any():
            assert (theirs.positions == ours.positions).all()
            continue
        places = theirs.get_scaled_positions(wrap=False)
        assert -1e-6 < places.min() <= places.max() < 1.0
        moved = places - ours.get_scaled_positions(wrap=False)
        assert moved == pytest.approx(np.round(moved), abs=1e-9)


# ------------------------------------------------------------------------------------------------------ what is refused
@pytest.mark.parametrize(
    ("name", "choice", "message"),
    [
        ("x.lammpstrj", {}, r"holds one system, and frames of 3 were chosen \(skewed, cubic, cluster\)"),
        ("x.xdatcar", {}, "--system skewed`; or write extxyz, traj, cif, poscar or h5md"),
        ("x.cif", {}, "holds crystals.*write extxyz, traj or h5md"),
        ("x.cif", {"system": "cluster"}, "some of these frames have no cell.*extxyz, traj, lammpstrj, xtc or h5md"),
        ("x", {"format": "poscar"}, "A folder of POSCAR files holds crystals"),
        ("x", {}, "does not say in which format"),
        ("x.pdb", {}, "does not say in which format"),
        ("x", {"format": "xdatcat"}, "Did you mean `xdatcar`"),
        ("x.traj", {"frames": "a"}, "`frames` is 'a'; write FIRST:LAST"),
        ("x.traj", {"frames": "::-1"}, "write FIRST:LAST"),
        ("x.traj", {"frames": 1.5}, "write FIRST:LAST"),
        ("x.traj", {"every": 0}, "`every`"),
        ("x.traj", {"frames": "11:"}, "No frame .* was chosen; it has 33"),
        ("x.traj", {"start": "1 ps"}, "No frame .* was chosen"),
        ("x.traj", {"start": 5.0, "end": 4.0}, "nothing lies between"),
        ("x.traj", {"start": "5 K"}, "unit"),
        ("x.traj", {"system": "quartz"}, "has no system 'quartz'"),
        ("missing/x.traj", {}, "is no folder; make it first"),
    ],
)
def test_what_is_refused_leaves_nothing(folder, tmp_path, name, choice, message):
    with pytest.raises(InputError, match=message):
        athanor.export(folder, tmp_path / name, **choice)
    assert list(tmp_path.iterdir()) == []


def test_sources_that_are_none(tmp_path):
    with pytest.raises(InputError, match="is no"):
        athanor.export(tmp_path / "nowhere", tmp_path / "x.traj")
    with pytest.raises(InputError, match="`source` is a int"):
        athanor.export(7, tmp_path / "x.traj")
    kept_nothing = athanor.evaluate(bulk("Ar", "fcc", a=5.0, cubic=True), MODEL, silence=["small-cell"])
    with pytest.raises(InputError, match="kept no frames"):
        athanor.export(kept_nothing, tmp_path / "x.traj")


def test_a_package_that_is_not_there_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "MDAnalysis.lib.formats.libmdaxdr", None)
    monkeypatch.setitem(sys.modules, "MDAnalysis", None)
    with pytest.raises(OptionalDependencyError, match=r'XTC file needs .* `pip install "athanor-md\[export\]"`'):
        athanor.export(folder, tmp_path / "x.xtc", system="cubic")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_replaced_only_when_asked(folder, tmp_path):
    (tmp_path / "x.extxyz").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"exists\. Choose another name, or add --overwrite"):
        athanor.export(folder, tmp_path / "x.extxyz")
    assert (tmp_path / "x.extxyz").read_text(encoding="utf-8") == "mine"
    athanor.export(folder, tmp_path / "x.extxyz", overwrite=True, frames=0)
    assert len(read(tmp_path / "x.extxyz", ":")) == 3
    (tmp_path / "y.traj").mkdir()
    with pytest.raises(InputError, match="is a folder; give a file"):
        athanor.export(folder, tmp_path / "y.traj", overwrite=True)


def test_a_folder_of_other_things_is_never_replaced(folder, tmp_path):
    choice: dict[str, Any] = {"format": "poscar", "system": "cubic"}
    athanor.export(folder, tmp_path / "p", **choice)
    with pytest.raises(InputError, match="exists"):
        athanor.export(folder, tmp_path / "p", **choice)
    athanor.export(folder, tmp_path / "p", **choice, frames=0, overwrite=True)
    assert len(list((tmp_path / "p").iterdir())) == 1
    (tmp_path / "p" / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match="something else than POSCAR"):
        athanor.export(folder, tmp_path / "p", **choice, overwrite=True)
    assert (tmp_path / "p" / "thesis.tex").exists()


@pytest.mark.parametrize("name", ["x.extxyz", "x.traj", "x.cif", "x.lammpstrj", "x.h5md", "XDATCAR", "POSCARS.poscar"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_half_a_file_is_never_seen(folder, tmp_path, monkeypatch, name, error):
    athanor.export(folder, tmp_path / name, system="cubic", frames=0)
    before = contents_of(tmp_path)
    given = AtomicData.to_atoms
    calls: list[int] = []

    def failing(self: AtomicData, *arguments: Any) -> Atoms:
        calls.append(1)
        if len(calls) == 5:
            raise error
        return given(self, *arguments)

    monkeypatch.setattr(AtomicData, "to_atoms", failing)
    expected = StorageError if isinstance(error, OSError) else error
    with pytest.raises(expected):
        athanor.export(folder, tmp_path / name, system="cubic", overwrite=True)
    assert contents_of(tmp_path) == before
    assert not list(tmp_path.glob(".*"))


def contents_of(place: Path) -> dict[str, bytes]:
    return {str(file.relative_to(place)): file.read_bytes() for file in sorted(place.rglob("*")) if file.is_file()}


# --------------------------------------------------------------------------------------------------------------- memory
def peak_of(work: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def long_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 frames of 300 atoms: 14 MB of positions and forces."""
    place = tmp_path_factory.mktemp("long") / "long.zarr"
    batch = frame(0, atoms=300, forces=torch.zeros(300, 3, dtype=torch.float64))
    with ZarrData(place, durability="close") as sink:
        for step in range(1000):
            batch.positions.normal_()
            batch.forces.normal_()
            batch.step.fill_(step)
            batch.time.fill_(10.0 * step)
            sink.write(batch)
    return place


@pytest.mark.parametrize("name", ["x.traj", "x.h5md"])
def test_memory_does_not_grow_with_the_trajectory(long_store, tmp_path, name):
    _, some, all_of_it = (  # the first one loads what is needed
        peak_of(lambda frames=frames: athanor.export(long_store, tmp_path / name, frames=frames, overwrite=True))
        for frames in (":2", ":200", ":")
    )
    assert all_of_it < 1.2 * some + 1e6


def test_frames_of_a_run_stream(folder, monkeypatch):
    from athanor.workflows import saved_frames

    monkeypatch.setattr(saved_frames, "_FRAMES_AT_A_TIME", 4)
    read_at_once: list[int] = []
    given = saved_frames.TrajectoryReader.read_rows

    def counting(self: Any, rows: Any) -> Batch:
        read_at_once.append(len(rows))
        return given(self, rows)

    monkeypatch.setattr(saved_frames.TrajectoryReader, "read_rows", counting)
    stream = athanor.open(folder).stream()
    assert read_at_once == []
    next(stream)
    assert read_at_once == [4]
    assert sum(1 for _ in stream) == 32
    assert max(read_at_once) == 4


# ----------------------------------------------------------------------------------------------------- the command line
def test_the_command(folder, tmp_path, capsys):
    out = tmp_path / "x.extxyz"
    assert call(["export", str(folder), "-o", str(out), "--system", "cubic", "--system", "0", "--every", "5"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("6 frames of 2 systems (")
    assert printed.rstrip().endswith(str(out))
    assert len(read(out, ":")) == 6
    options = ["--frames", "-2:", "--start", "0.02ps", "--end", "60 fs", "--wrap", "--overwrite", "--json"]
    assert call(["export", str(folder), "-o", str(out), *options]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {"file": str(out), "format": "extxyz", "frames": 6, "systems": 3, "bytes": out.stat().st_size}
    assert call(["export", str(folder), "-o", str(tmp_path / "p"), "--format", "poscar", "--system", "1", "-q"]) == 0
    assert capsys.readouterr().out == ""
    assert call(["export", str(folder), "-o", str(out)]) == 65
    assert "add --overwrite" in capsys.readouterr().err


def test_frames_that_are_gone_are_told(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    shutil.rmtree(copy / "trajectory.zarr")
    with pytest.raises(InputError, match="holds no frames"):
        athanor.export(copy, tmp_path / "x.traj")


def test_every_format_is_in_the_help_and_on_the_page(repository):
    from typer.testing import CliRunner

    from athanor.cli.main import app

    text = " ".join(CliRunner().invoke(app, ["export", "--help"]).output.split())
    page = (repository / "docs" / "howto" / "export.md").read_text(encoding="utf-8")
    for row in FORMATS.values():
        assert row.endings[0] in text or row.is_folder
        assert f"`{row.name}`" in page
