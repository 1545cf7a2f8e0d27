"""How much a batch may hold: caps on atoms, pairs, systems and memory, and what a batch counts against them."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, NamedTuple

from athanor._values import check_whole, is_real, shown
from athanor.dynamics.sources import Size
from athanor.errors import InputError

_MEASURED = ("most", "bytes_per_atom", "bytes_per_edge", "shared_atoms", "shared_bytes", "device_bytes")
NAMES = ("max_atoms", "max_batch_size", "max_edges", "max_bytes")


class Load(NamedTuple):
    """What a batch holds, in all."""

    systems: int = 0
    atoms: int = 0
    edges: int = 0

    def plus(self, size: Size) -> Load:
        """Return it with one more system."""
        return Load(self.systems + 1, self.atoms + size.atoms, self.edges + size.edges)


class Caps:
    """The caps of a batch.

    Parameters
    ----------
    most
        Cap by name, of `NAMES`; None: any number.
    bytes_per_atom, bytes_per_edge
        Memory that an atom and a pair take with the model at hand.

    Attributes
    ----------
    device_bytes
        Memory of the device that a batch may take; None: not known, or the host.
    shared_atoms, shared_bytes
        Atoms, and memory, that several systems hold together at most; one that is larger runs alone. None: any number.
    working_bytes
        Memory beyond which a batch was found not to fit; a system that is larger runs alone. None: not found yet.
    are_measured
        Whether they were measured on this machine, and not said: a run that goes on keeps those it had.

    Raises
    ------
    InputError
        If a cap is not positive, or memory makes no sense.
    """

    def __init__(self, most: Mapping[str, int | None], bytes_per_atom: float, bytes_per_edge: float) -> None:
        self.most = {name: None if cap is None else check_whole(cap, name, 1) for name, cap in most.items()}
        for name, value, smallest in (("bytes_per_atom", bytes_per_atom, 1e-3), ("bytes_per_edge", bytes_per_edge, 0)):
            if not is_real(value) or not smallest <= value < inf:
                raise InputError(f"`{name}` is {shown(value)}; it is {'zero or ' * (not smallest)}positive, in bytes.")
        self.bytes_per_atom, self.bytes_per_edge = bytes_per_atom, bytes_per_edge
        self.device_bytes: float | None = None
        self.shared_atoms: float | None = None
        self.shared_bytes: float | None = None
        self.working_bytes: float | None = None
        self.are_measured = False

    def bytes_of(self, load: Load | Size) -> float:
        """Return the memory that so many atoms and pairs take."""
        return load.atoms * self.bytes_per_atom + load.edges * self.bytes_per_edge

    def allow(self, load: Load) -> bool:
        """Whether a batch may hold so much."""
        if load.systems > 1:
            most = min(inf if cap is None else cap for cap in (self.shared_bytes, self.working_bytes))
            if load.atoms > (inf if self.shared_atoms is None else self.shared_atoms) or self.bytes_of(load) > most:
                return False
        return self._passed(load) is None

    def problem_of(self, size: Size) -> str:
        """Return why no batch can hold a system of this size; empty if one can."""
        if size.atoms < 1:
            return "it has no atoms"
        passed = self._passed(Load().plus(size))
        if passed is None:
            return ""
        name, held, cap = passed
        unit = {"max_atoms": "atoms", "max_edges": "pairs", "max_batch_size": "systems"}.get(name, "bytes")
        return f"it has {held:,.0f} {unit}, and `{name}` allows {cap:,.0f}"

    def state_dict(self) -> dict[str, Any]:
        """Return what a run that goes on needs to know."""
        return {name: dict(self.most) if name == "most" else getattr(self, name) for name in _MEASURED}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up `state` from `state_dict`: what was measured, and not what was said."""
        for name in _MEASURED if self.are_measured else ("device_bytes",):
            setattr(self, name, state[name])

    def _passed(self, load: Load) -> tuple[str, float, float] | None:
        """Return the cap that a batch would pass, what it has of that, and the cap; None if it passes none."""
        held = dict(zip(NAMES, (load.atoms, load.systems, load.edges, self.bytes_of(load)), strict=True))
        for name, cap in self.most.items():
            if cap is not None and held[name] > cap:
                return name, held[name], cap
        if self.device_bytes is not None and held["max_bytes"] > self.device_bytes:
            return "max_gpu_memory_fraction", held["max_bytes"], self.device_bytes
        return None
