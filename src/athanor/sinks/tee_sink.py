"""TeeSink: the same frames in several sinks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from athanor.data.batch import Batch
from athanor.errors import InputError, in_words
from athanor.sinks.base import DataSink, check_sink


class TeeSink(DataSink):
    """Write every frame to several sinks; the first is the one that is read.

    A frame that not all have room for is stored by none. If a sink fails otherwise, the others get the frame all the
    same, then its error is raised, with a note on which sinks have the frame.

    Parameters
    ----------
    sink, others
        Where frames go, in this order; each sink once.

    Raises
    ------
    ContractError
        If one is no sink.
    InputError
        If one is there twice.

    Examples
    --------
    >>> from athanor.sinks import HostMemory, TeeSink
    >>> TeeSink(HostMemory(capacity=100), HostMemory(capacity=10)).capacity
    10
    """

    def __init__(self, sink: DataSink, *others: DataSink) -> None:
        self.sinks = tuple(check_sink(one) for one in (sink, *others))
        if len({id(one) for one in self.sinks}) < len(self.sinks):
            raise InputError("A TeeSink was given one sink twice, which would store every frame twice. Pass it once.")
        self._mutex = threading.RLock()

    @property
    def capacity(self) -> int | None:
        """Largest number of systems: those of the first, and as many more as all have room for; None for no bound."""
        rooms = [sink.capacity - len(sink) for sink in self.sinks if sink.capacity is not None]
        return len(self) + min(rooms) if rooms else None

    def __len__(self) -> int:
        return len(self.sinks[0])

    @property
    def acknowledged(self) -> int:
        """Systems that are as safe as the first sink can make them."""
        return self.sinks[0].acknowledged

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        """Store copies of the systems of `batch` in every sink, see `DataSink.write`."""
        with self._mutex:
            if self.capacity is None:
                self._check_arguments(batch, mask)
            else:
                wanted = self._wanted_systems(batch, mask, full="A sink is full")
                if wanted is None:
                    return
                mask = None if mask is None else torch.from_numpy(wanted)
            self._for_each(lambda sink: sink.write(batch, mask))

    def _for_each(self, call: Callable[[DataSink], None]) -> None:
        """Call all sinks, also behind one that fails, then raise the first error."""
        errors: dict[int, Exception] = {}
        for number, sink in enumerate(self.sinks):
            try:
                call(sink)
            except Exception as error:
                errors[number] = error
        if not errors:
            return
        first = errors[min(errors)]
        for number, sink in enumerate(self.sinks):
            told = in_words(errors[number]) if number in errors else "done"
            first.add_note(f"sink {number}, {sink!r}: {told}")
        raise first

    def read(self) -> Batch:
        """Return what the first sink has stored, see `DataSink.read`."""
        with self._mutex:
            return self.sinks[0].read()

    def zero(self) -> None:
        """Empty every sink."""
        with self._mutex:
            self._for_each(lambda sink: sink.zero())

    def state_dict(self) -> dict[str, Any]:
        """Return where every sink is, see `DataSink.state_dict`."""
        with self._mutex:
            return {"sinks": [sink.state_dict() for sink in self.sinks]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let every sink go back to where it was."""
        with self._mutex:
            for sink, each in zip(self.sinks, state["sinks"], strict=True):
                sink.load_state_dict(each)

    def flush(self) -> None:
        """`flush` every sink."""
        with self._mutex:
            self._for_each(lambda sink: sink.flush())

    def close(self) -> None:
        """`close` every sink."""
        with self._mutex:
            self._for_each(lambda sink: sink.close())

    def abandon(self) -> None:
        """`abandon` every sink."""
        with self._mutex:
            self._for_each(lambda sink: sink.abandon())
