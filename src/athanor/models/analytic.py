"""AnalyticModel: what models have in common whose kernels return energy, forces and virial together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from athanor.errors import InputError, ModelOutputError, NotAvailableError
from athanor.models.derivatives import stress_of_strain_gradient
from athanor.models.mixin import BaseModelMixin

if TYPE_CHECKING:
    from athanor._typing import ModelOutputs
    from athanor.data.atomic_data import AtomicData
    from athanor.data.batch import Batch


class AnalyticModel(nn.Module, BaseModelMixin):
    """Base of models whose kernels return energy, forces and virial together; nothing in them is learned.

    A model sets `model_config` and `model_card`, and in ``forward`` hands what its kernels return to `adapt_output`.
    """

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """Empty: nothing is learned."""
        return {}

    def compute_embeddings(self, data: AtomicData | Batch, **kwargs: Any) -> AtomicData | Batch:
        """Not offered."""
        raise NotAvailableError(f"{type(self).__name__} has no embeddings.")

    def adapt_output(self, model_output: Any, data: AtomicData | Batch) -> ModelOutputs:
        """Map ``energy``, ``forces``, and ``virial`` or ``stress``, to the active outputs.

        Raises
        ------
        InputError
            If stress is active and no system has a cell.
        ModelOutputError
            If an active output is missing.
        """
        outputs = super().adapt_output(model_output, data)
        virial = model_output.get("virial")
        if "stress" in outputs and not (outputs["stress"] is None and virial is None):
            cell = data.get("cell")
            if cell is None:
                raise InputError(
                    f"{type(self).__name__}: stress output requires cell, and this batch has none. Remove "
                    f"'stress' from `model_config.active_outputs`."
                )
            if outputs["stress"] is None:
                outputs["stress"] = stress_of_strain_gradient(-virial, cell)
        for key, value in outputs.items():
            if value is None:
                raise ModelOutputError(f"`{key}` is missing from model output of {type(self).__name__}.")
        return outputs
