"""Registration of operations with torch under the namespace ``athanor``.

An op has a CPU implementation (numba), a reference for every other device (torch), and a shape rule for tracing.
The low-level calls are used because they cost less at import and per call than ``torch.library.custom_op``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

_library = torch.library.Library("athanor", "FRAGMENT")


def register_op(
    schema: str, *, cpu: Callable[..., Any], reference: Callable[..., Any], fake: Callable[..., Any]
) -> Callable[..., Any]:
    """Register ``athanor::<name>`` and return the function to call.

    Parameters
    ----------
    schema
        Name and types, as ``torch.library.Library.define`` takes them.
    cpu
        Implementation for CPU tensors.
    reference
        Implementation for every other device.
    fake
        Returns empty tensors of the right shape, dtype and device.
    """
    name = schema.split("(", 1)[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, reference, "CompositeExplicitAutograd")
    _library.impl(name, cpu, "CPU")
    torch.library.register_fake(f"athanor::{name}", fake, lib=_library)
    return getattr(torch.ops.athanor, name).default


def register_gradient(name: str, *, setup_context: Callable[..., None], backward: Callable[..., Any]) -> None:
    """Register the derivative of ``athanor::<name>``."""
    torch.library.register_autograd(f"athanor::{name}", backward, setup_context=setup_context, lib=_library)


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """Return a contiguous CPU tensor's memory as an array; the values are copied only if they are strided."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    return tensor.contiguous().numpy()


def as_doubles(tensor: torch.Tensor) -> np.ndarray:
    """Return a CPU tensor as a contiguous float64 array; copies only if it must."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.dtype != torch.float64:
        tensor = tensor.to(torch.float64)
    return tensor.contiguous().numpy()
