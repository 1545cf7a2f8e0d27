"""Room on the disk that a run keeps for a last checkpoint and its end, so that a full disk takes neither."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from athanor.workflows.advice import bytes_per_frame, free_disk
from athanor.workflows.folder import RESERVE
from athanor.workflows.spec import RunSpec
from athanor.workflows.structures import System

_BYTES_PER_ATOM, _BYTES_PER_SYSTEM = 300, 3000
"""Of ``final.extxyz`` and the tables."""
_FOR_RECORD = 64 * 1024
"""For ``run.yaml``, which is written last."""
_MOST_FOR_FRAMES, _FRAMES = 8 * 1024 * 1024, 10
"""What waits in a trajectory at most."""
_MOST_ROWS, _BYTES_PER_ROW = 2000, 320
"""What waits in the log at most, beside one row of each system."""
_CHECKPOINTS = 1.5
"""The next checkpoint may be so much larger than the last one."""
_SHARE = 0.25
"""Largest part of what is free at the start that is kept for anything but the end."""


class Reserve:
    """A file that is only there to take its room.

    Where there is no room for it, it is smaller, and where there is little, the run starts without.

    Parameters
    ----------
    folder
        Results folder.
    spec
        The resolved run.
    systems
        What is run.
    """

    def __init__(self, folder: Path, spec: RunSpec, systems: Sequence[System]) -> None:
        self._path = folder / RESERVE
        results = sum(_BYTES_PER_ATOM * len(system.atoms) + _BYTES_PER_SYSTEM for system in systems)
        self._for_end = results + 2 * _FOR_RECORD
        rows = min(_MOST_ROWS + len(systems), len(systems) * (2 + spec.total_steps // spec.every))
        self._waiting = min(_MOST_FOR_FRAMES, _FRAMES * bytes_per_frame(spec, systems)) + _BYTES_PER_ROW * rows
        self._most, self._taken = self._for_end + int(_SHARE * free_disk(folder)), 0
        for nbytes in (min(self._for_end + self._waiting, self._most), self._for_end):
            try:
                with open(self._path, "wb") as file:
                    _fill(file.fileno(), nbytes)
                self._taken = nbytes
                return
            except OSError:
                self.give_back()

    def keep_for_checkpoint(self, nbytes: int) -> None:
        """Take room for one more checkpoint like one that has `nbytes`; where there is none, it stays as it is."""
        wanted = min(self._for_end + self._waiting + int(_CHECKPOINTS * nbytes), self._most)
        if not 0 < self._taken < wanted:
            return
        try:
            with open(self._path, "r+b") as file:
                _fill(file.fileno(), wanted)
            self._taken = wanted
        except OSError:
            self._cut(self._taken)

    def give_back_for_checkpoint(self) -> None:
        """Give back the room of a checkpoint, of frames and of rows that wait; that of the end stays."""
        self._cut(min(self._taken, self._for_end))

    def give_back_for_results(self) -> None:
        """Give back the room of all but ``run.yaml``."""
        self._cut(min(self._taken, _FOR_RECORD))

    def _cut(self, nbytes: int) -> None:
        if self._taken:
            with suppress(OSError):
                os.truncate(self._path, nbytes)
                self._taken = nbytes

    def give_back(self) -> None:
        """Give back what is left."""
        self._taken = 0
        with suppress(OSError):
            self._path.unlink()


def _fill(descriptor: int, nbytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, nbytes)
    else:
        os.write(descriptor, bytes(nbytes))
