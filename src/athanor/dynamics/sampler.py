"""`SizeAwareSampler`: which systems join a run next, so that the batch stays as full as its caps allow."""

from __future__ import annotations

import random
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from athanor import _runtime
from athanor._values import check_state_dtype, check_whole, describe, is_real, shown
from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.dynamics.sources import Numbered, Size, Stream, open_source, size_of_structure
from athanor.errors import (
    AthanorError,
    AthanorWarning,
    CapacityError,
    ContractError,
    InputError,
    SimulationError,
    in_words,
)

_OF_AN_EARLIER_RUN = ("stage_step", "failure_code", "failure_step")
"""Fields with which a system does not start."""


class SetAside(NamedTuple):
    """A sample that can not be run.

    Parameters
    ----------
    order
        Its number in the data set, or in the order in which a stream gave it.
    name
        What it is called.
    reason
        Why.
    """

    order: int
    name: str
    reason: str


class Draw(NamedTuple):
    """A system that was given out: its number, the id that it bears, its size, and the structure."""

    order: int
    system_id: int
    size: Size
    data: AtomicData


class Load(NamedTuple):
    """What a batch holds, in all."""

    systems: int = 0
    atoms: int = 0
    edges: int = 0

    def plus(self, size: Size) -> Load:
        """Return it with one more system."""
        return Load(self.systems + 1, self.atoms + size.atoms, self.edges + size.edges)


