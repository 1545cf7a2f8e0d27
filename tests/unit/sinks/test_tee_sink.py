"""TeeSink: every sink has every frame, or it is told which has not."""

from __future__ import annotations

import pytest
import torch

from athanor.data.batch import Batch
from athanor.errors import CapacityError, ContractError, InputError, StorageError
from athanor.sinks import AsyncSink, GPUBuffer, HostMemory, TeeSink, ZarrData
from athanor.testing.sink_contract import assert_equal, make_batch


class Fails(HostMemory):
    """Takes nothing."""

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        raise StorageError("the disk is full.")

    def close(self) -> None:
        raise StorageError("the disk is full.")


def test_all_sinks_hold_the_same(tmp_path) -> None:
    sinks = [HostMemory(9), GPUBuffer(20), ZarrData(tmp_path / "a.zarr"), AsyncSink(HostMemory(30))]
    tee, batch = TeeSink(*sinks), make_batch(0)
    tee.write(batch, torch.tensor([True, False, True]))
    tee.write(make_batch(10))
    wanted = batch.index_select([0, 2])
    wanted.append(make_batch(10))
    for sink in (tee, *sinks):
        assert_equal(sink.read(), wanted)
    assert (len(tee), tee.capacity, tee.is_full) == (5, 9, False)
    tee.flush()
    assert [sink.acknowledged for sink in (tee, *sinks)] == [5] * 5
    with pytest.raises(CapacityError, match="A sink is full: 5 of 9 places are taken and 5 systems"):
        tee.write(make_batch(20, (1,) * 5))
    tee.zero()
    assert [len(sink) for sink in (tee, *sinks)] == [0] * 5
    tee.close()


def test_room_is_that_of_all_sinks() -> None:
    continued = HostMemory(10)
    continued.write(make_batch(0))
    tee = TeeSink(continued, HostMemory(4))
    assert (len(tee), tee.capacity) == (3, 7)
    tee.write(make_batch(10))
    with pytest.raises(CapacityError, match="6 of 7 places"):
        tee.write(make_batch(20, (1, 1)))
    assert TeeSink(ZarrData({})).capacity is None
    assert TeeSink(ZarrData({}), HostMemory(2)).capacity == 2


@pytest.mark.parametrize("place", [0, 1])
def test_one_that_fails_is_told_and_the_other_has_the_frame(place: int) -> None:
    good, bad = HostMemory(9), Fails(9)
    tee = TeeSink(*((bad, good) if place == 0 else (good, bad)))
    for _ in range(2):
        with pytest.raises(StorageError, match="the disk is full") as told:
            tee.write(make_batch(0))
    notes = told.value.__notes__
    assert len(notes) == 2
    assert notes[place].endswith("the disk is full.")
    assert notes[1 - place] == f"sink {1 - place}, HostMemory(6 frames of at most 9): done"
    assert len(good) == 6
    with pytest.raises(StorageError):
        tee.close()
    tee.abandon()


def test_mistakes() -> None:
    sink = HostMemory(3)
    with pytest.raises(InputError, match="one sink twice, which would store every frame twice"):
        TeeSink(sink, sink)
    with pytest.raises(ContractError, match="`sink` is a str"):
        TeeSink(sink, "a.zarr")
    with pytest.raises(InputError, match="mask"):
        TeeSink(ZarrData({})).write(make_batch(0), torch.ones(2, dtype=torch.bool))
