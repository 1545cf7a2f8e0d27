"""The embedded-atom potential in torch: any device, the oracle and the explanation."""

from __future__ import annotations

from athanor.kernels.neighbor_list._reference import pair_vectors
from athanor.kernels.segment._reference import segment_sum


def spline(table, kind, x, step):
    """Return the value at `x` of cubic pieces [K, n, 4] of equal width, for each the one of its `kind`.

    Before the first piece and after the last one, these go on; the last one ends at its end.
    """
    last = table.shape[-2] - 2
    place = x / step
    piece = place.detach().floor().clamp(min=0.0, max=last).long()
    p = (place - piece).clamp(max=1.0)
    c0, c1, c2, c3 = table.reshape(-1, table.shape[-2], 4).double()[kind, piece].unbind(-1)
    return c0 + p * (c1 + p * (c2 + p * c3))


def embedding_energy(table, kind, density, step):
    """Return the energy of embedding, which goes on as a straight line after its table."""
    largest = (table.shape[-2] - 1) * step
    last = table.reshape(-1, table.shape[-2], 4).double()[kind, -2]
    slope = (last[:, 1] + 2.0 * last[:, 2] + 3.0 * last[:, 3]) / step
    return spline(table, kind, density, step) + slope * (density - largest).clamp(min=0.0)


def embedded_atom(
    positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets, types, embedding, density, pair,
    density_step, distance_step, cutoff, half,
):  # fmt: skip
    """Sum densities over the list, embed each atom, and add the energy of pairs; one of a full list counts half."""
    system, i, d, j = pair_vectors(positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets)
    inside = ~((d * d).sum(-1) >= cutoff * cutoff)
    system, i, j, d = system[inside], i[inside], j[inside], d[inside]
    r = (d * d).sum(-1).sqrt()
    kinds, count = types.long(), embedding.shape[0]
    here, there = kinds[i] * count + kinds[j], kinds[j] * count + kinds[i]
    total = r.new_zeros(len(positions)).index_add(0, i, spline(density, here, r, distance_step))
    if half:
        total = total.index_add(0, j, spline(density, there, r, distance_step))
    embedded = embedding_energy(embedding, kinds, total, density_step)
    pairs = (1.0 if half else 0.5) * spline(pair, here, r, distance_step) / r
    of_atom = embedded.index_add(0, i, pairs)
    return segment_sum(of_atom, segment_ptr)
