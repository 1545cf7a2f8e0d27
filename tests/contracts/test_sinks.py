"""Every sink keeps the contract of sinks, and the contract notices sinks that do not."""

from __future__ import annotations

import itertools
import time

import pytest
import torch

from athanor.data.batch import Batch
from athanor.errors import CapacityError
from athanor.io.frames import FrameSchema
from athanor.sinks import AsyncSink, GPUBuffer, HostMemory, TeeSink, ZarrData
from athanor.testing import sink_contract

BLOCKS = {"buffer_bytes": 10**8}
ARRAYS = {"buffer_bytes": 0, "shard_bytes": 1024}


SINKS = {
    "host": lambda capacity, path: HostMemory(capacity),
    "gpu-buffer": lambda capacity, path: GPUBuffer(capacity),
    "gpu-buffer-fixed": lambda capacity, path: GPUBuffer(capacity, max_atoms=5, device="cpu"),
    "zarr-blocks": lambda capacity, path: ZarrData({}, capacity, BLOCKS, durability="frame"),
    "zarr-arrays": lambda capacity, path: ZarrData({}, capacity, ARRAYS, durability="frame"),
    "zarr-waiting": lambda capacity, path: ZarrData({}, capacity, durability="close"),
    "zarr-folder": lambda capacity, path: ZarrData(path, capacity),
    "tee": lambda capacity, path: TeeSink(HostMemory(capacity), GPUBuffer(2 * capacity), ZarrData({})),
    "async-host": lambda capacity, path: AsyncSink(HostMemory(capacity)),
    "async-zarr": lambda capacity, path: AsyncSink(ZarrData(path, capacity), max_writes=1),
    "async-tee": lambda capacity, path: AsyncSink(TeeSink(AsyncSink(HostMemory(capacity)), GPUBuffer(capacity))),
}


@pytest.fixture(params=list(SINKS))
def make_sink(request, tmp_path):
    number = itertools.count()
    return lambda capacity: SINKS[request.param](capacity, tmp_path / f"{next(number)}.zarr")


@pytest.mark.parametrize("check", sink_contract.CHECKS, ids=lambda check: check.__name__)
def test_contract(check, make_sink):
    check(make_sink)


class DropsAField(HostMemory):
    """Broken twin: forgets the forces."""

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        copy = batch.clone()
        del copy["forces"]
        super().write(copy, mask)


class KeepsWhatCameAfter(HostMemory):
    """Broken twin: at a checkpoint it notes how much it holds, and does not go back to it."""

    def load_state_dict(self, state):
        pass


class ForgetsAtRandom(HostMemory):
    """Broken twin: goes back to the right number of other frames."""

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self._batches = [self._batches[0].index_select([2, 1, 0])]


class NarrowsDtypes(HostMemory):
    """Broken twin: keeps 16-bit floats as 32-bit ones."""

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        copy = batch.clone()
        if "my_half" in copy:
            copy.set_field("my_half", copy["my_half"].float())
        super().write(copy, mask)


class MakesAllFinite(HostMemory):
    """Broken twin: has no place for what is not a number."""

    def read(self) -> Batch:
        found = super().read()
        for name, value in found:
            if value.is_floating_point():
                found[name].copy_(torch.nan_to_num(value, float("nan")))
        return found


class HasOneZero(HostMemory):
    """Broken twin: loses the sign of zero, as a detour by decimal numbers may."""

    def read(self) -> Batch:
        found = super().read()
        for name, value in found:
            if value.is_floating_point():
                found[name].add_(0.0)
        return found


class KeepsGraphs(HostMemory):
    """Broken twin: copies without letting go of how the values came about."""

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        super().write(batch, mask)
        chosen = batch if mask is None else batch.index_select(mask)
        self._batches[-1].forces = chosen.forces.clone()


class KeepsViews(HostMemory):
    """Broken twin: stores the batch that came in."""

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        chosen = self._chosen_systems(batch, mask, full="Buffer is full")
        if chosen is not None:
            self._batches.append(chosen)
            self._count += chosen.num_graphs


