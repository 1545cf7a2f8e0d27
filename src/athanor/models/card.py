"""ModelCard: what a model knows about itself beyond its configuration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Facts about a model; every default means "unknown".

    What it says of `conservative`, `equivariant`, `smooth` and `batch_invariance` is what `athanor.testing.check_model`
    holds the model to: ``True`` is a claim, ``False`` says that it does not hold, ``None`` says nothing. What is not
    claimed is measured and told.

    Parameters
    ----------
    name
        Name for people.
    kind
        What it is made for: ``"materials"`` (periodic solids; other systems are warned about), ``"molecules"``,
        ``"any"``.
    elements
        Atomic numbers the model can evaluate; systems with others are refused.
    trained_elements
        Atomic numbers it was fitted to; systems with others are warned about.
    minimum_distance
        Smallest distance in Å at which the model makes sense; a system below it is set aside.
    dtype
        dtype of the network; inputs are converted to it.
    conservative
        Whether forces are minus the gradient of the energy, and stress its strain derivative over the volume: no for
        networks that predict them directly.
    equivariant
        Whether a translation, rotation or inversion of a system leaves its energy, and turns forces and stress along.
    smooth
        Whether energy, forces and the slope of the forces go on without a jump where a pair crosses a cutoff.
    accuracy
        Relative error that a model leaves in its forces by the way it evaluates its formula, such as on a mesh: a
        translation, or another choice of the same cell, then changes results by as much.
    short_ranged
        Whether atoms act on each other within the cutoff only, as charges do not.
    external_field
        Whether atoms feel places in space, such as a wall or a well, and not only each other: the total momentum is no
        constant then, whatever the equations of motion.
    batch_invariance
        Whether a system gets equal bits alone and among others, in any slot: ``"verified"`` by test,
        ``"not_verified"``, ``"no"``.
    stress_keeps_forces
        Whether energy and forces have equal bits with and without stress, verified by test: what only a log wants is
        then computed in the same pass.
    training_set
        What the parameters were fitted to.
    licence, citation, url
        Terms of the parameters, DOI or text to cite, home page.
    weights_digest
        Digest of the parameters, to be kept with results.
    """

    name: str = ""
    kind: Literal["materials", "molecules", "any", "unknown"] = "unknown"
    elements: frozenset[int] | None = None
    trained_elements: frozenset[int] | None = None
    minimum_distance: float | None = None
    dtype: torch.dtype | None = None
    conservative: bool | None = None
    equivariant: bool | None = None
    smooth: bool | None = None
    accuracy: float | None = None
    short_ranged: bool = True
    external_field: bool = False
    batch_invariance: Literal["verified", "not_verified", "no", "unknown"] = "unknown"
    stress_keeps_forces: bool = False
    training_set: str = ""
    licence: str = ""
    citation: str = ""
    url: str = ""
    weights_digest: str = ""


def common_dtype(cards: Iterable[ModelCard]) -> torch.dtype | None:
    """Return the dtype that all cards name, None if there is none."""
    found = {card.dtype for card in cards}
    return found.pop() if len(found) == 1 else None
