"""ModelCard: what a model knows about itself beyond its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Facts about a model; every default means "unknown".

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
    batch_invariance
        Whether a system gets equal bits alone and among others, in any slot: ``"verified"`` by test,
        ``"not_verified"``, ``"no"``.
    stress_keeps_forces
        Whether energy and forces have equal bits with and without stress, verified by test: what only a log wants is
        then computed in the same pass.
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
    batch_invariance: Literal["verified", "not_verified", "no", "unknown"] = "unknown"
    stress_keeps_forces: bool = False
    licence: str = ""
    citation: str = ""
    url: str = ""
    weights_digest: str = ""
