"""What a wrapper that reads the stored pair list asks of a batch first: that it is one, and that the list will do.

The list may be older than the positions, as long as a skin covers their motion; `athanor.neighbors.skin` sees to that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from athanor.data.batch import Batch
from athanor.errors import ContractError, InputError
from athanor.neighbors.lookup import find_pair_list

if TYPE_CHECKING:
    from athanor.data.pair_list import PairList
    from athanor.models.mixin import BaseModelMixin


def require_batch(model: BaseModelMixin, data: Any) -> Batch:
    """Return `data` if it is a Batch.

    Raises
    ------
    ContractError
        A `TypeError`, if it is not.
    """
    if not isinstance(data, Batch):
        raise ContractError(
            f"{type(model).__name__} requires a Batch input, not {type(data).__name__}. "
            f"Use `Batch.from_data_list([data])`."
        )
    return data


def require_pairs(model: BaseModelMixin, batch: Batch, cutoff: float) -> PairList:
    """Return the stored pair list of `batch` that fits `cutoff`, Å, best; it is complete for it in every system.

    The list may be half or full and may hold pairs beyond `cutoff`; see `athanor.neighbors.lookup`.

    Raises
    ------
    MissingFieldError
        A `KeyError`, if there is no list.
    InputError
        If every list was searched less far, or systems joined the batch after it was built.
    """
    config = model.model_config.neighbor_config
    pairs = find_pair_list(batch, cutoff, config is not None and config.half_list)
    advice = "Build it with `compute_neighbors(batch, config=model.model_config.neighbor_config)`."
    if pairs is None:
        if not batch.pair_lists:
            raise model._missing("pair_list", batch)
        radius = max(pairs.radius for pairs in batch.pair_lists)
        raise InputError(
            f"The neighbour list was searched to {radius:g} Å; {type(model).__name__} needs `cutoff` = "
            f"{cutoff:g} Å. {advice}"
        )
    if not pairs.all_valid:
        raise InputError(
            f"The neighbour list of {int((~pairs.valid).sum())} systems has to be searched again, because they "
            f"joined the batch after it was built. {advice}"
        )
    return pairs


def list_inputs(model: BaseModelMixin, data: Any, cutoff: float) -> dict[str, Any]:
    """Return geometry and stored pair list of a batch as operations on pairs take them, by name.

    Raises
    ------
    ContractError
        A `TypeError`, if `data` is not a Batch.
    MissingFieldError, InputError
        As `require_pairs`.
    """
    batch = require_batch(model, data)
    pairs = require_pairs(model, batch, cutoff)
    return {
        "positions": batch.positions,
        "cell": batch.cell_or_zeros,
        "segment_ptr": batch.batch_ptr,
        "row_ptr": pairs.row_ptr,
        "neighbors": pairs.neighbors,
        "images": pairs.images,
        "wrap_offsets": pairs.wrap_offsets,
        "half": pairs.half,
    }
