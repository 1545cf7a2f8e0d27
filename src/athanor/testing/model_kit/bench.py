"""ModelBench: a model under test, evaluated on systems, and what its card and configuration say of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch

from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.dynamics.arguments import device_of
from athanor.models.mixin import BaseModelMixin
from athanor.models.outputs import asking_for
from athanor.neighbors.build import compute_neighbors
from athanor.testing.tolerances import Tolerance

Results = dict[str, torch.Tensor]
T = TypeVar("T")

COMPARED = ("energy", "forces", "stress")
"""Outputs whose numbers are compared; of others only shapes are looked at."""
_MOST_ATOMS = 1024
"""In one call, where many displaced copies of a system are evaluated."""


class Measured(NamedTuple):
    """An error, with what it is of and what is allowed."""

    what: str
    error: float
    bound: float


class Broken(Exception):
    """A check failed that has no figures; the text says what is wrong."""


class NotApplicable(Exception):
    """A check can not be made; the text says why."""


def batch_for(model: BaseModelMixin, systems: Sequence[AtomicData], device: Any = None) -> Batch:
    """Return a batch of copies of `systems` with the neighbour list of `model`."""
    batch = Batch.from_data_list([system.clone() for system in systems])
    if device is not None:
        batch = batch.to(device)
    config = model.model_config.neighbor_config
    if config is not None:
        compute_neighbors(batch, config=config)
    return batch


def evaluate(
    model: BaseModelMixin, systems: Sequence[AtomicData], names: Collection[str], device: torch.device | None = None
) -> list[Results]:
    """Return the results of each of `systems`, evaluated in one batch: energy [], forces [N, 3], stress [3, 3]."""
    batch = batch_for(model, systems, device or device_of(model))
    with asking_for(model, names):
        outputs = model(batch)
    absent = [name for name in names if outputs.get(name) is None]
    if absent:
        raise Broken(f"`{absent[0]}` is active and was not returned.")
    shapes = {"energy": (len(systems), 1), "forces": (batch.num_nodes, 3), "stress": (len(systems), 3, 3)}
    for name in names:
        if outputs[name].shape != shapes[name]:
            raise Broken(f"`{name}` has shape {tuple(outputs[name].shape)}, not {shapes[name]}")
    ends, found = batch.batch_ptr.tolist(), {name: outputs[name].detach().cpu().clone() for name in names}
    return [
        {
            name: found[name][start:end]
            if name == "forces"
            else found[name][index].squeeze(-1)
            if name == "energy"
            else found[name][index]
            for name in names
        }
        for index, (start, end) in enumerate(itertools.pairwise(ends))
    ]


class ModelBench:
    """A model, how it is evaluated, and what was measured of it so far.

    Parameters
    ----------
    model
        A wrapper, in eval mode.
    dtype
        Of positions and cells.
    device
        Where batches are put; by default where the model is.

    Attributes
    ----------
    systems
        On which it is checked.
    elements
        Their atomic numbers.
    """

    def __init__(self, model: BaseModelMixin, dtype: torch.dtype, device: torch.device | None = None) -> None:
        self.model, self.dtype = model, dtype
        self.config, self.card = model.model_config, model.model_card
        self.device = device or device_of(model) or torch.device("cpu")
        self.systems: list[AtomicData] = []
        self.elements: list[int] = []
        self._known: dict[Any, Any] = {}

    def put_on(self, systems: Sequence[AtomicData]) -> None:
        """Take `systems` for those on which the model is checked."""
        self.systems = list(systems)
        self.elements = sorted({number for system in systems for number in system.atomic_numbers.tolist()})

    def call(self, batch: Batch) -> Any:
        """Return what the model gives when it is called as it is set, but for the stress of systems without a cell."""
        active = self.config.active_outputs or set()
        with asking_for(self.model, active if "cell" in batch else active - {"stress"}):
            return self.model(batch)

    @property
    def name(self) -> str:
        """What the model is called."""
        kind = type(self.model).__name__
        return f"{self.card.name} ({kind})" if self.card.name else kind

    @property
    def precision(self) -> torch.dtype:
        """The lower one of positions and network, which decides how large errors may be."""
        module: Any = self.model
        tensors = itertools.chain(module.parameters(), module.buffers()) if isinstance(module, torch.nn.Module) else ()
        dtypes = {self.dtype, self.card.dtype, *(tensor.dtype for tensor in tensors)}
        return torch.float64 if all(_is_double(dtype) for dtype in dtypes) else torch.float32

    @property
    def cutoffs(self) -> list[float]:
        """Cutoffs of the neighbour lists of the model and of the models that it is made of, Å."""
        module: Any = self.model
        parts = module.modules() if isinstance(module, torch.nn.Module) else (module,)
        configs = (getattr(part, "model_config", None) for part in (module, *parts))
        lists = (getattr(config, "neighbor_config", None) for config in configs)
        return sorted({found.cutoff for found in lists if found is not None})

    def claim(self, name: str) -> bool | None:
        """Return whether the card claims the property `name`; ``None`` if it says nothing."""
        if name == "batch_invariance":
            return {"verified": True, "no": False}.get(self.card.batch_invariance)
        if name == "elements":
            return self.card.elements is not None or None
        if name == "units":
            return None
        found: bool | None = getattr(self.card, name)
        if name == "conservative" and found is None:  # the configuration says where forces and stress come from
            return {"forces", "stress"} & self.config.outputs <= self.config.autograd_outputs or None
        return found or None if name == "stress_keeps_forces" else found

    def coarse(self, tolerance: Tolerance) -> Tolerance:
        """Return `tolerance`, or the accuracy that the card names where that is wider."""
        accuracy = self.card.accuracy or 0.0
        return Tolerance(max(tolerance.float64, accuracy), max(tolerance.float32, accuracy))

    def takes(self, *, periodic: bool) -> bool:
        """Whether the model evaluates periodic systems, or those that are not."""
        return self.config.supports_pbc or self.config.needs_pbc if periodic else not self.config.needs_pbc

    def names(self, system: AtomicData) -> list[str]:
        """Return the outputs that can be compared for `system`."""
        return [name for name in COMPARED if self.computes(name) and (name != "stress" or system.cell is not None)]

    def computes(self, name: str) -> bool:
        """Whether the model has the output `name`."""
        return name in self.config.outputs

    def batch(self, systems: Sequence[AtomicData]) -> Batch:
        """Return a batch of copies of `systems`, on the device of the model, with its neighbour list."""
        return batch_for(self.model, systems, self.device)

    def evaluate(self, systems: Sequence[AtomicData], names: Collection[str] | None = None) -> list[Results]:
        """Return the results of each of `systems`, evaluated in one batch."""
        return evaluate(self.model, systems, self.names(systems[0]) if names is None else names, self.device)

    def evaluate_many(self, systems: Sequence[AtomicData], names: Collection[str]) -> list[Results]:
        """Return the results of each of `systems`, evaluated in batches of bounded size."""
        size = max(1, _MOST_ATOMS // max(len(system.positions) for system in systems))
        parts = (systems[start : start + size] for start in range(0, len(systems), size))
        return [result for part in parts for result in self.evaluate(part, names)]

    def measure(
        self, what: str, got: torch.Tensor, expected: torch.Tensor, tolerance: Tolerance, size: float | None = None
    ) -> Measured:
        """Return the largest difference relative to `size`: by default that of `expected`, at least 1."""
        if got.shape != expected.shape:
            raise Broken(f"{what}: shape {tuple(got.shape)} against {tuple(expected.shape)}.")
        difference = (got.double() - expected.double()).abs()
        if size is None:
            size = max(1.0, float(expected.abs().max()) if expected.numel() else 1.0)
        error = float(difference.max()) / size if difference.numel() else 0.0
        return Measured(what, error if error == error else float("inf"), tolerance.at(self.precision))

    def once(self, key: Any, compute: Callable[[], T]) -> T:
        """Return what `compute` gives, computed once for `key`."""
        if key not in self._known:
            self._known[key] = compute()
        found: T = self._known[key]
        return found

    def compare(
        self, what: str, got: Results, expected: Results, tolerance: Tolerance, names: Collection[str] | None = None
    ) -> Iterator[Measured]:
        """Measure each output of `got` against that of `expected`."""
        for name in expected if names is None else names:
            yield self.measure(f"{name} {what}", got[name], expected[name], tolerance)


def _is_double(dtype: torch.dtype | None) -> bool:
    return dtype is None or dtype == torch.float64 or not dtype.is_floating_point
