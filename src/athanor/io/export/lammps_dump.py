"""Text dumps of LAMMPS, in its `metal` units: Å, ps, eV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from athanor.io.export.ase_files import charges_of, of_one_composition
from athanor.io.export.formats import Contents
from athanor.io.export.standard_cell import StandardFrame, standard_frame
from athanor.units import ps

if TYPE_CHECKING:
    from ase import Atoms

_LEAST_BOX = 1.0
"""Å; of a system without a cell whose atoms lie in a plane."""


def write_lammps_dump(place: Path, images: Iterable[Atoms], contents: Contents) -> None:
    """Write a dump: ids, types, elements, masses and positions, with velocities, forces and charges if they are known.

    Types number the elements by the alphabet. Positions are unwrapped ones (``xu``), as they may lie outside the cell.
    The time of a frame is its step: what is called so is all that readers of dumps agree on.
    """
    with place.open("w", encoding="ascii") as file:
        for atoms in of_one_composition(images, "A LAMMPS dump"):
            frame = standard_frame(atoms)
            file.write(f"ITEM: TIMESTEP\n{atoms.info.get('step', 0)}\nITEM: NUMBER OF ATOMS\n{len(atoms)}\n")
            file.writelines(_box(frame, atoms.pbc))
            file.write(_atoms(frame, atoms))


def _box(frame: StandardFrame, pbc: np.ndarray) -> Iterator[str]:
    """Yield the lines of the box; of a skewed one they give the box around it."""
    edges = " ".join("pp" if periodic else "ff" for periodic in pbc)
    if frame.cell is None:
        low, high = frame.positions.min(axis=0), frame.positions.max(axis=0)
        margin = np.maximum(_LEAST_BOX - (high - low), 0.0) / 2.0
        yield "ITEM: BOX BOUNDS ss ss ss\n"
        yield from (f"{a:.16g} {b:.16g}\n" for a, b in zip(low - margin, high + margin, strict=True))
        return
    (x, _, _), (xy, y, _), (xz, yz, z) = frame.cell.tolist()
    if xy == xz == yz == 0.0:
        yield f"ITEM: BOX BOUNDS {edges}\n"
        yield from (f"0 {length:.16g}\n" for length in (x, y, z))
        return
    yield f"ITEM: BOX BOUNDS xy xz yz {edges}\n"
    yield f"{min(0.0, xy, xz, xy + xz):.16g} {x + max(0.0, xy, xz, xy + xz):.16g} {xy:.16g}\n"
    yield f"{min(0.0, yz):.16g} {y + max(0.0, yz):.16g} {xz:.16g}\n"
    yield f"0 {z:.16g} {yz:.16g}\n"


def _atoms(frame: StandardFrame, atoms: Atoms) -> str:
    """Return the lines of the atoms, and the one that says what their columns are."""
    symbols = atoms.get_chemical_symbols()
    types = {symbol: number for number, symbol in enumerate(sorted(set(symbols)), 1)}
    names, blocks = ["mass", "xu", "yu", "zu"], [atoms.get_masses()[:, None], frame.positions]
    if frame.velocities is not None:
        names, blocks = [*names, "vx", "vy", "vz"], [*blocks, frame.velocities * ps]
    if frame.forces is not None:
        names, blocks = [*names, "fx", "fy", "fz"], [*blocks, frame.forces]
    charges = charges_of(atoms)
    if charges is not None:
        names, blocks = [*names, "q"], [*blocks, charges[:, None]]
    line = "%d %d %s" + " %.10g" * len(names) + "\n"
    values = [
        value
        for number, (symbol, row) in enumerate(zip(symbols, np.hstack(blocks).tolist(), strict=True), 1)
        for value in (number, types[symbol], symbol, *row)
    ]
    return f"ITEM: ATOMS id type element {' '.join(names)}\n" + line * len(symbols) % tuple(values)
