"""The Lennard-Jones potential in torch: any device, the oracle and the explanation."""

from __future__ import annotations

from athanor.kernels.neighbor_list._reference import pair_vectors


def lennard_jones(
    positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets, types, epsilon, sigma, cutoff,
    switch_width, shift, half,
):  # fmt: skip
    """Sum over listed pairs inside the cutoff; a pair of a full list counts half."""
    system, i, d, j = pair_vectors(positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets)
    inside = ~((d * d).sum(-1) >= cutoff * cutoff)
    system, i, j, d = system[inside], i[inside], j[inside], d[inside]
    pair_types = (types[i].long(), types[j].long())
    pair_epsilon, pair_sigma = epsilon.double()[pair_types], sigma.double()[pair_types]
    square = (d * d).sum(-1)
    sixth = (pair_sigma * pair_sigma / square) ** 3
    energy = 4.0 * pair_epsilon * sixth * (sixth - 1.0)
    slope = -24.0 * pair_epsilon * sixth * (2.0 * sixth - 1.0) / square  # (dE/dr) / r
    if shift:
        at_cutoff = (pair_sigma * pair_sigma / cutoff**2) ** 3
        energy = energy - 4.0 * pair_epsilon * at_cutoff * (at_cutoff - 1.0)
    if switch_width > 0.0:
        r, start = square.sqrt(), max(cutoff - switch_width, 0.0)
        x = ((r - start) / (cutoff - start)).clamp(min=0.0)
        taper = 1.0 + x**3 * (-10.0 + x * (15.0 - 6.0 * x))
        slope = slope * taper + energy * (-30.0 * x**2 * (1.0 - x) ** 2) / (cutoff - start) / r
        energy = energy * taper
    weight = 1.0 if half else 0.5
    total = energy.new_zeros(len(cell)).index_add_(0, system, weight * energy)
    force = slope[:, None] * d
    forces = force.new_zeros(positions.shape).index_add_(0, i, force)
    if half:
        forces.index_add_(0, j, -force)
    virial = force.new_zeros((len(cell), 3, 3)).index_add_(0, system, -weight * d[:, :, None] * force[:, None, :])
    return total.to(positions.dtype), forces.to(positions.dtype), virial.to(positions.dtype)
