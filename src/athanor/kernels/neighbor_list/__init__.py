"""Sorted packed neighbour lists of many systems."""

from __future__ import annotations

from athanor.kernels.neighbor_list.op import build_neighbor_list, minimum_distance
from athanor.kernels.neighbor_list.packing import pack_images, unpack_images

__all__ = ["build_neighbor_list", "minimum_distance", "pack_images", "unpack_images"]
