"""What every numerical operation must satisfy. Each check raises AssertionError and names what differs.

An operation is given as a function from its tensors to one tensor or a tuple; batches are built by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

Outputs = torch.Tensor | Sequence[torch.Tensor]
Operation = Callable[..., Outputs]

AGREEMENT = {torch.float64: 1e-11, torch.float32: 1e-5}
"""Allowed difference between two implementations, relative to the largest value."""


def as_tuple(outputs: Outputs) -> tuple[torch.Tensor, ...]:
    """Return one or several outputs as a tuple."""
    return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)


def check_equal_bits(first: Outputs, second: Outputs, what: str) -> None:
    """Two results have the same shape, dtype and bits, also those of NaN."""
    for k, (a, b) in enumerate(zip(as_tuple(first), as_tuple(second), strict=True)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), (
            f"{what}: output {k} is {a.shape} {a.dtype}, {b.shape} {b.dtype}"
        )
        one, two = (tensor.flatten().contiguous().view(torch.uint8) for tensor in (a, b))
        assert torch.equal(one, two), f"{what}: output {k} differs"


def check_agreement(operation: Operation, reference: Operation, arguments: Sequence[Any]) -> None:
    """Two implementations agree: integers exactly, floats to `AGREEMENT`."""
    for k, (a, b) in enumerate(zip(as_tuple(operation(*arguments)), as_tuple(reference(*arguments)), strict=True)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), (
            f"output {k} is {a.shape} {a.dtype}, reference {b.shape} {b.dtype}"
        )
        if not a.is_floating_point():
            assert torch.equal(a, b), f"output {k} differs from the reference"
            continue
        assert torch.equal(torch.isfinite(a), torch.isfinite(b)), (
            f"output {k} is not finite elsewhere than the reference"
        )
        finite = torch.isfinite(b)
        scale = float(b[finite].abs().max()) if finite.any() else 0.0
        error = float((a - b)[finite].abs().max()) if finite.any() else 0.0
        assert error <= AGREEMENT[a.dtype] * max(scale, 1e-300), f"output {k} is off by {error:.3g} of {scale:.3g}"


def check_repeatable(operation: Operation, arguments: Sequence[Any]) -> None:
    """A second call gives the same bits and no argument is changed."""
    kept = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
    check_equal_bits(operation(*arguments), operation(*arguments), "repeated call")
    for k, (a, b) in enumerate(zip(arguments, kept, strict=True)):
        if isinstance(a, torch.Tensor):
            check_equal_bits(a, b, f"argument {k} after the call")


def check_threads(operation: Operation, arguments: Sequence[Any]) -> None:
    """One and two threads give the same bits."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = operation(*arguments)
        torch.set_num_threads(2)
        together = operation(*arguments)
    finally:
        torch.set_num_threads(before)
    check_equal_bits(alone, together, "one against two threads")


def check_batch_invariance(per_system: Callable[[Sequence[int]], Sequence[Outputs]], num_systems: int) -> None:
    """A system has the same bits alone, first, last and in between.

    `per_system` computes the given systems as one batch, in that order, and returns each one's outputs.
    """
    alone = [per_system([b])[0] for b in range(num_systems)]
    for order in (list(range(num_systems)), list(reversed(range(num_systems)))):
        for b, outputs in zip(order, per_system(order), strict=True):
            check_equal_bits(alone[b], outputs, f"system {b} alone against order {order}")


def check_fake(operation: Any, arguments: Sequence[Any]) -> None:
    """The registered operation passes torch's own checks of schema, shapes without data, and gradient registration."""
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(operation, tuple(arguments), test_utils=tests)


def check_gradient(function: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> None:
    """The derivative agrees with central differences, in double precision."""
    leaves = tuple(tensor.double().clone().requires_grad_() for tensor in inputs)
    assert torch.autograd.gradcheck(function, leaves, eps=1e-6, atol=1e-5, rtol=1e-5), "derivative"


def check_second_derivatives(function: Callable[..., Outputs], inputs: Sequence[torch.Tensor]) -> None:
    """The derivatives of an energy, and of the first derivatives returned beside it, agree with central differences.

    The gradient is the same whether it is to be differentiated again or not.
    """
    leaves = tuple(tensor.double().clone().requires_grad_() for tensor in inputs)
    for once, again in zip(
        *(_gradients(function, leaves, create_graph) for create_graph in (False, True)), strict=True
    ):
        error = float((once - again).detach().abs().max())
        assert error <= 1e-10 * max(float(once.detach().abs().max()), 1e-3), (
            f"the gradient that is differentiated again is off by {error}"
        )
    tolerances: Any = {"eps": 1e-6, "atol": 1e-5, "rtol": 1e-5}
    assert torch.autograd.gradgradcheck(lambda *x: as_tuple(function(*x))[0], leaves, **tolerances), "of the gradient"
    assert torch.autograd.gradcheck(lambda *x: as_tuple(function(*x))[1:], leaves, **tolerances), "of the outputs"


def _gradients(
    function: Callable[..., Outputs], leaves: Sequence[torch.Tensor], create_graph: bool
) -> tuple[torch.Tensor, ...]:
    energy = as_tuple(function(*leaves))[0]
    return torch.autograd.grad(energy.sum(), leaves, create_graph=create_graph, materialize_grads=True)
