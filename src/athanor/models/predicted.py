"""PredictingModel: networks that give forces or stress themselves, beside an energy that they are not the slope of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from athanor.models.derivatives import energy_and_derivatives
from athanor.models.learned import LearnedModel, as_batch

if TYPE_CHECKING:
    from athanor._typing import ModelOutputs
    from athanor.data.atomic_data import AtomicData
    from athanor.data.batch import Batch


class PredictingModel(LearnedModel):
    """Base of wrappers whose `network_outputs` gives the derivatives in `predicted`, where they are wanted.

    Those count for a call of the model. In a sum of models that is differentiated as a whole, the energy does. Takes
    the arguments of `LearnedModel`.
    """

    predicted: frozenset[str] = frozenset()
    """Of forces and stress, what the network gives; the others are derivatives of its energy."""

    def forward(self, data: AtomicData | Batch, **kwargs: Any) -> ModelOutputs:
        """Return the active outputs; a backward pass is taken for what the network does not predict."""
        batch, wanted = as_batch(data), self.output_data()
        asked = self.predicted & wanted
        if not asked:
            return self.outputs_by_autograd(batch)
        names = {f"predicted {name}": name for name in asked}  # so that nobody differentiates for them
        found = energy_and_derivatives(self, batch, (wanted - asked) | names.keys(), keep_graph=self._trains)
        outputs = {names.get(key, key): value for key, value in found.items()}
        if "predicted stress" in found:
            outputs["stress"] = torch.where(batch.has_cell.view(-1, 1, 1), outputs["stress"], 0.0)
        return self.adapt_output(outputs, batch)
