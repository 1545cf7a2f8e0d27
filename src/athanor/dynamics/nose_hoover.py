"""Chains of Nosé-Hoover thermostats as part of an engine: their state, their energy, and what they can be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor._values import check_whole
from athanor.dynamics.state import StateVariable
from athanor.dynamics.updates import sum_last
from athanor.errors import InputError

if TYPE_CHECKING:
    from athanor.data.batch import Batch

MOST_LINKS = 8
ORDERS = (1, 3, 5)


def chain_speeds() -> StateVariable:
    """Declare the mass-weighted speeds of a chain, [B, L], which starts at rest; L is ``chain_length``."""

    def at_rest(engine: Any, batch: Batch, made: dict[str, Tensor]) -> Tensor:
        return torch.zeros(len(batch), engine.chain_length, dtype=torch.float64, device=batch.device)

    return StateVariable(unit="√eV", fresh=at_rest, dtype=torch.float64)


def check_chain(length: Any, order: Any) -> tuple[int, int]:
    """Return length and order of a chain.

    Raises
    ------
    InputError
        If the length is not from 1 to 8, or the order not 1, 3 or 5.
    """
    length, order = check_whole(length, "chain_length", 1), check_whole(order, "yoshida_order", 1)
    if length > MOST_LINKS:
        raise InputError(f"`chain_length` is {length}; it must be at most {MOST_LINKS}. 3 is usual.")
    if order not in ORDERS:
        raise InputError(f"`yoshida_order` is {order}; there are Suzuki-Yoshida weights of order 1, 3 and 5.")
    return length, order


def chain_energy(speeds: Tensor) -> Tensor:
    """Return the energy of the motion of chains [B, L], eV, [B]."""
    return 0.5 * sum_last(speeds * speeds)
