"""What a pipeline can do, and what is known about it: from what its models say of themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from athanor.data.fields import FIELDS, Level
from athanor.errors import InputError
from athanor.models.card import ModelCard, common_dtype
from athanor.models.config import ModelConfig
from athanor.models.pipeline.plan import DERIVATIVES, Plan, PlannedStep
from athanor.neighbors.config import NeighborConfig, NeighborListFormat

PARTS_OF_ENERGY = frozenset({"forces", "stress", "atomic_energies", "hessian"})
"""Outputs of which a sum is wrong, not just poorer, if a model that gives an energy does not give them."""


def config_of(plan: Plan, additive: Collection[str]) -> ModelConfig:
    """Return the configuration of a pipeline.

    It gives what its models give; forces, stress and other `PARTS_OF_ENERGY` only if all that give an energy give
    these. Inputs that one model gives another are not needed.

    Raises
    ------
    InputError
        If one model needs periodic systems and another one does not take them, or their lists are half and full.
    """
    configs = [step.model.model_config for step in plan.steps]
    able = [_outputs_of(step) for step in plan.steps]
    everybody = [outputs for step, outputs in zip(plan.steps, able, strict=True) if step.gives_energy]
    incomplete = {name for name in PARTS_OF_ENERGY if any(name not in outputs for outputs in everybody)}
    outputs = frozenset().union(*able) - incomplete
    own_names = {own: name for step in plan.steps for name, own in step.own_names.items()}
    required = frozenset().union(*(step.model.model_config.required_inputs - step.reads for step in plan.steps))
    optional = frozenset().union(*(step.model.model_config.optional_inputs - step.reads for step in plan.steps))
    is_joint = any(step.is_joint for step in plan.steps)
    by_autograd = frozenset().union(*(config.autograd_outputs for config in configs))
    active = {name for config in configs for name in config.active_outputs or ()}
    return ModelConfig(
        outputs=outputs | own_names.keys(),
        autograd_outputs=outputs & (by_autograd | DERIVATIVES if is_joint else by_autograd),
        autograd_inputs=frozenset().union(*(config.autograd_inputs for config in configs)),
        required_inputs=required,
        optional_inputs=optional - required,
        supports_pbc=_supports_pbc(plan),
        needs_pbc=any(config.needs_pbc for config in configs),
        neighbor_config=_neighbors(plan),
        output_levels=_levels(plan, own_names, outputs),
        active_outputs=active & outputs,
    )


def _outputs_of(step: PlannedStep) -> frozenset[str]:
    outputs = step.model.model_config.outputs
    return outputs | DERIVATIVES if step.is_joint and step.gives_energy else outputs


def _levels(plan: Plan, own_names: dict[str, str], outputs: Collection[str]) -> dict[str, Level]:
    """Return the levels of outputs that are not in the field table, as far as they are known."""
    known: dict[str, Level] = {name: spec.level for name, spec in FIELDS.items()}
    for step in plan.steps:
        known |= step.model.model_config.output_levels
    levels = {name: known[name] for name in outputs if name in known and name not in FIELDS}
    return levels | {own: known[name] for own, name in own_names.items() if name in known}


def _supports_pbc(plan: Plan) -> bool:
    without = [step.name for step in plan.steps if not step.model.model_config.supports_pbc]
    needing = [step.name for step in plan.steps if step.model.model_config.needs_pbc]
    if needing and without:
        raise InputError(
            f"{needing[0]} needs periodic systems and {without[0]} does not take them: no system suits both. "
            f"Use them by themselves."
        )
    return not without


def _neighbors(plan: Plan) -> NeighborConfig | None:
    """Return one list that serves everybody: of the largest cutoff, a matrix if anybody reads one."""
    asking = [(step, step.model.model_config.neighbor_config) for step in plan.steps]
    configs = [config for _, config in asking if config is not None]
    if not configs:
        return None
    if len({config.half_list for config in configs}) > 1:
        kinds = {config.half_list: step.name for step, config in asking if config is not None}
        raise InputError(
            f"{kinds[True]} asks for `half_list=True` and {kinds[False]} for `half_list=False`; they can not share a "
            f"neighbour list. Build both with the same."
        )
    wants_matrix = any(config.format == NeighborListFormat.MATRIX for config in configs)
    return NeighborConfig(
        cutoff=max(config.cutoff for config in configs),
        format=NeighborListFormat.MATRIX if wants_matrix else NeighborListFormat.COO,
        half_list=configs[0].half_list,
        skin=max(config.skin for config in configs),
    )


def card_of(plan: Plan) -> ModelCard:
    """Return the card of a pipeline: it holds where the cards of all its models hold."""
    cards = [step.model.model_card for step in plan.steps]
    distances = [card.minimum_distance for card in cards if card.minimum_distance is not None]
    joint = any(step.is_joint for step in plan.steps)
    return ModelCard(
        name=" + ".join(card.name or type(step.model).__name__ for card, step in zip(cards, plan.steps, strict=True)),
        kind=_kind(cards),
        elements=_common(card.elements for card in cards),
        trained_elements=_common(card.trained_elements for card in cards),
        minimum_distance=max(distances, default=None),
        dtype=common_dtype(cards),
        batch_invariance=_worst([card.batch_invariance for card in cards]),
        stress_keeps_forces=not joint and all(card.stress_keeps_forces for card in cards),
        conservative=_all_claim(_conservative(step) for step in plan.steps if step.gives_energy),
        equivariant=_all_claim(card.equivariant for card in cards),
        smooth=_all_claim(card.smooth for card in cards),
        short_ranged=all(card.short_ranged for card in cards),
        external_field=any(card.external_field for card in cards),
        licence=_joined(card.licence for card in cards),
        training_set=_joined(card.training_set for card in cards),
        citation=_joined(card.citation for card in cards),
        url=_joined(card.url for card in cards),
        weights_digest=_digest([card.weights_digest for card in cards]),
    )


def _kind(cards: Sequence[ModelCard]) -> Any:
    kinds = {card.kind for card in cards} - {"any", "unknown"}
    if len(kinds) == 1:
        return kinds.pop()
    return "any" if not kinds and all(card.kind == "any" for card in cards) else "unknown"


def _common(sets: Iterable[frozenset[int] | None]) -> frozenset[int] | None:
    known = [each for each in sets if each is not None]
    return frozenset.intersection(*known) if known else None


def _conservative(step: PlannedStep) -> bool | None:
    """Whether the forces of a step are slopes of its energy: those of an autograd group are, by construction."""
    return step.is_joint or step.model.model_card.conservative


def _all_claim(claims: Iterable[bool | None]) -> bool | None:
    """Return what holds of a sum: False if it fails for one part, True if it holds for all, else unknown."""
    found = set(claims)
    return False if False in found else True if found == {True} else None


def _worst(claims: Sequence[Any]) -> Any:
    return next((claim for claim in ("no", "unknown", "not_verified") if claim in claims), "verified")


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))


def _digest(digests: Sequence[str]) -> str:
    """Return one digest of all parameters; that of the only model that has some."""
    known = [digest for digest in digests if digest]
    if len(known) < 2:
        return "".join(known)
    return f"sha256:{hashlib.sha256(' '.join(digests).encode()).hexdigest()}"
