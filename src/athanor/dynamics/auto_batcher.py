"""`AutoBatcher`: how large a batch may be, and is best, with the model at hand on this machine."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any

import torch

from athanor import _runtime
from athanor._memory import free_memory
from athanor._values import is_real, shown
from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.dynamics import known_costs
from athanor.dynamics.arguments import check_model, device_of
from athanor.dynamics.probing import Probes, probe
from athanor.dynamics.sampler import SizeAwareSampler
from athanor.dynamics.sources import Numbered, Size, open_source, size_of_structure, start_of
from athanor.errors import ArgumentError, AthanorWarning, InputError
from athanor.models.registry import memory_of_an_atom

_MOST_EXAMPLES = 48
_UNKNOWN_MODEL = 5000
"""kB an atom of a model that does not say: that of a large network."""
_ALONE = 0.9
"""Part of the free memory that a system may take which runs alone."""
_MEASURED = frozenset({"max_bytes", "bytes_per_atom", "bytes_per_edge"})


class AutoBatcher:
    """Give out systems in batches of the size that suits the model, this machine and its free memory.

    Before the first batch, a few small ones are made of the systems at hand and evaluated, each three times as large as
    the one before: their memory tells what an atom and a pair take, their time from which size on more systems at once
    are not faster. A probe takes no more than two fifths of the free memory. What was found is kept in the cache of the
    user, for this model, dtype, device and number of threads, and the next run does not probe.

    Several systems together hold no more than `memory_fraction` of the free memory, and no more atoms than is fast. One
    that is larger runs alone; one that would take nearly all memory alone is set aside. How batches are made changes no
    bit of any path.

    Parameters
    ----------
    model
        A wrapped model, where it will run.
    systems
        As of `SizeAwareSampler`.
    outputs
        What the run needs of the model; with ``"stress"`` if cells change.
    memory_fraction
        Part of the free memory that a batch may take: some systems become denser than they were.
    examples
        Structures to measure with; of a stream, where nothing is known beforehand, they must be given.
    name
        Name of the model in the list of models, or of a sum, such as ``"lj + d3"``: says what to expect before
        anything was measured.
    cache
        Whether to keep what was found, and where: True, False, or a folder.
    **options
        As of `SizeAwareSampler`, such as `shuffle`, `dtype` or `max_batch_size`.

    Raises
    ------
    ContractError
        If `model` is not wrapped, or `systems` is no source of structures.
    InputError
        If there are no examples of a stream, or a value makes no sense.

    Examples
    --------
    >>> import torch
    >>> from athanor.data import AtomicData
    >>> from athanor.dynamics import AutoBatcher
    >>> from athanor.models import LennardJonesModelWrapper
    >>> atoms = [AtomicData(atomic_numbers=torch.full((4,), 18), positions=4.0 * torch.rand(4, 3)) for _ in range(50)]
    >>> sampler = AutoBatcher(LennardJonesModelWrapper(0.0104, 3.4, 8.5), atoms, cache=False).sampler()
    >>> len(sampler)
    50
    """

    def __init__(
        self,
        model: Any,
        systems: Any,
        *,
        outputs: Iterable[str] = ("energy", "forces"),
        memory_fraction: float = 0.5,
        examples: Iterable[AtomicData] | None = None,
        name: str = "",
        cache: bool | str | Path = True,
        **options: Any,
    ) -> None:
        check_model(model)
        if not is_real(memory_fraction) or not 0.0 < memory_fraction <= _ALONE:
            raise InputError(f"`memory_fraction` is {shown(memory_fraction)}; it is within (0, {_ALONE}].")
        known = inspect.signature(SizeAwareSampler).parameters.keys() - _MEASURED - {"dataset"}
        for option in options.keys() - known:
            what = "is what it measures" if option in _MEASURED else f"is not one of {', '.join(sorted(known))}"
            raise ArgumentError(f"`{option}` of AutoBatcher {what}; leave it out.")
        config = model.model_config
        self.model, self.memory_fraction, self._options = model, memory_fraction, options
        self._outputs = frozenset(outputs)
        self._cutoff = options.setdefault("cutoff", config.neighbor_config.cutoff if config.neighbor_config else None)
        self._source = open_source(systems, options.get("dtype"), self._cutoff)
        self._examples = None if examples is None else list(examples)
        if self._examples is None and not isinstance(self._source, Numbered):
            raise InputError(
                "Nothing is known of a stream of systems before it is asked. Give some structures that are like those "
                "which will come: `AutoBatcher(model, stream, examples=[...])`."
            )
        self._expected, self._fast_atoms = memory_of_an_atom(name)
        self._folder = None if cache is False else _runtime.user_cache() / "batches" if cache is True else Path(cache)

    def sampler(self) -> SizeAwareSampler:
        """Return a sampler of the systems, whose batches are as large as is good; measure that first, if need be."""
        free = free_memory(self._device)
        per_atom, per_pair = self.bytes_of_atom_and_pair
        result = SizeAwareSampler(
            self._source,
            max_bytes=max(1, int(_ALONE * free)),
            bytes_per_atom=per_atom,
            bytes_per_edge=per_pair,
            **self._options,
        )
        best = self.best_atoms
        result.caps.shared_bytes, result.caps.shared_atoms = self.memory_fraction * free, None if best == inf else best
        result.caps.are_measured = True
        return result

    @property
    def bytes_of_atom_and_pair(self) -> tuple[float, float]:
        """Memory that an atom and a pair take at the peak of a step, bytes; what the list says if it is not known."""
        measured = self.probes.memory()
        return (1000.0 * (self._expected or _UNKNOWN_MODEL), 0.0) if measured is None else measured

    @property
    def best_atoms(self) -> float:
        """Atoms of a batch from which on larger ones are not faster; inf if that was not seen."""
        best = self.probes.best_atoms
        return self._fast_atoms if self._fast_atoms is not None and not self.probes.probes else best

    @cached_property
    def probes(self) -> Probes:
        """What was measured, now or before."""
        examples = self._measured_examples()
        if not examples:
            return Probes((), "job")
        job = self._atoms_of_job()
        what = known_costs.describe(self.model, self._outputs, self._dtype_of(examples), self._device)
        known = None if self._folder is None else known_costs.read(self._folder, what)
        if known is not None and (known.ended != "job" or job <= 2 * known.probes[-1].atoms):
            return known
        expected = 1000.0 * (self._expected or _UNKNOWN_MODEL)
        found = probe(self.model, examples, self._outputs, job, expected, self._batch)
        if found.ended not in ("rate", "memory", "time", "job"):
            text = (
                f"How much memory {type(self.model).__name__} takes was measured with {len(found.probes)} batches; the "
                f"next one ended with {found.ended}."
            )
            warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())
        elif found.probes and self._folder is not None:
            known_costs.write(self._folder, what, found)
        return found

    @property
    def _device(self) -> torch.device:
        return device_of(self.model) or torch.device("cpu")

    def _batch(self, structures: list[AtomicData]) -> Batch:
        return Batch.from_data_list(structures, device=self._device, dtype=self._options.get("dtype"))

    def _dtype_of(self, examples: list[tuple[AtomicData, Size]]) -> torch.dtype:
        return self._options.get("dtype") or examples[0][0].positions.dtype

    def _atoms_of_job(self) -> int:
        """Atoms of all systems together; of a stream, which has no end, very many."""
        if not isinstance(self._source, Numbered):
            return 10**9
        return sum(size.atoms for size in map(self._size_of, range(self._source.count)) if size is not None)

    def _size_of(self, number: int) -> Size | None:
        assert isinstance(self._source, Numbered)
        try:
            return self._source.size_of(number)
        except Exception:  # the sampler says so
            return None

    def _measured_examples(self) -> list[tuple[AtomicData, Size]]:
        """Return some structures of one kind that can be evaluated together, and their sizes."""
        found: list[tuple[AtomicData, Size]] = []
        source = self._source if self._examples is None else open_source(self._examples, None, None)
        assert isinstance(source, Numbered)
        count = source.count
        for number in sorted({round(place * (count - 1) / _MOST_EXAMPLES) for place in range(_MOST_EXAMPLES + 1)}):
            try:
                data = start_of(source.load(number))
                size = size_of_structure(data, self._cutoff)
                self._batch([*(one for one, _ in found[:1]), data])
            except Exception:  # whatever is wrong with one of them: the sampler says so
                continue
            if size.atoms:
                found.append((data, size))
        return found
