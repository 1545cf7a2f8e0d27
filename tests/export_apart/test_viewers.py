"""Exported files in the programs that they are for: what ASE, MDAnalysis and OVITO see is what the run kept.

`make test-export` runs this, in an environment with MDAnalysis and ovito; nothing else collects it. Each check has a
mutant, a file that is wrong in one way, on which it fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import MDAnalysis
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ovito.io import import_file

import athanor
from athanor.errors import InputError
from athanor.io.export import h5md, lammps_dump, xtc
from athanor.io.export.standard_cell import standard_frame
from athanor.units import FS_PER_INTERNAL_TIME, kJ_per_mol

MODEL = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.0, "cutoff": 7.0}
SINGLE = 1e-5
"""Å; positions of tens of Å in single precision, as MDAnalysis keeps them."""
XTC = 0.00501
"""Å; half of what an XTC file resolves."""
SYSTEMS = ("skewed", "cubic", "cluster")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A skewed crystal of two elements, a cubic one and a cluster without a cell: 11 frames each."""
    skewed = bulk("NaCl", "rocksalt", a=5.6) * (3, 2, 2)
    cubic = bulk("Ar", "fcc", a=5.0, cubic=True) * (2, 2, 2)
    cluster = Atoms("ArKrXe" * 4, np.random.default_rng(0).permutation(np.argwhere(np.ones((3, 2, 2)))) * 3.6)
    for name, atoms in zip(SYSTEMS, (skewed, cubic, cluster), strict=True):
        atoms.info["name"] = name
    out = tmp_path_factory.mktemp("viewers") / "run"
    athanor.md([skewed, cubic, cluster], MODEL, temperature=60.0, steps=51, timestep=2.0, every=5, out=out,
               silence=["small-cell", "non-periodic"])  # fmt: skip
    return out


def kept(folder: Path, system: str) -> list[Atoms]:
    return athanor.open(folder).frames(system).to_atoms()


def check_vectors(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(found, dtype=np.float64), expected, rtol=1e-6, atol=tolerance)


# ---------------------------------------------------------------------------------------------------------------- OVITO
def check_ovito(place: Path, images: list[Atoms], tolerance: float, *, turn: bool, elements: bool = True) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = import_file(str(place)).source
    assert source.num_frames == len(images)
    for number, atoms in enumerate(images):
        data, frame = source.compute(number), standard_frame(atoms)
        origin = (
            np.asarray(data.cell[...])[:, 3] if place.suffix == ".xtc" else 0.0
        )  # it puts boxes of GROMACS around 0
        positions = frame.positions if turn else atoms.positions
        check_vectors(data.particles.positions[...] - origin, positions, tolerance)
        if atoms.pbc.any():
            cell = frame.cell if turn else atoms.cell.array
            check_vectors(np.asarray(data.cell[...])[:, :3].T, cell, tolerance)
            assert list(data.cell.pbc) == [True] * 3
        if elements:
            types = data.particles.particle_types
            names = {row.id: row.name for row in types.types}
            assert [names[number] for number in types[...]] == atoms.get_chemical_symbols()
        if "Velocity" in data.particles and turn:  # of dumps, in Å/ps
            check_vectors(data.particles["Velocity"][...], 1000.0 * frame.velocities, 1e-6)
        if "Force" in data.particles:
            check_vectors(data.particles["Force"][...], frame.forces if turn else atoms.get_forces(), 1e-7)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(
    ("name", "tolerance", "turn"),
    [("x.extxyz", 1e-7, False), ("x.traj", 1e-12, False), ("XDATCAR", 1e-5, False), ("x.lammpstrj", 1e-8, True)],
)
def test_ovito(folder, tmp_path, system, name, tolerance, turn):
    if name == "XDATCAR" and system == "cluster":
        with pytest.raises(InputError, match="holds crystals"):
            athanor.export(folder, tmp_path / name, system=system)
        return
    athanor.export(folder, tmp_path / name, system=system)
    check_ovito(tmp_path / name, kept(folder, system), tolerance, turn=turn)


