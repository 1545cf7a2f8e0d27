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

REFERENCE = json.loads(Path(__file__).parent.with_name("data").joinpath("chgnet_dcdft_ase_fire_tight.json").read_text())

# The potential has no dispersion: these creep away along paths that depend on the optimizer, also among ASE's own.
SOFT = {"H", "N", "O", "F", "Cl", "I", "P", "As", "Se", "Sb", "Xe", "Cs", "K", "Hg", "Po"}
# An exception that the stated set does not have: the collection's sulfur is a saddle. Ours keeps the symmetry and stops
# there, 16.8 Å^3. ASE leaves it in four of five runs (FIRE dt=0.1, the reference: 32.7; dt=0.05: 32.2; BFGS: 32.3;
# disturbed start: 34.2) and stops there in one (FIRE dt=0.2).
SADDLES = {"S"}
SAMPLE = ["Li", "Be", "Na", "Mg", "Al", "Si", "Ca", "Ti", "Fe", "Cu", "Ge", "Mo", "Pd", "Ag", "Ba", "W", "Pt", "Pb"]


def length_errors(names, engine_class=FIREVariableCell) -> dict[str, float]:
    """Relative difference of the length scale (cube root of the volume) to the reference, by element."""
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
    volumes = batch.volume / batch.num_nodes_per_graph
    return {
        name: (float(volume) / REFERENCE["elements"][name]["volume_per_atom"]) ** (1 / 3) - 1
        for name, volume in zip(names, volumes, strict=True)
    }


class PressedCell(FIREVariableCell):
    """Mutant: the cell feels 2 GPa that nobody asked for, and the criteria are met under that pressure."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, pressure=2.0 * units.GPa, **kwargs)


def test_common_crystals_agree_to_a_fifth_of_a_percent():
    errors = length_errors(SAMPLE)
    assert {name: error for name, error in errors.items() if abs(error) > 0.002} == {}


def test_agreement_fails_under_a_wrong_pressure():
    assert max(abs(error) for error in length_errors(["Al", "Si"], PressedCell).values()) > 0.002


@pytest.mark.validation
@pytest.mark.timeout(900)
def test_all_elements_agree_to_a_fifth_of_a_percent():
    errors = length_errors(list(dcdft.names))
    outside = {name: error for name, error in errors.items() if abs(error) > 0.002}
    assert set(outside) <= SOFT | SADDLES, outside
