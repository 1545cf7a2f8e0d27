"""Networks that predict forces or stress, on a small one of our own; and packages of networks that are absent."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.errors import OptionalDependencyError
from athanor.models import (
    LennardJonesModelWrapper,
    MetatomicWrapper,
    PipelineGroup,
    PipelineModelWrapper,
    UMAWrapper,
)
from athanor.models.card import ModelCard
from athanor.models.config import ModelConfig
from athanor.models.learned import DERIVATIVES
from athanor.models.predicted import PredictingModel
from athanor.neighbors import NeighborConfig, compute_neighbors
from athanor.testing import Verdict, check_model

CUTOFF = 4.0


class Squares(PredictingModel):
    """An energy of squared distances, whose slope is predicted with an error of one per cent, and a stress of twice."""

    def __init__(self, *predicted: str) -> None:
        super().__init__(nn.Linear(1, 1).double().requires_grad_(False), [8, 18])
        self.predicted = frozenset(predicted)
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", *DERIVATIVES}),
            autograd_outputs=DERIVATIVES - self.predicted,
            supports_pbc=True,
            neighbor_config=NeighborConfig(cutoff=CUTOFF),
        )
        self.model_card = ModelCard(conservative=not predicted, elements=self.elements)

    def network_outputs(self, graph: Any, wanted: Any) -> Mapping[str, torch.Tensor | None]:
        i, _ = graph.edge_index
        left = (1.0 - (graph.vectors**2).sum(1, keepdim=True) / CUTOFF**2).clamp(min=0.0)
        energies = graph.positions.new_zeros(graph.num_nodes).index_add(0, i, left.squeeze(1) ** 3)
        slope = (-6.0 / CUTOFF**2) * left**2 * graph.vectors  # of the energy of a pair, by its vector
        found = {"atomic_energies": energies}
        if "forces" in self.predicted & wanted:
            found["forces"] = 1.01 * torch.zeros_like(graph.positions).index_add(0, i, 2.0 * slope)
        if "stress" in self.predicted & wanted:
            products = 2.0 * graph.vectors.unsqueeze(2) * slope.unsqueeze(1)
            sums = torch.zeros_like(graph.cell).index_add(0, graph.batch_idx[i], products)
            volume = torch.linalg.det(graph.cell).abs().view(-1, 1, 1)
            found["stress"] = sums / volume
        return found


def batch() -> Batch:
    """A crystal and a pair, which has no cell."""
    cell = torch.eye(3).double().unsqueeze(0) * 5.0
    corners = torch.tensor([[0, 0, 0], [0, 2.5, 2.5], [2.5, 0, 2.6], [2.4, 2.5, 0]]).double()
    crystal = AtomicData(positions=corners, atomic_numbers=torch.full((4,), 18), cell=cell, pbc=torch.ones(1, 3).bool())
    pair = AtomicData(positions=corners[:2].clone(), atomic_numbers=torch.tensor([8, 8]))
    found = Batch.from_data_list([crystal, pair])
    compute_neighbors(found, config=NeighborConfig(cutoff=CUTOFF))
    return found


@pytest.mark.parametrize("predicted", [("forces",), ("stress",), ("forces", "stress")])
def test_what_is_predicted_counts_and_the_rest_is_differentiated(predicted: tuple[str, ...]) -> None:
    exact, found = Squares()(batch()), Squares(*predicted)(batch())
    factor = {"forces": 1.01, "stress": 2.0}
    torch.testing.assert_close(found["energy"], exact["energy"], rtol=0, atol=0)
    for name in sorted(DERIVATIVES):
        expected = exact[name] * (factor[name] if name in predicted else 1.0)
        torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=1e-12)
    assert not found["stress"][1].any()
    assert not any(value.requires_grad for value in found.values())


@pytest.mark.parametrize("predicted", [(), ("forces",), ("forces", "stress")], ids=str)
def test_what_is_predicted_counts_in_every_sum(predicted: tuple[str, ...]) -> None:
    """Called one after the other, or differentiated as a whole. Mutant: both the slope and what is predicted count."""
    model, partner = asked(Squares(*predicted)), asked(LennardJonesModelWrapper(0.2, 2.0, CUTOFF))
    apart = asked(model + partner)(batch())
    together = asked(PipelineModelWrapper([PipelineGroup([model, partner], use_autograd=True)]))(batch())
    for name, value in apart.items():
        torch.testing.assert_close(together[name], value, rtol=1e-10, atol=1e-10, msg=name)


def asked(model: Any) -> Any:
    model.model_config.active_outputs = {"energy", *DERIVATIVES}
    return model


def test_the_kit_tells_predicted_forces_from_slopes() -> None:
    """A network that claims to conserve energy beside forces of its own is a broken twin."""
    for model, expected in ((Squares(), Verdict.PASSED), (Squares("forces"), Verdict.NOT_CLAIMED)):
        assert check_model(model, checks=["forces"], elements=[18], distance=3.0).verdict("forces") is expected
    liar = Squares("forces")
    liar.model_card = ModelCard(conservative=True, elements=liar.elements)
    report = check_model(liar, checks=["forces"], elements=[18], distance=3.0)
    assert report.verdict("forces") is Verdict.FAILED


@pytest.mark.parametrize(("wrapper", "package"), [(UMAWrapper, "fairchem"), (MetatomicWrapper, "metatomic")])
def test_an_absent_package_names_what_to_install(
    wrapper: Any, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (package, *(name for name in sys.modules if name.startswith(f"{package}."))):
        monkeypatch.setitem(sys.modules, name, None)
    extra = {"fairchem": "uma"}.get(package, package)
    with pytest.raises(OptionalDependencyError, match=rf'pip install "athanor-md\[{extra}\]"'):
        wrapper.from_checkpoint(tmp_path / "model.pt", trust=True)
