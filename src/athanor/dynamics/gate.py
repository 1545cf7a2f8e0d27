"""Who can be run: samples are measured and get an identity; one that can not be run is set aside with its reason."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import torch

from athanor import _runtime
from athanor.data.atomic_data import AtomicData
from athanor.dynamics.caps import Caps
from athanor.dynamics.id_set import IdSet
from athanor.dynamics.sources import Size, size_of_structure
from athanor.errors import AthanorWarning, CapacityError, in_words

_OF_AN_EARLIER_RUN = ("stage_step", "failure_code", "failure_step")
"""Fields with which a system does not start."""


class SetAside(NamedTuple):
    """A sample that can not be run.

    Parameters
    ----------
    order
        Its number in the data set, or in the order in which a stream gave it.
    name
        What it is called.
    reason
        Why.
    """

    order: int
    name: str
    reason: str


class Draw(NamedTuple):
    """A system that was given out: its number, the id that it bears, its size, and the structure."""

    order: int
    system_id: int
    size: Size
    data: AtomicData


class Waiting(Protocol):
    """Those who wait to be given out, as far as a gate must know them."""

    @property
    def count(self) -> int:
        """How many samples there are, as far as is known."""

    def name_of(self, order: int) -> str:
        """Return what a sample is called."""

    def remove(self, order: int) -> None:
        """Let a sample wait no longer."""


class Gate:
    """Measures samples, and gives those that can be run an id.

    Parameters
    ----------
    caps
        Of a batch; no system may pass them alone.
    cutoff
        Å. Pairs of structures without a list are those that are expected within it; None: none.
    strict
        Raise CapacityError for the first sample that can not be run.

    Attributes
    ----------
    waiting
        Is told when a sample was set aside.
    set_aside
        Those that can not be run.
    entry_status
        Status of systems that bring none.
    """

    def __init__(self, caps: Caps, cutoff: float | None, *, strict: bool) -> None:
        self.caps, self.cutoff, self.strict = caps, cutoff, strict
        self.set_aside: list[SetAside] = []
        self.entry_status = 0
        self.waiting: Waiting
        self._ids, self._brought = IdSet(), IdSet()

    def size_of(self, order: int, read: Callable[[], Size]) -> Size | None:
        """Return the size of a sample that is not read yet, or None if it was set aside."""
        try:
            size = read()
            problem = self.caps.problem_of(size)
        except Exception as error:
            problem = in_words(error)
        if problem:
            self.refuse(order, problem)
            return None
        return size

    def measure(self, order: int, read: Callable[[], AtomicData], size: Size | None) -> tuple[AtomicData, Size] | None:
        """Return a sample and its size, or None if it was set aside; `size` is what its metadata say."""
        found: list[AtomicData] = []

        def size_as_read() -> Size:
            found.append(read())
            atoms, edges = size_of_structure(found[0], self.cutoff)
            return Size(atoms, edges or (0 if size is None else size.edges))

        measured = self.size_of(order, size_as_read)
        return None if measured is None else (found[0], measured)

    def admit(self, order: int, data: AtomicData, size: Size) -> Draw | None:
        """Return a sample as it is given out, or None if it was set aside."""
        system_id = self._id_for(order, data)
        if system_id is None:
            return None
        data = data.clone()
        for field in _OF_AN_EARLIER_RUN:
            if field in data:
                delattr(data, field)
        data.system_id = torch.tensor([[system_id]], device=data.device)
        if "status" not in data:
            data.status = torch.full((1, 1), self.entry_status, device=data.device)
        return Draw(order, system_id, size, data)

    def refuse(self, order: int, reason: str) -> None:
        """Set a sample aside, and say so."""
        name = self.waiting.name_of(order)
        self.set_aside.append(SetAside(order, name, reason))
        self.waiting.remove(order)
        if self.strict:
            raise CapacityError(f"{_capital(name)} can not be run: {reason}. Leave it out, or raise the cap.")
        text = f"{_capital(name)} is set aside: {reason}. The other systems are run; `sampler.set_aside` lists them."
        warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())

    def reserve_ids(self, ids: Iterable[int]) -> None:
        """Give these ids to nobody: systems that bear them are in the batch already."""
        for one in ids:
            if one not in self._ids:
                self._ids.add(one)
                self._brought.add(one)

    def _id_for(self, order: int, data: AtomicData) -> int | None:
        """Return the id under which a sample is given out; None if it bears that of another one."""
        brought = int(data["system_id"].reshape(-1)[0]) if "system_id" in data else -1
        if brought < 0:
            system_id = order if order not in self._ids else self._next_free()
            self._ids.add(system_id)
            return system_id
        if brought in self._brought:
            self.refuse(order, f"it bears the `system_id` {brought} of a system before it")
            return None
        if brought in self._ids:
            system_id = self._next_free()
            text = f"{_capital(self.waiting.name_of(order))} bears the `system_id` {brought}, which a sample without "
            text += f"one got; it gets {system_id}."
            warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())
            brought = system_id
        self._ids.add(brought)
        self._brought.add(brought)
        return brought

    def _next_free(self) -> int:
        return max(self.waiting.count, self._ids.largest + 1)

    def release(self, system_id: int) -> None:
        """Take an id back that was not used."""
        self._ids.discard(system_id)
        self._brought.discard(system_id)

    def state_dict(self) -> dict[str, Any]:
        """Return who was set aside, and the ids that were given out."""
        return {
            "set_aside": [tuple(entry) for entry in self.set_aside],
            "ids": torch.tensor(self._ids.ranges, dtype=torch.long).reshape(-1, 2),
            "brought": torch.tensor(self._brought.ranges, dtype=torch.long).reshape(-1, 2),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state` from `state_dict`."""
        self.set_aside[:] = [SetAside(*entry) for entry in state["set_aside"]]
        self._ids, self._brought = IdSet(state["ids"].tolist()), IdSet(state["brought"].tolist())


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
