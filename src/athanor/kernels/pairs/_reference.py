"""Pair potentials in torch: any device, the oracle and the explanation."""

from __future__ import annotations

from athanor.kernels.coulomb._reference import taper
from athanor.kernels.neighbor_list._reference import pair_vectors
from athanor.kernels.pairs.forms import FORMS, used_columns


def pair_potential(
    positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets, types, table, form, cutoff,
    switch_width, half, virial,
):  # fmt: skip
    """Sum the energy over listed pairs inside the cutoff; a pair of a full list counts half. No `virial` is made."""
    system, i, d, j = pair_vectors(positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets)
    inside = ~((d * d).sum(-1) >= cutoff * cutoff)
    system, i, j, d = system[inside], i[inside], j[inside], d[inside]
    square = (d * d).sum(-1)
    columns = table.double()[types[i].long(), types[j].long()].unbind(-1)
    energy = FORMS[form].energy(square, *columns[: used_columns(form)]) - columns[-1]
    if switch_width > 0.0:
        energy = energy * taper(square.sqrt(), max(cutoff - switch_width, 0.0), cutoff)
    weight = 1.0 if half else 0.5
    return energy.new_zeros(len(cell)).index_add(0, system, weight * energy)
