"""Door: the helper names that wrappers of third parties import."""

from athanor.models.derivatives import (
    apply_strain,
    autograd_forces,
    autograd_forces_and_stresses,
    autograd_stresses,
    cell_cache_needs_update,
    prepare_strain,
)
from athanor.models.outputs import sum_outputs

__all__ = [
    "apply_strain",
    "autograd_forces",
    "autograd_forces_and_stresses",
    "autograd_stresses",
    "cell_cache_needs_update",
    "prepare_strain",
    "sum_outputs",
]
