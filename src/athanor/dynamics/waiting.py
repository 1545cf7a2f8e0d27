"""Systems that wait to be given out: in bins by their size where all are known, in a line where they come one by one.

Neither decides who can be run: that is asked of the gate, which measures a sample and admits it.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from athanor import _runtime
from athanor.dynamics.gate import Draw, Gate
from athanor.dynamics.sources import Numbered, Size, Stream
from athanor.errors import AthanorWarning, ContractError, InputError, SimulationError, in_words

Fits = Callable[[Size], bool]
"""Whether there is room for a system of this size."""


class Bins:
    """Systems of a source that has a length, by their number of atoms; inside a bin their order is kept.

    Parameters
    ----------
    source
        Where they are read from when they are given out.
    gate
        Decides who can be run.
    width
        Atoms by which the sizes of a bin differ.
    chance
        Shuffles the order inside bins; None: not.
    """

    def __init__(self, source: Numbered, gate: Gate, width: int, chance: random.Random | None) -> None:
        self._source, self._gate, self._width, self._chance = source, gate, width, chance
        self._bins: dict[int, dict[int, Size]] | None = None

    def scan(self) -> dict[int, dict[int, Size]]:
        """Return the bins, smallest first; look at the size of every sample before the first is given out."""
        if self._bins is not None:
            return self._bins
        bins: dict[int, dict[int, Size]] = {}
        for number in range(self._source.count):
            size = self._gate.size_of(number, lambda number=number: self._source.size_of(number))  # type: ignore[misc]
            if size is not None:
                bins.setdefault(size.atoms // self._width, {})[number] = size
        self._bins = dict(sorted(bins.items()))
        if self._chance is not None:
            for key, waiting in self._bins.items():
                self._bins[key] = dict(self._chance.sample(list(waiting.items()), len(waiting)))
        return self._bins

    @property
    def keys(self) -> list[int]:
        """What can be drawn from, small systems first."""
        return list(self.scan())

    def draw(self, key: int, fits: Fits) -> Draw | None:
        """Give out the first system of a bin that fits and can be read; None if there is none."""
        if not fits(Size(max(1, key * self._width), 0)):
            return None
        for number, size in list(self.scan()[key].items()):
            if not fits(size):
                continue
            measured = self._gate.measure(number, lambda number=number: self._source.load(number), size)  # type: ignore[misc]
            if measured is None:
                continue
            if not fits(measured[1]):  # it is larger than its metadata said
                self.remove(number)
                self._put_first(number, measured[1])
                continue
            draw = self._gate.admit(number, *measured)
            if draw is not None:
                self.remove(number)
                return draw
        return None

    def put_back(self, draw: Draw) -> None:
        """Let a system wait again, before those of its size."""
        self._put_first(draw.order, draw.size)

    def _put_first(self, number: int, size: Size) -> None:
        bins, key = self.scan(), size.atoms // self._width
        is_new = key not in bins
        bins[key] = {number: size, **bins.get(key, {})}
        if is_new:
            self._bins = dict(sorted(bins.items()))

    def remove(self, order: int) -> None:
        """Let a system wait no longer."""
        for waiting in (self._bins or {}).values():
            waiting.pop(order, None)

    def name_of(self, order: int) -> str:
        """Return what a sample is called."""
        return self._source.name_of(order)

    @property
    def count(self) -> int:
        """How many samples there are, given out or not."""
        return self._source.count

    @property
    def exhausted(self) -> bool:
        """Whether nobody waits."""
        return not any(self.scan().values())

    def was_given(self, order: int) -> bool:
        """Whether a sample was given out or set aside."""
        return order < self.count and not any(order in waiting for waiting in self.scan().values())

    def __iter__(self) -> Iterator[int]:
        """Numbers of those that wait, small ones first."""
        return iter([number for waiting in self.scan().values() for number in waiting])

    def state_dict(self) -> dict[str, Tensor]:
        """Return who was given out or set aside, and in which order the others wait."""
        waiting = list(self)
        known = set(waiting)
        given = [number for number in range(self.count) if number not in known]
        return {
            "given": torch.tensor(given, dtype=torch.long),
            "waiting": torch.tensor(waiting, dtype=torch.long),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up `state` from `state_dict`."""
        given = state["given"].tolist()
        if given and max(given) >= self.count:
            raise InputError(f"The data set has {self.count} samples, and number {max(given)} was given out.")
        self._bins, place = None, {number: place for place, number in enumerate(state["waiting"].tolist())}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AthanorWarning)  # told before
            bins = self.scan()
        self._bins = {
            key: {number: one[number] for number in sorted(one.keys() & place.keys(), key=place.__getitem__)}
            for key, one in bins.items()
        }


