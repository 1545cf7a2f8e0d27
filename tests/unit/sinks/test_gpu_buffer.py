"""GPUBuffer: memory that is taken once, on any device."""

from __future__ import annotations

import pytest
import torch

from athanor.data.batch import Batch
from athanor.errors import CapacityError
from athanor.sinks import GPUBuffer
from athanor.testing.sink_contract import assert_equal, make_batch


def memory_of(sink: GPUBuffer) -> dict[str, int]:
    assert sink._buffer is not None
    return {name: value.data_ptr() for name, value in sink._buffer}


def check_memory(kind: type[GPUBuffer]) -> None:
    """With `max_atoms` memory is taken at the first write, and again only for other frames after `zero`."""
    sink = kind(9, max_atoms=3)
    sink.write(make_batch(0))
    before = memory_of(sink)
    for _ in range(2):
        while not sink.is_full:
            sink.write(make_batch(10 * len(sink)))
        assert memory_of(sink) == before, "memory was taken again"
        assert sink.drain().num_nodes_list == [2, 1, 3] * 3
        sink.write(make_batch(0))
        assert memory_of(sink) == before, "memory was taken again"
    sink.zero()
    sink.write(make_batch(0, dtype=torch.float32))
    assert_equal(sink.read(), make_batch(0, dtype=torch.float32))
    assert sink._buffer is not None
    assert sink._buffer.system_capacity == 9


class TakesMemoryEachTime(GPUBuffer):
    """Broken twin: copies what it has into a larger buffer at every write."""

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        if self._buffer is not None:
            self._buffer = self._buffer.clone()
        super().write(batch, mask)


class ForgetsItsMemory(GPUBuffer):
    """Broken twin: starts anew after `zero`."""

    def zero(self) -> None:
        self._kept, self._buffer = self._buffer, None


def test_memory_is_taken_once() -> None:
    check_memory(GPUBuffer)


@pytest.mark.parametrize("twin", [TakesMemoryEachTime, ForgetsItsMemory], ids=lambda twin: twin.__name__)
def test_a_broken_twin_is_told(twin: type[GPUBuffer]) -> None:
    with pytest.raises(AssertionError, match="memory was taken again"):
        check_memory(twin)


def test_without_a_bound_memory_grows_by_doubling() -> None:
    sink, taken = GPUBuffer(10**9), set()
    for start in range(0, 500, 10):
        sink.write(make_batch(start))
        taken.add(memory_of(sink)["positions"])
    assert len(taken) <= 8
    assert sink.read().system_id.flatten().tolist()[::3] == list(range(0, 500, 10))


def test_a_system_that_is_too_large_is_refused() -> None:
    sink = GPUBuffer(9, max_atoms=2)
    with pytest.raises(CapacityError, match=r"the system at index 2 of the batch has 3, more than `max_atoms=2`"):
        sink.write(make_batch(0))
    sink.write(make_batch(0), torch.tensor([True, True, False]))
    assert_equal(sink.read(), make_batch(0).index_select([0, 1]))


def test_the_device_is_that_of_the_first_batch_or_the_one_named() -> None:
    sink = GPUBuffer(9)
    assert sink.device is None
    sink.write(make_batch(0))
    assert sink.device == torch.device("cpu")
    assert GPUBuffer(9, device="cpu").device == torch.device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_write_on_a_gpu_waits_for_nothing() -> None:
    batch, sink = make_batch(0).to("cuda"), GPUBuffer(100, max_atoms=3)
    sink.write(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            sink.write(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sink.read().device.type == "cuda"
    assert_equal(sink.read().cpu().index_select([30, 31, 32]), make_batch(0))
