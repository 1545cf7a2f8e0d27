"""Who reads what from whom in a pipeline, and who is differentiated together; settled once, when it is built."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from athanor._values import did_you_mean
from athanor.errors import InputError
from athanor.models.mixin import BaseModelMixin
from athanor.models.pipeline.parts import DerivativeFunction, PipelineGroup, PipelineStep, name_of

DERIVATIVES = frozenset({"forces", "stress"})
"""Outputs that follow from differentiating the summed energy."""


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A model at its place in a pipeline.

    Parameters
    ----------
    model
        The model.
    position
        Place among all steps.
    group
        Number of its group.
    scope
        Steps read what earlier ones of the same scope give.
    reads
        Inputs that earlier steps give.
    gives
        Output -> name under which a later step reads it.
    constants
        Outputs through which no force acts.
    is_joint
        Whether its energy is differentiated together with that of others, instead of by itself.
    is_source
        Whether forces of a later step act through what it gives, so that its outputs stay on the graph.
    own_names
        Output -> name under which it stands beside those of other models, where several give it.
    """

    model: BaseModelMixin
    position: int
    group: int
    scope: int
    reads: frozenset[str]
    gives: dict[str, str]
    constants: frozenset[str]
    is_joint: bool = False
    is_source: bool = False
    own_names: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"step {self.position + 1} ({name_of(self.model)})"

    @property
    def gives_energy(self) -> bool:
        """Whether it contributes to the energy."""
        return "energy" in self.model.model_config.outputs


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps of a pipeline in order, and the `derivative_fn` of each group that has one.

    Of a step whose position is in `proven`, it is known that its energy hangs on what it reads.
    """

    steps: tuple[PlannedStep, ...]
    derivative_fns: dict[int, DerivativeFunction]
    proven: set[int] = field(default_factory=set)

    @property
    def sums_energies(self) -> bool:
        """Whether there is something that one backward pass through a sum has to go through."""
        return any((step.is_joint or step.is_source) and not self.has_own_derivatives(step) for step in self.steps)

    def has_own_derivatives(self, step: PlannedStep) -> bool:
        """Whether the `derivative_fn` of its group differentiates the energy of a step."""
        return step.group in self.derivative_fns


def make_plan(groups: Sequence[PipelineGroup], scopes: Sequence[int], additive: Iterable[str]) -> Plan:
    """Return the plan of `groups`, each in its scope, with outputs that are `additive`.

    Raises
    ------
    InputError
        If a wire leads nowhere, models wait for each other, or forces through a wire would be lost.
    """
    derivative_fns = {index: group.derivative_fn for index, group in enumerate(groups) if group.derivative_fn}
    steps = [(index, step) for index, group in enumerate(groups) for step in group.steps]
    planned = _wired(steps, scopes)
    sources = {position for step in planned for position in _feeding(planned, step)}
    result = []
    for step, (index, _) in zip(planned, steps, strict=True):
        is_source = step.position in sources
        through_wire = is_source or bool(_feeding(planned, step))
        by_autograd = "forces" in step.model.model_config.autograd_outputs
        is_joint = groups[index].use_autograd or (through_wire and by_autograd)
        result.append(replace(step, is_joint=is_joint, is_source=is_source))
    plan = Plan(_with_own_names(result, frozenset(additive)), derivative_fns)
    _check_own_derivatives(plan)
    return plan


def _wired(steps: Sequence[tuple[int, PipelineStep]], scopes: Sequence[int]) -> list[PlannedStep]:
    """Return steps that know what they read and give."""
    planned: list[PlannedStep] = []
    for position, (group, step) in enumerate(steps):
        scope = scopes[group]
        later = frozenset().union(
            *(_inputs(other.model) for index, other in steps[position + 1 :] if scopes[index] == scope)
        )
        available = {name for giver in planned if giver.scope == scope for name in giver.gives.values()}
        outputs = {name: step.wire.get(name, name) for name in sorted(step.model.model_config.outputs)}
        gives = {name: read_as for name, read_as in outputs.items() if read_as in later}
        reads = _inputs(step.model) & available
        planned.append(PlannedStep(step.model, position, group, scope, reads, gives, frozenset(step.constants)))
        _check_wire(planned[-1], step, later)
    _check_order(planned)
    return planned


def _inputs(model: BaseModelMixin) -> frozenset[str]:
    config = model.model_config
    return config.required_inputs | config.optional_inputs


def _check_wire(planned: PlannedStep, step: PipelineStep, later: frozenset[str]) -> None:
    for name, read_as in step.wire.items():
        if read_as not in later:
            hint = did_you_mean(read_as, later)
            known = f"they read {', '.join(sorted(later))}" if later else "there is none that reads anything"
            raise InputError(
                f"`wire` of {planned.name} gives `{name}` to later steps as `{read_as}`, which none of them reads; "
                f"{known}.{hint}"
            )


def _check_order(planned: Sequence[PlannedStep]) -> None:
    """Refuse two steps of which each needs what the other gives."""
    for step in planned:
        for other in planned[: step.position]:
            if other.scope != step.scope:
                continue
            awaited = other.model.model_config.required_inputs & (step.model.model_config.outputs - other.reads)
            if awaited and _reach(planned, other, step):
                raise InputError(
                    f"{other.name} needs {_listed(awaited)} from {step.name}, which itself reads what {other.name} "
                    f"gives: a cycle. Models run one after the other, so one of the two has to do without."
                )


def _reach(planned: Sequence[PlannedStep], start: PlannedStep, end: PlannedStep) -> bool:
    """Whether something that `start` gives comes to `end`, on whatever way."""
    reached = {start.position}
    for step in planned[start.position + 1 : end.position + 1]:
        if any(giver.position in reached for giver in _givers(planned, step).values()):
            reached.add(step.position)
    return end.position in reached


def _givers(planned: Sequence[PlannedStep], step: PlannedStep) -> dict[str, PlannedStep]:
    """Return what `step` reads, and the step that gives it: the last one before."""
    return {
        read_as: giver
        for giver in planned[: step.position]
        for read_as in giver.gives.values()
        if giver.scope == step.scope and read_as in step.reads
    }


def _feeding(planned: Sequence[PlannedStep], step: PlannedStep) -> set[int]:
    """Return the positions of the steps through whose outputs forces of `step` act."""
    found = set()
    for read_as, giver in _givers(planned, step).items():
        given = {name for name, name_read in giver.gives.items() if name_read == read_as}
        if not given <= giver.constants:
            found.add(giver.position)
    return found


def _with_own_names(steps: Sequence[PlannedStep], additive: frozenset[str]) -> tuple[PlannedStep, ...]:
    """Give what does not add up, and comes from several models, a name for each: ``charges_1``, ``charges_3``."""
    counts: dict[str, int] = {}
    for step in steps:
        for name in step.model.model_config.outputs - additive:
            counts[name] = counts.get(name, 0) + 1
    return tuple(
        replace(
            step,
            own_names={
                name: f"{name}_{step.position + 1}"
                for name in sorted(step.model.model_config.outputs - additive)
                if counts[name] > 1
            },
        )
        for step in steps
    )


def _check_own_derivatives(plan: Plan) -> None:
    """Refuse wires between a group with a `derivative_fn` and another group: neither could follow them."""
    for step in plan.steps:
        for position in sorted(_feeding(plan.steps, step)):
            giver = plan.steps[position]
            if giver.group != step.group and (plan.has_own_derivatives(giver) or plan.has_own_derivatives(step)):
                raise InputError(
                    f"{step.name} reads what {giver.name} gives, in another group, and a `derivative_fn` of one of "
                    f"them would miss the forces that act through it. Put both into one group, or name the output in "
                    f"`constants` of the step that gives it."
                )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))
