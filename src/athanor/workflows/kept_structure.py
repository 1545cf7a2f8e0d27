"""One structure that a model is asked about again and again: its batch and neighbours stay while its atoms do.

What a run does with many systems is done here with one, by the same parts: who is let in, what is odd about it, when
neighbours are searched again, and what counts as failed.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.calculators.calculator import CalculationFailed

from athanor import _runtime
from athanor.data.convert.ase import completed_cell
from athanor.dynamics.admission import closest_pairs, collapsed_cells, search_radius
from athanor.dynamics.evaluate import compute_apart
from athanor.dynamics.failures import FailureCode, explain_failure
from athanor.errors import AthanorWarning, InputError, SimulationError
from athanor.hooks.context import HookContext
from athanor.hooks.stages import DynamicsStage
from athanor.workflows.admission import admit
from athanor.workflows.advice import advise
from athanor.workflows.build import LABELS, build_neighbor_hooks
from athanor.workflows.spec import CalculationSpec
from athanor.workflows.structures import from_python

if TYPE_CHECKING:
    from ase import Atoms

    from athanor.data.batch import Batch
    from athanor.models.mixin import BaseModelMixin

_NOT_FINITE = {
    "energy": FailureCode.ENERGY_NOT_FINITE,
    "forces": FailureCode.FORCES_NOT_FINITE,
    "stress": FailureCode.STRESS_NOT_FINITE,
}


class CalculationFailedError(SimulationError, CalculationFailed):
    """The model gives no usable result for these atoms; also ASE's CalculationFailed."""


class KeptStructure:
    """The structure that a model was asked about last.

    Parameters
    ----------
    model
        A wrapped model, on `device`.
    spec
        Precision, and which warnings to leave out.
    device
        Where the batch goes.
    skin
        Of the neighbour list, Å; None: that of a run.
    """

    def __init__(self, model: BaseModelMixin, spec: CalculationSpec, device: torch.device, skin: float | None) -> None:
        self._model, self._spec, self._device = model, spec, device
        reads = model.model_config.required_inputs | model.model_config.optional_inputs
        self.labels = [name for name, fields in LABELS.items() if fields & reads]
        self._hooks: Sequence[Any] = build_neighbor_hooks(model)
        for hook in self._hooks if skin is not None else ():
            hook.skin = skin
        self.forget()

    def forget(self) -> None:
        """Drop the batch and its neighbours."""
        self._batch: Batch | None = None
        self._made_for: list[bytes] = []
        self._cell: np.ndarray | None = None

    def evaluate(self, atoms: Atoms, fields: Collection[str]) -> dict[str, torch.Tensor]:
        """Return `fields` of the model for `atoms`, detached, finite and in the shapes of the field table.

        Raises
        ------
        InputError
            If the model can not be asked about such atoms.
        CalculationFailedError
            If atoms came too close, the cell collapsed, or something is not finite.
        """
        try:
            batch = self._batch_for(atoms)
            self._check_geometry(batch, atoms)
            for hook in self._hooks:
                hook(HookContext(batch=batch, model=self._model), DynamicsStage.BEFORE_COMPUTE)
            self._check_distances(batch, atoms)
            outputs = compute_apart(self._model, batch, frozenset(fields))
            self._check_finite(outputs, batch, atoms)
            return outputs
        except BaseException:
            self.forget()  # whatever stopped it may have stopped it half way
            raise

    def _batch_for(self, atoms: Atoms) -> Batch:
        """Return the batch, made anew if it is of other atoms, with positions of `atoms`."""
        made_for = _composition(atoms, self.labels)
        if self._batch is None or made_for != self._made_for:
            self.forget()
            self._batch, self._made_for = self._new_batch(atoms), made_for
        self._batch.positions.copy_(torch.from_numpy(atoms.positions))
        return self._batch

    def _new_batch(self, atoms: Atoms) -> Batch:
        """Return a batch of `atoms` alone, as a run would take them in."""
        (system,), batch = admit(self._spec, from_python(atoms), self._model)
        if system.problem:
            raise InputError(f"{name_of(self._model)} can not be asked about {system.name}: {system.problem}")
        for advice in advise(self._spec, [system], self._model):
            warnings.warn(AthanorWarning(advice.text, advice.topic), stacklevel=_runtime.level_of_caller())
        return batch.to(self._device)

    def _check_geometry(self, batch: Batch, atoms: Atoms) -> None:
        """Look at the geometry before neighbours are searched; a new cell is written into the batch, in place."""
        if not np.isfinite(atoms.positions).all():
            raise self._failure(self._explained(FailureCode.POSITIONS_NOT_FINITE, batch), atoms)
        if "cell" not in batch:
            return
        cell = completed_cell(atoms).array
        if self._cell is None or not np.array_equal(cell, self._cell):
            batch.cell.copy_(torch.from_numpy(cell).unsqueeze(0))
            self._cell = cell.copy()
            if bool(collapsed_cells(batch, search_radius(batch, self._model))):
                raise self._failure(self._explained(FailureCode.CELL_NOT_FINITE, batch), atoms)

    def _check_distances(self, batch: Batch, atoms: Atoms) -> None:
        floor = self._model.model_card.minimum_distance
        closest = None if floor is None else closest_pairs(batch)
        if floor is not None and closest is not None and float(closest) < floor:
            raise self._failure(self._explained(FailureCode.ATOMS_TOO_CLOSE, batch), atoms)

    def _check_finite(self, outputs: Mapping[str, torch.Tensor], batch: Batch, atoms: Atoms) -> None:
        for field, value in outputs.items():
            if not bool(value.isfinite().all()):
                code = _NOT_FINITE.get(field)
                why = f"its `{field}` became NaN or infinite" if code is None else self._explained(code, batch)
                raise self._failure(why, atoms)

    def _explained(self, code: FailureCode, batch: Batch) -> str:
        return explain_failure(batch, 0, self._model, code)

    def _failure(self, why: str, atoms: Atoms) -> CalculationFailedError:
        return CalculationFailedError(
            f"{name_of(self._model)} gives nothing for {atoms.get_chemical_formula()}: {why}. Start from another "
            f"structure, or take shorter steps."
        )


def name_of(model: BaseModelMixin) -> str:
    """Return what people call a model."""
    return model.model_card.name or type(model).__name__


def bytes_of(value: Any) -> bytes:
    """Return what two equal values have in common: arrays, numbers, texts, or None."""
    return np.asarray(value).tobytes()


def _composition(atoms: Atoms, labels: Collection[str]) -> list[bytes]:
    """Return what a batch is made for, beside positions and cell: elements, periodicity, and what the model reads."""
    values = [atoms.numbers, atoms.pbc, *(atoms.arrays.get(name, atoms.info.get(name)) for name in labels)]
    return [bytes_of(value) for value in values]
