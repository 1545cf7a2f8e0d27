r"""One evaluation of a pipeline: every model once, then at most one backward pass.

A model computes its forces itself, or its energy joins a sum that is differentiated once. What a model gives others,
charges for example, stays on the graph. A model that computes its own forces and reads such a value :math:`q` takes
it as constant; what that leaves out,

.. math:: F_i = -\sum_a \frac{\partial E}{\partial q_a} \frac{\partial q_a}{\partial r_i},

joins the same backward pass, with :math:`\partial E/\partial q` from the energy of that model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from athanor.errors import ContractError, InputError, ModelOutputError, NotAvailableError
from athanor.kernels._library import no_second_derivative
from athanor.models.derivatives import check_attached, differentiate, leaves, strained_view
from athanor.models.outputs import asking_for, checked_outputs, sum_outputs
from athanor.models.pipeline.plan import DERIVATIVES, Plan, PlannedStep


@dataclass
class _Pass:
    """What there is while the models run."""

    plan: Plan
    view: Any
    wanted: frozenset[str]
    keep_graph: bool = False
    variables: dict[str, Tensor] = field(default_factory=dict)
    """What the sum of energies is differentiated by, under the name of the output that this gives."""
    given: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    """What earlier steps gave, under their scope and the name by which later ones read it."""
    parts: list[tuple[PlannedStep, dict[str, Tensor]]] = field(default_factory=list)
    roots: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Where the backward pass starts: values, and the gradient of the energy by each."""

    @property
    def strain(self) -> Tensor | None:
        return self.variables.get("stress")

    @property
    def is_differentiated(self) -> bool:
        """Whether somebody differentiates by positions or strain: here, or around a pipeline that is a part."""
        return bool(self.variables) or self.view.positions.requires_grad

    @property
    def has_graph(self) -> bool:
        return self.keep_graph or bool(self.variables)


def evaluate_plan(
    plan: Plan, data: Any, wanted: Set[str], additive: Collection[str], *, keep_graph: bool
) -> OrderedDict[str, Tensor]:
    """Return the outputs of a pipeline for a batch.

    Parameters
    ----------
    plan
        Of the pipeline.
    data
        A view of a batch.
    wanted
        Outputs that are asked for.
    additive
        Outputs that add up; of the others the last one counts.
    keep_graph
        Whether results stay attached.

    Raises
    ------
    InputError
        If stress is wanted of a batch without cells.
    ContractError
        If something is to be differentiated that has lost its graph.
    ModelOutputError
        If a model returns something of another shape, on another device, or not what it is asked for.
    """
    if "stress" in wanted and "cell" not in data:
        raise InputError("stress output requires cell, and this batch has none. Remove 'stress' from `active_outputs`.")
    summed = frozenset(wanted & DERIVATIVES if plan.sums_energies else ())
    is_for_functions = bool(plan.derivative_fns) and not wanted <= {"energy"}
    with torch.inference_mode(torch.is_inference_mode_enabled() and not (keep_graph or summed or is_for_functions)):
        if keep_graph or summed or is_for_functions:
            data = data.shallow_view()
        variables = leaves(data, {*summed, "forces"} if is_for_functions else summed)
        work = _Pass(plan, data, frozenset(wanted), keep_graph, variables)
        for step in plan.steps:
            _run(step, work)
        total = [outputs for _, outputs in work.parts]
        total += [_by_function(group, work) for group in plan.derivative_fns if is_for_functions]
        if summed:
            total.append(_by_sum(work, summed))
        return sum_outputs(*total, additive_keys=additive)


