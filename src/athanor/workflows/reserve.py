"""Room on the disk that a run keeps for its end, so that a disk that fills up does not take the results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from athanor.workflows.advice import bytes_per_frame
from athanor.workflows.folder import RESERVE
from athanor.workflows.spec import RunSpec
from athanor.workflows.structures import System

_BYTES_PER_ATOM, _BYTES_PER_SYSTEM = 300, 3000
"""Of ``final.extxyz`` and the tables."""
_FOR_RECORD = 64 * 1024
"""For ``run.yaml``, which is written last."""
_MOST_FOR_FRAMES, _FRAMES = 8 * 1024 * 1024, 10
"""What waits in a trajectory at most."""


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
        end = sum(_BYTES_PER_ATOM * len(system.atoms) + _BYTES_PER_SYSTEM for system in systems)
        frames = min(_MOST_FOR_FRAMES, _FRAMES * bytes_per_frame(spec, systems))
        for nbytes in (end + frames, end):
            try:
                with open(self._path, "wb") as file:
                    _fill(file.fileno(), nbytes + 2 * _FOR_RECORD)
                return
            except OSError:
                self.give_back()

    def give_back_for_results(self) -> None:
        """Give back the room of all but ``run.yaml``."""
        with suppress(OSError):
            os.truncate(self._path, _FOR_RECORD)

    def give_back(self) -> None:
        """Give back what is left."""
        with suppress(OSError):
            self._path.unlink()


def _fill(descriptor: int, nbytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, nbytes)
    else:
        os.write(descriptor, bytes(nbytes))
