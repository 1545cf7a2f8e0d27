"""What a batch of a model costs on this machine: a few batches of growing size are evaluated, timed and weighed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import numpy as np
import torch

from athanor._memory import PeakMeter, free_memory, is_out_of_memory
from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.dynamics.engine import BaseDynamics
from athanor.dynamics.sources import Size
from athanor.errors import in_words

_GROWTH = 3.0
"""Each probe has so many times the atoms of the one before."""
_FIRST_ATOMS = 48
_MOST_SECONDS = 5.0
"""Of one step of a probe; a larger one is not tried."""
_SHORT = 0.05
"""Seconds: a step that is shorter is timed a few times."""
_PART_OF_FREE = 0.4
"""Of the free memory, which a probe is expected to take at most."""
_TOLERANCE = 0.1
"""How much slower than the best a size may be that takes less memory."""
_NOISE = 16e6
"""Bytes: what takes less can not be told from what else a process does."""
_MIDDLE, _DENSE, _SPARSE = 0.5, 0.95, 0.05
"""Of which structures a probe is made: their rank by the pairs of an atom."""


class Probe(NamedTuple):
    """What one batch took.

    Parameters
    ----------
    systems, atoms, pairs
        What it held; pairs are counted as the sampler counts them.
    bytes
        Memory at the peak, beside what was there before.
    seconds
        Of one step.
    """

    systems: int
    atoms: int
    pairs: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Probes:
    """What some batches took, and why no larger one was tried.

    Parameters
    ----------
    probes
        Smallest first.
    others
        Of denser and sparser systems, whose memory tells what a pair takes.
    ended
        ``"rate"``: larger ones are not faster; ``"memory"``, ``"time"``, ``"job"`` (it has no more atoms) or the text
        of an error.
    """

    probes: tuple[Probe, ...]
    ended: str
    others: tuple[Probe, ...] = ()

    @property
    def best_atoms(self) -> float:
        """Atoms of the smallest batch that is nearly as fast, for each atom, as the fastest; inf if larger ones are."""
        if self.ended != "rate":
            return inf
        best = min(probe.seconds / probe.atoms for probe in self.probes)
        return next(probe.atoms for probe in self.probes if probe.seconds / probe.atoms <= (1 + _TOLERANCE) * best)

    def memory(self) -> tuple[float, float] | None:
        """Return bytes of an atom, and of a pair; None if nothing could be weighed.

        Least squares of the relative errors, none of the two negative. Where all probes are as dense, each takes half.
        """
        every = [probe for probe in (*self.others, *self.probes) if probe.bytes > 0]
        heavy = [probe for probe in every if probe.bytes > _NOISE] or every[-1:]
        if not heavy:
            return None
        per_atom = max(probe.bytes / probe.atoms for probe in heavy)
        densities = [probe.pairs / probe.atoms for probe in heavy]
        if min(densities) == 0.0:
            return per_atom, 0.0
        if max(densities) < 1.2 * min(densities):
            return per_atom / 2, per_atom / 2 / (sum(densities) / len(densities))
        table = np.array([[probe.atoms / probe.bytes, probe.pairs / probe.bytes] for probe in heavy])
        atom, pair = np.linalg.lstsq(table, np.ones(len(heavy)), rcond=None)[0].tolist()
        if atom <= 0.0:
            return 1.0, max(probe.bytes / probe.pairs for probe in heavy)
        return (atom, pair) if pair > 0.0 else (per_atom, 0.0)


class StandsStill(BaseDynamics):
    """An engine whose systems do not move: a step is an evaluation with its neighbour lists."""

    warns_of_start = False
    inflight_mode = True  # want of memory is raised, and not looked for in parts of the batch

    def __init__(self, model: Any, outputs: frozenset[str]) -> None:
        self.__needs_keys__ = outputs
        super().__init__(model, hooks=model.make_neighbor_hooks(), keep_velocities=True)

    def seconds_of_step(self, batch: Batch) -> float:
        """Return how long a step takes, s; the shortest of a few if that is quick."""
        times: list[float] = []
        with self._around_run(batch):
            while not times or (sum(times) < _SHORT and len(times) < 5):
                started = time.perf_counter()
                self._driver.step()
                if batch.device.type == "cuda":
                    torch.cuda.synchronize(batch.device)
                times.append(time.perf_counter() - started)
        return max(min(times), 1e-9)


def probe(
    model: Any,
    examples: Sequence[tuple[AtomicData, Size]],
    outputs: frozenset[str],
    most_atoms: int,
    expected_bytes: float,
    make: Callable[[list[AtomicData]], Batch],
) -> Probes:
    """Evaluate batches of growing size, until more is not faster, takes long, or may take too much memory.

    Parameters
    ----------
    model
        A wrapped model.
    examples
        Structures of which batches are made, and their sizes.
    outputs
        What a run needs of the model.
    most_atoms
        Of all systems of the job together: a larger batch is of no use.
    expected_bytes
        Of an atom, before anything was measured.
    make
        Structures -> the batch that a run would make of them.
    """
    prober = _Prober(StandsStill(model, outputs), examples, make, expected_bytes)
    found: list[Probe] = []
    ended = "job"
    for target in _targets(most_atoms):
        measured = prober.weigh(target, _MIDDLE, found[-1] if found else None)
        if isinstance(measured, str):
            ended = measured
            break
        found.append(measured)
        rates = [one.atoms / one.seconds for one in found]
        if len(rates) > 2 and rates[-1] < (1 + _TOLERANCE) * max(rates[:-1]):
            ended = "rate"
            break
    others = [prober.weigh(found[-1].atoms // 2, rank, None) for rank in (_DENSE, _SPARSE)] if found else []
    return Probes(tuple(found), ended, tuple(one for one in others if isinstance(one, Probe)))


class _Prober:
    """Makes batches of examples, and weighs and times them."""

    def __init__(
        self,
        engine: StandsStill,
        examples: Sequence[tuple[AtomicData, Size]],
        make: Callable[[list[AtomicData]], Batch],
        expected_bytes: float,
    ) -> None:
        self._engine, self._make, self._expected_bytes, self._is_first = engine, make, expected_bytes, True
        self._ranked = sorted(examples, key=lambda one: one[1].edges / one[1].atoms)

    def weigh(self, target: int, rank: float, before: Probe | None) -> Probe | str:
        """Return what a batch of about so many atoms took, or why it was not tried, after a smaller one `before`."""
        while self._ranked:
            chosen = _filled(self._ranked, rank, target)
            atoms, pairs = (sum(size[place] for _, size in chosen) for place in (0, 1))
            if before is not None and atoms < 1.2 * before.atoms:
                return "job"
            if atoms * self._expected_bytes > _PART_OF_FREE * free_memory(self._engine.device):
                return "memory"
            if before is not None and before.seconds * atoms / before.atoms > _MOST_SECONDS:
                return "time"
            try:
                seconds, taken, failed = self._measure([data for data, _ in chosen])
            except Exception as error:
                return "memory" if is_out_of_memory(error) else in_words(error)
            if not failed:
                self._expected_bytes = taken / atoms
                return Probe(len(chosen), atoms, pairs, taken, seconds)
            broken = {id(chosen[place]) for place in failed}
            self._ranked = [one for one in self._ranked if id(one) not in broken]
        return "no system that the model can be asked about"

    def _measure(self, structures: list[AtomicData]) -> tuple[float, int, list[int]]:
        """Return seconds of a step, bytes at the peak, and which systems failed."""
        batch = self._make(structures)
        if self._is_first:  # compiles kernels, loads what is loaded late
            self._engine.seconds_of_step(self._make(structures))
            self._is_first = False
        with PeakMeter(self._engine.device) as meter:
            seconds = self._engine.seconds_of_step(batch)
        return seconds, meter.bytes or 0, batch.failure_code.reshape(-1).nonzero().flatten().tolist()


def _targets(most: int) -> Iterator[int]:
    target = float(_FIRST_ATOMS)
    while target < most:
        yield int(target)
        target *= _GROWTH
    yield most


def _filled(ranked: Sequence[tuple[AtomicData, Size]], rank: float, atoms: int) -> list[tuple[AtomicData, Size]]:
    """Return structures around a rank, again and again, of so many atoms together, or one that is larger."""
    middle = round(rank * (len(ranked) - 1))
    near = sorted(range(len(ranked)), key=lambda place: abs(place - middle))[: max(1, len(ranked) // 3)]
    chosen, held = [], 0
    for place in itertools.cycle(near):
        chosen.append(ranked[place])
        held += ranked[place][1].atoms
        if held >= atoms:
            break
    return chosen
