"""DataSink: where snapshots go. Capacity and mask rules live here, once; a sink only stores and reads.

Every sink copies: what it holds never shares memory with a batch that came in or goes out. A refused write leaves the
sink as it was. Threads may share a sink: each call is whole.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
import torch

from athanor import _runtime
from athanor.data.batch import Batch
from athanor.errors import ArgumentError, CapacityError, ContractError, InputError, ShapeError, StorageError


class DataSink(ABC):
    """A store of systems, in the order in which they were written.

    A subclass defines `write`, `read`, `zero`, ``__len__`` and `capacity`, and begins its `write` with
    `_chosen_systems`; calls that change or read the sink hold `_mutex`. As a context manager it is closed at the end.
    """

    _mutex = threading.RLock()
    """One for all sinks, so that a sink can be pickled; a sink that waits for something has one of its own."""

    @abstractmethod
    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        """Store copies of the systems of `batch`.

        Parameters
        ----------
        batch
            Not changed; may be changed freely afterwards.
        mask
            bool [B]; True stores the system. None stores all.

        Raises
        ------
        ShapeError
            If `mask` has another length than the batch.
        CapacityError
            If not all chosen systems fit; nothing is stored then.
        """

    @abstractmethod
    def read(self) -> Batch:
        """Return all stored systems as a new batch; nothing is removed.

        Raises
        ------
        StorageError
            If the sink is empty.
        """

    @abstractmethod
    def zero(self) -> None:
        """Remove everything; the sink can be written again."""

    @abstractmethod
    def __len__(self) -> int:
        """Stored systems; the same system at two steps counts twice."""

    @property
    @abstractmethod
    def capacity(self) -> int | None:
        """Largest number of systems, or None if there is no bound."""

    def __repr__(self) -> str:
        bound = "" if self.capacity is None else f" of at most {self.capacity:,}"
        return f"{type(self).__name__}({len(self):,} frames{bound})"

    @property
    def acknowledged(self) -> int:
        """Systems that are as safe as this sink can make them; in memory all that are stored."""
        return len(self)

    @property
    def is_full(self) -> bool:
        """Whether no further system fits."""
        return self.capacity is not None and len(self) >= self.capacity

    def drain(self) -> Batch:
        """`read`, then `zero`.

        Raises
        ------
        StorageError
            If the sink is empty.
        """
        with self._mutex:
            batch = self.read()
            self.zero()
            return batch

    def flush(self) -> None:  # noqa: B027
        """Make what was written as safe as this sink can; nothing to do for memory."""

    def close(self) -> None:
        """`flush`, and free what can be opened again; the sink stays usable."""
        self.flush()

    def state_dict(self) -> dict[str, Any]:
        """Return where the sink is, for a checkpoint, as a tree of plain values and tensors. What waits is stored.

        A sink whose frames end with the program returns them, too.
        """
        self.flush()
        return {"frames": len(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where the sink was: what was written since is forgotten, by the `truncate_to` of the sink.

        Raises
        ------
        StorageError
            If it holds less than it held then, or can not forget.
        """
        wanted, found = int(state["frames"]), len(self)
        if found < wanted:
            raise StorageError(
                f"{self!r} holds {found:,} frames; it held {wanted:,} when the checkpoint was written. Open the store "
                f"that the run wrote to, with all that it held."
            )
        truncate_to = getattr(self, "truncate_to", None)
        if found > wanted and truncate_to is None:
            raise StorageError(
                f"{type(self).__name__} can not forget what was written after the checkpoint: it holds {found:,} "
                f"frames, of which {wanted:,} are older. Let it define `truncate_to(frames)`, or start the run anew."
            )
        if found > wanted:
            truncate_to(wanted)  # type: ignore[misc]

    def abandon(self) -> None:  # noqa: B027
        """Give up what could not be stored, after a `close` that failed; nothing to do for memory."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def global_rank(self) -> int:
        """Rank of this process among all; 0 without torch.distributed."""
        return _runtime.global_rank()

    @property
    def local_rank(self) -> int:
        """Rank of this process on its machine; 0 without torch.distributed."""
        return _runtime.local_rank()

    def _wanted_systems(self, batch: Batch, mask: torch.Tensor | None, *, full: str) -> np.ndarray | None:
        """Check mask and capacity; return which systems to store, bool [B] on the host, or None if there are none.

        A mask that is on a device is waited for; nothing else is.
        """
        self._check_arguments(batch, mask)
        wanted = np.ones(batch.num_graphs, dtype=np.bool_) if mask is None else mask.cpu().numpy()
        chosen = int(wanted.sum())
        if chosen == 0:
            return None
        self._check_room(chosen, full)
        return wanted

    @staticmethod
    def _check_arguments(batch: Batch, mask: torch.Tensor | None) -> None:
        """Raise InputError unless `batch` is a Batch, and `mask` None or bool with an entry for each of its systems."""
        if not isinstance(batch, Batch):
            raise ArgumentError(
                f"`batch` is a {type(batch).__name__}; a sink stores a Batch, such as `Batch.from_data_list([data])`."
            )
        if mask is None:
            return
        if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
            raise InputError("`mask` must be a bool tensor with one entry per system.")
        if mask.shape != (batch.num_graphs,):
            raise ShapeError(
                f"The mask length does not fit: `mask` has shape {tuple(mask.shape)}; the batch has "
                f"{batch.num_graphs} systems. Nothing was stored."
            )

    def _check_room(self, chosen: int, full: str) -> None:
        """Raise CapacityError if so many systems do not fit."""
        capacity = self.capacity
        if capacity is not None and len(self) + chosen > capacity:
            raise CapacityError(
                f"{full}: {len(self)} of {capacity} places are taken and {chosen} systems were to be added. "
                f"Nothing was stored; `drain()` the sink or give it a larger `capacity`."
            )

    def _chosen_systems(self, batch: Batch, mask: torch.Tensor | None, *, full: str) -> Batch | None:
        """Check mask and capacity; return the systems to store, or None if there are none.

        It is `batch` itself, with its pairs, if all are chosen; else a copy without pairs.
        """
        if mask is None:
            self._check_arguments(batch, mask)
            self._check_room(batch.num_graphs, full)
            return batch if batch.num_graphs else None
        wanted = self._wanted_systems(batch, mask, full=full)
        if wanted is None:
            return None
        return batch if wanted.all() else batch.without_pairs().index_select(wanted)

    def _refuse_empty(self) -> StorageError:
        return StorageError(f"This {type(self).__name__} is empty; write to it before `read()` or `drain()`.")


def check_sink(sink: Any, name: str = "sink") -> DataSink:
    """Return `sink` if it is one; raises ContractError otherwise."""
    if not isinstance(sink, DataSink):
        raise ContractError(
            f"`{name}` is a {type(sink).__name__}; pass a sink, for example `ZarrData('frames.zarr')` or "
            f"`HostMemory(capacity=1000)` of `athanor.sinks`."
        )
    return sink


def _free_in_child() -> None:
    """Another thread may have been in the midst of a call, which it does not finish here."""
    DataSink._mutex = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_in_child)