@dataclass(slots=True)
class _InLine:
    """An item of a stream that waits: its size, once it is known, and how many that came later were given out."""

    order: int
    item: Any
    size: Size | None = None
    passed: int = 0


class Line:
    """Systems of a stream, in the order in which they come.

    Parameters
    ----------
    source
        Asked for the next one when there is room.
    gate
        Decides who can be run.
    look_ahead
        How many may wait for room while a smaller one that came later is given out, and by how many each is passed.
    """

    def __init__(self, source: Stream, gate: Gate, look_ahead: int) -> None:
        self._source, self._gate, self._look_ahead = source, gate, look_ahead
        self._line: list[_InLine] = []
        self.count = self._asked = 0

    @property
    def keys(self) -> list[int]:
        """What can be drawn from: the line."""
        return [0]

    def draw(self, key: int, fits: Fits) -> Draw | None:
        """Give out the first system that fits; None if none does that may be given out, or none is there."""
        if not fits(Size(1, 0)):
            return None
        place = 0
        while place < len(self._line) or (place <= self._look_ahead and self._ask()):
            entry = self._line[place]
            draw = self._drawn(entry, fits) if entry.size is None or fits(entry.size) else None
            if draw is not None:
                self.remove(entry.order)
                for earlier in self._line[:place]:
                    earlier.passed += 1
                return draw
            if place < len(self._line) and self._line[place] is entry:  # it waits, and was not set aside
                if entry.passed >= self._look_ahead:
                    return None
                place += 1
        return None

    def _drawn(self, entry: _InLine, fits: Fits) -> Draw | None:
        measured = self._gate.measure(entry.order, lambda: self._source.structure(entry.item), entry.size)
        if measured is None:
            return None
        data, entry.size = measured
        return self._gate.admit(entry.order, data, entry.size) if fits(entry.size) else None

    def _ask(self) -> bool:
        """Let the next item of the stream join the line; return whether there is one."""
        if self._source.has_ended:
            return False
        self._asked += 1
        try:
            item = self._source.next()
        except Exception as error:
            if self._gate.strict:
                raise SimulationError(f"The stream of systems ended with an error: {in_words(error)}.") from error
            text = (
                f"The stream of systems ended after {self.count} with an error: {in_words(error)}. Those that it gave "
                f"are run."
            )
            warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())
            return False
        if item is None:
            return False
        self._line.append(_InLine(self.count, item))
        self.count += 1
        return True

    def put_back(self, draw: Draw) -> None:
        """Let a system wait again, in its place."""
        self._line = sorted([*self._line, _InLine(draw.order, draw.data, draw.size)], key=lambda entry: entry.order)

    def remove(self, order: int) -> None:
        """Let a system wait no longer."""
        self._line = [entry for entry in self._line if entry.order != order]

    def name_of(self, order: int) -> str:
        """Return what a sample is called."""
        return f"sample {order}"

    @property
    def exhausted(self) -> bool:
        """Whether nobody waits, as far as the stream was asked, and it has ended."""
        return self._source.has_ended and not self._line

    def was_given(self, order: int) -> bool:
        """Whether a sample was given out or set aside."""
        return order < self.count and all(entry.order != order for entry in self._line)

    def __iter__(self) -> Iterator[int]:
        """Refuse: nobody knows who is still to come."""
        raise ContractError("This SizeAwareSampler draws from a stream, which has neither length nor order of size.")

    def state_dict(self) -> dict[str, Tensor]:
        """Return how many came, who of them waits still and was passed by how many, and how often it was asked."""
        return {
            "given": torch.tensor([self.count - len(self._line)]),
            "waiting": torch.tensor([entry.order for entry in self._line], dtype=torch.long),
            "passed": torch.tensor([entry.passed for entry in self._line], dtype=torch.long),
            "asked": torch.tensor(self._asked),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up `state` from `state_dict`; the stream must begin anew."""
        if self.count:
            raise InputError("This stream has begun; load the state into a sampler of a new one.")
        passed = dict(zip(state["waiting"].tolist(), state["passed"].tolist(), strict=True))
        came, asked = int(state["given"][0]) + len(passed), int(state["asked"])
        while self._asked < asked and not self._source.has_ended:
            self._ask()
            while self._line and self._line[-1].order not in passed:
                self._line.pop()
        for entry in self._line:
            entry.passed = passed[entry.order]
        if self.count < came:
            raise InputError(f"The stream ends after {self.count} systems; {came} of it were given out before.")
