"""Parameters of pairs of elements, as users give them: one number for all, or one for each pair."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations_with_replacement
from typing import Any

import torch

from athanor._values import shown
from athanor.data.elements import SYMBOLS, number_of_element
from athanor.errors import InputError

PairParameter = float | Mapping[str | tuple[int | str, int | str], float]
"""A number, or one for each pair of elements, such as ``{"Na-Cl": 0.2, ("Na", "Na"): 0.1, ("Cl", "Cl"): 0.1}``."""


def pair_tables(**parameters: tuple[Any, str, bool]) -> tuple[list[int], list[torch.Tensor]]:
    """Return the elements that parameters name, sorted, and a symmetric table float64 [T, T] of each.

    Parameters
    ----------
    **parameters
        By the name that messages use: a `PairParameter`, its unit, and whether it has to be above 0.

    Returns
    -------
    tuple
        No elements, and tables [1, 1], if all parameters are plain numbers.

    Raises
    ------
    InputError
        If a value is no number in its range, a key names no two elements, a pair is missing or is given twice, or
        parameters name different elements.
    """
    given = {name: _by_pair(name, *rest) for name, rest in parameters.items()}
    named = {
        name: {element for pair in value for element in pair}
        for name, value in given.items()
        if isinstance(value, dict)
    }
    elements = sorted(set().union(*named.values()))
    for name, some in named.items():
        if some != set(elements):
            others = ", ".join(f"`{each}`" for each in named if named[each] != some)
            raise InputError(f"`{name}` and {others} name different elements; give both for the same ones.")
    size = max(len(elements), 1)
    return elements, [_table(name, value, elements, size) for name, value in given.items()]


def _by_pair(name: str, value: Any, unit: str, positive: bool) -> float | dict[tuple[int, int], float]:
    if not isinstance(value, Mapping):
        return _number(name, "", value, unit, positive)
    found: dict[tuple[int, int], float] = {}
    for key, number in value.items():
        pair = _pair(name, key)
        if pair in found:
            raise InputError(f"`{name}` gives {_in_words(pair)} twice. Give it once; the order does not matter.")
        found[pair] = _number(name, f" for {_in_words(pair)}", number, unit, positive)
    if not found:
        raise InputError(f"`{name}` names no pair of elements; give for example {{'Na-Cl': 0.2}} ({unit}).")
    return found


def _pair(name: str, key: Any) -> tuple[int, int]:
    ends = key.split("-") if isinstance(key, str) else key
    if not isinstance(ends, (tuple, list)) or len(ends) != 2:
        raise InputError(f"`{name}` has the key {shown(key)}; name two elements, such as 'Na-Cl' or ('Na', 'Cl').")
    a, b = sorted(number_of_element(end.strip() if isinstance(end, str) else end) for end in ends)
    return a, b


def _number(name: str, where: str, value: Any, unit: str, positive: bool) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or (positive and number <= 0.0) or number < 0.0:
        kind = "positive" if positive else "not negative"
        raise InputError(f"`{name}`{where} is {shown(value)}; it must be a finite number, {kind} ({unit}).")
    return number


def _table(name: str, value: float | dict[tuple[int, int], float], elements: list[int], size: int) -> torch.Tensor:
    table = torch.empty(size, size, dtype=torch.float64)
    if not isinstance(value, dict):
        return table.fill_(value)
    for (row, a), (column, b) in combinations_with_replacement(enumerate(elements), 2):
        if (a, b) not in value:
            raise InputError(
                f"`{name}` has nothing for {_in_words((a, b))}. Give a number for each pair of its elements; with a "
                f"depth or strength of 0 a pair does not interact."
            )
        table[row, column] = table[column, row] = value[a, b]
    return table


def _in_words(pair: tuple[int, int]) -> str:
    return "-".join(SYMBOLS[number] for number in pair)
