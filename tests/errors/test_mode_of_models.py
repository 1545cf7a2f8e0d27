"""Models are called as for use: in eval mode, and without the stress of systems that have no cell."""

from __future__ import annotations

import ase
import pytest
import torch
from ase.build import bulk, molecule
from torch import nn

import athanor
from athanor.data import AtomicData, Batch
from athanor.dynamics import NVE
from athanor.models.base import BaseModelMixin, ModelConfig


class Noted(nn.Module, BaseModelMixin):
    """Springs to the origin, all outputs active; notes its mode and what it is asked for."""

    embedding_shapes: dict[str, tuple[int, ...]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Dropout(0.5)
        self.seen: list[tuple[bool, bool]] = []
        outputs = {"energy", "forces", "stress"}
        self.model_config = ModelConfig(outputs=outputs, autograd_outputs={"forces", "stress"}, supports_pbc=True)

    def compute_embeddings(self, data, **kwargs):
        raise NotImplementedError

    def forward(self, data, **kwargs):
        self.seen.append((self.training or self.inner.training, "stress" in self.model_config.active_outputs))
        return self.outputs_by_autograd(data)

    def attached_energy(self, data, strain, wanted):
        squares = self.inner(data.positions.square().sum(1))
        return {"energy": squares.new_zeros(len(data)).index_add(0, data.batch_idx, squares)[:, None]
                + (0.0 if strain is None else 0.0 * strain.sum())}  # fmt: skip


def in_a_run(model: Noted, atoms: ase.Atoms) -> None:
    NVE(model, dt=0.5, start_temperature=10.0).run(Batch.from_data_list([AtomicData.from_atoms(atoms)]), 3)


def in_ase(model: Noted, atoms: ase.Atoms) -> None:
    atoms.calc = athanor.AthanorCalculator(model)
    atoms.get_forces()


WAYS = {
    "run": in_a_run,
    "evaluate": lambda model, atoms: athanor.evaluate(atoms, model=model),
    "relax": lambda model, atoms: athanor.relax(atoms, model=model, max_steps=2, fixed_cell=True),
    "calculator": in_ase,
    "compute": lambda model, atoms: NVE(model, dt=0.5).compute(Batch.from_data_list([AtomicData.from_atoms(atoms)])),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_simulated_is_no_training(way: str) -> None:
    """Dropout would change the energy from call to call."""
    model = Noted()
    WAYS[way](model, bulk("Ar", "fcc", a=5.3))
    assert model.seen
    assert not any(training for training, _ in model.seen)
    assert model.training
    assert model.inner.training


@pytest.mark.parametrize("way", WAYS)
def test_nobody_asks_for_the_stress_of_a_molecule(way: str) -> None:
    model = Noted()
    WAYS[way](model, molecule("H2O"))
    assert not any(stress for _, stress in model.seen)
    assert model.model_config.active_outputs == {"energy", "forces", "stress"}
    total = model + Noted()
    WAYS[way](total, molecule("H2O"))
    assert torch.is_grad_enabled()
