"""`SizeAwareSampler`: which systems join a run next, so that the batch stays as full as its caps allow."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from athanor._values import check_state_dtype, check_whole, describe, is_real, shown
from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.dynamics.caps import NAMES, Caps, Load
from athanor.dynamics.gate import Draw, Gate, SetAside
from athanor.dynamics.labels import Labels
from athanor.dynamics.sources import Size, Stream, open_source
from athanor.dynamics.waiting import Bins, Line
from athanor.errors import AthanorError, CapacityError, InputError, in_words


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
          there is room, and keeps its order but for `look_ahead`. It may yield None: nothing for the moment.
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
    look_ahead
        Of a stream: while a large system waits for room, so many that come after it are looked at for one that fits,
        and so many at most are run before it. 0 keeps the order strictly.

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
        look_ahead: int = 8,
    ) -> None:
        most = dict(zip(NAMES, (max_atoms, max_batch_size, max_edges, max_bytes), strict=True))
        self.caps = Caps(most, bytes_per_atom, bytes_per_edge)
        if all(cap is None for cap in (max_atoms, max_batch_size, max_bytes)):
            raise InputError("Without a cap all systems would join at once. Give `max_atoms` or `max_batch_size`.")
        if not is_real(max_gpu_memory_fraction) or not 0.0 < max_gpu_memory_fraction <= 1.0:
            raise InputError(f"`max_gpu_memory_fraction` is {shown(max_gpu_memory_fraction)}; it is within (0, 1].")
        self.bin_width = check_whole(bin_width, "bin_width", 1)
        self.shuffle, self.seed, self.strict = bool(shuffle), check_whole(seed, "seed", None), bool(strict)
        self.max_gpu_memory_fraction, self.cutoff = max_gpu_memory_fraction, cutoff
        self.dtype = None if dtype is None else check_state_dtype(dtype)
        self.gate = Gate(self.caps, cutoff, strict=self.strict)
        source, chance = open_source(dataset, self.dtype, cutoff), random.Random(self.seed) if self.shuffle else None
        self._waiting: Bins | Line
        if isinstance(source, Stream):
            self._waiting = Line(source, self.gate, check_whole(look_ahead, "look_ahead", 0))
        else:
            self._waiting = Bins(source, self.gate, self.bin_width, chance)
        self.gate.waiting = self._waiting
        if self.strict and isinstance(self._waiting, Bins):
            self._waiting.scan()

    @property
    def max_atoms(self) -> int | None:
        """Most atoms in the batch."""
        return self.caps.most["max_atoms"]

    @property
    def max_edges(self) -> int | None:
        """Most pairs in the batch."""
        return self.caps.most["max_edges"]

    @property
    def max_batch_size(self) -> int | None:
        """Most systems in the batch."""
        return self.caps.most["max_batch_size"]

    @property
    def max_bytes(self) -> int | None:
        """Most memory of the batch."""
        return self.caps.most["max_bytes"]

    @property
    def set_aside(self) -> list[SetAside]:
        """Samples that can not be run, each with its reason."""
        return self.gate.set_aside

    # -- what waits ----------------------------------------------------------------------------------------------

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to give out; of a stream, as far as it was asked."""
        return self._waiting.exhausted

    def __len__(self) -> int:
        """Systems that were not given out yet.

        Raises
        ------
        ContractError
            A `TypeError`, of a stream, which has no length.
        """
        return len(list(self._waiting))

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[int]:
        """Numbers of the systems that were not given out yet, small ones first."""
        return iter(self._waiting)

    def __repr__(self) -> str:
        if self.caps.are_measured:
            return f"{type(self).__name__}(measured)"
        return describe(self, *(name for name, cap in self.caps.most.items() if cap is not None))

    def was_given(self, order: int) -> bool:
        """Whether a sample was given out or set aside."""
        return self._waiting.was_given(order)

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
        draws = self._draw(Load(), 1, num_atoms, num_edges)
        return draws[0].data if draws else None

    def request_replacements(self, node_counts: Sequence[int], edge_counts: Sequence[int]) -> list[AtomicData | None]:
        """Return for each place of so many atoms and pairs a system that fits into it, or None."""
        places = zip(_as_list(node_counts), _as_list(edge_counts), strict=True)
        return [self.request_replacement(atoms, edges) for atoms, edges in places]

    def request_replacements_budget(
        self, atom_budget: int | None = None, edge_budget: int | None = None, max_count: int | None = None
    ) -> list[AtomicData]:
        """Return systems that fit together into so many atoms and pairs, largest first; at most `max_count`."""
        return [draw.data for draw in self._draw(Load(), max_count, atom_budget, edge_budget)]

    def draw_first(self, most: int | None = None, *, device: torch.device | str | None = None) -> list[Draw]:
        """Give out what a first batch is made of, at most `most` systems."""
        device = torch.device(device or "cpu")
        if device.type == "cuda":
            self.caps.device_bytes = self.max_gpu_memory_fraction * torch.cuda.mem_get_info(device)[0]
        return self._draw(Load(), most, of_each_bin=True)

    def draw_more(self, load: Load, most: int | None = None) -> list[Draw]:
        """Give out systems that fit into a batch beside what it holds, largest first; at most `most`."""
        return self._draw(load, most)

    def give_back(self, draws: Iterable[Draw]) -> None:
        """Take back systems that were given out and not run, so that they are given out again, first."""
        refused = {entry.order for entry in self.set_aside}
        for draw in reversed([draw for draw in draws if draw.order not in refused]):
            self.gate.release(draw.system_id)
            self._waiting.put_back(draw)

    def refuse(self, draw: Draw, reason: str) -> None:
        """Set aside a system that was given out and does not fit to the others."""
        self.gate.refuse(draw.order, reason)

    def _draw(
        self,
        load: Load,
        most: int | None,
        atoms: int | None = None,
        edges: int | None = None,
        *,
        of_each_bin: bool = False,
    ) -> list[Draw]:
        """Give out what fits beside `load` into the caps, and into so many further atoms and pairs.

        One system of each bin after the other, small ones first, or else large ones first.
        """
        draws: list[Draw] = []

        def fits(size: Size) -> bool:
            if (atoms is not None and size.atoms > atoms) or (edges is not None and size.edges > edges):
                return False
            return self.caps.allow(load.plus(size))

        keys = deque(self._waiting.keys if of_each_bin else reversed(self._waiting.keys))
        try:
            while keys and (most is None or len(draws) < most):
                key = keys.popleft()
                draw = self._waiting.draw(key, fits)
                if draw is None:
                    continue
                draws.append(draw)
                keys.append(key) if of_each_bin else keys.appendleft(key)
                load = load.plus(draw.size)
                atoms = None if atoms is None else atoms - draw.size.atoms
                edges = None if edges is None else edges - draw.size.edges
        except BaseException:  # such as a warning that is an error
            self.give_back(draws)
            raise
        return draws

    # -- batches -------------------------------------------------------------------------------------------------

    def joined(self, draws: Sequence[Draw], device: torch.device | str | None = None) -> Batch:
        """Return systems that were given out as a batch, or raise an AthanorError if they can not be in one."""
        return Batch.from_data_list([draw.data for draw in draws], device=device, dtype=self.dtype)

    def batch_of(
        self,
        draws: Sequence[Draw],
        device: torch.device | str | None = None,
        labels: Labels | None = None,
    ) -> Batch | None:
        """Return systems that were given out as a batch; one that does not fit to those before it is set aside.

        Parameters
        ----------
        draws, device
            As of `joined`.
        labels
            Makes labels fit that the model does not read; None: the model is not known.

        Returns
        -------
        Batch or None
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
                    continue
                if labels is not None:
                    labels.fit(one, batch)
                batch.append(one)
            except AthanorError as error:
                self.refuse(draw, in_words(error))
        return batch

    # -- restart -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return which samples were given out and set aside, in which order the others wait, and the ids they bear."""
        return {**self._waiting.state_dict(), **self.gate.state_dict(), "caps": self.caps.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state` from `state_dict`; the source must be the same, from its beginning.

        Raises
        ------
        InputError
            If the source has fewer samples than were given out, or gave some out already.
        """
        self._waiting.load_state_dict(state)
        self.gate.load_state_dict(state)
        self.caps.load_state_dict(state["caps"])


def _as_list(counts: Any) -> list[int]:
    return counts.tolist() if isinstance(counts, torch.Tensor) else [int(count) for count in counts]