@pytest.mark.parametrize("system", SYSTEMS)
def test_ovito_reads_xtc(folder, tmp_path, system):
    athanor.export(folder, tmp_path / "x.xtc", system=system)
    check_ovito(tmp_path / "x.xtc", kept(folder, system), XTC, turn=True, elements=False)


def test_ovito_reads_a_cif_and_poscars(folder, tmp_path):
    athanor.export(folder, tmp_path / "last.cif", system="skewed", frames=-1)
    [data] = [import_file(str(tmp_path / "last.cif")).compute()]
    last = kept(folder, "skewed")[-1]
    assert data.particles.count == len(last)
    assert np.linalg.det(np.asarray(data.cell[...])[:, :3]) == pytest.approx(abs(last.get_volume()), rel=1e-6)
    athanor.export(folder, tmp_path / "frames", format="poscar", system="skewed")
    check_ovito(tmp_path / "frames" / "POSCAR_skewed_*", kept(folder, "skewed"), 1e-10, turn=False)


# ----------------------------------------------------------------------------------------------------------- MDAnalysis
def check_mdanalysis(universe: Any, folder: Path, system: str, tolerance: float, unit: str) -> None:
    """Positions, cells, times (`unit`: ps, or the step of a dump), velocities (Å/ps) and forces of each frame."""
    batch, images = athanor.open(folder).frames(system), kept(folder, system)
    stamps = batch.time[:, 0] / 1000.0 if unit == "ps" else batch.step[:, 0].double()
    assert len(universe.trajectory) == len(images)
    for number, atoms in enumerate(images):
        found, frame = universe.trajectory[number], standard_frame(atoms)
        offset = 0.0 if atoms.pbc.any() or unit == "ps" else frame.positions.min(axis=0)  # a dump is moved to its box
        check_vectors(found.positions, frame.positions - offset, tolerance)
        assert found.time == pytest.approx(float(stamps[number]), rel=1e-6)
        assert found.data["step"] == int(batch.step[number]) or "step" not in found.data
        if atoms.pbc.any():
            assert found.dimensions == pytest.approx(atoms.cell.cellpar(), abs=1e-4)
        if found.has_velocities:
            check_vectors(found.velocities, 1000.0 * frame.velocities, 1e-5)
        if found.has_forces:
            unit_of_force = kJ_per_mol if unit == "ps" else 1.0
            check_vectors(found.forces * unit_of_force, frame.forces, 1e-6)


def open_dump(place: Path) -> Any:
    return MDAnalysis.Universe(str(place), format="LAMMPSDUMP", topology_format="LAMMPSDUMP")


def open_xtc(place: Path) -> Any:
    return MDAnalysis.Universe(str(place.with_suffix(".xyz")), str(place), topology_format="XYZ")


def open_h5md(place: Path) -> Any:
    return MDAnalysis.Universe(str(place))


OPENED: dict[str, tuple[Callable[[Path], Any], float, str]] = {
    "x.lammpstrj": (open_dump, SINGLE, "steps"), "x.xtc": (open_xtc, XTC, "ps"), "x.h5md": (open_h5md, SINGLE, "ps"),
}  # fmt: skip


