"""StillingerWeberModelWrapper: pairs and angles of covalent crystals."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from athanor.data.elements import number_of_element
from athanor.errors import InputError
from athanor.kernels import stillinger_weber
from athanor.models.analytic import AnalyticModel
from athanor.models.card import ModelCard
from athanor.models.element_table import DoubleTables, ElementTable
from athanor.models.pair_model import analytic_config
from athanor.models.stillinger_weber.terms import Terms, Triplet, read_stillinger_weber, tables
from athanor.models.stored_list import list_inputs

if TYPE_CHECKING:
    from athanor._typing import ModelOutputs
    from athanor.data.atomic_data import AtomicData
    from athanor.data.batch import Batch


class StillingerWeberModelWrapper(AnalyticModel):
    r"""Stillinger-Weber potential of one or several elements.

    .. math:: E = \sum_{i<j} A\epsilon\left[B\left(\frac{\sigma}{r}\right)^p - \left(\frac{\sigma}{r}\right)^q\right]
              e^{\sigma/(r - a\sigma)} + \sum_i \sum_{j<k} \lambda\epsilon\,(\cos\theta_{jik} - \cos\theta_0)^2\,
              e^{\gamma\sigma/(r_{ij} - a\sigma)}\,e^{\gamma\sigma/(r_{ik} - a\sigma)}

    Use it for silicon and its like: crystals, melts, glasses, with the file of a fit.

    Parameters
    ----------
    terms
        Parameters of each triplet of elements; `from_file` reads them.
    elements
        Those to take, by symbol or number; by default all that are named.

    Raises
    ------
    InputError
        If a triplet is missing, or two that mean the same differ.

    Notes
    -----
    Parameters of a pair i, j are those of the triplet i j j, as in LAMMPS; of a triplet with different neighbours only
    epsilon, lambda and the cosine are read. Computes energy and forces unless ``model_config.active_outputs`` says
    otherwise; stress can be added. Needs a full neighbour list. Sums are in float64, results in the dtype of the
    positions; a system gets the same bits alone and among others, in any slot and at any number of threads.

    References
    ----------
    .. [1] F. H. Stillinger, T. A. Weber, Phys. Rev. B 31, 5262 (1985). doi:10.1103/PhysRevB.31.5262

    Examples
    --------
    >>> from athanor.models.stillinger_weber import StillingerWeberModelWrapper, Terms
    >>> silicon = Terms(2.1683, 2.0951, 1.8, 21.0, 1.2, -1 / 3, 7.049556277, 0.6022245584, 4.0, 0.0)
    >>> model = StillingerWeberModelWrapper({("Si", "Si", "Si"): silicon})
    >>> round(model.model_config.neighbor_config.cutoff, 3)
    3.771
    """

    def __init__(self, terms: Mapping[Any, Terms], *, elements: Collection[str | int] | None = None) -> None:
        super().__init__()
        by_number = {_triplet(key): value for key, value in terms.items()}
        named = {element for triplet in by_number for element in triplet}
        wanted = named if elements is None else {number_of_element(element) for element in elements}
        if not wanted:
            raise InputError("`terms` names no element; give parameters as for ('Si', 'Si', 'Si').")
        chosen = sorted(wanted)
        self.terms = {triplet: value for triplet, value in by_number.items() if wanted.issuperset(triplet)}
        pair, triple = tables(self.terms, chosen)
        self._tables = DoubleTables(pair=pair, triple=triple)
        self.cutoff = float(pair[..., 6].max())
        types = {element: place for place, element in enumerate(chosen)}
        advice = "Choose a potential that was made for them."
        self._types = ElementTable(types, torch.int32, type(self).__name__, advice=advice)
        self.model_config = analytic_config(self.cutoff, half_list=False)
        self.model_card = ModelCard(
            name="Stillinger-Weber",
            kind="materials",
            elements=frozenset(chosen),
            conservative=True,
            equivariant=True,
            smooth=all(value.tol <= 0.0 for value in self.terms.values()),
            batch_invariance="verified",
            stress_keeps_forces=True,
            licence="Apache-2.0",
            citation="doi:10.1103/PhysRevB.31.5262",
        )

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], *, elements: Collection[str | int] | None = None
    ) -> StillingerWeberModelWrapper:
        """Read parameters.

        Parameters
        ----------
        path
            A file in the form of LAMMPS's ``pair_style sw``, in its ``metal`` units: eV and Å.
        elements
            Those to take from it; by default all.

        Raises
        ------
        InputError
            If there is no such file, or it is damaged or something else; the text names the line and what was expected.
        """
        terms, digest = read_stillinger_weber(path)
        model = cls(terms, elements=elements)
        model.model_card = replace(model.model_card, weights_digest=digest)
        return model

    def adapt_input(self, data: AtomicData | Batch, **kwargs: Any) -> dict[str, Any]:
        """Return the arguments of the operation, read from the stored pair list.

        Raises
        ------
        ContractError
            A `TypeError`, if `data` is not a Batch.
        MissingFieldError
            A `KeyError`, if there is no neighbour list.
        InputError
            If the list is half, was searched too short or before a system joined, or an element has no parameters.
        """
        inputs = list_inputs(self, data, self.cutoff)
        if inputs.pop("half"):
            raise InputError(
                f"The neighbour list has each pair once; {type(self).__name__} needs both directions. Build it with "
                f"`compute_neighbors(batch, config=model.model_config.neighbor_config)`."
            )
        device = inputs["positions"].device
        return {**inputs, **self._tables.on(device), "types": self._types.of(data.atomic_numbers)}

    def forward(self, data: AtomicData | Batch, **kwargs: Any) -> ModelOutputs:
        """Return the active outputs of a batch that has a neighbour list."""
        energy, forces, virial = stillinger_weber(**self.adapt_input(data, **kwargs))
        return self.adapt_output({"energy": energy, "forces": forces, "virial": virial}, data)


def _triplet(key: Any) -> Triplet:
    if not isinstance(key, tuple) or len(key) != 3:
        raise InputError(f"`terms` has the key {key!r}; name three elements, such as ('Si', 'Si', 'Si').")
    i, j, k = (number_of_element(element) for element in key)
    return i, j, k
