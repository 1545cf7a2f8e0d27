"""How a model treats what it is given and what it hands out: shapes, memory, dtypes, devices, elements."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.data.elements import MAX_ATOMIC_NUMBER, SYMBOLS
from athanor.data.fields import FIELDS
from athanor.errors import InputError, in_words
from athanor.models.outputs import asking_for
from athanor.testing import tolerances
from athanor.testing.model_kit.bench import Broken, Measured, ModelBench, NotApplicable
from athanor.testing.model_kit.systems import AWAY, boxed, with_inputs
from athanor.testing.systems import structure

_NUM_CALLS = 50
_MOST_BINDING = 30.0
"""eV an atom; no more than 9 in any solid of an element (tungsten), and 23 times as many kcal/mol."""
_MOST_KEPT = 2.0
"""Calls whose tensors may be alive later: a model may remember the last batch, to see that the next one is the same."""


def outputs(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """Every output is returned when it is asked for: finite, floating, in its documented shape, where the batch is."""
    batch = bench.batch([system, system])
    names = bench.config.outputs - (set() if system.cell is not None else {"stress"})
    try:
        with asking_for(bench.model, names):
            found = bench.call(batch)
    except InputError as error:
        if system.pbc is None or int(system.pbc.sum()) in (0, 3):
            raise
        raise NotApplicable(in_words(error)) from error  # slabs need not be taken, but must not be taken for crystals
    for name in sorted(names):
        _check_output(name, found.get(name), batch)
    yield from ()


def _check_output(name: str, value: Any, batch: Batch) -> None:
    if value is None:
        raise Broken(f"`{name}` is asked for and not returned")
    if not isinstance(value, torch.Tensor):
        raise Broken(f"`{name}` is a {type(value).__name__} and not a tensor")
    spec = FIELDS.get(name)
    if spec is not None and spec.level != "edge":
        wanted = (batch.num_nodes if spec.level == "node" else batch.num_graphs, *spec.shape)
        fits = value.ndim == len(wanted) and all(w in (None, size) for w, size in zip(wanted, value.shape, strict=True))
        if not fits:
            shape = tuple("any" if size is None else size for size in wanted)
            raise Broken(f"`{name}` has shape {tuple(value.shape)}, not {shape}")
        if not value.is_floating_point():
            raise Broken(f"`{name}` is {value.dtype}, and not floating")
    if value.device != batch.device:
        raise Broken(f"`{name}` is on {value.device}, the batch is on {batch.device}")
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise Broken(f"`{name}` is not finite")


def units(bench: ModelBench) -> Iterator[tuple[str, Sequence[Measured]]]:
    """Atoms are bound by some eV, which is told: nothing can say what units a model has but who reads it."""
    system = max(bench.systems, key=lambda system: system.num_nodes)
    place, numbers = torch.tensor([AWAY], dtype=bench.dtype), system.atomic_numbers.tolist()
    energy = float(bench.evaluate([system], ["energy"])[0]["energy"])
    for number in set(numbers):
        atom = structure(place, [number])
        atom = with_inputs(bench, atom if bench.takes(periodic=False) else boxed(bench, atom))
        energy -= numbers.count(number) * float(bench.evaluate([atom], ["energy"])[0]["energy"])
    binding = -energy / len(numbers)
    yield "", [Measured(f"atoms are bound by {binding:.3g} eV each", abs(binding), _MOST_BINDING)]


def inputs(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """A call changes nothing of the batch: same fields, same tensors, same bits, and none starts to require grad."""
    batch = bench.batch([system, system])
    before = {name: (tensor, tensor.clone()) for name, tensor in batch}
    bench.call(batch)
    changed = sorted(batch.to_dict().keys() ^ before.keys())
    if changed:
        raise Broken(f"the call adds or removes {', '.join(changed)} of the batch; return results instead")
    for name, (tensor, value) in before.items():
        if batch.get(name) is not tensor:
            raise Broken(f"`{name}` of the batch is another tensor after the call")
        if not torch.equal(tensor.detach(), value):
            raise Broken(f"`{name}` of the batch has other values after the call")
        if tensor.requires_grad and name not in bench.config.gradient_keys:
            raise Broken(f"`{name}` of the batch requires grad after the call")
    yield from ()


def detached(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """What is returned hangs on no graph, and neither on what the batch holds nor on what the next call returns."""
    batch = bench.batch([system])
    held = {tensor.untyped_storage().data_ptr(): name for name, tensor in batch if tensor.numel()}
    first = {name: value for name, value in bench.call(batch).items() if value is not None}
    kept = {name: value.detach().clone() for name, value in first.items()}
    second = bench.call(bench.batch([system]))
    for name, value in first.items():
        if value.requires_grad:
            raise Broken(f"`{name}` hangs on the graph of the call; return `{name}.detach()`")
        place = value.untyped_storage().data_ptr()
        if place in held:
            raise Broken(f"`{name}` shares its memory with `{held[place]}` of the batch")
        if place == second[name].untyped_storage().data_ptr() or not torch.equal(value, kept[name]):
            raise Broken(f"`{name}` shares its memory with that of the next call")
    yield from ()


def memory(bench: ModelBench) -> Iterator[tuple[str, Sequence[Measured]]]:
    """Over 50 calls nothing is kept: neither batches, nor results, nor graphs."""
    system = min(bench.systems, key=lambda system: system.num_nodes)
    calls = [_call(bench, system) for _ in range(_NUM_CALLS)]
    if _count_alive(calls):  # what is left may be a cycle that nobody has collected yet
        gc.collect()
    kept = _count_alive(calls) / len(calls[0])
    yield f"{_NUM_CALLS} calls", [Measured("tensors that are still kept, in those of a call", kept, _MOST_KEPT)]


def _count_alive(calls: Sequence[Sequence[StorageWeakRef]]) -> int:
    return len({reference.cdata for call in calls for reference in call if not reference.expired()})


def _call(bench: ModelBench, system: AtomicData) -> list[StorageWeakRef]:
    batch = bench.batch([system])
    results = [value for value in bench.call(batch).values() if value is not None]
    return [StorageWeakRef(tensor.untyped_storage()) for tensor in (batch.positions, *results)]


def precision(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """Positions in double and in single precision give the same numbers, but for rounding."""
    names = bench.names(system)
    double, single = (bench.evaluate([system.to(dtype)], names)[0] for dtype in (torch.float64, torch.float32))
    for name in names:
        yield bench.measure(f"{name} of positions in float32", single[name], double[name], tolerances.ROUNDED)


def unknown_element(bench: ModelBench) -> Iterator[tuple[str, Sequence[Measured]]]:
    """An element that the model does not know is refused."""
    known = bench.card.elements or frozenset(bench.elements)
    number = next((number for number in range(MAX_ATOMIC_NUMBER, 0, -1) if number not in known), None)
    if number is None:
        raise NotApplicable("the card knows every element")
    system = bench.systems[0].clone()
    system.atomic_numbers = torch.full_like(system.atomic_numbers, number)
    element = f"{SYMBOLS[number]} ({number})"
    try:
        bench.call(bench.batch([system]))
    except Exception as error:
        yield f"{element} is refused: {in_words(error)}", []
    else:
        raise Broken(f"{element} is accepted without a word")
