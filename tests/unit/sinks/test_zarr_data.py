"""ZarrData: reopening, identity of frames, selective reading, and what an orderly or a sudden end leaves."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading

import pytest
import torch
import zarr.core.sync

from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.errors import CapacityError, InputError, StorageError
from athanor.io.trajectory import TrajectoryReader
from athanor.sinks import GPUBuffer, HostMemory, ZarrData
from athanor.testing.sink_contract import assert_equal, make_batch


def bare(atoms: int = 2) -> Batch:
    return Batch.from_data_list([AtomicData(atomic_numbers=torch.ones(atoms).long(), positions=torch.rand(atoms, 3))])


def test_reopen_and_append(tmp_path):
    place = tmp_path / "t.zarr"
    first, second = make_batch(0), make_batch(10)
    sink = ZarrData(place)
    sink.write(first)
    sink.close()
    again = ZarrData(place)
    assert len(again) == 3
    again.write(second)
    again.close()
    wanted = first.clone()
    wanted.append(second)
    assert_equal(ZarrData(place, mode="r").read(), wanted)
    assert_equal(ZarrData(str(place)).read(), wanted)


def test_read_only(tmp_path):
    with pytest.raises(StorageError, match="holds no trajectory"):
        ZarrData(tmp_path / "t.zarr", mode="r")
    assert not (tmp_path / "t.zarr").exists()
    with ZarrData(tmp_path / "t.zarr") as sink:
        sink.write(make_batch(0))
    reader = ZarrData(tmp_path / "t.zarr", mode="r")
    for call in (lambda: reader.write(make_batch(0)), reader.zero):
        with pytest.raises(StorageError, match="was opened to read; open it with `mode='a'`"):
            call()
    assert len(reader) == 3


def test_identity_is_always_stored():
    sink = ZarrData({})
    sink.write(bare())
    found = sink.read()
    assert (int(found.system_id), int(found.step), float(found.time)) == (-1, 0, 0.0)


def test_frames_of_one_system():
    sink = ZarrData({}, config={"buffer_bytes": 0, "shard_bytes": 1024}, durability="frame")
    batch = make_batch(0)
    for step in range(20):
        batch.set_field("step", torch.full((3, 1), step))
        batch.positions[:] = step + torch.arange(batch.num_nodes)[:, None] / 100
        sink.write(batch, torch.tensor([True, step % 2 == 0, True]))
    found = sink.frames(1)
    assert found.step.flatten().tolist() == list(range(0, 20, 2))
    assert found.num_nodes_list == [1] * 10
    torch.testing.assert_close(found.positions[:, 0], torch.arange(0.0, 20, 2, dtype=torch.float64) + 0.02)
    assert sink.frames(2).step.flatten().tolist() == list(range(20))
    assert sink.read_rows([-1, 0]).system_id.flatten().tolist() == [2, 0]
    with pytest.raises(InputError, match="`system_id=9` is not in the store in memory"):
        sink.frames(9)


def test_frames_hold_no_pair_list():
    batch = make_batch(0)
    batch.neighbor_list = torch.tensor([[0, 1], [1, 0]], dtype=torch.int32)
    for sink in (ZarrData({}), HostMemory(9), GPUBuffer(9)):
        sink.write(batch)
        assert sink.read().pair_list is None
    assert batch.pair_list is not None


def test_written_and_acknowledged_differ_until_a_commit():
    sink = ZarrData({}, durability="every:2")
    sink.write(make_batch(0))
    assert (len(sink), sink.written, sink.acknowledged) == (3, 3, 0)
    sink.write(make_batch(0))
    assert (len(sink), sink.written, sink.acknowledged) == (6, 6, 6)
    sink.write(make_batch(0))
    sink.flush()
    assert sink.acknowledged == 9


def test_a_refused_field_changes_nothing():
    sink = ZarrData({})
    sink.write(make_batch(0))
    wider = make_batch(10)
    wider.add_key("colour", [torch.zeros(1)] * 3, level="system")
    with pytest.raises(StorageError, match="`colour` is new"):
        sink.write(wider)
    with pytest.raises(StorageError, match="`positions` is node-level float32"):
        sink.write(make_batch(10, dtype=torch.float32))
    assert_equal(sink.read(), make_batch(0))


def test_arguments():
    with pytest.raises(InputError, match="`mode='b'` is unknown"):
        ZarrData({}, mode="b")
    with pytest.raises(InputError, match="`capacity` is 0; give a whole number of at least 1"):
        ZarrData({}, 0)
    with pytest.raises(InputError, match="every:k"):
        ZarrData({}, durability="sometimes")
    assert ZarrData({}).capacity is None


def test_opening_a_store_warns_of_nothing():
    """Also with the packages below zarr in their versions of the day; numcodecs puts its own filter of warnings."""
    code = "from athanor.sinks import ZarrData; ZarrData({})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr == ""


SCRIPT = textwrap.dedent(
    """
    import os, sys, torch
    from athanor.sinks import ZarrData
    from athanor.testing.sink_contract import make_batch
    sink = ZarrData(sys.argv[1], durability=sys.argv[2])
    for step in range(5):
        sink.write(make_batch(0))
    if sys.argv[3] == "kill":
        os.kill(os.getpid(), 9)
    if sys.argv[3] == "error":
        raise SystemError
    """
)


@pytest.mark.parametrize(
    ("durability", "end", "frames"),
    [("every:2", "kill", 5), ("every:2", "return", 5), ("close", "error", 5), ("close", "kill", 5)],
)
def test_what_the_end_of_a_program_leaves(tmp_path, durability, end, frames):
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "t.zarr"), durability, end], check=False, capture_output=True
    )
    assert len(TrajectoryReader(tmp_path / "t.zarr")) == 3 * frames
    again = ZarrData(tmp_path / "t.zarr")
    again.write(make_batch(10))
    assert len(again.read().num_nodes_list) == 3 * frames + 3


def test_a_sink_that_is_collected_in_the_thread_of_zarrs_loop_writes_what_waits():
    """The garbage collector runs in whatever thread happens to allocate."""
    memory = {}
    sink = ZarrData(memory, durability="close")
    sink.write(make_batch(0))

    async def collect():
        sink._finalizer()

    zarr.core.sync.sync(collect())
    for thread in threading.enumerate():
        if thread.name == "athanor-flush":
            thread.join()
    assert len(TrajectoryReader(memory)) == 3


def test_gpu_buffer_limits():
    sink = GPUBuffer(capacity=10, max_atoms=3, max_edges=0)
    assert sink.device is None
    sink.write(make_batch(0))
    assert sink.device == torch.device("cpu")
    with pytest.raises(CapacityError, match="Atom capacity exceeded: the system at index 1 of the batch has 4"):
        sink.write(make_batch(0, (1, 4)))
    assert len(sink) == 3
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="torch sees no CUDA device"):
            GPUBuffer(4, device="cuda")


@pytest.mark.parametrize("capacity", [0, -1, 2.5, None, True])
def test_capacity_must_be_a_number(capacity):
    with pytest.raises(InputError, match="give a whole number of at least 1"):
        HostMemory(capacity)


def test_a_sink_is_cut_back_and_goes_on(tmp_path):
    sink = ZarrData(tmp_path / "t.zarr", config={"shard_bytes": 1024, "buffer_bytes": 4000})
    for number in range(6):
        sink.write(make_batch(10 * number))
    sink.truncate_to(7)
    assert (len(sink), sink.acknowledged) == (7, 7)
    sink.write(make_batch(90))
    sink.close()
    assert ZarrData(tmp_path / "t.zarr", mode="r").read().system_id.flatten().tolist() == [
        0, 1, 2, 10, 11, 12, 20, 90, 91, 92,
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"`frames=11`: .* holds 10"):
        sink.truncate_to(11)
    with pytest.raises(StorageError, match="was opened to read"):
        ZarrData(tmp_path / "t.zarr", mode="r").truncate_to(1)
