"""How often a cell is repeated along each axis, as people write it: ``2x2x1``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from athanor._values import is_real
from athanor.errors import InputError


def parse_supercell(value: Any) -> tuple[int, int, int]:
    """Return the repeats along a, b and c.

    Parameters
    ----------
    value
        ``"2x2x1"``, ``"2,2,1"``, ``"2 2 1"``, three integers, or one integer (also as text) for all axes.

    Raises
    ------
    InputError
        If it is none of these, or a number is below 1.

    Examples
    --------
    >>> parse_supercell("2x2x1"), parse_supercell(3)
    ((2, 2, 1), (3, 3, 3))
    """
    parts = re.split(r"\s*[x×,]\s*|\s+", value.strip().lower()) if isinstance(value, str) else value
    try:
        parts = [parts] if is_real(parts) else list(parts)
        counts = [int(part) for part in parts if not isinstance(part, bool) and int(part) == float(part)]
    except (TypeError, ValueError, OverflowError):
        parts, counts = [], []
    if len(counts) not in (1, 3) or len(counts) != len(parts) or min(counts) < 1:
        raise InputError(f"{value!r} is not a supercell; write repeats of at least 1, for example `2x2x1`, or `2`.")
    if len(counts) == 1:
        counts *= 3
    return counts[0], counts[1], counts[2]


def format_supercell(counts: Sequence[int]) -> str:
    """Return ``2x2x1``; `parse_supercell` reads it back."""
    return "x".join(map(str, counts))


Supercell = Annotated[
    tuple[int, int, int],
    BeforeValidator(parse_supercell),
    PlainSerializer(format_supercell, return_type=str),
]
