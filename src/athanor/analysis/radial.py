"""Radial distribution functions by pairs of elements, in any periodic cell and as far as one asks."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch

from athanor._values import check_whole
from athanor.analysis.statistics import error_of_blocks
from athanor.data.batch import Batch
from athanor.data.elements import SYMBOLS
from athanor.errors import InputError
from athanor.neighbors.build import compute_neighbors
from athanor.neighbors.config import NeighborConfig

_BLOCKS = 10
"""Blocks of frames whose scatter gives the error."""
_PAIRS_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True, eq=False)
class RadialDistribution:
    """Radial distribution functions of one system.

    Attributes
    ----------
    r
        [bins], middle of each bin, Å.
    pairs
        What stands in each row, as ``"Na-Cl"``.
    g, error
        [pairs, bins]; 1 at large distance in a fluid. Standard errors from ten blocks of frames; NaN below two frames.
    neighbors
        [pairs, bins]; atoms of the second element around one of the first, up to the outer edge of the bin.
    counts
        Element -> atoms of it.
    half_width
        Half of the smallest width of the cell, Å, on average. Beyond it an atom also meets images of the same
        neighbour, which is right for a crystal and repeats itself in a fluid.
    frames
        How many were averaged.
    """

    r: np.ndarray
    pairs: tuple[str, ...]
    g: np.ndarray
    error: np.ndarray
    neighbors: np.ndarray
    counts: dict[str, int]
    half_width: float
    frames: int

    def __getitem__(self, pair: str) -> np.ndarray:
        """g of one pair of elements, in either order."""
        return self.g[self._row(pair)[0]]

    def coordination(self, pair: str, r: float) -> float:
        """Return how many atoms of the second element of `pair` are closer than `r`, Å, to one of the first."""
        row, (one, other) = self._row(pair)
        edges = np.append(0.0, self.r + self.r[0])
        found = float(np.interp(r, edges, np.append(0.0, self.neighbors[row])))
        return found if self.pairs[row] == f"{one}-{other}" else found * self.counts[other] / self.counts[one]

    def _row(self, pair: str) -> tuple[int, tuple[str, str]]:
        """Row of a pair, and its elements as they were asked for."""
        one, _, other = pair.partition("-")
        for name in (pair, f"{other}-{one}"):
            if name in self.pairs:
                return self.pairs.index(name), (one, other)
        raise InputError(f"`{pair}` is no pair of this system. It has {', '.join(self.pairs)}.")


def radial_distribution(frames: Batch, cutoff: float = 10.0, bins: int = 200) -> RadialDistribution:
    r"""Return the radial distribution functions of one system, averaged over its frames.

    .. math:: g_{ab}(r) = \left\langle \frac{V}{N_a N_b\, \Delta V(r)} \sum_{i \in a} \sum_{j \in b}
              \sum_{S} 1_{r}(|r_j - r_i + S h|) \right\rangle

    over all images :math:`S`, an atom's own included, with the volume :math:`V` of each frame and that of the shell,
    :math:`\Delta V`. Distances come from the neighbour list, so cells may be skewed, vary, and be small.

    Parameters
    ----------
    frames
        One system at several moments, as `SavedRun.frames` returns it; periodic along all three vectors.
    cutoff
        Largest distance, Å.
    bins
        Number of intervals up to there.

    Raises
    ------
    InputError
        If a frame is not periodic along all vectors: there is no density to compare with. If `cutoff` or `bins` is not
        positive.
    """
    NeighborConfig(cutoff=cutoff)  # refuses what is none
    check_whole(bins, "bins", 1)
    if not bool(frames.pbc_or_false.all()):
        raise InputError(
            "a radial distribution compares with the mean density, which only a system that is periodic along all "
            "three vectors has; this one is not. `athanor.neighbors.compute_neighbors` gives its distances."
        )
    atoms = len(frames.positions) // len(frames)
    numbers = frames.atomic_numbers[:atoms].numpy()
    elements = np.unique(numbers)
    names = [SYMBOLS[number] for number in elements]
    pairs = list(itertools.combinations_with_replacement(range(len(elements)), 2))
    place = np.zeros((len(elements), len(elements)), dtype=np.int64)
    for row, (a, b) in enumerate(pairs):
        place[a, b] = place[b, a] = row
    of_atom, counts = np.searchsorted(elements, numbers), [int((numbers == number).sum()) for number in elements]

    volumes = frames.volume.double().numpy()
    blocks = min(_BLOCKS, len(frames))
    block_of = np.arange(len(frames)) * blocks // len(frames)
    shape = (blocks, len(pairs), bins)
    in_shells, weighted = np.zeros(np.prod(shape)), np.zeros(np.prod(shape))
    expected = atoms**2 / volumes.min() * 2.1 * cutoff**3 + atoms  # pairs of one frame
    step = max(1, int(_PAIRS_AT_ONCE / expected))
    for first in range(0, len(frames), step):
        chosen = frames.index_select(list(range(first, min(first + step, len(frames)))))
        distance, i, j = _distances(chosen, cutoff)
        frame = first + i // atoms
        bin_ = np.minimum((distance * (bins / cutoff)).astype(np.int64), bins - 1)
        key = (block_of[frame] * len(pairs) + place[of_atom[i % atoms], of_atom[j % atoms]]) * bins + bin_
        in_shells += np.bincount(key, minlength=in_shells.size)
        weighted += np.bincount(key, weights=volumes[frame], minlength=in_shells.size)

    # each pair of atoms stands once in the list: of unlike elements that is one of N_a N_b, of like ones two of N_a²
    per_frame = np.bincount(block_of).astype(float)[:, None, None]
    times = np.array([2.0 if a == b else 1.0 for a, b in pairs])[:, None]
    first_count = np.array([counts[a] for a, _ in pairs], dtype=float)[:, None]
    product = np.array([counts[a] * counts[b] for a, b in pairs], dtype=float)[:, None]
    edges = np.linspace(0.0, cutoff, bins + 1)
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    of_block = weighted.reshape(shape) * times / (per_frame * product * shells)
    around = in_shells.reshape(shape).sum(axis=0) * times / (len(frames) * first_count)
    share = per_frame / len(frames)
    return RadialDistribution(
        r=0.5 * (edges[1:] + edges[:-1]),
        pairs=tuple(f"{names[a]}-{names[b]}" for a, b in pairs),
        g=(of_block * share).sum(axis=0),
        error=error_of_blocks(of_block),
        neighbors=np.cumsum(around, axis=1),
        counts=dict(zip(names, counts, strict=True)),
        half_width=float(np.mean(0.5 * volumes[:, None] / _faces(frames), axis=0).min()),
        frames=len(frames),
    )


def _distances(frames: Batch, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance of every pair, once, and its atoms as numbers in the batch."""
    compute_neighbors(frames, cutoff, half_list=True)
    pair_list = frames.pair_list
    assert pair_list is not None
    i, j, shifts = pair_list.pair_index(frames)
    positions, cell = frames.positions.double(), frames.cell.double()
    vectors = positions[j] - positions[i]
    vectors += torch.bmm(shifts.double()[:, None, :], cell[frames.batch_idx[i]])[:, 0]
    return vectors.norm(dim=1).numpy(), i.numpy(), j.numpy()


def _faces(frames: Batch) -> np.ndarray:
    """Areas of the faces of the cells, [F, 3], Å²."""
    cell = frames.cell.double()
    return torch.linalg.cross(cell[:, [1, 2, 0]], cell[:, [2, 0, 1]]).norm(dim=2).numpy()
