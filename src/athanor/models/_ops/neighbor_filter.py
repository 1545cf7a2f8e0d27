"""Door: cutting neighbour lists down to a smaller cutoff."""

from athanor.neighbors.filter import (
    filter_neighbor_list,
    filter_neighbor_matrix,
    neighbor_matrix_to_list,
    prepare_neighbors_for_model,
)

__all__ = ["filter_neighbor_list", "filter_neighbor_matrix", "neighbor_matrix_to_list", "prepare_neighbors_for_model"]
