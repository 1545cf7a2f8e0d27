"""Systems and runs that the tests of hooks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.hooks.context import DynamicsContext
from athanor.hooks.stages import DynamicsStage
from athanor.testing.dynamics_contract import argon_cluster, argon_crystal, argon_model, with_neighbor_hooks

FROZEN = -1


def engine_with(kind: Any, *hooks: Any, model: Any = None, **arguments: Any) -> Any:
    """Return an engine with the neighbour hooks of argon, then `hooks`."""
    engine = with_neighbor_hooks(kind(argon_model() if model is None else model, **arguments))
    for hook in hooks:
        engine.register_hook(hook)
    return engine


def argon(*ids: int, frozen: int = 0) -> Batch:
    """Return hot crystals of 32 atoms; the first atoms of each are of the category that is frozen."""
    batch = Batch.from_data_list([argon_crystal(2, number) for number in ids])
    if frozen:
        categories = torch.zeros(len(batch), batch.num_nodes // len(batch), dtype=torch.int64)
        categories[:, :frozen] = FROZEN
        batch.atom_categories = categories.flatten()
    return batch


def bare(systems: Sequence[AtomicData] | None = None, **fields: torch.Tensor) -> DynamicsContext:
    """Return a context outside any run, of a crystal and a molecule unless others are given."""
    chosen = [argon_crystal(1, 0), argon_cluster(3, 1)] if systems is None else list(systems)
    batch = Batch.from_data_list(chosen)
    for name, value in fields.items():
        batch.set_field(name, value)
    return DynamicsContext(batch=batch)


AFTER_COMPUTE, AFTER_STEP, BEFORE_STEP = (
    DynamicsStage.AFTER_COMPUTE,
    DynamicsStage.AFTER_STEP,
    DynamicsStage.BEFORE_STEP,
)
