"""EAMModelWrapper: embedded-atom potentials from their usual files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from athanor.kernels import embedded_atom
from athanor.models.analytic import AnalyticModel
from athanor.models.card import ModelCard
from athanor.models.eam.readers import read_eam
from athanor.models.eam.tables import EAMTables, cubic_pieces
from athanor.models.element_table import DoubleTables, ElementTable
from athanor.models.pair_model import analytic_config
from athanor.models.stored_list import list_inputs

if TYPE_CHECKING:
    from athanor._typing import ModelOutputs
    from athanor.data.atomic_data import AtomicData
    from athanor.data.batch import Batch


class EAMModelWrapper(AnalyticModel):
    r"""Embedded-atom potential of a metal or an alloy, with the tables and the interpolation of LAMMPS.

    .. math:: E = \sum_i F_i(\bar\rho_i) + \sum_{i<j} \phi_{ij}(r_{ij}), \qquad \bar\rho_i = \sum_j \rho_{ij}(r_{ij})

    Use it for metals, with a file that was fitted to what you ask: the NIST Interatomic Potentials Repository has many.

    Parameters
    ----------
    tables
        What a file holds; `from_file` reads one.
    half_list
        Whether to ask for a list with each pair once.

    Notes
    -----
    Computes energy and forces unless ``model_config.active_outputs`` says otherwise; stress can be added. Sums are in
    float64, results in the dtype of the positions; a system gets the same bits alone and among others, in any slot and
    at any number of threads. Between values of a table stand cubic pieces, so that forces are continuous and their
    slopes are not quite; how smooth the end at the cutoff is, is a matter of the file. Densities beyond the table are
    embedded along a straight line.

    References
    ----------
    .. [1] M. S. Daw, M. I. Baskes, Phys. Rev. B 29, 6443 (1984). doi:10.1103/PhysRevB.29.6443
    .. [2] M. W. Finnis, J. E. Sinclair, Phil. Mag. A 50, 45 (1984). doi:10.1080/01418618408244210
    """

    def __init__(self, tables: EAMTables, *, half_list: bool = False) -> None:
        super().__init__()
        self.tables, self.cutoff = tables, tables.cutoff
        functions = {name: cubic_pieces(getattr(tables, name)) for name in ("embedding", "density", "pair")}
        self._functions = DoubleTables(**functions)
        types = {element: place for place, element in enumerate(tables.elements)}
        advice = "Choose a potential that was made for them."
        self._types = ElementTable(types, torch.int32, type(self).__name__, advice=advice)
        self.model_config = analytic_config(tables.cutoff, half_list)
        self.model_card = ModelCard(
            name="Embedded atom",
            kind="materials",
            elements=frozenset(tables.elements),
            conservative=True,
            equivariant=True,
            batch_invariance="verified",
            stress_keeps_forces=True,
            licence="of the file",
            citation=tables.comment,
            weights_digest=tables.digest,
        )

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, half_list: bool = False) -> EAMModelWrapper:
        """Read a potential.

        Parameters
        ----------
        path
            A file in the form of LAMMPS's ``eam/alloy`` (setfl), ``eam/fs`` or ``eam`` (funcfl); which, is recognized.
        half_list
            As for the constructor.

        Raises
        ------
        InputError
            If there is no such file, or it is damaged or something else; the text names the line and what was expected.
        """
        return cls(read_eam(path), half_list=half_list)

    def adapt_input(self, data: AtomicData | Batch, **kwargs: Any) -> dict[str, Any]:
        """Return the arguments of the operation, read from the stored pair list.

        Raises
        ------
        ContractError
            A `TypeError`, if `data` is not a Batch.
        MissingFieldError
            A `KeyError`, if there is no neighbour list.
        InputError
            If the list was searched too short or before a system joined, or the potential does not know an element.
        """
        inputs = list_inputs(self, data, self.cutoff)
        return {
            **inputs,
            **self._functions.on(inputs["positions"].device),
            "types": self._types.of(data.atomic_numbers),
            "density_step": self.tables.density_step,
            "distance_step": self.tables.distance_step,
            "cutoff": self.cutoff,
        }

    def forward(self, data: AtomicData | Batch, **kwargs: Any) -> ModelOutputs:
        """Return the active outputs of a batch that has a neighbour list."""
        energy, forces, virial = embedded_atom(**self.adapt_input(data, **kwargs))
        return self.adapt_output({"energy": energy, "forces": forces, "virial": virial}, data)
