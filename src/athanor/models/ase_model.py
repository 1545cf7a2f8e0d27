"""ASEModelWrapper: a calculator of ASE behind the common interface, asked about one structure after the other.

Slow, and honest: every number is the calculator's own. The other way round, a model of athanor as a calculator of ASE,
is `athanor.workflows.calculator`.
"""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from athanor.data.batch import Batch
from athanor.data.convert.ase import PROPERTIES
from athanor.data.elements import voigt_to_matrix
from athanor.data.fields import FIELDS
from athanor.errors import ContractError, InputError, ModelOutputError, NotAvailableError
from athanor.models.card import ModelCard
from athanor.models.config import ModelConfig
from athanor.models.derivatives import carries_graph
from athanor.models.mixin import BaseModelMixin

if TYPE_CHECKING:
    from ase import Atoms

    from athanor._typing import ModelOutputs
    from athanor.data.atomic_data import AtomicData


class ASEModelWrapper(nn.Module, BaseModelMixin):
    """Any calculator of ASE as a model: in relaxations, dynamics and stages of batches, beside models of our own.

    Use it to try a potential that has no wrapper, to compare, or for a calculation that takes seconds anyway. It gains
    nothing from batches: a step costs as many calls as there are systems.

    Parameters
    ----------
    calculator
        A calculator, ready to use, such as ``EMT()``. It is not copied, so do not use it elsewhere meanwhile.
    name
        What the model is called in its card; by default what ASE calls the calculator.

    Raises
    ------
    ContractError
        If `calculator` is none, does not say what it computes, or computes none of what is known here.

    Notes
    -----
    Computes energy and forces, as far as there are, unless ``model_config.active_outputs`` says otherwise; stress
    (tensile positive), charges, magmoms, atomic_energies and dipole can be added where the calculator has them. The
    energy is its ``free_energy`` where it has one: the energy whose derivative the forces are. Each structure comes as
    atoms of its own, with its masses, tags, charges, moments, ``info["charge"]`` and ``info["spin"]``, to a calculator
    that was `reset`, so that nothing depends on the structure before. Moments and charges that are computed are the
    initial ones of the next step. A structure for which the calculator raises is set aside in a run, and the others go
    on. There are no gradients but the forces and stress that the calculator returns: inside an autograd group of a
    pipeline, or with positions that require grad, it raises `NotAvailableError`. Add it to other models outside of such
    groups. Systems without a cell have zero stress.

    References
    ----------
    .. [1] A. H. Larsen et al., J. Phys.: Condens. Matter 29, 273002 (2017). doi:10.1088/1361-648X/aa680e

    Examples
    --------
    >>> import athanor
    >>> from ase.build import bulk
    >>> from ase.calculators.emt import EMT
    >>> from athanor.models import ASEModelWrapper
    >>> result = athanor.relax([bulk("Cu", a=3.7), bulk("Al", a=3.9)], model=ASEModelWrapper(EMT()))
    >>> result.reasons
    ['converged', 'converged']
    """

    def __init__(self, calculator: Any, *, name: str = "") -> None:
        super().__init__()
        implemented = _implemented(calculator)
        self.calculator = calculator
        self._names = {
            field: next(name for name in names if name in implemented)
            for field, names in PROPERTIES.items()
            if not implemented.isdisjoint(names)
        }
        if not self._names:
            raise ContractError(
                f"{type(calculator).__name__} computes {', '.join(sorted(implemented)) or 'nothing'}, and none of "
                f"{', '.join(PROPERTIES)}. Pass another calculator."
            )
        outputs = frozenset(self._names)
        self.model_config = ModelConfig(
            outputs=outputs,
            optional_inputs=frozenset({"cell", "pbc", "charge", "spin", "charges", "magmoms", "tags"}),
            supports_pbc=True,
            active_outputs=set(outputs & {"energy", "forces"}),
        )
        self.model_card = ModelCard(
            name=name or f"ASE {getattr(calculator, 'name', '') or type(calculator).__name__}",
            batch_invariance="not_verified",
            citation="doi:10.1088/1361-648X/aa680e",
        )

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """Empty: a calculator shows none."""
        return {}

    def compute_embeddings(self, data: AtomicData | Batch, **kwargs: Any) -> AtomicData | Batch:
        """Not offered."""
        raise NotAvailableError(f"{type(self).__name__} has no embeddings.")

    def forward(self, data: AtomicData | Batch, **kwargs: Any) -> ModelOutputs:
        """Return the active outputs of a batch, or of one structure.

        Raises
        ------
        NotAvailableError
            If positions or cell require grad: what a calculator returns has none.
        InputError
            If stress is active and no system has a cell.
        ModelOutputError
            If the calculator returns something of another shape than there are atoms.
        """
        if torch.is_grad_enabled() and carries_graph(data):
            raise self._has_no_graph()
        fields = sorted(self.output_data())
        if "stress" in fields and data.get("cell") is None:
            raise InputError(
                f"{type(self).__name__}: stress output requires cell, and none of the systems has one. Remove "
                f"'stress' from `model_config.active_outputs`."
            )
        structures = data.to_atoms() if isinstance(data, Batch) else [data.to_atoms()]
        found = [self._results(atoms, fields) for atoms in structures]
        rows = {field: np.concatenate([each[field] for each in found]) for field in fields}
        outputs = {field: torch.from_numpy(value).to(data["positions"]) for field, value in rows.items()}
        return self.adapt_output(outputs, data)

    def _results(self, atoms: Atoms, fields: list[str]) -> dict[str, np.ndarray]:
        """Ask about one structure, and return rows of `fields`, float64."""
        atoms.calc = None  # what `to_atoms` put there: results of another model, or of an earlier step
        _forget(self.calculator)
        in_order = [field for field in reversed(PROPERTIES) if field in fields]  # most have the energy with the forces
        return {field: self._rows(atoms, field) for field in in_order}

    def _rows(self, atoms: Atoms, field: str) -> np.ndarray:
        if field == "stress" and not atoms.pbc.any():
            return np.zeros((1, 3, 3))
        name, spec = self._names[field], FIELDS[field]
        from ase.calculators.calculator import PropertyNotImplementedError  # here, so that models load without it

        try:
            value = np.asarray(self.calculator.get_property(name, atoms), dtype=np.float64)
        except PropertyNotImplementedError as error:
            raise ModelOutputError(
                f"{type(self.calculator).__name__} lists `{name}` and does not compute it. Leave `{field}` out of "
                f"`model_config.active_outputs`."
            ) from error
        if field == "stress" and value.shape == (6,):
            value = voigt_to_matrix(torch.from_numpy(value)).numpy()
        expected = (len(atoms), *spec.shape) if spec.level == "node" else spec.shape
        if value.shape != expected and (expected != (1,) or value.size != 1):
            raise ModelOutputError(
                f"`{name}` from {type(self.calculator).__name__} has shape {value.shape} for {len(atoms)} atoms; "
                f"expected {expected}. Leave `{field}` out of `model_config.active_outputs`."
            )
        return value.reshape(-1, *spec.shape)

    def attached_energy(
        self, data: AtomicData | Batch, strain: torch.Tensor | None, wanted: Set[str]
    ) -> dict[str, torch.Tensor]:
        """Refuse: what a calculator returns can not be differentiated."""
        raise self._has_no_graph()

    def _has_no_graph(self) -> NotAvailableError:
        name = type(self).__name__
        return NotAvailableError(
            f"The energy of {name} can not be differentiated: a calculator of ASE returns numbers, and its forces and "
            f"stress are all the derivatives that there are. Add them to those of other models outside of autograd "
            f"groups, and hand in positions without a graph, `batch.positions.detach()`."
        )


def _implemented(calculator: Any) -> frozenset[str]:
    """Return the names of what a calculator computes."""
    if isinstance(calculator, type):
        raise ContractError(
            f"`calculator` is the class {calculator.__name__}; pass an object, `{calculator.__name__}()`."
        )
    names = getattr(calculator, "implemented_properties", None)
    if names is None or not callable(getattr(calculator, "get_property", None)):
        raise ContractError(
            f"`calculator` is a {type(calculator).__name__}; pass a calculator of ASE, such as `EMT()`, with "
            f"`implemented_properties` and `get_property`."
        )
    return frozenset(names)


def _forget(calculator: Any) -> None:
    """Let a calculator forget the structure before."""
    if callable(getattr(calculator, "reset", None)):
        calculator.reset()
    elif hasattr(calculator, "results"):  # the newer of ASE's base classes has no method for it
        calculator.atoms, calculator.results = None, {}
