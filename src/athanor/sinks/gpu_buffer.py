"""GPUBuffer: snapshots on the device of the run, so that a step does not wait for a copy to the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from athanor._values import check_whole, usable_device
from athanor.data.batch import Batch
from athanor.errors import CapacityError
from athanor.io.frames import FrameSchema, copy_frame
from athanor.sinks.base import DataSink


class GPUBuffer(DataSink):
    """Copy systems into memory on one device, one behind the other.

    Works on every device; the name is that of the usual case. A write waits for nothing, unless its mask is on the
    device.

    Parameters
    ----------
    capacity
        Largest number of systems.
    max_atoms
        Largest number of atoms in one system. The memory for `capacity` systems of so many atoms is taken at the first
        write, and again only for another kind of frames after `zero`. None: any number of atoms; memory is taken as
        frames come, twice as much each time.
    max_edges
        Accepted for compatibility: what is kept holds no pairs.
    device
        Where copies are kept; None takes the device of the first batch.

    Examples
    --------
    >>> from athanor.sinks import GPUBuffer
    >>> GPUBuffer(capacity=256).capacity
    256
    """

    def __init__(
        self,
        capacity: int,
        max_atoms: int | None = None,
        max_edges: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self._capacity = check_whole(capacity, "capacity", 1)
        for name, value in (("max_atoms", max_atoms), ("max_edges", max_edges)):
            if value is not None:
                check_whole(value, name)
        self.max_atoms = max_atoms
        self.max_edges = max_edges
        self._device = None if device is None else usable_device(device)
        self._buffer: Batch | None = None
        self._room = (0, 0)
        self._schema = FrameSchema()

    @property
    def capacity(self) -> int | None:
        """Largest number of systems."""
        return self._capacity

    @property
    def device(self) -> torch.device | None:
        """Where copies are kept; None before the first write if none was named."""
        return self._device

    def __len__(self) -> int:
        return 0 if self._buffer is None else self._buffer.num_graphs

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        """Store copies of the systems of `batch`, see `DataSink.write`."""
        with self._mutex:
            wanted = self._wanted_systems(batch, mask, full="Buffer is full")
            if wanted is None:
                return
            atoms = np.array(batch.num_nodes_list)[wanted]
            self._check_sizes(atoms, wanted)
            frame = batch.without_pairs()
            if len(self) == 0 and not self._schema.is_that_of(frame):
                self._buffer, self._schema = None, FrameSchema()
            self._schema.add(frame)
            buffer = self._buffer_for(frame, len(atoms), int(atoms.sum()))
            buffer.put(frame, torch.from_numpy(wanted))

    def _check_sizes(self, atoms: np.ndarray, wanted: np.ndarray) -> None:
        largest = int(atoms.argmax())
        if self.max_atoms is not None and atoms[largest] > self.max_atoms:
            raise CapacityError(
                f"Atom capacity exceeded: the system at index {int(np.flatnonzero(wanted)[largest])} of the batch has "
                f"{int(atoms[largest])}, more than `max_atoms={self.max_atoms}`. Nothing was stored; raise `max_atoms` "
                f"or leave it out."
            )

    def _buffer_for(self, frame: Batch, systems: int, atoms: int) -> Batch:
        """Return the buffer, with room for so many more."""
        if self._device is None:
            self._device = frame.device
        if self._buffer is None:
            self._room = (0, 0)
            if self.max_atoms is not None:
                self._room = (self._capacity, self._capacity * self.max_atoms)
            self._buffer = Batch.empty(
                num_systems=self._room[0], num_nodes=self._room[1], template=frame, device=self._device
            )
        buffer = self._buffer
        needed = (buffer.num_graphs + systems, buffer.num_nodes + atoms)
        if any(more > there for more, there in zip(needed, self._room, strict=True)):
            self._room = (
                min(max(needed[0], 2 * self._room[0]), self._capacity),
                max(needed[1], 2 * self._room[1]),
            )
            buffer.reserve(*self._room)
        return buffer

    def read(self) -> Batch:
        """Return all stored systems as one new batch, see `DataSink.read`."""
        with self._mutex:
            if self._buffer is None or not len(self):
                raise self._refuse_empty()
            return copy_frame(self._buffer, self._buffer.device)

    def state_dict(self) -> dict[str, Any]:
        """Return all frames, see `DataSink.state_dict`."""
        with self._mutex:
            return {"frames": len(self), "batch": self.read().without_pairs().state_dict() if len(self) else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hold the frames of `state`, and nothing else."""
        with self._mutex:
            self.zero()
            if state["batch"] is not None:
                self.write(Batch.from_state_dict(state["batch"], self.device))

    def zero(self) -> None:
        """Forget everything, and set the memory to zero; it is used again."""
        with self._mutex:
            if self._buffer is not None:
                self._buffer.zero()
