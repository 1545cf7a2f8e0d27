"""Every sink keeps the contract of sinks, and the contract notices sinks that do not."""

from __future__ import annotations

import itertools
import time

import pytest
import torch

from athanor.data.batch import Batch
from athanor.errors import CapacityError
from athanor.sinks import GPUBuffer, HostMemory, ZarrData
from athanor.testing import sink_contract

BLOCKS = {"buffer_bytes": 10**8}
ARRAYS = {"buffer_bytes": 0, "shard_bytes": 1024}


@pytest.fixture(params=["host", "gpu-buffer", "zarr-blocks", "zarr-arrays", "zarr-waiting", "zarr-folder"])
def make_sink(request, tmp_path):
    number = itertools.count()
    return {
        "host": HostMemory,
        "gpu-buffer": GPUBuffer,
        "zarr-blocks": lambda capacity: ZarrData({}, capacity, BLOCKS, durability="frame"),
        "zarr-arrays": lambda capacity: ZarrData({}, capacity, ARRAYS, durability="frame"),
        "zarr-waiting": lambda capacity: ZarrData({}, capacity, durability="close"),
        "zarr-folder": lambda capacity: ZarrData(tmp_path / f"{next(number)}.zarr", capacity),
    }[request.param]


@pytest.mark.parametrize("check", sink_contract.CHECKS, ids=lambda check: check.__name__)
def test_contract(check, make_sink):
    check(make_sink)


class DropsAField(HostMemory):
    """Broken twin: forgets the forces."""

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        copy = batch.clone()
        del copy["forces"]
        super().write(copy, mask)


class NarrowsDtypes(HostMemory):
    """Broken twin: keeps 16-bit floats as 32-bit ones."""

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        copy = batch.clone()
        if "my_half" in copy:
            copy.set_field("my_half", copy["my_half"].float())
        super().write(copy, mask)


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
    KeepsViews: ("check_copies", "has other values"),
    HandsOutItsOwn: ("check_copies", "has other values"),
    SplitsAtTheEdge: ("check_capacity_edge", r"\[2, 1, 3, 1\] atoms, not \[2, 1, 3\]"),
    IgnoresTheMask: ("check_masks", r"\[2, 1, 3, 2, 1, 3, 2, 1, 3\] atoms, not \[2, 3, 1\]"),
    Reverses: ("check_round_trip", r"\[1, 1, 4, 2, 1, 3\] atoms, not \[2, 1, 3, 4, 1, 1\]"),
    DrainsNothing: ("check_empty_and_drain", "drain left something"),
    InventsLabels: ("check_missing_labels", "`energy` is "),
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
