"""The Lennard-Jones potential in torch: any device, the oracle and the explanation."""

from __future__ import annotations

from athanor.kernels.neighbor_list._reference import pair_vectors


def lennard_jones(
    positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets, types, epsilon, sigma, cutoff,
    switch_width, shift, half,
):  # fmt: skip
    """Sum the energy over listed pairs inside the cutoff; a pair of a full list counts half."""
    system, i, d, j = pair_vectors(positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets)
    inside = ~((d * d).sum(-1) >= cutoff * cutoff)
    system, i, j, d = system[inside], i[inside], j[inside], d[inside]
    pair_types = (types[i].long(), types[j].long())
    pair_epsilon, pair_sigma = epsilon.double()[pair_types], sigma.double()[pair_types]
    square = (d * d).sum(-1)
    sixth = (pair_sigma * pair_sigma / square) ** 3
    energy = 4.0 * pair_epsilon * sixth * (sixth - 1.0)
    if shift:
        at_cutoff = (pair_sigma * pair_sigma / cutoff**2) ** 3
        energy = energy - 4.0 * pair_epsilon * at_cutoff * (at_cutoff - 1.0)
    if switch_width > 0.0:
        start = max(cutoff - switch_width, 0.0)
        x = ((square.sqrt() - start) / (cutoff - start)).clamp(min=0.0)
        energy = energy * (1.0 + x**3 * (-10.0 + x * (15.0 - 6.0 * x)))
    weight = 1.0 if half else 0.5
    return energy.new_zeros(len(cell)).index_add(0, system, weight * energy)