class SizeAwareSampler:
    """Give out systems that fit together into a batch, and into the gaps that finished ones leave.

    Systems are sorted into bins by their number of atoms; inside a bin their order is kept. Samples that can not be run
    (they can not be read, have no atoms, are larger than a cap, or bear the id of another one) are told by a warning,
    stand in `set_aside`, and do not keep the others from running.

    Parameters
    ----------
    dataset
        Where systems come from:

        - a data set with ``__len__``, ``__getitem__(i)``, which returns ``(AtomicData, metadata)``, and
          ``get_metadata(i)``, which returns ``(atoms, edges)``;
        - a list of AtomicData, of batches or of ASE atoms, or a Batch;
        - a path: of a store, a folder of structure files, or a file. A `TrajectoryReader` or a sink: each frame is a
          system of its own;
        - an iterable, such as a generator, which may have no end. It is asked for one structure after the other, when
          there is room, and keeps its order. It may yield None: nothing for the moment.
    max_atoms, max_edges, max_batch_size
        Most atoms, pairs and systems in the batch; None: any number.
    bin_width
        Atoms by which the sizes of a bin differ.
    shuffle
        Shuffle the order inside the bins, by `seed`. Not of a stream.
    max_gpu_memory_fraction
        On a CUDA device, largest part of the free memory that the batch may take, counted as for `max_bytes`.
    max_bytes
        Most memory of the batch, counted with the two numbers that follow.
    bytes_per_atom, bytes_per_edge
        Memory that an atom and a pair take with the model at hand.
    cutoff
        Å. Pairs of structures that bring no neighbour list are counted as those that are expected within it; without
        it as none. Data sets say it themselves.
    seed
        Of the shuffling.
    dtype
        dtype of the state of all systems; that of the first one unless given.
    strict
        Raise for the first sample that can not be run, instead of setting it aside; sizes are then looked at at once.

    Raises
    ------
    ContractError
        A `TypeError`: if `dataset` is no source of structures, naming what it lacks.
    InputError
        A `ValueError`: if there is no cap, one is not positive, or a fraction is not within (0, 1].
    CapacityError
        A `RuntimeError`, if `strict`: a sample is larger than a cap.

    Notes
    -----
    A system without an id gets its number in the data set as `system_id`, so that its path does not depend on when it
    joins. An id that a sample brings is kept. So is its `status`; one without starts in the first stage of a run.

    Examples
    --------
    >>> import torch
    >>> from athanor.data import AtomicData
    >>> from athanor.dynamics import SizeAwareSampler
    >>> atoms = [AtomicData(atomic_numbers=torch.full((n,), 18), positions=torch.rand(n, 3)) for n in (2, 5, 3)]
    >>> sampler = SizeAwareSampler(atoms, max_atoms=7)
    >>> sampler.build_initial_batch().num_nodes_list, len(sampler)
    ([2, 3], 1)
    """

    def __init__(
        self,
        dataset: Any,
        max_atoms: int | None = None,
        max_edges: int | None = None,
        max_batch_size: int | None = None,
        bin_width: int = 1,
        shuffle: bool = False,
        max_gpu_memory_fraction: float = 0.8,
        *,
        max_bytes: int | None = None,
        bytes_per_atom: float = 300.0,
        bytes_per_edge: float = 0.0,
        cutoff: float | None = None,
        seed: int = 0,
        dtype: torch.dtype | None = None,
        strict: bool = False,
    ) -> None:
        caps = {
            "max_atoms": max_atoms,
            "max_batch_size": max_batch_size,
            "max_edges": max_edges,
            "max_bytes": max_bytes,
        }
        for name, cap in caps.items():
            if cap is not None:
                check_whole(cap, name, 1)
        if all(cap is None for cap in (max_atoms, max_batch_size, max_bytes)):
            raise InputError("Without a cap all systems would join at once. Give `max_atoms` or `max_batch_size`.")
        if not is_real(max_gpu_memory_fraction) or not 0.0 < max_gpu_memory_fraction <= 1.0:
            raise InputError(f"`max_gpu_memory_fraction` is {shown(max_gpu_memory_fraction)}; it is within (0, 1].")
        self._caps = caps
        self.bin_width = check_whole(bin_width, "bin_width", 1)
        self.shuffle, self.seed, self.strict = bool(shuffle), check_whole(seed, "seed", None), bool(strict)
        self.max_gpu_memory_fraction = max_gpu_memory_fraction
        self.bytes_per_atom, self.bytes_per_edge, self.cutoff = bytes_per_atom, bytes_per_edge, cutoff
        self.dtype = None if dtype is None else check_state_dtype(dtype)
        self.entry_status = 0
        self.set_aside: list[SetAside] = []
        self._source = open_source(dataset, self.dtype, cutoff)
        self._bins: dict[int, dict[int, Size]] | None = None
        self._head: deque[tuple[int, str, Any]] = deque()
        self._came = self._asked = 0
        self._ids: dict[int, bool] = {}
        self._device_bytes: float | None = None
        if self.strict and isinstance(self._source, Numbered):
            self._scan()

    # -- caps ----------------------------------------------------------------------------------------------------

    @property
    def max_atoms(self) -> int | None:
        """Most atoms in the batch."""
        return self._caps["max_atoms"]

    @property
    def max_edges(self) -> int | None:
        """Most pairs in the batch."""
        return self._caps["max_edges"]

    @property
    def max_batch_size(self) -> int | None:
        """Most systems in the batch."""
        return self._caps["max_batch_size"]

    @property
    def max_bytes(self) -> int | None:
        """Most memory of the batch."""
        return self._caps["max_bytes"]

    def bytes_of(self, load: Load | Size) -> float:
        """Return the memory that so many atoms and pairs take."""
        return load.atoms * self.bytes_per_atom + load.edges * self.bytes_per_edge

    def _passed_cap(self, load: Load) -> tuple[str, float, float] | None:
        """Return the cap that a batch would pass, what it has of that, and the cap; None if it passes none."""
        held = {
            "max_atoms": load.atoms,
            "max_batch_size": load.systems,
            "max_edges": load.edges,
            "max_bytes": self.bytes_of(load),
        }
        for name, cap in self._caps.items():
            if cap is not None and held[name] > cap:
                return name, held[name], cap
        if self._device_bytes is not None and held["max_bytes"] > self._device_bytes:
            return "max_gpu_memory_fraction", held["max_bytes"], self._device_bytes
        return None

    def _problem_of_size(self, size: Size) -> str:
        """Return why no batch can hold a system of this size; empty if one can."""
        if size.atoms < 1:
            return "it has no atoms"
        passed = self._passed_cap(Load().plus(size))
        return "" if passed is None else f"it has {passed[1]:.6g}, and `{passed[0]}` allows {passed[2]:.6g}"

    # -- what waits ----------------------------------------------------------------------------------------------

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to give out; of a stream, as far as it was asked."""
        if isinstance(self._source, Stream):
            return self._source.has_ended and not self._head
        return not any(self._scan().values())

    def __len__(self) -> int:
        """Systems that were not given out yet.

        Raises
        ------
        ContractError
            A `TypeError`, of a stream, which has no length.
        """
        return sum(len(waiting) for waiting in self._scan().values())

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[int]:
        """Numbers of the systems that were not given out yet, small ones first."""
        return iter([number for waiting in self._scan().values() for number in waiting])

    def __repr__(self) -> str:
        caps = [name for name, cap in self._caps.items() if cap is not None]
        return describe(self, *caps)

    def _scan(self) -> dict[int, dict[int, Size]]:
        """Return the bins, smallest first; look at the size of every sample before the first is given out."""
        if self._bins is not None:
            return self._bins
        source = self._source
        if isinstance(source, Stream):
            raise ContractError(
                "This SizeAwareSampler draws from a stream, which has neither length nor order of size."
            )
        bins: dict[int, dict[int, Size]] = {}
        for number in range(source.count):
            try:
                size = source.size_of(number)
                problem = self._problem_of_size(size)
            except Exception as error:
                problem = in_words(error)
            if problem:
                self._put_aside(number, source.name_of(number), problem)
            else:
                bins.setdefault(size.atoms // self.bin_width, {})[number] = size
        self._bins = dict(sorted(bins.items()))
        if self.shuffle:
            chance = random.Random(self.seed)
            for key, waiting in self._bins.items():
                self._bins[key] = dict(chance.sample(list(waiting.items()), len(waiting)))
        return self._bins

    def _put_aside(self, order: int, name: str, reason: str) -> None:
        self.set_aside.append(SetAside(order, name, reason))
        if self.strict:
            raise CapacityError(f"{_capital(name)} can not be run: {reason}. Leave it out, or raise the cap.")
        text = f"{_capital(name)} is set aside: {reason}. The other systems are run; `sampler.set_aside` lists them."
        warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())

    def was_given(self, order: int) -> bool:
        """Whether a sample was given out or set aside."""
        if isinstance(self._source, Stream):
            return order < self._came and all(order != waiting for waiting, _, _ in self._head)
        return order < self._source.count and not any(order in waiting for waiting in self._scan().values())

    # -- giving out ----------------------------------------------------------------------------------------------

    def build_initial_batch(self, *, device: torch.device | str | None = None) -> Batch:
        """Return a first batch: one system of each bin after the other, small ones first, while all caps hold.

        Raises
        ------
        CapacityError
            A `RuntimeError`: if nothing fits, or everything was given out.
        """
        draws = self.draw_first(device=device)
        batch = self.batch_of(draws, device) if draws else None
        if batch is None:
            told = f" {len(self.set_aside)} samples were set aside." if self.set_aside else ""
            raise CapacityError(f"No system is left to build a batch of.{told} Make another sampler to start anew.")
        return batch

    def request_replacement(self, num_atoms: int, num_edges: int) -> AtomicData | None:
        """Return a system of at most so many atoms and pairs, as large as there is; None if none fits."""
        draws = self._draw_largest(Load(), num_atoms, num_edges, 1)
        return draws[0].data if draws else None

    def request_replacements(self, node_counts: Sequence[int], edge_counts: Sequence[int]) -> list[AtomicData | None]:
        """Return for each place of so many atoms and pairs a system that fits into it, or None."""
        places = zip(_as_list(node_counts), _as_list(edge_counts), strict=True)
        return [self.request_replacement(atoms, edges) for atoms, edges in places]

    def request_replacements_budget(
        self, atom_budget: int | None = None, edge_budget: int | None = None, max_count: int | None = None
    ) -> list[AtomicData]:
        """Return systems that fit together into so many atoms and pairs, largest first; at most `max_count`."""
        return [draw.data for draw in self._draw_largest(Load(), atom_budget, edge_budget, max_count)]

    def draw_first(self, most: int | None = None, *, device: torch.device | str | None = None) -> list[Draw]:
        """Give out what a first batch is made of, at most `most` systems."""
        device = torch.device(device or "cpu")
        if device.type == "cuda":
            self._device_bytes = self.max_gpu_memory_fraction * torch.cuda.mem_get_info(device)[0]
        if isinstance(self._source, Stream):
            return self._draw_largest(Load(), None, None, most)
        draws: list[Draw] = []
        load, bins = Load(), list(self._scan())
        with self._kept_if_it_fails(draws):
            while bins and (most is None or len(draws) < most):
                key = bins.pop(0)
                draw = self._draw_of_bin(key, load, None, None)
                if draw is not None:
                    bins.append(key)
                    draws.append(draw)
                    load = load.plus(draw.size)
        return draws

    def draw_more(self, load: Load, most: int | None = None) -> list[Draw]:
        """Give out systems that fit into a batch beside what it holds, largest first; at most `most`."""
        return self._draw_largest(load, None, None, most)

    def give_back(self, draws: Iterable[Draw]) -> None:
        """Take back systems that were given out and not run, so that they are given out again, first."""
        refused = {entry.order for entry in self.set_aside}
        for draw in reversed([draw for draw in draws if draw.order not in refused]):
            self._ids.pop(draw.system_id, None)
            if isinstance(self._source, Stream):
                self._head.appendleft((draw.order, f"sample {draw.order}", draw.data))
            else:
                key = draw.size.atoms // self.bin_width
                bins = self._scan()
                bins[key] = {draw.order: draw.size, **bins.get(key, {})}
        self._head = deque(sorted(self._head, key=lambda entry: entry[0]))
        if self._bins is not None:
            self._bins = dict(sorted(self._bins.items()))

    def refuse(self, draw: Draw, reason: str) -> None:
        """Set aside a system that was given out and does not fit to the others."""
        name = f"sample {draw.order}" if isinstance(self._source, Stream) else self._source.name_of(draw.order)
        self._put_aside(draw.order, name, reason)

    def _draw_largest(self, load: Load, atoms: int | None, edges: int | None, most: int | None) -> list[Draw]:
        """Give out what fits, beside `load`, into the caps and into so many further atoms and pairs."""
        draws: list[Draw] = []
        from_stream = isinstance(self._source, Stream)
        keys = [0] if from_stream else list(reversed(self._scan()))
        with self._kept_if_it_fails(draws):
            while keys and (most is None or len(draws) < most):
                draw = (
                    self._draw_of_stream(load, atoms, edges)
                    if from_stream
                    else self._draw_of_bin(keys[0], load, atoms, edges)
                )
                if draw is None:
                    del keys[0]
                    continue
                draws.append(draw)
                load = load.plus(draw.size)
                atoms = None if atoms is None else atoms - draw.size.atoms
                edges = None if edges is None else edges - draw.size.edges
        return draws

    @contextmanager
    def _kept_if_it_fails(self, draws: list[Draw]) -> Iterator[None]:
        """Take back what was given out so far if the next one raises, such as a warning that is an error."""
        try:
            yield
        except BaseException:
            self.give_back(draws)
            raise

    def _fits(self, load: Load, size: Size, atoms: int | None, edges: int | None) -> bool:
        if (atoms is not None and size.atoms > atoms) or (edges is not None and size.edges > edges):
            return False
        return self._passed_cap(load.plus(size)) is None

    def _draw_of_bin(self, key: int, load: Load, atoms: int | None, edges: int | None) -> Draw | None:
        """Give out the first system of a bin that fits and can be read; None if there is none."""
        source, waiting = self._source, self._scan()[key]
        assert isinstance(source, Numbered)
        if atoms is not None and key * self.bin_width > atoms:
            return None
        if not self._fits(load, Size(max(1, key * self.bin_width), 0), atoms, edges):
            return None
        for number, size in list(waiting.items()):
            if not self._fits(load, size, atoms, edges):
                continue
            del self._scan()[key][number]
            draw = self._accepted(number, source.name_of(number), source.load, number, size)
            if draw is None:
                continue
            if self._fits(load, draw.size, atoms, edges):
                return draw
            self.give_back([draw])  # it is larger than its metadata said
        return None

    def _draw_of_stream(self, load: Load, atoms: int | None, edges: int | None) -> Draw | None:
        """Give out the next system of a stream if it fits; None if it does not, or there is none for the moment."""
        source = self._source
        assert isinstance(source, Stream)
        if self._passed_cap(load.plus(Size(1, 0))) is not None:
            return None
        while self._head or self._next_of_stream(source):
            order, name, item = self._head.popleft()
            draw = self._accepted(order, name, source.structure, item, None)
            if draw is None:
                continue
            if self._fits(load, draw.size, atoms, edges):
                return draw
            self.give_back([draw])
            return None
        return None

    def _next_of_stream(self, source: Stream) -> bool:
        """Take the next item of a stream up; return whether there is one."""
        if source.has_ended:
            return False
        self._asked += 1
        try:
            item = source.next()
        except Exception as error:
            if self.strict:
                raise SimulationError(f"The stream of systems ended with an error: {in_words(error)}.") from error
            text = (
                f"The stream of systems ended after {self._came} with an error: {in_words(error)}. Those that it gave "
                f"are run."
            )
            warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())
            return False
        if item is None:
            return False
        self._head.append((self._came, f"sample {self._came}", item))
        self._came += 1
        return True

    def _accepted(self, order: int, name: str, load: Any, item: Any, size: Size | None) -> Draw | None:
        """Return a sample as it is given out, or None if it was set aside."""
        try:
            data = load(item)
            found = size_of_structure(data, self.cutoff)
            size = Size(found.atoms, found.edges or (0 if size is None else size.edges))
            problem = self._problem_of_size(size)
        except Exception as error:
            problem = in_words(error)
        if problem:
            self._put_aside(order, name, problem)
            return None
        assert size is not None
        system_id = self._id_for(order, name, data)
        if system_id is None:
            return None
        data = data.clone()
        for field in _OF_AN_EARLIER_RUN:
            if field in data:
                delattr(data, field)
        data.system_id = torch.tensor([[system_id]], device=data.device)
        if "status" not in data:
            data.status = torch.full((1, 1), self.entry_status, device=data.device)
        return Draw(order, system_id, size, data)

    # -- identity ------------------------------------------------------------------------------------------------

    def reserve_ids(self, ids: Iterable[int]) -> None:
        """Give these ids to nobody: systems that bear them are in the batch already."""
        for one in ids:
            self._ids.setdefault(int(one), True)

    def _id_for(self, order: int, name: str, data: AtomicData) -> int | None:
        """Return the id under which a sample is given out; None if it bears that of another one."""
        brought = int(data["system_id"].reshape(-1)[0]) if "system_id" in data else -1
        if brought < 0:
            system_id = order if order not in self._ids else self._next_free()
            self._ids[system_id] = False
            return system_id
        if self._ids.get(brought):
            self._put_aside(order, name, f"it bears the `system_id` {brought} of a system before it")
            return None
        if brought in self._ids:
            system_id = self._next_free()
            text = f"{_capital(name)} bears the `system_id` {brought}, which a sample without one got; it gets "
            text += f"{system_id}."
            warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())
            brought = system_id
        self._ids[brought] = True
        return brought

    def _next_free(self) -> int:
        count = self._came if isinstance(self._source, Stream) else self._source.count
        return max(count, max(self._ids, default=-1) + 1)

    # -- batches -------------------------------------------------------------------------------------------------

    def joined(self, draws: Sequence[Draw], device: torch.device | str | None = None) -> Batch:
        """Return systems that were given out as a batch, or raise an AthanorError if they can not be in one."""
        return Batch.from_data_list([draw.data for draw in draws], device=device, dtype=self.dtype)

    def batch_of(self, draws: Sequence[Draw], device: torch.device | str | None = None) -> Batch | None:
        """Return systems that were given out as a batch; one that does not fit to those before it is set aside.

        None if no other is left.
        """
        try:
            return self.joined(draws, device)
        except AthanorError:
            pass
        batch: Batch | None = None
        for draw in draws:
            try:
                one = self.joined([draw], device)
                if batch is None:
                    batch = one
                else:
                    batch.append(one)
            except AthanorError as error:
                self.refuse(draw, in_words(error))
        return batch

    # -- restart -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return which samples were given out and set aside, in which order the others wait, and the ids they bear."""
        if isinstance(self._source, Stream):
            given, waiting = [self._came - len(self._head)], [order for order, _, _ in self._head]
        else:
            waiting = list(self)
            known = set(waiting)
            given = [number for number in range(self._source.count) if number not in known]
        return {
            "given": torch.tensor(given, dtype=torch.long),
            "waiting": torch.tensor(waiting, dtype=torch.long),
            "asked": self._asked,
            "device_bytes": self._device_bytes,
            "set_aside": [tuple(entry) for entry in self.set_aside],
            "ids": torch.tensor([[one, brought] for one, brought in self._ids.items()]).reshape(-1, 2),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state` from `state_dict`; the source must be the same, from its beginning.

        Raises
        ------
        InputError
            If the source has fewer samples than were given out, or gave some out already.
        """
        given, waiting = state["given"].tolist(), state["waiting"].tolist()
        if isinstance(self._source, Stream):
            if self._came:
                raise InputError("This stream has begun; load the state into a sampler of a new one.")
            while self._asked < state["asked"] and not self._source.has_ended:
                self._next_of_stream(self._source)
                while self._head and self._head[-1][0] not in waiting:
                    self._head.pop()
            came = given[0] + len(waiting)
            if self._came < came:
                raise InputError(f"The stream ends after {self._came} systems; {came} of it were given out before.")
        else:
            if given and max(given) >= self._source.count:
                raise InputError(
                    f"The data set has {self._source.count} samples, and number {max(given)} was given out."
                )
            self._bins, place = None, {number: place for place, number in enumerate(waiting)}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AthanorWarning)  # told before
                bins = self._scan()
            self._bins = {
                key: {number: one[number] for number in sorted(one.keys() & place.keys(), key=place.__getitem__)}
                for key, one in bins.items()
            }
        self.set_aside = [SetAside(*entry) for entry in state["set_aside"]]
        self._ids = {int(one): bool(brought) for one, brought in state["ids"].tolist()}
        self._device_bytes = state["device_bytes"]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _as_list(counts: Any) -> list[int]:
    return counts.tolist() if isinstance(counts, torch.Tensor) else [int(count) for count in counts]
