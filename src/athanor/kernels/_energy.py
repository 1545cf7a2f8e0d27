"""Registration of operations that return the energy of each system with its first derivatives.

A kernel computes them together, so that the energy costs nothing more to differentiate once. The torch reference gives
the energy alone: automatic differentiation makes the rest of it, on devices that have no kernel, and the second
derivatives that a Hessian and training by forces ask for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from athanor.errors import DtypeError, ShapeError
from athanor.kernels._library import as_tensor, register_gradient, register_op, savable
from athanor.kernels.cell._reference import gradient_by_cell
from athanor.kernels.segment._reference import segment_index

Derivatives = tuple[Tensor, ...]
"""Energy [B]; forces [N, 3]; virial [B, 3, 3], W = -dE/dstrain; and dE/dcharges [N] if there are charges."""


def register_energy_op(
    public: Callable[..., Derivatives], *, cpu: Callable[..., Derivatives], energy: Callable[..., Tensor]
) -> Callable[..., Any]:
    """Register an operation as `register_op` does, differentiable by ``positions``, ``cell`` and, if any, ``charges``.

    Parameters
    ----------
    public
        The public call. Its first arguments are ``positions``, ``cell`` and ``segment_ptr``; ``charges`` may stand
        anywhere, and last a flag ``virial``: without it the virial has no rows.
    cpu
        Returns `Derivatives` of CPU tensors.
    energy
        The reference: takes the same arguments and returns the energy of each system, [B], from torch operations.

    Returns
    -------
    Callable
        What the public call has to call. Its outputs are attached to whatever inputs require grad.
    """
    names = list(inspect.signature(public).parameters)
    variables = [names.index(name) for name in ("positions", "cell", "charges") if name in names]
    charges = variables[2] if "charges" in names else None
    has_flag = names[-1] == "virial"

    def derivatives(leaves: list[Any]) -> Derivatives:
        found = _derivatives(energy, leaves, charges)
        return found if not has_flag or leaves[-1] else (*found[:2], found[2][:0], *found[3:])

    def reference(*arguments: Any) -> Derivatives:
        with torch.inference_mode(False), torch.enable_grad(), _recording():
            leaves = list(arguments)
            for at in variables:
                leaves[at] = arguments[at].detach().clone().requires_grad_(True)
            return tuple(each.detach() for each in derivatives(leaves))

    def fake(*arguments: Any) -> Derivatives:
        positions, cell = arguments[:2]
        virial = positions.new_empty(cell.shape if not has_flag or arguments[-1] else (0, *cell.shape[1:]))
        outputs = (positions.new_empty(cell.shape[:1]), torch.empty_like(positions), virial)
        return outputs if charges is None else (*outputs, torch.empty_like(arguments[charges]))

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Derivatives) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        _keep(ctx, inputs, output[1:])

    def backward(ctx: Any, by_energy: Tensor | None, *_: Tensor) -> tuple[Tensor | None, ...]:
        arguments, first = _kept(ctx)
        results: list[Tensor | None] = [None] * len(arguments)
        if by_energy is None:
            return tuple(results)
        wanted = [at for at in variables if ctx.needs_input_grad[at]]
        if torch.is_grad_enabled():  # somebody differentiates again
            for at in variables:
                arguments[at] = _apart(arguments[at])
            found = _gradients(energy(*arguments).to(by_energy.dtype), [arguments[at] for at in wanted], by_energy)
            for at, gradient in zip(wanted, found, strict=True):
                results[at] = gradient
            return tuple(results)
        positions, cell, segment_ptr = arguments[:3]
        of_atom = by_energy[segment_index(segment_ptr, positions.shape[0])]
        for at in wanted:
            if at == variables[0]:
                results[at] = -of_atom[:, None] * first[0]
            elif at == variables[1]:
                by_cell = gradient_by_cell(-first[1], -first[0], positions, cell, segment_ptr)
                results[at] = (by_energy[:, None, None] * by_cell).to(cell.dtype)
            else:
                results[at] = of_atom.to(first[2].dtype) * first[2]
        return tuple(results)

    class Attached(torch.autograd.Function):
        """The first derivatives, such that they are differentiated through the reference."""

        @staticmethod
        def forward(ctx: Any, count: int, *tensors: Any) -> Derivatives:
            ctx.set_materialize_grads(False)
            _keep(ctx, tensors[count:], ())
            return tuple(each.view_as(each) for each in tensors[:count])

        @staticmethod
        def backward(ctx: Any, *by_first: Tensor | None) -> tuple[Tensor | None, ...]:
            arguments, _ = _kept(ctx)
            results: list[Tensor | None] = [None] * (1 + len(by_first) + len(arguments))
            if all(by is None for by in by_first):
                return tuple(results)
            again = torch.is_grad_enabled()
            with torch.enable_grad():
                leaves = list(arguments)
                for at in variables:
                    attached = leaves[at].requires_grad
                    leaves[at] = _apart(leaves[at]) if attached else leaves[at].detach().requires_grad_(True)
                first = derivatives(leaves)[1:]
                pairs = [(value, by) for value, by in zip(first, by_first, strict=True) if by is not None]
                wanted = [at for at in variables if ctx.needs_input_grad[1 + len(by_first) + at]]
                total = torch.stack([(value * by).sum().double() for value, by in pairs]).sum()
                found = _gradients(total, [leaves[at] for at in wanted], torch.ones_like(total), again)
            for at, gradient in zip(wanted, found, strict=True):
                results[1 + len(by_first) + at] = gradient
            return tuple(results)

    def call(*arguments: Any) -> Derivatives:
        outputs = registered(*arguments)
        if not outputs[0].requires_grad:
            return outputs
        return (outputs[0], *Attached.apply(len(outputs) - 1, *outputs[1:], *savable(arguments)))

    registered = register_op(public, cpu=cpu, reference=reference, fake=fake)
    register_gradient(public.__name__, setup_context=setup_context, backward=backward)
    call.reference = reference  # type: ignore[attr-defined]
    return call


def _derivatives(energy: Callable[..., Tensor], arguments: list[Any], charges: int | None) -> Derivatives:
    """Return energy and first derivatives of what `energy` computes, attached to `arguments`."""
    positions, cell, segment_ptr = arguments[:3]
    strain = torch.zeros_like(cell, dtype=torch.float64, requires_grad=True)
    deformation = torch.eye(3, dtype=torch.float64, device=cell.device) + 0.5 * (strain + strain.mT)
    strained = list(arguments)
    of_atom = deformation[segment_index(segment_ptr, positions.shape[0])]
    strained[0] = torch.bmm(positions.double()[:, None], of_atom)[:, 0]
    strained[1] = torch.bmm(cell.double(), deformation)
    total = energy(*strained)
    variables = [positions, strain] if charges is None else [positions, strain, arguments[charges]]
    by = _gradients(total, variables, torch.ones_like(total))
    dtype = positions.dtype
    outputs = (total.to(dtype), -by[0], -by[1].to(dtype))
    return outputs if charges is None else (*outputs, by[2])


def _gradients(value: Tensor, by: list[Tensor], weight: Tensor, create_graph: bool = True) -> Derivatives:
    if not value.requires_grad:  # nothing to sum over
        return tuple(torch.zeros_like(each) for each in by)
    return torch.autograd.grad(value, by, weight, create_graph=create_graph, materialize_grads=True)


def _apart(tensor: Tensor) -> Tensor:
    """Return a tensor to differentiate by alone: charges may themselves depend on the positions."""
    return tensor.view_as(tensor)


def _recording() -> Any:
    """Have autograd record inside the implementation of an operation, where torch has switched it off."""
    return torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False)


def _keep(ctx: Any, arguments: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
    """Save arguments of an operation, of which some are numbers, and some of its outputs."""
    ctx.numbers = [None if isinstance(each, Tensor) else each for each in arguments]
    ctx.save_for_backward(*(each for each in arguments if isinstance(each, Tensor)), *outputs)


def _kept(ctx: Any) -> tuple[list[Any], list[Tensor]]:
    """Return the arguments and outputs that `_keep` saved."""
    tensors = iter(ctx.saved_tensors)
    arguments = [next(tensors) if number is None else number for number in ctx.numbers]
    return arguments, list(tensors)


def check_atoms(name: str, values: Tensor, positions: Tensor) -> None:
    """Raise ShapeError unless `values` has one number for each atom, and DtypeError unless they are floating."""
    if not values.is_floating_point():
        raise DtypeError(f"`{name}` is {values.dtype}; use a float dtype, such as that of the positions.")
    if values.shape != positions.shape[:1]:
        raise ShapeError(f"`{name}` has shape {tuple(values.shape)}; {len(positions)} atoms need ({len(positions)},).")


def check_systems(cell: Tensor, **rows: Tensor) -> None:
    """Raise ShapeError unless each of `rows` has one entry for each system."""
    for name, values in rows.items():
        if values.shape != cell.shape[:1]:
            raise ShapeError(f"`{name}` has shape {tuple(values.shape)}; {len(cell)} systems need ({len(cell)},).")


class Outputs:
    """Arrays for a kernel to fill: of systems, of atoms, and `sums` of atoms for `totals` in ``_cpu_pairs``."""

    def __init__(self, n: int, systems: int) -> None:
        self.energy, self.forces, self.virial = np.empty(systems), np.empty((n, 3)), np.empty((systems, 3, 3))
        self.potential, self.sums = np.empty(n), np.empty((n, 7))

    def tensors(self, positions: Tensor, charges: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return energy, forces and virial in the dtype of the positions, the potential in that of the charges."""
        energy, forces, virial = (as_tensor(each, positions.dtype) for each in (self.energy, self.forces, self.virial))
        return energy, forces, virial, as_tensor(self.potential, charges.dtype)
