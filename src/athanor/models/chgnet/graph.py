"""From a packed pair list to the graphs that CHGNet reads: directed pairs, undirected bonds, angles between bonds.

Tensors in, tensors out; the network lives in `network`. A *pair* is directed (centre i, neighbour j), a *bond* is a
pair and its opposite; the vector of a bond points from the smaller to the larger atom index. Bonds shorter than the
bond-graph cutoff come first, so the bond graph is a prefix of the bonds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from athanor.errors import InputError
from athanor.kernels.neighbor_list import unpack_images
from athanor.kernels.neighbor_list._reference import pair_vectors


@dataclass(frozen=True, slots=True)
class CrystalGraph:
    """Atom graph and bond graph of a whole batch. Index tensors are int64.

    Parameters
    ----------
    pair_center, pair_neighbor, pair_bond
        [E], both ends and the bond of each directed pair; centres do not decrease.
    bond_ends
        [U, 2], atoms i and j of each bond.
    bond_vectors
        float64 [U, 3], r_j - r_i + S·cell, Å.
    num_short
        Bonds 0 .. num_short - 1 are in the bond graph.
    short_center, short_bond
        [D], centre and bond of each directed pair of the bond graph.
    short_sign
        float64 [D], +1 where such a pair runs along the vector of its bond, -1 where it runs against it.
    angle_first, angle_second
        [A], the two directed pairs of each angle, rows of `short_center`; every angle comes in both orders.
    """

    pair_center: torch.Tensor
    pair_neighbor: torch.Tensor
    pair_bond: torch.Tensor
    bond_ends: torch.Tensor
    bond_vectors: torch.Tensor
    num_short: int
    short_center: torch.Tensor
    short_bond: torch.Tensor
    short_sign: torch.Tensor
    angle_first: torch.Tensor
    angle_second: torch.Tensor

    @property
    def num_angles(self) -> int:
        """Number of angles, A."""
        return self.angle_first.shape[0]


def build_graph(
    positions: torch.Tensor,
    cell: torch.Tensor,
    segment_ptr: torch.Tensor,
    row_ptr: torch.Tensor,
    neighbors: torch.Tensor,
    images: torch.Tensor,
    wrap_offsets: torch.Tensor,
    *,
    cutoff: float,
    bond_cutoff: float,
) -> CrystalGraph:
    """Build the graphs of a batch from its full pair list; pairs beyond `cutoff` (the skin) are left out.

    Parameters
    ----------
    positions
        [N, 3], Å.
    cell
        [B, 3, 3], lattice vectors as rows, Å; zero for a molecule.
    segment_ptr
        int32 [B + 1], first atom of each system.
    row_ptr, neighbors, images, wrap_offsets
        The list as `athanor.kernels.neighbor_list` builds it: int64 [N + 1], int32 [P], int32 [P], int32 [N, 3].
    cutoff, bond_cutoff
        Radii of the atom graph and the bond graph, Å; distances are strictly smaller.

    Raises
    ------
    InputError
        If the list holds a pair without its opposite (a half list).
    """
    if positions.device.type != "cpu":
        arguments = (positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets)
        return build_graph_reference(*arguments, cutoff=cutoff, bond_cutoff=bond_cutoff)
    from athanor.models.chgnet import _cpu

    pointer, rows, targets = segment_ptr.numpy(), row_ptr.numpy(), neighbors.numpy()
    capacity = (targets.shape[0] + 1) // 2
    bond_of_pair = torch.full((targets.shape[0],), -1, dtype=torch.int64)
    ends = torch.empty(capacity, 2, dtype=torch.int64)
    vectors = torch.empty(capacity, 3, dtype=torch.float64)
    num_short, num_long, unmatched = _cpu.find_bonds(
        positions.detach().to(torch.float64).numpy(),
        cell.detach().to(torch.float64).numpy(),
        pointer,
        rows,
        targets,
        images.numpy(),
        wrap_offsets.numpy(),
        cutoff,
        bond_cutoff,
        bond_of_pair.numpy(),
        ends.numpy(),
        vectors.numpy(),
    )
    _check_is_full(unmatched)
    num_bonds = num_short + num_long
    order = torch.cat((torch.arange(num_short), torch.arange(capacity - 1, capacity - 1 - num_long, -1)))
    center, neighbor, bond = torch.empty(3, 2 * num_bonds, dtype=torch.int64).unbind()
    short_center, short_bond = torch.empty(2, 2 * num_short, dtype=torch.int64).unbind()
    short_sign = torch.empty(2 * num_short, dtype=torch.float64)
    short_ptr = torch.empty(positions.shape[0] + 1, dtype=torch.int64)
    _cpu.fill_pairs(
        pointer,
        rows,
        targets,
        bond_of_pair.numpy(),
        num_short,
        capacity - 1 + num_short,
        center.numpy(),
        neighbor.numpy(),
        bond.numpy(),
        short_center.numpy(),
        short_bond.numpy(),
        short_sign.numpy(),
        short_ptr.numpy(),
    )
    degree = short_ptr.diff()
    first, second = torch.empty(2, int((degree * (degree - 1)).sum()), dtype=torch.int64).unbind()
    _cpu.fill_angles(short_ptr.numpy(), first.numpy(), second.numpy())
    return CrystalGraph(
        pair_center=center,
        pair_neighbor=neighbor,
        pair_bond=bond,
        bond_ends=ends[order],
        bond_vectors=vectors[order],
        num_short=num_short,
        short_center=short_center,
        short_bond=short_bond,
        short_sign=short_sign,
        angle_first=first,
        angle_second=second,
    )


def _check_is_full(unmatched: int) -> None:
    if unmatched:
        raise InputError(
            f"`pair_list` holds {unmatched} pairs without their opposites; CHGNet needs both directions. Build the "
            f"list with `compute_neighbors(batch, config=model.model_config.neighbor_config)`."
        )


def build_graph_reference(
    positions: torch.Tensor,
    cell: torch.Tensor,
    segment_ptr: torch.Tensor,
    row_ptr: torch.Tensor,
    neighbors: torch.Tensor,
    images: torch.Tensor,
    wrap_offsets: torch.Tensor,
    *,
    cutoff: float,
    bond_cutoff: float,
) -> CrystalGraph:
    """Build the same graphs with torch on any device; see `build_graph`."""
    num_atoms = positions.shape[0]
    device = positions.device
    _, i, vectors, j = pair_vectors(
        positions.detach(), cell.detach(), segment_ptr, row_ptr, neighbors, images, wrap_offsets
    )
    image = unpack_images(images).to(torch.int64)

    key = _image_key(image)
    forward = (i < j) | ((i == j) & (key > _image_key(torch.zeros_like(image[:1]))))
    ends_code = torch.unique(torch.minimum(i, j) * num_atoms + torch.maximum(i, j), return_inverse=True)[1]
    key = torch.where(forward, key, _image_key(-image)) + (ends_code << 33)
    _, bond, count = torch.unique(key, return_inverse=True, return_counts=True)
    forward_pair = torch.zeros(count.shape[0], dtype=torch.int64, device=device)
    pairs = torch.arange(bond.shape[0], device=device)
    forward_pair[bond[forward]] = pairs[forward]
    within_cutoff = torch.linalg.vector_norm(vectors[forward_pair], dim=1) < cutoff
    _check_is_full(int(((count != 2) & within_cutoff).sum()))

    short = within_cutoff & (torch.linalg.vector_norm(vectors[forward_pair], dim=1) < bond_cutoff)
    num_short = int(short.sum())
    new_id = torch.where(short, short.cumsum(0) - 1, num_short + (within_cutoff & ~short).cumsum(0) - 1)
    kept = within_cutoff[bond]
    i, j, bond, forward = i[kept], j[kept], new_id[bond[kept]], forward[kept]
    forward_pair = forward_pair[within_cutoff][torch.argsort(new_id[within_cutoff])]
    ends = torch.empty(forward_pair.shape[0], 2, dtype=torch.int64, device=device)
    ends[bond[forward]] = torch.stack((i[forward], j[forward]), dim=1)
    in_bond_graph = bond < num_short
    short_center = i[in_bond_graph]
    degree = torch.bincount(short_center, minlength=num_atoms)
    start = degree.cumsum(0) - degree
    count = degree[short_center]
    first = torch.repeat_interleave(torch.arange(short_center.shape[0], device=device), count)
    rank = torch.arange(first.shape[0], device=device) - torch.repeat_interleave(count.cumsum(0) - count, count)
    second = start[short_center[first]] + rank
    different = first != second
    return CrystalGraph(
        pair_center=i,
        pair_neighbor=j,
        pair_bond=bond,
        bond_ends=ends,
        bond_vectors=vectors[forward_pair],
        num_short=num_short,
        short_center=short_center,
        short_bond=bond[in_bond_graph],
        short_sign=torch.where(forward[in_bond_graph], 1.0, -1.0).to(torch.float64),
        angle_first=first[different],
        angle_second=second[different],
    )


def _image_key(image: torch.Tensor) -> torch.Tensor:
    """Return a key that sorts images [P, 3] by (x, y, z)."""
    shifted = image + 1024
    return (shifted[:, 0] << 22) + (shifted[:, 1] << 11) + shifted[:, 2]
