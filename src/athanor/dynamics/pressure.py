"""What integrators under a target pressure share: the pressure itself, and what of a cell may follow it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.data.stress import is_partly_periodic
from athanor.dynamics.engine import BaseDynamics
from athanor.dynamics.failures import FailureCode
from athanor.dynamics.optimizers.variable_cell import check_pressure
from athanor.dynamics.state import Parameter, check_positive
from athanor.errors import InputError
from athanor.units import fs_to_internal_time

if TYPE_CHECKING:
    from athanor.data.batch import Batch

COUPLINGS = ("isotropic", "anisotropic", "triclinic")
"""What of a cell moves: its volume; its three axes along x, y and z; everything but its orientation."""
_ROUNDING = 1e-6
"""Of the largest component, between two that should be equal: tensors are computed in float32, too."""


class Pressure(Parameter):
    """A target pressure, eV/Å³: a number, or for each system a number [B], a diagonal [B, 3] or a tensor [B, 3, 3].

    Its rows are symmetric tensors [B, 3, 3], float64.
    """

    def __init__(self) -> None:
        super().__init__(check_pressure, unit="eV/Å³ (1 GPa is `athanor.units.GPa`)")

    def rows_of(self, engine: Any, value: Any, batch: Batch) -> Tensor:
        """Return `value` as tensors [B, 3, 3]."""
        tensor = torch.as_tensor(value, dtype=torch.float64, device=batch.device)
        if tensor.shape[1:] == (1,):
            tensor = tensor[:, 0]
        if tensor.ndim > 0 and (tensor.shape[0] not in (1, len(batch)) or tensor.shape[1:] not in ((), (3,), (3, 3))):
            size = len(batch)
            raise InputError(
                f"`{self.name}` has shape {tuple(tensor.shape)}; the batch has {len(batch)} systems. Give a number, or "
                f"for each system a number ({size},), a diagonal ({size}, 3) or a tensor ({size}, 3, 3)."
            )
        if tensor.shape == (3, 3) and engine.pressure_coupling == "triclinic":
            raise InputError(
                f"`{self.name}` of shape (3, 3) is one tensor, or the diagonals of 3 systems. Give `{self.name}[None]` "
                f"for one tensor of all systems, or `torch.diag_embed({self.name})` for three diagonals."
            )
        eye = torch.eye(3, dtype=torch.float64, device=batch.device)
        if tensor.ndim == 2:
            tensor = tensor[:, :, None] * eye
        elif tensor.ndim < 2:
            tensor = tensor[..., None, None] * eye
        largest = tensor.abs().amax(dim=(-2, -1), keepdim=True)
        if bool(((tensor - tensor.mT).abs() > _ROUNDING * largest).any()):
            raise InputError(
                f"`{self.name}` has a tensor that is not symmetric, under which a cell would turn for ever."
            )
        tensor = 0.5 * (tensor + tensor.mT)
        self._check_coupling(engine, tensor, eye)
        return tensor.expand(len(batch), 3, 3).clone()

    def _check_coupling(self, engine: Any, tensor: Tensor, eye: Tensor) -> None:
        """Raise InputError if a cell can not follow the pressure."""
        coupling = engine.pressure_coupling
        follows = {"isotropic": tensor[..., :1, :1] * eye, "anisotropic": tensor * eye}.get(coupling, tensor)
        if bool((follows != tensor).any()):
            raise InputError(
                f"`{self.name}` differs between directions in a way that a cell with "
                f'`pressure_coupling="{coupling}"` can not follow. Use '
                f"{'anisotropic or triclinic' if coupling == 'isotropic' else 'triclinic'} coupling, or one number."
            )


class UnderPressure(BaseDynamics):
    """Mixed into `Motion`: a target pressure and the time in which cells follow it."""

    __needs_keys__ = frozenset({"forces", "stress"})
    __provides_keys__ = frozenset({"positions", "velocities", "cell"})
    pressure = Pressure()
    barostat_time = Parameter(check_positive, unit="fs", convert=fs_to_internal_time)
    pressure_coupling: str

    def misfits(self, batch: Batch) -> Tensor | None:
        """Molecules, slabs and wires: a pressure on them would act on empty space."""
        wrong = is_partly_periodic(batch) | ~batch.has_cell
        return wrong.long() * int(FailureCode.PRESSURE_WITHOUT_CRYSTAL) if bool(wrong.any()) else None

    @property
    def coupling(self) -> int:
        """Place of its coupling among `COUPLINGS`."""
        return COUPLINGS.index(self.pressure_coupling)

    def _projected(self, tensors: Tensor) -> Tensor:
        """Part of symmetric `tensors` [B, 3, 3] by which the coupling lets a cell strain, each with the same weight."""
        if self.pressure_coupling == "triclinic":
            return tensors
        if self.pressure_coupling == "anisotropic":
            return torch.diag_embed(tensors.diagonal(dim1=1, dim2=2))
        return torch.diag_embed((trace(tensors) / 3.0)[:, None].expand(-1, 3))


def check_coupling(coupling: str) -> str:
    """Return `coupling`.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    if coupling not in COUPLINGS:
        raise InputError(f"`pressure_coupling` is {coupling!r}; use one of {', '.join(COUPLINGS)}.")
    return coupling


def trace(tensors: Tensor) -> Tensor:
    """Return the traces of tensors [B, 3, 3], [B]."""
    return tensors[:, 0, 0] + tensors[:, 1, 1] + tensors[:, 2, 2]
