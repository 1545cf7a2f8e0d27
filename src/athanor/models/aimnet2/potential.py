"""`aimnet2_potential`: an AIMNet2 network with the Coulomb sum and the dispersion that it was trained with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from athanor.models.aimnet2.wrapper import AIMNet2Wrapper
from athanor.models.dftd3 import DFTD3ModelWrapper
from athanor.models.ewald import EwaldModelWrapper
from athanor.models.mixin import BaseModelMixin
from athanor.models.pipeline import PipelineGroup, PipelineModelWrapper

if TYPE_CHECKING:
    from athanor.data.batch import Batch


def aimnet2_potential(
    checkpoint_path: Path | str,
    device: torch.device | str = "cpu",
    *,
    coulomb_cutoff: float = 8.0,
    accuracy: float = 1e-6,
    slab_correction: bool = False,
    compile_model: bool = False,
    trust: bool = False,
) -> BaseModelMixin:
    """Return an AIMNet2 model whole: the network, Coulomb energy of its charges, and D3(BJ), as far as it needs them.

    Parameters
    ----------
    checkpoint_path, device, compile_model, trust
        As in `AIMNet2Wrapper.from_checkpoint`.
    coulomb_cutoff
        Å, of the Ewald sum over pairs of periodic systems; it decides the time, not the result.
    accuracy
        Relative error of the Ewald sum.
    slab_correction
        As in `EwaldModelWrapper`, for slabs in a cell with vacuum.

    Notes
    -----
    Molecules are summed over all pairs of charges, periodic systems by Ewald; the calculator of aimnet takes a damped
    shifted force for the latter, unless told otherwise. Dispersion ends at 15 Å, as there. Forces and stress contain
    what acts through the charges.
    """
    network = AIMNet2Wrapper.from_checkpoint(checkpoint_path, device, compile_model, trust=trust)
    models: list[BaseModelMixin] = [network]
    if network.needs_coulomb:
        models.append(AIMNet2Coulomb(coulomb_cutoff, accuracy, slab_correction=slab_correction))
    if network.d3_parameters:
        a1, a2, s8, s6 = (network.d3_parameters[name] for name in ("a1", "a2", "s8", "s6"))
        models.append(DFTD3ModelWrapper(a1, a2, s8, s6=s6))
    if len(models) == 1:
        return network
    return PipelineModelWrapper([PipelineGroup(models, use_autograd=True)])


class AIMNet2Coulomb(EwaldModelWrapper):
    """An Ewald sum that takes batches of molecules without cells too."""

    def __init__(self, cutoff: float, accuracy: float, *, slab_correction: bool) -> None:
        super().__init__(cutoff, accuracy, slab_correction=slab_correction)
        self.model_config = self.model_config.model_copy(update={"needs_pbc": False})

    def _check_cells(self, batch: Batch) -> None:
        """Whoever has no cell is summed over all pairs."""
