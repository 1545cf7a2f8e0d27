"""`compute_neighbors`: a neighbour list for a batch as it stands, without skin."""

from __future__ import annotations

from athanor._values import check_whole
from athanor.data._checks import check_finite
from athanor.data.batch import Batch
from athanor.errors import ArgumentError, InputError
from athanor.neighbors.config import NeighborConfig, NeighborListFormat, check_neighbor_config
from athanor.neighbors.skin import build_pair_list


def compute_neighbors(
    batch: Batch,
    cutoff: float | None = None,
    *,
    config: NeighborConfig | None = None,
    format: NeighborListFormat | str = NeighborListFormat.MATRIX,
    max_neighbors: int | None = None,
    half_list: bool = False,
) -> None:
    """Build the neighbour list of `batch` for its present positions, in place.

    Parameters
    ----------
    batch
        Gets a new ``pair_list``, in place of all it had; ``neighbor_list``, ``neighbor_matrix`` and the like are views
        of it. One list at the largest cutoff serves several models.
    cutoff
        Å; a pair counts if its distance is strictly smaller.
    config
        Wins over `cutoff`, `format` and `half_list`. Its skin is not used.
    format
        Accepted for compatibility: both views exist after either.
    max_neighbors
        Smallest width of the matrix view; the list itself is always complete.
    half_list
        Whether each pair is stored once.

    Raises
    ------
    InputError
        A `ValueError`, if there is neither `cutoff` nor `config`, the cutoff is not positive, or positions or cells are
        not finite: an atom at NaN would have no neighbours, which looks like an answer.
    """
    if not isinstance(batch, Batch):
        raise ArgumentError(
            f"`batch` is a {type(batch).__name__}; pass a Batch, such as `Batch.from_data_list([data])`."
        )
    if config is None:
        if cutoff is None:
            raise InputError("A cutoff is needed: `compute_neighbors(batch, 5.0)`, or pass `config=`.")
        config = NeighborConfig(cutoff=cutoff, format=format, half_list=half_list)  # type: ignore[arg-type]
    check_neighbor_config(config)
    if max_neighbors is not None:
        check_whole(max_neighbors, "max_neighbors")
    check_finite(batch.to_dict(), batch.batch_ptr.cpu().numpy())
    build_pair_list(batch, config.cutoff, config.cutoff, config.half_list, max_neighbors)
