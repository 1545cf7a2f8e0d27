"""FIRE with a moving cell on CHGNet, against ASE's FIRE with chgnet's own calculator, both converged tightly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ase.collections import dcdft

from athanor import units
from athanor.data import AtomicData, Batch
from athanor.dynamics import ConvergenceHook, FIREVariableCell
from athanor.models import registry

pytestmark = pytest.mark.chgnet


def read_volumes(name: str) -> dict[str, float]:
    """Volume per atom, Å^3, by element."""
    text = Path(__file__).parent.with_name("data").joinpath(name).read_text(encoding="utf-8")
    return {element: entry["volume_per_atom"] for element, entry in json.loads(text)["elements"].items()}


# The package in float64 is the reference, and in float32 a second one; why two, and what sulfur does: docs/adr/0003.
EXACT = read_volumes("chgnet_dcdft_ase_fire_tight_float64.json")
ROUNDED = read_volumes("chgnet_dcdft_ase_fire_tight.json")
SADDLES = {"S"}
# The potential has no dispersion: these creep away along paths that depend on the optimizer, also among ASE's own.
SOFT = {"H", "N", "O", "F", "Cl", "I", "P", "As", "Se", "Sb", "Xe", "Cs", "K", "Hg", "Po"}
SAMPLE = ["Li", "Be", "Na", "Mg", "Al", "Si", "Ca", "Ti", "Fe", "Cu", "Ge", "Mo", "Pd", "Ag", "Ba", "W", "Pt", "Pb",
          "S"]  # fmt: skip


def relaxed_volumes(names, engine_class=FIREVariableCell) -> dict[str, float]:
    """Volume per atom after our tight relaxation, Å^3, by element."""
    model = registry.get("chgnet")
    structures = [dcdft[name] for name in names]
    for atoms in structures:
        atoms.info.clear()
        atoms.calc = None
    batch = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in structures])
    criteria = ConvergenceHook.from_fmax_and_smax(0.005, 0.005 * units.GPa)
    engine = engine_class(model, dt=0.2, dt_max=1.0, mass_scale="mean", convergence_hook=criteria)
    for hook in model.make_neighbor_hooks():
        engine.register_hook(hook)
    engine.run(batch, 1500)
    assert int(batch.step.max()) < 1500
    return dict(zip(names, (batch.volume / batch.num_nodes_per_graph).tolist(), strict=True))


def outliers(volumes: dict[str, float], reference: dict[str, float]) -> dict[str, float]:
    """Elements whose length scale (cube root of the volume) is off by more than 0.2 %, and by how much."""
    errors = {name: (volume / reference[name]) ** (1 / 3) - 1 for name, volume in volumes.items()}
    return {name: error for name, error in errors.items() if abs(error) > 0.002}


class PressedCell(FIREVariableCell):
    """Mutant: the cell feels 2 GPa that nobody asked for, and the criteria are met under that pressure."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, pressure=2.0 * units.GPa, **kwargs)


def test_common_crystals_agree_to_a_fifth_of_a_percent():
    """With the package in float64; with it in float32 but for those that its rounding moves off their saddle."""
    volumes = relaxed_volumes(SAMPLE)
    assert outliers(volumes, EXACT) == {}
    assert set(outliers(volumes, ROUNDED)) == SADDLES


def test_agreement_fails_under_a_wrong_pressure():
    assert set(outliers(relaxed_volumes(["Al", "Si"], PressedCell), EXACT)) == {"Al", "Si"}


@pytest.mark.validation
@pytest.mark.timeout(900)
def test_all_elements_agree_to_a_fifth_of_a_percent():
    volumes = relaxed_volumes(list(dcdft.names))
    assert set(outliers(volumes, EXACT)) <= SOFT
    assert set(outliers(volumes, ROUNDED)) <= SOFT | SADDLES