def attached_outputs(
    plan: Plan, view: Any, strain: Tensor | None, wanted: Set[str], additive: Collection[str]
) -> dict[str, Tensor]:
    """Return the energy of a whole pipeline as a part of another one; see `BaseModelMixin.attached_energy`.

    Raises
    ------
    ContractError
        If some of its derivatives are made in a way that a differentiation of its energy would miss.
    """
    own = [f"the `derivative_fn` of group {group + 1}" for group in plan.derivative_fns]
    own += [f"the forces of {step.name} itself" for step in plan.steps if step.model.direct_derivative_keys()]
    if own:
        raise ContractError(
            f"A pipeline can not be part of an autograd group of another one, which would miss {own[0]}. Put its "
            f"models into that group, or the pipeline into one with `use_autograd=False`."
        )
    work = _Pass(plan, view, frozenset(wanted) - DERIVATIVES, variables={} if strain is None else {"stress": strain})
    work.keep_graph = torch.is_grad_enabled()
    for step in plan.steps:
        outputs = step.model.attached_energy(_view_for(step, work), strain, _asked(step, work) - DERIVATIVES)
        if work.keep_graph and step.gives_energy:
            check_attached(step.model, outputs["energy"])  # beside one that is, nobody would miss it in the sum
        _prove(step, outputs, work)
        _take(step, outputs, work)
    return dict(sum_outputs(*(outputs for _, outputs in work.parts), additive_keys=additive))


# ------------------------------------------------------------------------------------------------------------- a step


def _run(step: PlannedStep, work: _Pass) -> None:
    """Call the model of a step, and note what it gives."""
    outputs: Mapping[str, Tensor | None]
    if step.is_joint:
        asked = _asked(step, work) - (DERIVATIVES - step.model.direct_derivative_keys())
        strain = None if work.plan.has_own_derivatives(step) else work.strain
        with torch.set_grad_enabled(work.has_graph):
            outputs = step.model.attached_energy(_view_for(step, work), strain, asked)
        _prove(step, outputs, work)
    elif work.has_graph and (step.is_source or step.reads):
        with torch.enable_grad():
            outputs = _direct_on_graph(step, work)
    else:
        outputs = _direct(step, _view_for(step, work), work)
    _take(step, outputs, work)


def _prove(step: PlannedStep, outputs: Mapping[str, Tensor | None], work: _Pass) -> None:
    """See to it, once, that the energy of a step hangs on what it reads from others."""
    if step.reads and work.is_differentiated and step.position not in work.plan.proven:
        by = {name: value for name, value in _read(step, work).items() if value.requires_grad}
        if by and step.gives_energy:
            _gradients_by_read(step, outputs.get("energy"), by, keep_graph=False)
        work.plan.proven.add(step.position)


def _direct(step: PlannedStep, view: Any, work: _Pass) -> Mapping[str, Tensor | None]:
    with asking_for(step.model, _asked(step, work)):
        return step.model(view)


def _direct_on_graph(step: PlannedStep, work: _Pass) -> Mapping[str, Tensor | None]:
    """Call a model that computes its own forces, and note the gradient of its energy by what it reads."""
    given = read = _read(step, work)
    if not (step.is_source or work.keep_graph):  # nobody looks behind what it reads
        read = {name: value.detach().requires_grad_(value.requires_grad) for name, value in read.items()}
    view = _view_for(step, work, read)
    outputs = _direct(step, strained_view(view, work.strain) if step.is_source else view, work)
    by = {name: value for name, value in read.items() if value.requires_grad}
    energy = outputs.get("energy")
    if by and energy is not None and work.variables:
        gradients = _gradients_by_read(step, energy, by, keep_graph=work.keep_graph or step.is_source)
        work.roots += zip((given[name] for name in by), gradients, strict=True)
    if not (by and work.keep_graph):
        return outputs
    return {name: _once(step, name, value, by) for name, value in outputs.items()}


def _once(step: PlannedStep, name: str, value: Tensor | None, by: dict[str, Tensor]) -> Tensor | None:
    """Return a derivative that a model computed at constant charges, such that who differentiates it is told."""
    if value is None or name not in DERIVATIVES or value.requires_grad:
        return value
    error = NotAvailableError(
        f"`{name}` of {step.name} does not hang on {', '.join(f'`{read}`' for read in by)}, which another model "
        f"predicts, so it can not be differentiated, as training with a loss of forces would. Train on energies, or "
        f"use a model whose forces come from autograd."
    )
    return no_second_derivative(value, error, *by.values())


