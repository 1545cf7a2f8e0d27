"""Neighbour lists: configuration, building, filtering and keeping them complete while atoms move."""

from athanor.neighbors.build import compute_neighbors
from athanor.neighbors.config import NeighborConfig, NeighborListFormat

__all__ = ["NeighborConfig", "NeighborListFormat", "compute_neighbors"]
