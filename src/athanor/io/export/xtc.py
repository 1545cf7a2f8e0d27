"""XTC files of GROMACS: positions and cell in nm, time in ps, to 0.001 nm."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from athanor._optional import OptionalDependency
from athanor.errors import InputError
from athanor.io.export.ase_files import of_one_composition
from athanor.io.export.formats import Contents
from athanor.io.export.standard_cell import standard_frame
from athanor.units import ps

if TYPE_CHECKING:
    from ase import Atoms

_ANGSTROM = 0.1
"""nm."""
_LARGEST_STEP = 2**31 - 1


def write_xtc(place: Path, images: Iterable[Atoms], contents: Contents) -> None:
    """Write positions, cell, step and time; no elements, which a file of one frame in another format gives."""
    xdr = OptionalDependency.MDANALYSIS.load("lib.formats.libmdaxdr", needed_by="An XTC file")
    with xdr.XTCFile(str(place), "w") as file:
        for atoms in of_one_composition(images, "An XTC file"):
            frame, step = standard_frame(atoms), int(atoms.info.get("step", 0))
            if step > _LARGEST_STEP:
                raise InputError(f"Step {step:,} is beyond what an XTC file can hold, {_LARGEST_STEP:,}. Write h5md.")
            cell = np.zeros((3, 3)) if frame.cell is None else frame.cell
            time = float(atoms.info.get("time", 0.0)) / ps
            numbers = (_ANGSTROM * value for value in (frame.positions, cell))
            file.write(*(np.ascontiguousarray(value, dtype=np.float32) for value in numbers), step, time)
