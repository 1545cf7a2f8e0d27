"""The contract of sinks: checks that anybody can run on a sink of their own.

Each check takes ``make_sink(capacity)``, which returns a fresh, empty sink that holds at most `capacity` systems, and
raises AssertionError if the sink does not keep the promise. Nothing here needs a test framework.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.data.fields import FieldSpec, Level
from athanor.errors import CapacityError, StorageError

if TYPE_CHECKING:
    from athanor.sinks.base import DataSink

MakeSink = Callable[[int], "DataSink"]

CUSTOM = (
    FieldSpec("my_half", "node", (2,), "any"),
    FieldSpec("my_flags", "node", (), "any"),
    FieldSpec("my_bytes", "system", (3,), "any"),
    FieldSpec("my_brain_float", "system", (1,), "any"),
    FieldSpec("my_small_int", "system", (), "any"),
)
DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.complex128,
)  # fmt: skip
"""Dtypes that every sink keeps."""
_CUSTOM_DTYPES = (torch.float16, torch.bool, torch.uint8, torch.bfloat16, torch.int16)


def make_system(number: int, atoms: int, dtype: torch.dtype = torch.float64, *, energy: bool = True) -> AtomicData:
    """Return a system with many fields, all of which depend on `number`."""
    generator = torch.Generator().manual_seed(number)

    def values(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    return AtomicData(
        atomic_numbers=torch.arange(1, atoms + 1) + number % 20,
        positions=values(atoms, 3),
        velocities=values(atoms, 3),
        forces=values(atoms, 3),
        cell=values(1, 3, 3),
        pbc=torch.tensor([[True, number % 2 == 0, False]]),
        stress=values(1, 3, 3),
        charges=values(atoms),
        system_id=torch.tensor([[number]]),
        step=torch.tensor([[7 * number]]),
        time=torch.tensor([[0.5 * number]], dtype=torch.float64),
        energy=values(1, 1) if energy else None,
    )


def make_batch(start: int, sizes: tuple[int, ...] = (2, 1, 3), dtype: torch.dtype = torch.float64) -> Batch:
    """Return a batch of systems number `start`, `start` + 1, ... with custom fields of unusual dtypes."""
    batch = Batch.from_data_list([make_system(start + i, atoms, dtype) for i, atoms in enumerate(sizes)])
    for spec, custom_dtype in zip(CUSTOM, _CUSTOM_DTYPES, strict=True):
        rows = batch.num_nodes if spec.level == "node" else batch.num_graphs
        shape = (rows, *(size or 1 for size in spec.shape))
        value = (torch.arange(rows * max(1, int(torch.tensor(shape[1:]).prod()))).reshape(shape) + start) % 100
        batch.register_field(spec)
        batch.set_field(spec.name, value.to(custom_dtype))
    return batch


def assert_equal(found: Batch, wanted: Batch) -> None:
    """Raise AssertionError unless two batches have the same fields, dtypes, sizes and bits; NaN equals NaN."""
    assert found.num_nodes_list == wanted.num_nodes_list, f"{found.num_nodes_list} atoms, not {wanted.num_nodes_list}"
    for level in ("node", "system"):
        have, want = set(found.field_names(level)), set(wanted.field_names(level))
        assert have == want, f"{level} fields: missing {sorted(want - have)}, extra {sorted(have - want)}"
        for name in sorted(want):
            one, other = found[name].cpu(), wanted[name].cpu()
            assert one.dtype == other.dtype, f"`{name}` is {one.dtype}, not {other.dtype}"
            assert one.shape == other.shape, f"`{name}` is {tuple(one.shape)}, not {tuple(other.shape)}"
            assert torch.equal(_bits(one), _bits(other)), f"`{name}` has other values"
            assert found.field_spec(name).level == level, f"`{name}` changed its level"


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """Bytes of a tensor, in which any NaN is the same."""
    plain = tensor.detach().clone().contiguous()
    if plain.is_complex():
        plain = torch.view_as_real(plain)
    if plain.is_floating_point():
        plain[plain.isnan()] = float("nan")
    return plain.reshape(-1).view(torch.uint8)


def _joined(*batches: Batch) -> Batch:
    """Batches behind one another, made without any sink."""
    joined = batches[0].clone()
    for batch in batches[1:]:
        joined.append(batch)
    return joined


def _raises(error: type[Exception], text: str, call: Callable[[], object]) -> None:
    message = ""
    try:
        call()
    except error as raised:
        message = str(raised) or type(raised).__name__
    assert message, f"no {error.__name__} with {text!r}"
    assert text in message, f"the message {message!r} does not say {text!r}"


def check_round_trip(make_sink: MakeSink) -> None:
    """Every field and dtype comes back bit for bit, custom ones too, in the order of writing."""
    for dtype in (torch.float64, torch.float32):
        sink = make_sink(100)
        batches = [make_batch(0, dtype=dtype), make_batch(10, (4,), dtype), make_batch(20, (1, 1), dtype)]
        for batch in batches:
            sink.write(batch)
        assert len(sink) == 6, f"len is {len(sink)}, not 6"
        assert_equal(sink.read(), _joined(*batches))
        assert_equal(sink.read(), _joined(*batches))


def make_extremes() -> Batch:
    """Return a batch with a node field and a system field of every dtype: ends of ranges, infinities, -0.0, NaN."""
    batch = make_batch(0)
    for dtype in DTYPES:
        values = _extremes(dtype)
        sizes: dict[Level, int] = {"node": batch.num_nodes, "system": batch.num_graphs}
        for level, rows in sizes.items():
            name = f"my_{level}_{str(dtype).removeprefix('torch.')}"
            batch.register_field(FieldSpec(name, level, (2,), "any"))
            places = torch.arange(2 * rows).reshape(rows, 2) % len(values)
            batch.set_field(name, values[places])
    return batch


def _extremes(dtype: torch.dtype) -> torch.Tensor:
    if dtype == torch.bool:
        return torch.tensor([True, False])
    if dtype.is_complex:
        parts = _extremes(torch.float32 if dtype == torch.complex64 else torch.float64)
        return torch.complex(parts, parts.flip(0))
    if not dtype.is_floating_point:
        ends = torch.iinfo(dtype)
        return torch.tensor([ends.min, ends.max, 0, 1], dtype=dtype)
    limits = torch.finfo(dtype)
    inf = float("inf")
    return torch.tensor([-0.0, inf, limits.max, float("nan"), limits.tiny / 2, -inf, limits.min, 1 / 3], dtype=dtype)


def check_every_bit(make_sink: MakeSink) -> None:
    """Of every dtype the ends of its range, infinities, negative zero and NaN come back as they were."""
    sink, batch = make_sink(10), make_extremes()
    sink.write(batch)
    sink.write(batch, torch.tensor([False, True, True]))
    assert_equal(sink.read(), _joined(batch, batch.index_select(torch.tensor([1, 2]))))


def check_gradients(make_sink: MakeSink) -> None:
    """What is stored has no graph behind it, so that no step of a run is kept alive."""
    for mask in (None, torch.tensor([True, False, True])):
        sink, batch = make_sink(10), make_batch(0)
        batch.positions = batch.positions.clone().requires_grad_(True)
        batch.forces = 2.0 * batch.positions
        sink.write(batch, mask)
        found = sink.read()
        assert not found.positions.requires_grad, "`positions` has a graph"
        assert not found.forces.requires_grad, "`forces` has a graph"
        assert batch.positions.requires_grad, "the batch that was written was changed"


def check_copies(make_sink: MakeSink) -> None:
    """Neither a batch that came in nor one that went out shares memory with the sink."""
    for mask in (None, torch.tensor([True, True, True])):
        sink = make_sink(100)
        batch = make_batch(0)
        wanted = batch.clone()
        sink.write(batch, mask)
        _overwrite_with_zeros(batch)
        assert_equal(sink.read(), wanted)
        _overwrite_with_zeros(sink.read())
        assert_equal(sink.read(), wanted)


def _overwrite_with_zeros(batch: Batch) -> None:
    for level in ("node", "system"):
        for name in batch.field_names(level):
            batch[name].zero_()


def check_masks(make_sink: MakeSink) -> None:
    """Only systems under a True are stored; an empty choice stores nothing; a wrong length is refused."""
    sink = make_sink(100)
    batch = make_batch(0)
    sink.write(batch, torch.tensor([True, False, True]))
    sink.write(batch, torch.tensor([False, False, False]))
    sink.write(Batch.empty_like(batch))
    sink.write(batch, torch.tensor([False, True, False]))
    assert_equal(sink.read(), batch.index_select(torch.tensor([0, 2, 1])))
    _raises(ValueError, "mask length", lambda: sink.write(batch, torch.tensor([True])))
    _raises(ValueError, "mask", lambda: sink.write(batch, torch.tensor([1, 0, 1])))
    assert len(sink) == 3, "a refused mask changed the sink"


def check_capacity_edge(make_sink: MakeSink) -> None:
    """A write that does not fit whole is refused whole; the last place can be used."""
    sink = make_sink(4)
    assert sink.capacity == 4
    _check_full(sink, False)
    first = make_batch(0)
    sink.write(first)
    _raises(RuntimeError, "is full", lambda: sink.write(make_batch(10, (1, 2))))
    assert_equal(sink.read(), first)
    last = make_batch(10, (5,))
    sink.write(last)
    _check_full(sink, True)
    assert_equal(sink.read(), _joined(first, last))
    _raises(RuntimeError, "is full", lambda: sink.write(last))
    assert len(sink) == 4, "a refused write changed the sink"


def _check_full(sink: DataSink, wanted: bool) -> None:
    assert sink.is_full == wanted, f"is_full is {sink.is_full} with {len(sink)} of {sink.capacity} places taken"


def check_empty_and_drain(make_sink: MakeSink) -> None:
    """Reading nothing is an error; `drain` and `zero` leave a sink that works."""
    sink = make_sink(5)
    assert len(sink) == 0
    for call in (sink.read, sink.drain):
        _raises(RuntimeError, "empty", call)
    sink.zero()
    first, second = make_batch(0), make_batch(10, (2, 2), torch.float32)
    sink.write(first)
    assert_equal(sink.drain(), first)
    assert len(sink) == 0, "drain left something"
    _raises(RuntimeError, "empty", sink.read)
    sink.write(second)
    assert_equal(sink.read(), second)
    sink.zero()
    assert len(sink) == 0, "zero left something"


def check_missing_labels(make_sink: MakeSink) -> None:
    """A label that only some systems have is NaN for the others, which lack it when they are read one by one."""
    sink = make_sink(10)
    whole = Batch.from_data_list([make_system(0, 2), make_system(1, 3)])
    lacking = Batch.from_data_list([make_system(2, 2, energy=False)])
    mixed = Batch.from_data_list([make_system(3, 1), make_system(4, 2, energy=False)])
    for batch in (whole, lacking, mixed):
        sink.write(batch)
    found = sink.read()
    absent = torch.isnan(found["energy"]).flatten().tolist()
    assert absent == [False, False, True, False, True], f"`energy` is {found['energy'].flatten().tolist()}"
    assert [data.energy is None for data in found.to_data_list()] == absent
    assert torch.equal(found["energy"][:2], whole["energy"])
    assert torch.equal(found["forces"], torch.cat([whole["forces"], lacking["forces"], mixed["forces"]]))
    sink.zero()
    sink.write(mixed)
    assert_equal(sink.read(), mixed)


def check_refusals(make_sink: MakeSink) -> None:
    """A frame that can not be joined with earlier ones is refused, not converted, and leaves the sink as it was."""
    sink, first = make_sink(100), make_batch(0)
    sink.write(first)
    lacking, wide = make_batch(10), make_batch(10)
    del lacking["my_small_int"]  # nothing says that it is absent
    del wide["my_half"]
    wide.add_key("my_half", [torch.zeros(atoms, 5, dtype=torch.float16) for atoms in wide.num_nodes_list])

    def write(batch: Batch) -> None:
        sink.write(batch)
        sink.flush()

    for wrong in (make_batch(10, dtype=torch.float32), lacking, wide):
        _raises(StorageError, "", lambda wrong=wrong: write(wrong))  # type: ignore[misc]
        assert len(sink) == 3, "a refused write changed the sink"
    second = make_batch(20)
    sink.write(second)
    assert_equal(sink.read(), _joined(first, second))


def check_closing(make_sink: MakeSink) -> None:
    """After `flush` all is acknowledged; after `close`, twice or by ``with``, and `abandon`, the sink can be used."""
    sink = make_sink(100)
    batches = [make_batch(10 * number) for number in range(3)]
    sink.close()
    for number, batch in enumerate(batches):
        with sink:
            sink.write(batch)
            sink.flush()
            assert sink.acknowledged == len(sink), f"{sink.acknowledged} of {len(sink)} frames are acknowledged"
        sink.close()
        assert len(sink) == 3 * number + 3, f"closed with {3 * number + 3} frames, it has {len(sink)}"
        assert_equal(sink.read(), _joined(*batches[: number + 1]))
    sink.abandon()
    sink.write(make_batch(40))
    assert_equal(sink.read(), _joined(*batches, make_batch(40)))


def check_going_back(make_sink: MakeSink) -> None:
    """A sink goes back to where it was at a checkpoint, and on from there; one that can not says so."""
    sink, kept = make_sink(100), make_batch(0)
    sink.write(kept)
    state = sink.state_dict()
    sink.write(make_batch(10))
    refused = ""
    try:
        sink.load_state_dict(state)
    except StorageError as error:
        refused = str(error)
    if refused:
        assert "can not forget" in refused, f"the message {refused!r} does not say 'can not forget'"
        assert len(sink) == 6, "a refused call changed the sink"
        return
    assert len(sink) == 3, f"it holds {len(sink)} systems, not the 3 that it held at the checkpoint"
    assert_equal(sink.read(), kept)
    sink.write(make_batch(20))
    assert_equal(sink.read(), _joined(kept, make_batch(20)))


def check_threads(make_sink: MakeSink) -> None:
    """What threads write at the same time is there as if they had taken turns, and the last place is given once."""
    threads, writes = 4, 5
    sink, refused, together = make_sink(3 * threads * writes - 1), [], threading.Barrier(threads)

    def write(thread: int) -> None:
        together.wait()
        for number in range(writes):
            try:
                sink.write(make_batch(10 * (writes * thread + number)))
            except CapacityError as error:
                refused.append(error)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, range(threads)))  # raises what a thread raised
    assert len(refused) == 1, f"{len(refused)} writes were refused, not one"
    found = sink.read()
    assert len(sink) == len(found) == 3 * (threads * writes - 1), f"len is {len(sink)}, {len(found)} can be read"
    starts = found["system_id"].flatten().tolist()[::3]
    assert len(set(starts)) == len(starts), "something is stored twice"
    assert_equal(found, _joined(*(make_batch(start) for start in starts)))


CHECKS = (
    check_round_trip,
    check_every_bit,
    check_copies,
    check_gradients,
    check_masks,
    check_capacity_edge,
    check_empty_and_drain,
    check_missing_labels,
    check_refusals,
    check_closing,
    check_going_back,
    check_threads,
)
"""Every check of the contract."""


def check_sink(make_sink: MakeSink) -> None:
    """Run every check.

    Parameters
    ----------
    make_sink
        Called with a capacity; returns a fresh, empty sink.

    Raises
    ------
    AssertionError
        From the first check that fails.
    """
    for check in CHECKS:
        check(make_sink)