def export_and_check(folder: Path, place: Path, system: str) -> None:
    opened, tolerance, unit = OPENED[place.name]
    athanor.export(folder, place, system=system)
    if place.suffix == ".xtc":
        athanor.export(folder, place.with_suffix(".xyz"), system=system, frames=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        universe = opened(place)
        check_mdanalysis(universe, folder, system, tolerance, unit)
        if place.suffix != ".h5md":  # which has atomic numbers that MDAnalysis does not look at
            assert list(universe.atoms.elements) == kept(folder, system)[0].get_chemical_symbols()
        universe.trajectory.close()


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("name", OPENED)
def test_mdanalysis(folder, tmp_path, name, system):
    export_and_check(folder, tmp_path / name, system)


@pytest.mark.parametrize(
    ("name", "home", "what", "wrong"),
    [
        ("x.lammpstrj", lammps_dump, "ps", 1.0),  # velocities in Å/fs
        ("x.xtc", xtc, "ps", 1.0),  # times in fs
        ("x.xtc", xtc, "_ANGSTROM", 1.0),  # lengths in Å
        ("x.h5md", h5md, "kJ_per_mol", 1.0),  # forces in eV/Å
        ("x.h5md", h5md, "_UNITS", {**h5md._UNITS, "time": "ps"}),
    ],
)
def test_a_wrong_unit_is_noticed(folder, tmp_path, monkeypatch, name, home, what, wrong):
    monkeypatch.setattr(home, what, wrong)
    with pytest.raises(AssertionError):
        export_and_check(folder, tmp_path / name, "skewed")


@pytest.mark.parametrize(("name", "home"), [("x.lammpstrj", lammps_dump), ("x.xtc", xtc), ("x.h5md", h5md)])
def test_a_cell_that_is_not_turned_is_noticed(folder, tmp_path, monkeypatch, name, home):
    def as_it_is(atoms: Atoms) -> Any:
        velocities = atoms.get_velocities() / FS_PER_INTERNAL_TIME
        return type(standard_frame(atoms))(atoms.positions, atoms.cell.array, velocities, atoms.get_forces())

    monkeypatch.setattr(home, "standard_frame", as_it_is)
    with pytest.raises(AssertionError):
        export_and_check(folder, tmp_path / name, "skewed")


# -------------------------------------------------------------------------------------------------------- both together
def test_distances_are_those_of_ase(folder, tmp_path):
    """What a user computes: nearest images in a skewed cell, by the program that opened the file."""
    from MDAnalysis.lib.distances import distance_array

    images = kept(folder, "skewed")
    for name in ("x.h5md", "x.lammpstrj", "x.xtc"):
        opened, _, _ = OPENED[name]
        athanor.export(folder, tmp_path / name, system="skewed")
        athanor.export(folder, tmp_path / "x.xyz", system="skewed", frames=0, overwrite=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = opened(tmp_path / name).trajectory[-1]
            distances = distance_array(found.positions, found.positions, box=found.dimensions)
        assert distances == pytest.approx(images[-1].get_all_distances(mic=True), abs=0.02)


def test_xtc_of_several_systems_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match="An XTC file holds one system, and frames of 3 were chosen"):
        athanor.export(folder, tmp_path / "x.xtc")
    assert list(tmp_path.iterdir()) == []


def test_xtc_without_room_leaves_nothing(folder, tmp_path, monkeypatch):
    given, calls = xtc.standard_frame, []

    def failing(atoms: Atoms) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        return given(atoms)

    monkeypatch.setattr(xtc, "standard_frame", failing)
    with pytest.raises(athanor.errors.StorageError, match="No space left"):
        athanor.export(folder, tmp_path / "x.xtc", system="cubic")
    assert list(tmp_path.iterdir()) == []


def test_writing_xtc_leaves_the_process_as_it_was(folder, tmp_path):
    program = f"""
import os, sys, warnings, logging
import numpy as np, athanor
athanor.export({str(folder)!r}, {str(tmp_path / "x.h5md")!r}, system="cubic")  # what reading a store loads is there
before = dict(os.environ), list(warnings.filters), list(logging.root.handlers), np.random.get_state()[1].tolist()
athanor.export({str(folder)!r}, {str(tmp_path / "x.xtc")!r}, system="cubic")
after = dict(os.environ), list(warnings.filters), list(logging.root.handlers), np.random.get_state()[1].tolist()
assert "MDAnalysis" in sys.modules
assert before == after
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
