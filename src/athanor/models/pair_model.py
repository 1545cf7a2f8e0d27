"""PairModel: what models of pair potentials have in common; formulas stand in ``kernels/pairs/forms``."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch

from athanor.data.elements import MAX_ATOMIC_NUMBER
from athanor.errors import InputError
from athanor.kernels.pairs import pair_potential, pair_table
from athanor.models.analytic import AnalyticModel
from athanor.models.card import ModelCard
from athanor.models.config import ModelConfig
from athanor.models.element_table import DoubleTables, ElementTable
from athanor.models.stored_list import list_inputs
from athanor.neighbors.config import NeighborConfig, NeighborListFormat

if TYPE_CHECKING:
    from athanor._typing import ModelOutputs
    from athanor.data.atomic_data import AtomicData
    from athanor.data.batch import Batch


class PairModel(AnalyticModel):
    """Base of pair potentials with a form: a subclass makes tables of its parameters and hands them on.

    Parameters
    ----------
    form
        Name of the formula.
    parameters
        float64 [T, T] each, in the order of the form.
    elements
        Atomic numbers of rows and columns; none if one row is for all elements.
    name, citation
        For the card.
    cutoff
        Å, checked.
    switch_width
        Å over which the energy is tapered to zero, checked.
    shift
        Whether to subtract the energy at the cutoff.
    half_list
        Whether to ask for a list with each pair once; either kind is read.
    smooth
        Whether energy, forces and their slope are zero at the cutoff; by default if there is a taper.
    argument, advice
        What messages about elements without parameters name as the place for them, or advise otherwise.
    """

    _settled: Collection[str] = ()
    """Attributes that the table was made from."""

    def __init__(
        self,
        form: str,
        parameters: Sequence[torch.Tensor],
        elements: Sequence[int],
        *,
        name: str,
        citation: str,
        cutoff: float,
        switch_width: float = 0.0,
        shift: bool = False,
        half_list: bool = False,
        smooth: bool | None = None,
        argument: str = "",
        advice: str = "",
    ) -> None:
        super().__init__()
        self.cutoff, self.switch_width, self.shift, self.half_list = cutoff, switch_width, shift, half_list
        self._form = form
        self._tables = DoubleTables(table=pair_table(form, cutoff, shift, *parameters))
        types = dict(zip(elements, range(len(elements)), strict=True)) or dict.fromkeys(range(MAX_ATOMIC_NUMBER + 1), 0)
        self._types = ElementTable(types, torch.int32, type(self).__name__, argument, advice=advice)
        self.model_config = analytic_config(cutoff, half_list)
        self.model_card = ModelCard(
            name=name,
            elements=frozenset(elements) or None,
            conservative=True,
            equivariant=True,
            smooth=switch_width > 0.0 if smooth is None else smooth,
            batch_invariance="verified",
            stress_keeps_forces=True,
            licence="Apache-2.0",
            citation=citation,
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if "model_config" in self.__dict__ and (name in self._settled or name in ("cutoff", "shift")):
            raise InputError(f"`{name}` of a {type(self).__name__} can not be changed. Make another one.")
        super().__setattr__(name, value)

    def adapt_input(self, data: AtomicData | Batch, **kwargs: Any) -> dict[str, Any]:
        """Return the arguments of the operation, read from the stored pair list.

        Raises
        ------
        ContractError
            A `TypeError`, if `data` is not a Batch.
        MissingFieldError
            A `KeyError`, if there is no neighbour list.
        InputError
            If the list was searched too short or before a system joined, or an element has no parameters.
        """
        inputs = list_inputs(self, data, self.cutoff)
        return {
            **inputs,
            **self._tables.on(inputs["positions"].device),
            "types": self._types.of(data.atomic_numbers),
            "form": self._form,
            "cutoff": self.cutoff,
            "switch_width": self.switch_width,
            "virial": "stress" in (self.model_config.active_outputs or ()),
        }

    def forward(self, data: AtomicData | Batch, **kwargs: Any) -> ModelOutputs:
        """Return the active outputs of a batch that has a neighbour list."""
        energy, forces, virial = pair_potential(**self.adapt_input(data, **kwargs))
        return self.adapt_output({"energy": energy, "forces": forces, "virial": virial}, data)


def analytic_config(cutoff: float, half_list: bool) -> ModelConfig:
    """Return the configuration of a model whose kernel reads the stored list, half or full."""
    return ModelConfig(
        outputs=frozenset({"energy", "forces", "stress"}),
        supports_pbc=True,
        neighbor_config=NeighborConfig(cutoff=cutoff, format=NeighborListFormat.MATRIX, half_list=half_list),
        active_outputs={"energy", "forces"},
    )


def as_float(name: str, value: object) -> float:
    """Return `value` as a float, or refuse it by name."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InputError(f"`{name}` is {value!r}; it must be a number, for example 3.4.") from error


def checked_range(cutoff: object, switch_width: object) -> tuple[float, float]:
    """Return both as numbers, or refuse what is out of range."""
    cutoff, switch_width = as_float("cutoff", cutoff), as_float("switch_width", switch_width)
    if not (0.0 < cutoff < math.inf):
        raise InputError(f"`cutoff` is {cutoff} Å; it must be finite and positive.")
    if not (0.0 <= switch_width < math.inf):
        raise InputError(f"`switch_width` is {switch_width} Å; it must be finite and not negative.")
    if switch_width > cutoff:
        raise InputError(
            f"`switch_width` is {switch_width} Å, more than `cutoff` = {cutoff} Å. 0.5 to 1 is a good width."
        )
    return cutoff, switch_width
