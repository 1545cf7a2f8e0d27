"""PredictingModel: networks that give forces or stress themselves, beside an energy that they are not the slope of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from athanor.models.derivatives import energy_and_derivatives
from athanor.models.learned import DERIVATIVES, LearnedModel, as_batch

if TYPE_CHECKING:
    from collections.abc import Set

    import torch

    from athanor.data.atomic_data import AtomicData
    from athanor.data.batch import Batch


class PredictingModel(LearnedModel):
    """Base of wrappers whose `network_outputs` gives the derivatives in `predicted`, where they are wanted.

    Those count, in a call of the model and in every sum of models: where a sum is differentiated as a whole, they are
    added as they are, and the slope of this energy is left out. Takes the arguments of `LearnedModel`.
    """

    predicted: frozenset[str] = frozenset()
    """Of forces and stress, what the network gives; the others are derivatives of its energy."""

    def direct_derivative_keys(self) -> set[str]:
        """Forces and stress, of a network that predicts some."""
        return set(DERIVATIVES & self.model_config.outputs) if self.predicted else set()

    def evaluated(self, batch: Batch, wanted: Set[str], *, keep_graph: bool) -> dict[str, torch.Tensor]:
        """Return what is wanted of systems that are evaluated together; what is predicted is not differentiated."""
        asked = self.predicted & wanted
        view = _BesidePredicted(self, asked)
        found = energy_and_derivatives(view, batch, frozenset(wanted) - asked, keep_graph=keep_graph)
        return {key.removeprefix(_MARK): value for key, value in found.items()}

    def attached_energy(
        self, data: AtomicData | Batch, strain: torch.Tensor | None, wanted: Set[str]
    ) -> dict[str, torch.Tensor]:
        """Return the energy, attached unless forces or stress are predicted: then nobody is to differentiate it."""
        if not self.predicted:
            return super().attached_energy(data, strain, wanted)
        found = self.evaluated(as_batch(data), wanted, keep_graph=self._trains)
        return {**found, "energy": found["energy"].detach()}


_MARK = "predicted "


class _BesidePredicted(NamedTuple):
    """A model whose energy is differentiated for what is not `asked` of its network, which gives that under a mark."""

    model: LearnedModel
    asked: frozenset[str]

    def attached_energy(self, data: Any, strain: torch.Tensor | None, wanted: Set[str]) -> dict[str, torch.Tensor]:
        found = LearnedModel.attached_energy(self.model, data, strain, wanted | self.asked)
        return {f"{_MARK}{key}" if key in self.asked else key: value for key, value in found.items()}
