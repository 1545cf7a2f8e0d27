"""BiasedPotentialHook: add a potential of the user's to what the model computes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor import _runtime
from athanor._values import check_whole, describe
from athanor.errors import AthanorWarning, ContractError, InputError, ModelOutputError
from athanor.hooks.due import due_systems
from athanor.hooks.stages import DynamicsStage
from athanor.models.derivatives import leaves, strained_view, stress_of_strain_gradient

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.hooks.context import DynamicsContext

Bias = Callable[["Batch"], Any]
_FIELDS = ("energy", "forces", "stress")


class BiasedPotentialHook:
    """Add a bias to energy, forces and stress, as if it were a part of the model.

    Parameters
    ----------
    bias_fn
        Called as ``bias_fn(batch)`` at every evaluation. It returns the energy of the bias, [B, 1] or [B] in eV, made
        from ``batch.positions`` and ``batch.cell`` by torch; forces and stress are its derivatives. Or it returns a
        tuple of energy, forces [N, 3] in eV/Å and stress [B, 3, 3] in eV/Å³, tensile positive. The stress may be left
        out where nothing moves cells.
    stage
        AFTER_COMPUTE unless given.
    frequency
        Steps between calls, counted by each system for itself.
    inplace
        Whether the fields are changed in place, or exchanged for new tensors.

    Raises
    ------
    ContractError
        A `TypeError`: if `bias_fn` can not be called; from a call, if its energy has no derivative.
    ModelOutputError
        A `RuntimeError`, from a call: if a shape is wrong, or there are not one, two or three outputs.
    InputError
        From a call: if there is no stress and the engine moves cells.

    Warns
    -----
    AthanorWarning
        Once, if there is no stress and the batch has one: it is that of the model alone, and so is the pressure.

    Notes
    -----
    `bias_fn` is given the systems that are worked on, which are not always all of the batch: tell them apart by
    ``batch.system_id``, never by their place. Positions are as they stand, whole lattice vectors apart from each other
    or not. Results on the batch are those of model and bias together; a later run without the hook computes them anew.

    Examples
    --------
    A spring of 2 eV/Å² that keeps the first two atoms of each system 4 Å apart:

    >>> from athanor.hooks import BiasedPotentialHook
    >>> def spring(batch):
    ...     first = batch.batch_ptr[:-1].long()
    ...     distance = (batch.positions[first + 1] - batch.positions[first]).norm(dim=1)
    ...     return 0.5 * 2.0 * (distance - 4.0) ** 2
    >>> BiasedPotentialHook(spring).frequency
    1
    """

    default_stage = DynamicsStage.AFTER_COMPUTE
    on_active = True
    counts_each_system = True

    def __init__(self, bias_fn: Bias, stage: Enum | None = None, frequency: int = 1, inplace: bool = True) -> None:
        if not callable(bias_fn):
            raise ContractError(f"`bias_fn` is a {type(bias_fn).__name__}; pass a function of the batch.")
        self.bias_fn = bias_fn
        self.stage: Enum | None = self.default_stage if stage is None else stage
        self.frequency = check_whole(frequency, "frequency", 1)
        self.inplace = inplace
        self._warned = False

    def __repr__(self) -> str:
        return describe(self, "bias_fn", "frequency")

    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Add the bias to the results of ``ctx.batch``."""
        batch = ctx.batch
        due = due_systems(ctx, stage, self.frequency)
        if due is not None and not bool(due.any()):
            return
        bias = evaluate_bias(self.bias_fn, batch)
        if "stress" not in bias and "stress" in batch:
            self._say_that_stress_is_missing(ctx)
        for name, value in bias.items():
            present = batch.get(name)
            if present is None:
                continue
            if due is not None:
                rows = due[batch.batch_idx] if name == "forces" else due
                value = torch.where(rows.reshape(-1, *([1] * (value.ndim - 1))), value, 0.0)
            if self.inplace:
                present.add_(value)
            else:
                batch.set_field(name, present + value)

    def _say_that_stress_is_missing(self, ctx: DynamicsContext) -> None:
        text = (
            "`bias_fn` returned energy and forces, and no stress. Return the stress as a third output, +1/V dE/dstrain "
            "in eV/Å³, or the energy alone, which is then differentiated."
        )
        if getattr(ctx.workflow, "moves_cell", False):
            raise InputError(f"{type(ctx.workflow).__name__} moves cells: {text}")
        if not self._warned:
            self._warned = True
            warnings.warn(
                AthanorWarning(f"Stress and pressure are those of the model without the bias: {text}"),
                stacklevel=_runtime.level_of_caller(),
            )


def evaluate_bias(bias_fn: Bias, batch: Batch) -> dict[str, Tensor]:
    """Return the detached energy, forces and, unless it is not given, stress of a bias, in the dtype of the batch.

    Parameters
    ----------
    bias_fn
        See `BiasedPotentialHook`.
    batch
        Not changed.
    """
    variables: dict[str, Tensor] = {}
    if torch.compiler.is_compiling():  # which can not trace a view: the function gives its forces itself then
        found = bias_fn(batch)
    else:
        view = batch.shallow_view()
        with torch.enable_grad():
            variables = leaves(view, {"forces", "stress"})
            found = bias_fn(strained_view(view, variables["stress"]))
    outputs = (found,) if isinstance(found, Tensor) else tuple(found) if isinstance(found, list | tuple) else ()
    if not 1 <= len(outputs) <= len(_FIELDS):
        raise ModelOutputError(
            f"`bias_fn` returned {type(found).__name__} of {len(outputs)} outputs; return the energy, or energy, "
            f"forces and stress as a tuple."
        )
    bias = dict(zip(_FIELDS, outputs, strict=False))
    shapes = {"energy": (len(batch), 1), "forces": (batch.num_nodes, 3), "stress": (len(batch), 3, 3)}
    for name, value in bias.items():
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        if got != shapes[name] and not (name == "energy" and got == (len(batch),)):
            raise ModelOutputError(f"`bias_fn` returned `{name}` of shape {got}; expected {shapes[name]}.")
    bias["energy"] = bias["energy"].reshape(-1, 1)
    if len(bias) == 1:
        energy = bias["energy"]
        if not variables or not energy.requires_grad:
            raise ContractError(
                "The energy of `bias_fn` is not attached to `batch.positions` or `batch.cell`, so it has no "
                "derivative. Compute it from them by torch, without `detach`, or return the forces, too."
            )
        pulls, strains = torch.autograd.grad(
            energy.sum(), tuple(variables.values()), allow_unused=True, materialize_grads=True
        )
        bias["forces"], bias["stress"] = -pulls, stress_of_strain_gradient(strains, batch.cell_or_zeros.double())
    return {name: value.detach().to(batch.positions.dtype) for name, value in bias.items()}
