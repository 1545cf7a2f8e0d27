"""Per-system sums and maxima in torch: any device, the oracle and the explanation."""

from __future__ import annotations

import torch


def segment_index(segment_ptr: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Return the system of each row, int64 [N]."""
    systems = torch.arange(segment_ptr.shape[0] - 1, device=segment_ptr.device)
    return torch.repeat_interleave(systems, torch.diff(segment_ptr).long(), output_size=num_rows)


def segment_sum(values, segment_ptr):
    """Add the rows of each system, in double precision for floats."""
    wide = values.double() if values.is_floating_point() else values
    sums = wide.new_zeros((segment_ptr.shape[0] - 1, *values.shape[1:]))
    return sums.index_add_(0, segment_index(segment_ptr, values.shape[0]), wide).to(values.dtype)


def segment_max(values, segment_ptr):
    """Take the largest row of each system; minus infinity for an empty one."""
    start = values.new_full((segment_ptr.shape[0] - 1,), -torch.inf)
    return start.scatter_reduce_(0, segment_index(segment_ptr, values.shape[0]), values, "amax")
