"""Read ``log.csv`` of a run back: what was logged of one system, or of several, as arrays.

A small log is read whole, once. Of a large one only the lines of the systems that are asked for are parsed.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from athanor.errors import StorageError
from athanor.io.regular_file import open_regular
from athanor.workflows.checksums import check_file

_LARGE = 50_000_000
"""Bytes beyond which a log is searched for a few systems instead of being parsed whole."""
_FEW = 100
"""Systems up to which that is quicker."""
_BLOCK = 32_000_000
"""Bytes that are parsed at a time."""
VOIGT = ("xx", "yy", "zz", "yz", "xz", "xy")
"""Order of the components of a stress, as in ASE."""
_LONGEST_LINE = 100_000
_NEEDED = ("step", "time_fs", "system_id")


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """What was logged of one system; arrays of one value for each logged step, NaN where there is none.

    Attributes
    ----------
    step
        Lifetime steps of the system.
    time
        fs. Relaxation does not advance it.
    stage
        Stage of the job that did the step, from 0.
    energy
        Potential energy, eV.
    fmax
        Largest force on an atom, eV/Å.
    kinetic_energy, total_energy
        eV; NaN in a relaxation, which is no motion.
    temperature
        K; NaN in a relaxation.
    volume
        Å³.
    density
        g/cm³; NaN in runs without dynamics.
    pressure
        eV/Å³, compression positive, with its kinetic part; divide by `athanor.units.GPa` for GPa.
    stress
        eV/Å³, tension positive, with its kinetic part: xx, yy, zz, yz, xz and xy of each row. NaN unless dynamics was
        told to log it.
    conserved
        What the method of the stage conserves, eV: in NVE the total energy. NaN where it conserves nothing.
    energy_deviation, max_force_deviation
        How far the members of a committee disagree, eV and eV/Å; NaN with other models.
    """

    step: np.ndarray
    time: np.ndarray
    stage: np.ndarray
    energy: np.ndarray
    fmax: np.ndarray
    kinetic_energy: np.ndarray
    total_energy: np.ndarray
    temperature: np.ndarray
    volume: np.ndarray
    density: np.ndarray
    pressure: np.ndarray
    stress: np.ndarray
    conserved: np.ndarray
    energy_deviation: np.ndarray
    max_force_deviation: np.ndarray

    def __len__(self) -> int:
        return len(self.step)


class SavedLog:
    """A log on disk. What was there when it was first read is what is seen; a last line that is torn is ignored.

    Parameters
    ----------
    path
        The file.
    stages
        How many the job has.

    Raises
    ------
    StorageError
        From a call: if the file is missing, damaged, or was not written by a run.
    """

    def __init__(self, path: Path, stages: int) -> None:
        self._path = path
        self._stages = stages
        self._whole: dict[int, np.ndarray] | None = None

    def of(self, systems: Sequence[int]) -> list[Series]:
        """Return what was logged of each of `systems`, in that order."""
        columns, rows = self._read(systems)
        nothing = np.empty((0, len(columns)))
        return [self._series(columns, rows.get(system, nothing)) for system in systems]

    def _series(self, columns: list[str], rows: np.ndarray) -> Series:
        """Rows of one system as named arrays, without those of a system that stood still."""

        def column(name: str) -> np.ndarray:
            return rows[:, columns.index(name)] if name in columns else np.full(len(rows), np.nan)

        if len(rows):
            rows = rows[np.diff(column("step"), prepend=-1) != 0]
        # logs without `stage` have the stage that the system goes on to
        stage = column("stage" if "stage" in columns else "status").astype(np.int64)
        stage = np.minimum(stage, self._stages - 1)
        return Series(
            step=column("step").astype(np.int64),
            time=column("time_fs"),
            stage=stage,
            energy=column("energy"),
            fmax=column("fmax"),
            kinetic_energy=column("kinetic_energy"),
            total_energy=column("total_energy"),
            temperature=column("temperature"),
            volume=column("volume"),
            density=column("density"),
            pressure=column("pressure"),
            stress=np.stack([column(f"stress_{name}") for name in VOIGT], axis=1),
            conserved=column("conserved"),
            energy_deviation=column("energy_deviation"),
            max_force_deviation=column("max_force_deviation"),
        )

    def _read(self, systems: Sequence[int]) -> tuple[list[str], dict[int, np.ndarray]]:
        """Columns of the log, and the rows of each system, at least of `systems`."""
        if self._whole is None:
            check_file(self._path)
        try:
            with open_regular(self._path) as file:
                columns = self._header(file)
                if self._whole is None:
                    if len(systems) <= _FEW and self._path.stat().st_size > _LARGE:
                        return columns, self._by_system(columns, [self._lines_of(file, columns, systems)])
                    self._whole = self._by_system(columns, self._blocks(file))
                return columns, self._whole
        except FileNotFoundError:
            raise StorageError(
                f"`{self._path}` is missing: no step was logged yet, or it was removed. Run again to get one."
            ) from None
        except OSError as error:
            raise StorageError(f"`{self._path}` can not be read: {error.strerror or error}.") from error

    def _header(self, file: BinaryIO) -> list[str]:
        columns = file.readline(_LONGEST_LINE).decode("utf-8", "replace").strip().split(",")
        missing = [name for name in _NEEDED if name not in columns]
        if missing:
            raise StorageError(
                f"`{self._path}` is not the log of a run: its first line has no column `{missing[0]}`. "
                f"Put the file that athanor wrote back."
            )
        return columns

    def _lines_of(self, file: BinaryIO, columns: list[str], systems: Sequence[int]) -> bytes:
        """Whole lines of some systems."""
        skipped = b"[^,\n]*," * columns.index("system_id")
        wanted = b"|".join(b"%d" % system for system in systems)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            found = re.findall(b"\n(" + skipped + b"(?:" + wanted + b"),[^\n]*)(?=\n)", text)
        return b"".join(line + b"\n" for line in found)

    def _blocks(self, file: BinaryIO) -> Iterator[bytes]:
        """The rest of a file in blocks of whole lines; a last line without an end is left out."""
        rest = b""
        while block := file.read(_BLOCK):
            whole, newline, rest = (rest + block).rpartition(b"\n")
            if len(rest) > _LONGEST_LINE:
                raise StorageError(
                    f"`{self._path}` is damaged: it has a line without an end. Remove the line to read the rest."
                )
            yield whole + newline

    def _by_system(self, columns: list[str], blocks: Iterator[bytes] | list[bytes]) -> dict[int, np.ndarray]:
        parsed = [self._parse(block, len(columns)) for block in blocks]
        rows = np.concatenate([np.empty((0, len(columns))), *parsed])
        if not len(rows):  # only the header was written so far
            return {}
        number = rows[:, columns.index("system_id")]
        order = np.argsort(number, kind="stable")
        systems, starts = np.unique(number[order], return_index=True)
        return dict(zip(systems.astype(int).tolist(), np.split(rows[order], starts[1:]), strict=True))

    def _parse(self, block: bytes, width: int) -> np.ndarray:
        """Numbers of whole lines; an empty field is NaN."""
        if not block:
            return np.empty((0, width))
        text = block
        while b",," in text:
            text = text.replace(b",,", b",nan,")
        lines = text.replace(b",\n", b",nan\n").decode("utf-8", "replace").splitlines()
        try:
            rows = np.loadtxt(lines, delimiter=",", ndmin=2, comments=None)
            if rows.shape[1] == width:
                return rows
        except ValueError:
            pass
        bad = next((line for line in lines if not _is_row(line, width)), lines[0])
        raise StorageError(
            f"`{self._path}` has a damaged line: {bad[:60]!r}; {width} numbers are expected. "
            f"Remove the line to read the rest."
        )


def _is_row(line: str, width: int) -> bool:
    try:
        return len([float(field) for field in line.split(",")]) == width
    except ValueError:
        return False
