"""One run at a time: a batch, an engine and a model are changed by the run that has them, so a second one is refused.

A model's `active_outputs` are set for the length of a run, a batch is advanced in place, and an engine remembers one
batch. Two threads that shared any of these would count steps twice or get outputs that the other one asked for.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from athanor.errors import SimulationError

_lock = threading.Lock()
_turn = threading.RLock()
_owners: dict[int, tuple[int, int, Any]] = {}
"""Thread that has an object, how often it took it, and the object, by its `id`."""


def _forget() -> None:
    """Start afresh in a forked child, whose parent's runs are not its own."""
    global _lock, _turn
    _lock, _turn = threading.Lock(), threading.RLock()
    _owners.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def in_use(*things: tuple[str, Any]) -> Iterator[None]:
    """Keep other threads from taking `things` for as long as the context lasts; the same thread may take them again.

    Parameters
    ----------
    *things
        What the text of the error calls an object (``"batch"``, ``"engine"``, ``"model"``), and the object.

    Raises
    ------
    SimulationError
        If another thread has one of them.
    """
    me = threading.get_ident()
    with _lock:
        for name, thing in things:
            owner = _owners[id(thing)][0] if id(thing) in _owners else me
            if owner != me:
                raise SimulationError(
                    f"This {name} is in use by a run in another thread. Let that end first, or give each thread "
                    f"{_HOW_TO_HAVE_ONE_EACH[name]}."
                )
        for _, thing in things:
            _owners[id(thing)] = me, _owners.get(id(thing), (me, 0, thing))[1] + 1, thing
    try:
        yield
    finally:
        with _lock:
            for _, thing in things:
                _, times, _ = _owners.pop(id(thing), (me, 0, thing))
                if times > 1:
                    _owners[id(thing)] = me, times - 1, thing


def of_model(model: Any) -> list[tuple[str, Any]]:
    """Return what a run has of a model: its configuration, and those of the models that it is made of."""
    return [("model", config) for config in model.configurations()]


@contextmanager
def taking_turns() -> Iterator[None]:
    """Let threads in one after the other: for calls that are short, so that waiting is better than being refused."""
    with _turn:
        yield


_HOW_TO_HAVE_ONE_EACH = {
    "batch": "a batch of its own: `batch.clone()`",
    "engine": "an engine of its own",
    "model": "a model of its own: `copy.deepcopy(model)`",
}
