"""What a pipeline is made of: models as steps, and groups of steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from athanor.errors import ContractError, InputError
from athanor.models.mixin import BaseModelMixin

NeighborAdaptation = Literal["auto", "always", "never"]

DerivativeFunction = Callable[[torch.Tensor, Any, set[str]], Mapping[str, torch.Tensor]]
"""``derivative_fn(energy, data, requested)``: energy [B, 1] on the graph of ``data.positions``, the batch, and which
outputs are wanted; returns those by name."""


@dataclass(eq=False)
class PipelineStep:
    """One model of a pipeline, and under which names later models read what it gives.

    Parameters
    ----------
    model
        A wrapped model.
    wire
        Output of the model -> input of later ones. An output that is not named here keeps its name.
    constants
        Outputs through which no force acts: charges from a table, or those whose change with the positions is meant to
        be neglected. The others contribute to forces and stress of the models that read them.

    Raises
    ------
    ContractError
        A `TypeError`, if `model` is no wrapped model.
    InputError
        If `wire` or `constants` name an output that the model does not have.
    """

    model: BaseModelMixin
    wire: Mapping[str, str] = field(default_factory=dict)
    constants: Collection[str] = frozenset()

    def __post_init__(self) -> None:
        if not isinstance(self.model, BaseModelMixin):
            raise ContractError(
                f"A step of a pipeline is a {type(self.model).__name__}; pass a wrapped model or a `PipelineStep`."
            )
        self.wire, self.constants = dict(self.wire), frozenset(self.constants)
        outputs = self.model.model_config.outputs
        for what, names in (("wire", self.wire), ("constants", self.constants)):
            if unknown := sorted(set(names) - outputs):
                raise InputError(
                    f"`{what}` names {', '.join(f'`{name}`' for name in unknown)}, which {name_of(self.model)} does "
                    f"not give; it gives {', '.join(sorted(outputs))}."
                )


@dataclass(eq=False)
class PipelineGroup:
    """Models whose energies are differentiated together, or each by itself.

    Parameters
    ----------
    steps
        Steps, or wrapped models, in the order in which they run.
    use_autograd
        Sum the energies and differentiate the sum once, for forces and stress; else each model computes its own.
    derivative_fn
        What differentiates the sum instead; see `DerivativeFunction`. It gets unstrained positions and all that is
        asked for but the energy. Needs `use_autograd`.

    Raises
    ------
    InputError
        If there is no step, or a `derivative_fn` without `use_autograd`.
    """

    steps: list[Any]
    use_autograd: bool = False
    derivative_fn: DerivativeFunction | None = None

    def __post_init__(self) -> None:
        self.steps = as_steps(self.steps)
        if not self.steps:
            raise InputError("A group of a pipeline has no step; give it at least one model.")
        if self.derivative_fn is not None and not self.use_autograd:
            raise InputError("`derivative_fn` differentiates the summed energy; it needs `use_autograd=True`.")


def as_steps(steps: Iterable[Any]) -> list[PipelineStep]:
    """Return `steps` with bare models as steps."""
    if isinstance(steps, BaseModelMixin | PipelineStep):
        steps = [steps]
    return [step if isinstance(step, PipelineStep) else PipelineStep(step) for step in steps]


def name_of(model: BaseModelMixin) -> str:
    """Return what a model is called in messages and plans."""
    return model.model_card.name or type(model).__name__