def _gradients_by_read(
    step: PlannedStep, energy: Tensor | None, by: dict[str, Tensor], *, keep_graph: bool
) -> tuple[Tensor, ...]:
    """Return the gradient of the energy of a step by each value that it read."""
    found: tuple[Tensor | None, ...] = (None,) * len(by)
    if energy is not None and energy.requires_grad:
        ones = torch.ones_like(energy)
        values = list(by.values())
        found = torch.autograd.grad(energy, values, ones, create_graph=keep_graph, retain_graph=True, allow_unused=True)
    lost = [f"`{name}`" for name, gradient in zip(by, found, strict=True) if gradient is None]
    if lost:
        raise ContractError(
            f"The energy of {step.name} is not attached to {', '.join(lost)}, which another model predicts, so forces "
            f"would lack what acts through it. Compute the energy without `detach`, or name the output in `constants` "
            f"of the step that gives it."
        )
    return tuple(gradient for gradient in found if gradient is not None)


def _asked(step: PlannedStep, work: _Pass) -> set[str]:
    """Return what a step is asked for: what is wanted of the pipeline, and what others read."""
    outputs = step.model.model_config.outputs
    wanted = {name for name in outputs if name in work.wanted or step.own_names.get(name) in work.wanted}
    return (wanted | step.gives.keys() | {"energy"}) & outputs


def _view_for(step: PlannedStep, work: _Pass, read: Mapping[str, Tensor] | None = None) -> Any:
    """Return what the model of a step is called with: the batch, and what earlier steps gave."""
    if not step.reads:
        return work.view
    view = work.view.shallow_view(())
    for name, value in (_read(step, work) if read is None else read).items():
        view.set_field(name, value)
    return view


def _read(step: PlannedStep, work: _Pass) -> dict[str, Tensor]:
    return {name: work.given[step.scope, name] for name in sorted(step.reads)}


def _take(step: PlannedStep, outputs: Mapping[str, Tensor | None], work: _Pass) -> None:
    """Note what a step returned, for the sum and for later steps."""
    present = checked_outputs(step.model, work.view, outputs, step.gives)
    for name, read_as in step.gives.items():
        value = present[name]
        is_constant = name in step.constants or not value.is_floating_point()
        if step.is_source and work.is_differentiated and not is_constant and not value.requires_grad:
            raise ContractError(
                f"`{name}` of {step.name} is not attached to the positions, so forces would lack what acts through it. "
                f"Compute it without `detach`; if it does not depend on them, say "
                f"`PipelineStep(model, constants={{'{name}'}})`."
            )
        work.given[step.scope, read_as] = value.detach() if is_constant else value
    shown = {name: value for name, value in present.items() if name in work.wanted or name == "energy"}
    own = {own: present[name] for name, own in step.own_names.items() if name in present and own in work.wanted}
    work.parts.append((step, shown | own))


# ------------------------------------------------------------------------------------------------------- derivatives


def _by_sum(work: _Pass, names: Set[str]) -> dict[str, Tensor]:
    """Return forces and stress of everything that is on the graph, from one backward pass."""
    roots = list(work.roots)
    for step, outputs in work.parts:
        if step.is_joint and step.gives_energy and not work.plan.has_own_derivatives(step):
            energy = outputs["energy"]
            if energy.requires_grad or not step.model.direct_derivative_keys():
                check_attached(step.model, energy)
                roots.append((energy, torch.ones_like(energy)))
    if not roots:
        return {}
    return differentiate(roots, {name: work.variables[name] for name in names}, work.view, work.keep_graph)


def _by_function(group: int, work: _Pass) -> dict[str, Tensor]:
    """Return what the `derivative_fn` of a group gives."""
    parts = [outputs for step, outputs in work.parts if step.group == group]
    done = frozenset().union(*parts)
    requested = set(work.wanted - {"energy"} - done)
    if not requested:
        return {}
    energy = sum_outputs(*parts)["energy"]
    found = dict(work.plan.derivative_fns[group](energy, work.view, requested))
    if missing := sorted(requested & DERIVATIVES - found.keys()):
        raise ModelOutputError(
            f"`derivative_fn` of group {group + 1} was asked for {', '.join(sorted(requested))} and did not return "
            f"{', '.join(missing)}, so the sum would lack its part."
        )
    return found
