"""Moving the rows of systems from one or two batches into a new arrangement: the public call.

Where systems start is known on the host, which torch's schemas do not express, so it is not registered with torch;
under a derivative or a trace the reference is used, which consists of torch's own operations.
"""

from __future__ import annotations

from math import prod

import numpy as np
import torch

from athanor.kernels._library import LazyModule, is_plain
from athanor.kernels._threads import balanced_bounds, num_parts, run_parts
from athanor.kernels.rows import _reference

_cpu = LazyModule("athanor.kernels.rows._cpu")
_WORDS = (torch.int64, torch.int32, torch.uint8)
_BYTES_PER_NANOSECOND = 4.0


def arrange_rows(
    first: torch.Tensor,
    other: torch.Tensor | None,
    starts: np.ndarray,
    counts: np.ndarray,
    joining: np.ndarray | None,
) -> torch.Tensor:
    """Return the rows of systems, one system behind the other.

    Parameters
    ----------
    first
        [M, ...], any dtype.
    other
        [M', ...], same dtype and trailing shape; rows of systems that join. None: there are none.
    starts, counts
        int64 [B] on the host; first row and number of rows of each system, in the tensor that holds it now.
    joining
        bool [B] on the host; whether that is `other`. None: it never is.

    Returns
    -------
    torch.Tensor
        [counts.sum(), ...], freshly allocated; each row is copied once.
    """
    arguments = (first,) if other is None else (first, other)
    alike = other is None or (other.shape[1:] == first.shape[1:] and other.dtype == first.dtype)
    if not alike or not is_plain(arguments) or not len(counts) or not first.shape[1:].numel():
        return _reference.arrange_rows(first, other, starts, counts, joining)
    sources = [tensor.contiguous() for tensor in arguments]
    row_bytes = first.element_size() * prod(first.shape[1:])
    word = next(word for word in _WORDS if row_bytes % word.itemsize == 0)
    row_words = row_bytes // word.itemsize
    arranged = torch.empty((int(counts.sum()), *first.shape[1:]), dtype=first.dtype)
    ends = np.cumsum(counts) * row_words
    memory = [_words(tensor, word) for tensor in (*sources, arranged)]
    if other is None:
        memory.insert(1, memory[0])
    flags = np.zeros(len(counts), dtype=np.bool_) if joining is None else joining
    parts = min(num_parts(int(ends[-1]) * word.itemsize / _BYTES_PER_NANOSECOND), len(counts))
    bounds = balanced_bounds(np.concatenate(([0], ends)), parts)
    run_parts(_cpu.arrange, (memory[0], memory[1], starts * row_words, ends, flags, memory[2]), bounds)
    return arranged


def _words(tensor: torch.Tensor, word: torch.dtype) -> np.ndarray:
    """Memory of a contiguous tensor, word by word."""
    flat = tensor.detach().view(-1)
    return (flat.view(word) if flat.numel() else flat.new_empty(0, dtype=word)).numpy()
