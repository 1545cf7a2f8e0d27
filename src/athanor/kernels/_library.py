"""Registration of operations with torch under the namespace ``athanor``.

An op has a CPU implementation (numba), a reference for every other device (torch), and a shape rule for tracing.
The low-level calls are used because they cost less at import and per call than ``torch.library.custom_op``.
Where torch's dispatcher would do nothing but choose the CPU implementation, that is called directly.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from torch.autograd import forward_ad

from athanor.errors import NotAvailableError

_SCHEMA_TYPES = {
    torch.Tensor: "Tensor", torch.dtype: "ScalarType", float: "float", int: "int", bool: "bool", str: "str"
}  # fmt: skip
_NUMBERS = frozenset({bool, int, float, str, torch.dtype})

_library = torch.library.Library("athanor", "FRAGMENT")


class LazyModule:
    """A module that is imported when one of its names is first read; later reads cost a plain attribute."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, value)
        return value


def register_op(
    public: Any, *, cpu: Callable[..., Any], reference: Callable[..., Any], fake: Callable[..., Any]
) -> Callable[..., Any]:
    """Register ``athanor::<name>`` under the name of its public call, and return the function for that to call.

    Parameters
    ----------
    public
        The public call. Its signature becomes that of the operation: tensors, numbers, strings and dtypes go in; a
        tensor, or a tuple of tensors, comes out.
    cpu
        Implementation for CPU tensors.
    reference
        Implementation for every other device.
    fake
        Returns empty tensors of the right shape, dtype and device.
    """
    name, types = public.__name__, get_type_hints(public)
    outputs = ", ".join(["Tensor"] * max(1, len(get_args(types.pop("return")))))
    inputs = ", ".join(f"{_SCHEMA_TYPES[kind]} {argument}" for argument, kind in types.items())
    _library.define(f"{name}({inputs}) -> ({outputs})", tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, reference, "CompositeExplicitAutograd")
    _library.impl(name, cpu, "CPU")
    torch.library.register_fake(f"athanor::{name}", fake, lib=_library)
    registered = getattr(torch.ops.athanor, name).default

    def call(*arguments: Any) -> Any:
        if is_plain(arguments):
            return cpu(*arguments)
        if any(isinstance(each, torch.Tensor) and has_tangent(each) for each in arguments):
            raise NotAvailableError(  # torch would drop the tangent and return zero for it
                f"`{name}` has no derivative in forward mode. Take it in reverse: `torch.autograd.grad`, or "
                f"`torch.autograd.functional.vjp`."
            )
        return registered(*arguments)

    return call


def is_plain(arguments: tuple[Any, ...]) -> bool:
    """Whether torch has nothing to add: numbers and CPU tensors, no derivative wanted, no mode or transform active."""
    if (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or is_transformed()
        or torch._C._get_tracing_state() is not None
        or forward_ad._current_level >= 0
    ):
        return False
    differentiating = torch.is_grad_enabled()
    for argument in arguments:
        kind = type(argument)
        if kind is torch.Tensor:
            if not argument.is_cpu or argument.is_neg() or (differentiating and argument.requires_grad):
                return False
        elif kind not in _NUMBERS:
            return False
    return True


def is_transformed() -> bool:
    """Whether a transform of `torch.func` is active, such as `grad`, `jvp` or `vmap`."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def has_tangent(tensor: torch.Tensor) -> bool:
    """Whether somebody differentiates by `tensor` in forward mode, as `torch.func.jvp` does."""
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None


def register_gradient(name: str, *, setup_context: Callable[..., None], backward: Callable[..., Any]) -> None:
    """Register the derivative of ``athanor::<name>``."""
    torch.library.register_autograd(f"athanor::{name}", backward, setup_context=setup_context, lib=_library)


class _NoSecondDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, derivative: torch.Tensor, error: Exception, *_: torch.Tensor) -> torch.Tensor:
        ctx.error = error
        return derivative.clone()

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> Any:
        raise ctx.error


def no_second_derivative(derivative: torch.Tensor, error: Exception, *inputs: torch.Tensor) -> torch.Tensor:
    """Return `derivative`, which depends on `inputs`, such that differentiating it raises `error`, not gives zero."""
    return _NoSecondDerivative.apply(derivative, error, *inputs)


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """Return a contiguous CPU tensor's memory as an array; the values are copied only if they are strided."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    return tensor.contiguous().numpy()


def as_tensor(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """Return an array's memory as a tensor; converts if it must. Half as costly as ``torch.empty`` and its array."""
    if array.size == 0:  # numpy's strides of nothing are 0, which torch does not take for contiguous
        return torch.empty(array.shape, dtype=dtype)
    tensor = torch.from_numpy(array)
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def as_doubles(tensor: torch.Tensor) -> np.ndarray:
    """Return a CPU tensor as a contiguous float64 array; copies only if it must."""
    return as_array(tensor if tensor.dtype == torch.float64 else tensor.to(torch.float64))