class HandsOutItsOwn(HostMemory):
    """Broken twin: what is read is what is stored."""

    def read(self) -> Batch:
        found = super().read()
        self._batches = [found]
        return found


class SplitsAtTheEdge(HostMemory):
    """Broken twin: stores what fits and drops the rest."""

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        room = self._capacity - len(self)
        if mask is None and batch.num_graphs > room:
            super().write(batch.index_select(torch.arange(room)))
            raise CapacityError("Buffer is full")
        super().write(batch, mask)


class IgnoresTheMask(HostMemory):
    """Broken twin: stores every system."""

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        super().write(batch)


class Reverses(HostMemory):
    """Broken twin: newest first."""

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        super().write(batch, mask)
        self._batches.insert(0, self._batches.pop()) if self._batches else None


class DrainsNothing(HostMemory):
    """Broken twin: `zero` forgets to forget."""

    def zero(self) -> None:
        """Do nothing."""


class InventsLabels(HostMemory):
    """Broken twin: a missing label becomes zero."""

    def read(self) -> Batch:
        found = super().read()
        found.set_field("energy", torch.nan_to_num(found["energy"], 0.0))
        return found


class TakesWhatDoesNotFit(HostMemory):
    """Broken twin: does not compare a frame with those before."""

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        self._schema = FrameSchema()
        super().write(batch, mask)


class ClosesForGood(HostMemory):
    """Broken twin: what was closed is gone."""

    def close(self) -> None:
        self.zero()


class TakesNoTurns(HostMemory):
    """Broken twin: another thread may come between its look at the count and its write."""

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        before = len(self)
        super().write(batch, mask)
        time.sleep(0.001)
        self._count = before + batch.num_graphs


TWINS = {
    DropsAField: ("check_round_trip", r"node fields: missing \['forces'\]"),
    NarrowsDtypes: ("check_round_trip", r"`my_half` is torch\.float32, not torch\.float16"),
    MakesAllFinite: ("check_every_bit", "has other values"),
    HasOneZero: ("check_every_bit", "has other values"),
    KeepsGraphs: ("check_gradients", "`forces` has a graph"),
    KeepsViews: ("check_copies", "has other values"),
    HandsOutItsOwn: ("check_copies", "has other values"),
    SplitsAtTheEdge: ("check_capacity_edge", r"\[2, 1, 3, 1\] atoms, not \[2, 1, 3\]"),
    IgnoresTheMask: ("check_masks", r"\[2, 1, 3, 2, 1, 3, 2, 1, 3\] atoms, not \[2, 3, 1\]"),
    Reverses: ("check_round_trip", r"\[1, 1, 4, 2, 1, 3\] atoms, not \[2, 1, 3, 4, 1, 1\]"),
    DrainsNothing: ("check_empty_and_drain", "drain left something"),
    InventsLabels: ("check_missing_labels", "`energy` is "),
    TakesWhatDoesNotFit: ("check_refusals", "no StorageError"),
    ClosesForGood: ("check_closing", "closed with 3 frames, it has 0"),
    KeepsWhatCameAfter: ("check_going_back", "it holds 6 systems, not the 3"),
    ForgetsAtRandom: ("check_going_back", "atoms, not"),
    TakesNoTurns: ("check_threads", "0 writes were refused, not one"),
}


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.__name__)
def test_the_contract_notices(twin):
    check, complaint = TWINS[twin]
    with pytest.raises(AssertionError, match=complaint):
        getattr(sink_contract, check)(twin)


def test_every_check_has_a_twin():
    assert {check.__name__ for check in sink_contract.CHECKS} == {check for check, _ in TWINS.values()}


def test_the_whole_contract_in_one_call():
    sink_contract.check_sink(HostMemory)
    with pytest.raises(AssertionError, match="forces"):
        sink_contract.check_sink(DropsAField)
    assert HostMemory(1).local_rank == HostMemory(1).global_rank == 0
