"""StoredPairs: a packed pair list as arrays, cut into parts for threads, and totals of systems from those of atoms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from athanor.kernels._library import LazyModule, as_array, as_doubles, as_tensor
from athanor.kernels._threads import (
    SERIAL_WORK,
    WAKING,
    balanced_bounds,
    even_bounds,
    num_parts,
    run_parts,
    system_bounds,
)

_pairs = LazyModule("athanor.kernels.neighbor_list._cpu_pairs")


class StoredPairs:
    """The list of an operation as its loops over rows read it, on a CPU.

    Parameters
    ----------
    positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets, half
        As operations take them.
    nanoseconds
        Estimate of the time that one pair takes.

    Attributes
    ----------
    segment_ptr
        First atom of each system.
    arrays
        Wrapped positions, cells, first atoms of systems, first pairs of atoms, neighbours and images.
    pair_weight
        What a listed pair counts: a half, or 1 in a half list.
    by_system, by_atom
        Where systems, and atoms, are cut into parts; with a half list atoms are cut between systems.
    """

    def __init__(
        self,
        positions: Tensor,
        cell: Tensor,
        segment_ptr: Tensor,
        row_ptr: Tensor,
        neighbors: Tensor,
        images: Tensor,
        wrap_offsets: Tensor,
        half: bool,
        nanoseconds: float,
    ) -> None:
        n = self.num_atoms = positions.shape[0]
        self.num_systems, self._dtype = cell.shape[0], positions.dtype
        self.pair_weight = 1.0 if half else 0.5
        ptr, lattice, starts = as_array(segment_ptr), as_doubles(cell), as_array(row_ptr)
        work = nanoseconds * neighbors.shape[0] + 20.0 * n
        self.segment_ptr, x = ptr, np.empty((n, 4))
        self.by_system = system_bounds(ptr, work)
        wrapping = (as_doubles(positions), lattice, ptr, as_array(wrap_offsets), x)
        self.by_atom = [int(ptr[b]) for b in self.by_system]
        if not half:
            self.by_atom = balanced_bounds(starts, num_parts(work), WAKING / max(work, SERIAL_WORK))
        run_parts(_pairs.wrapped_positions, wrapping, even_bounds(n, num_parts(3.0 * n)))
        self.arrays = (x, lattice, ptr, starts, as_array(neighbors), as_array(images))

    def sums(
        self, loop: Callable[..., Any], *arguments: Any, with_virial: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run a loop over rows and return what it writes: forces [N, 3], energies and virials of atoms [N, 7].

        Without virials these are [N, 1].

        Parameters
        ----------
        loop
            Takes `arrays`, `arguments`, the two, and a range of atoms.
        *arguments
            What it takes in between.
        """
        forces, sums = np.empty((self.num_atoms, 3)), np.empty((self.num_atoms, 7 if with_virial else 1))
        run_parts(loop, (*self.arrays, *arguments, forces, sums), self.by_atom)
        return forces, sums

    def totals(
        self, forces: np.ndarray, sums: np.ndarray, weight: float, with_virial: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return energy and virial of systems, `weight` times the sums of their atoms, and the forces.

        A virial that is not asked for has no rows.
        """
        energy, virial = np.empty(self.num_systems), np.empty((self.num_systems if with_virial else 0, 3, 3))
        run_parts(_pairs.totals, (sums, self.segment_ptr, weight, energy, virial), self.by_system)
        return as_tensor(energy, self._dtype), as_tensor(forces, self._dtype), as_tensor(virial, self._dtype)
