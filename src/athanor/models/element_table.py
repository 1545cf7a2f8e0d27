"""ElementTable: parameters by element, for the atoms of a batch; and DoubleTables, which stay in double precision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from athanor._values import is_real, shown
from athanor.data._stamp import ComputedFrom
from athanor.data.elements import MAX_ATOMIC_NUMBER, SYMBOLS, number_of_element, symbols_of
from athanor.errors import InputError


class ElementTable:
    """Parameters by element; what was looked up is kept while the elements of a batch stay.

    Parameters
    ----------
    values
        Number of each element, by atomic number.
    dtype
        Of what is looked up.
    model
        What messages call the model.
    argument
        Arguments that the numbers come from, for messages.
    advice
        What messages advise, if not to add to `argument`.
    """

    def __init__(
        self, values: Mapping[int, float], dtype: torch.dtype, model: str, argument: str = "", *, advice: str = ""
    ) -> None:
        self.elements = frozenset(values)
        self._model, self._advice = model, advice or f"Add them to {argument}."
        # the last row is that of numbers which no element has
        self._values = torch.zeros(MAX_ATOMIC_NUMBER + 2, dtype=dtype)
        self._known = torch.zeros(MAX_ATOMIC_NUMBER + 2, dtype=torch.bool)
        for number, value in values.items():
            self._values[number], self._known[number] = value, True
        self._kept = (ComputedFrom(), torch.empty(0))

    def of(self, atomic_numbers: torch.Tensor, batch_idx: torch.Tensor | None = None) -> torch.Tensor:
        """Return the number of each atom, [N], on the device of `atomic_numbers`.

        Parameters
        ----------
        atomic_numbers
            [N].
        batch_idx
            [N], system of each atom, for messages.

        Raises
        ------
        InputError
            If an element has none; the text names it.
        """
        computed_from, values = self._kept
        if computed_from.holds(atomic_numbers):
            return values
        device = atomic_numbers.device
        places = torch.where(atomic_numbers < 0, MAX_ATOMIC_NUMBER + 1, atomic_numbers)
        places = places.clamp(max=MAX_ATOMIC_NUMBER + 1).long()
        known = self._known.to(device)[places]
        if not bool(known.all()):
            missing = ", ".join(_name(number) for number in atomic_numbers[~known].unique().tolist())
            systems = [] if batch_idx is None else batch_idx[~known].unique().tolist()
            where = f" in the system of index {', '.join(map(str, systems[:3]))}" if systems else ""
            raise InputError(
                f"{self._model} has no parameters for {missing}{where}; it has some for {symbols_of(self.elements)}. "
                f"{self._advice}"
            )
        with torch.inference_mode(False):  # kept for calls that may be differentiated
            values = self._values.to(device)[places]
        self._kept = (ComputedFrom(atomic_numbers), values)
        return values


class DoubleTables:
    """Tensors by name that follow a batch from device to device, whatever dtype a module is cast to.

    Parameters
    ----------
    **tables
        float64 tensors.
    """

    def __init__(self, **tables: torch.Tensor) -> None:
        self._tables = tables

    def on(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Return the tables on `device`; they stay there."""
        if any(table.device != device for table in self._tables.values()):
            self._tables = {name: table.to(device) for name, table in self._tables.items()}
        return self._tables


def by_element(argument: str, table: Any, unit: str, *, positive: bool = False) -> dict[int, float]:
    """Return what a user gave for each element, by atomic number.

    Raises
    ------
    InputError
        If `table` is no mapping or empty, names an element twice or one that does not exist, or has a value that is no
        finite number, or not above 0 if it has to be.
    """
    if not isinstance(table, Mapping) or not table:
        raise InputError(
            f"`{argument}` is {shown(table)}; give a number for each element, such as {{'Na': 1.0}} ({unit})."
        )
    values: dict[int, float] = {}
    for element, value in table.items():
        if not is_real(value) or not math.isfinite(value) or (positive and value <= 0.0):
            kind = "positive" if positive else "finite"
            raise InputError(f"`{argument}` gives {element!r} {value!r}; it must be a {kind} number ({unit}).")
        number = number_of_element(element)
        if number in values:
            raise InputError(f"`{argument}` names {SYMBOLS[number]} twice. Give it once, as symbol or as number.")
        values[number] = float(value)
    return values


def _name(number: int) -> str:
    return f"{SYMBOLS[number]} ({number})" if 0 < number <= MAX_ATOMIC_NUMBER else f"atomic number {number}"
