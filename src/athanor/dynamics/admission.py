"""Which systems a model can be asked about: those whose elements it knows, whose pairs can be searched, and are apart.

Asked before the pairs are searched and before the model is called, so that nobody pays for a system that has collapsed:
its pairs, and what a network makes of them, would take all memory.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.kernels import cell_shape, minimum_distance, segment_sum

if TYPE_CHECKING:
    from athanor.data.batch import Batch

MOST_NEIGHBORS = 2e4
"""Of one atom: beyond it a system is too dense for the radius. A crystal has a hundred, a liquid at 12 Å a thousand."""
_MOST_IMAGES = 100
"""Of one cell within the radius: a flatter one has collapsed."""
_LARGEST_VOLUME = 1e21
"""Å³: of a cell that is beyond any use, and has run away."""
_FLATTEST = 1e-11
"""Smallest volume of a cell, of the product of its lengths; below a tenth of it no pairs can be searched."""
_ROUND = (4.0 / 3.0 * math.pi) ** (1.0 / 3.0)
"""Edge of the cube that holds as much as a sphere of radius 1."""


def search_radius(batch: Batch, model: Any) -> float:
    """Return how far the pairs of a batch are, or will be, searched for `model`, Å."""
    config = model.model_config.neighbor_config
    radii = [pairs.radius for pairs in batch.pair_lists if not math.isnan(pairs.radius)]
    return max(radii, default=config.cutoff if config is not None else 1.0)


def unknown_elements(batch: Batch, model: Any) -> Tensor:
    """Return which systems hold an element that is not on the card of `model`, bool [B]."""
    found, known = torch.zeros(len(batch), dtype=torch.bool, device=batch.device), model.model_card.elements
    if known is not None:
        unknown = ~torch.isin(batch.atomic_numbers, torch.tensor(sorted(known), device=batch.device))
        found[batch.batch_idx[unknown]] = True
    return found


def flat_cells(batch: Batch, radius: float) -> Tensor:
    """Return which cells have run away, or are so flat that too many images are within `radius`, Å, bool [B]."""
    return _volume_and_flatness(batch, radius)[1]


def collapsed_cells(batch: Batch, radius: float) -> Tensor:
    """Return which cells have run away, or are so flat or small that their pairs can not be searched, bool [B].

    Parameters
    ----------
    batch
        Any; a system without periodicity has no cell that could collapse.
    radius
        Search radius, Å.
    """
    volume, flat = _volume_and_flatness(batch, radius)
    crowded = (volume * _atoms_allowed(radius) <= batch.num_nodes_per_graph) & (volume > 0)
    lengths = torch.linalg.vector_norm(batch.cell_or_zeros.detach().double(), dim=2)
    no_volume = ~(volume.double() > _FLATTEST * lengths.prod(dim=1)) & (lengths.amax(dim=1) > 0)
    return ((crowded | no_volume) & batch.pbc_or_false.all(dim=1)) | flat


def has_sound_cells(batch: Batch, radius: float) -> bool:
    """Whether every system is periodic with a cell in which pairs can be searched: the quick look of every step."""
    cell = batch.cell_or_zeros.detach()
    volume, height = cell_shape(cell)
    wide = (height > radius / _MOST_IMAGES) & (volume * _atoms_allowed(radius) > batch.num_nodes_per_graph)
    if not bool(wide.all()):
        return False
    smallest, largest = float(volume.min()), float(volume.max())
    return largest < _LARGEST_VOLUME and smallest > _FLATTEST * (math.sqrt(3.0) * float(cell.abs().max())) ** 3


def _atoms_allowed(radius: float) -> float:
    """Of a volume of 1 Å³."""
    return MOST_NEIGHBORS / (_ROUND * radius) ** 3


def _volume_and_flatness(batch: Batch, radius: float) -> tuple[Tensor, Tensor]:
    volume, height = cell_shape(batch.cell_or_zeros.detach())
    flat = (height <= radius / _MOST_IMAGES) & (volume > 0) & batch.pbc_or_false.any(dim=1)
    return volume, flat | ~(volume < _LARGEST_VOLUME)


def too_dense(batch: Batch, radius: float) -> Tensor:
    """Return which systems have more than `MOST_NEIGHBORS` within `radius`, Å, of an atom, bool [B], by estimate."""
    pbc, atoms = batch.pbc_or_false, batch.num_nodes_per_graph
    if bool(((atoms <= MOST_NEIGHBORS) & ~pbc.any(dim=1)).all()):
        return torch.zeros_like(atoms, dtype=torch.bool)  # an atom has no more neighbours than there are others
    if bool(pbc.all()):
        volume = cell_shape(batch.cell_or_zeros.detach())[0].double()
        return atoms * (_ROUND * radius) ** 3 > MOST_NEIGHBORS * volume
    return expected_neighbors(batch, radius) > MOST_NEIGHBORS


@torch.no_grad()
def expected_neighbors(batch: Batch, radius: float) -> Tensor:
    r"""Estimate the neighbours that an atom of each system has within `radius`, float64 [B], without a search.

    .. math:: n \approx N \frac{(cR)^p}{M_p} \prod_{k > p} \min(1, cR / L_k), \qquad c^3 = 4\pi/3

    with :math:`p` periodic directions whose vectors span :math:`M_p` (length, area or volume), and extents
    :math:`L_k = \sqrt{12 \lambda_k}` from the covariance of the atoms along the others. A few stray atoms change
    little.
    """
    pbc, reach = batch.pbc_or_false, _ROUND * radius
    vectors = torch.where(pbc[:, :, None], batch.cell_or_zeros.detach().double(), 0.0)
    gram = vectors @ vectors.mT + torch.diag_embed((~pbc).double())
    spanned = torch.linalg.det(gram).clamp(min=0.0).sqrt()
    inverse = torch.linalg.inv_ex(gram).inverse.nan_to_num(0.0, 0.0, 0.0)
    open_part = torch.eye(3, dtype=torch.float64, device=batch.device) - vectors.mT @ inverse @ vectors

    atoms, positions = batch.num_nodes_per_graph.double(), batch.positions.detach().double().nan_to_num()
    center = segment_sum(positions, batch.batch_ptr) / atoms[:, None]
    away = torch.einsum("nc,ncd->nd", positions - center[batch.batch_idx], open_part[batch.batch_idx])
    products = (away[:, :, None] * away[:, None, :]).flatten(1)
    spread = segment_sum(products, batch.batch_ptr).unflatten(1, (3, 3)) / atoms[:, None, None]
    extent = (12.0 * torch.linalg.eigvalsh(spread).clamp(min=0.0)).sqrt()
    periodic = pbc.sum(dim=1)
    is_open = torch.arange(3, device=batch.device) >= periodic[:, None]  # eigenvalues ascend
    shares = torch.where(is_open, (reach / extent.clamp(min=1e-9)).clamp(max=1.0), 1.0)
    return atoms * reach**periodic / spanned.clamp(min=1e-300) * shares.prod(dim=1)


def closest_pairs(batch: Batch) -> Tensor | None:
    """Return the smallest listed distance of each system, Å, [B]; None without a list."""
    pairs = batch.pair_list
    if pairs is None:
        return None
    return minimum_distance(
        batch.positions.detach(),
        batch.cell_or_zeros.detach(),
        batch.batch_ptr,
        pairs.row_ptr,
        pairs.neighbors,
        pairs.images,
        pairs.wrap_offsets,
    )
