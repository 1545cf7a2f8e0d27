"""Reading and writing: structure files through ASE, trajectory stores through zarr. Both are imported on use."""

from __future__ import annotations

from athanor.io.structures import Structure, read_structures, write_structures

__all__ = ["Structure", "read_structures", "write_structures"]
