"""AlignCellHook: everything that has a direction turns with the cell, and nothing else is touched."""

from __future__ import annotations

import pytest
import torch

from athanor.data import Batch
from athanor.data.observables import kinetic_energy
from athanor.dynamics import NPH, NVE, FIREVariableCell
from athanor.dynamics.hooks import AlignCellHook, align_cell
from athanor.errors import InputError
from athanor.testing.dynamics_contract import argon_cluster, argon_crystal
from athanor.testing.systems import moved
from athanor.units import GPa

from .runs import BEFORE_STEP, engine_with

F64 = torch.float64


def rotation(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    matrix, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=F64))
    return matrix * torch.linalg.det(matrix).sign()


def sheared(seed: int, turn: torch.Tensor | None = None):
    """A hot triclinic crystal, turned in space."""
    data = argon_crystal(2, seed)
    shear = torch.tensor([[1.0, 0, 0], [0.15, 1.02, 0], [-0.1, 0.2, 0.97]], dtype=F64)
    whole = shear if turn is None else shear @ turn
    data = moved(data, data.positions @ whole, data["cell"][0] @ whole)
    if turn is not None:
        data.velocities = data.velocities @ turn
    return data


def turned_batch() -> Batch:
    """A turned crystal, a molecule far from the origin, a turned slab, and an aligned crystal."""
    molecule = argon_cluster(5, 1)
    molecule.positions = molecule.positions + 20.0
    slab = sheared(2, rotation(2))
    slab.pbc = torch.tensor([[True, True, False]])
    return Batch.from_data_list([sheared(0, rotation(0)), molecule, slab, sheared(3)])


def fractional(batch: Batch, system: int) -> torch.Tensor:
    rows = batch.batch_idx == system
    return torch.linalg.solve(batch.cell[system].T, batch.positions[rows].T).T


def evaluated(hook=None) -> tuple[Batch, Batch]:
    """The batch with results before and after one call of the hook."""
    batch = turned_batch()
    engine = engine_with(NVE, dt=2.0)
    engine.model.model_config.active_outputs = {"energy", "forces", "stress"}
    engine.run(batch, 0)
    before = batch.clone()
    hook = AlignCellHook() if hook is None else hook
    hook(engine.make_context(BEFORE_STEP, batch), BEFORE_STEP)
    return before, batch


def test_lengths_angles_and_fractional_positions_stay():
    before, after = evaluated()
    metric = [torch.bmm(batch.cell, batch.cell.mT) for batch in (before, after)]
    torch.testing.assert_close(metric[1], metric[0], rtol=0, atol=1e-11)
    assert bool((after.cell[[0, 2, 3]].triu(1) == 0).all())
    assert bool((after.cell[[0, 2, 3]].diagonal(dim1=1, dim2=2) > 0).all())
    for system in (0, 2):
        torch.testing.assert_close(fractional(after, system), fractional(before, system), rtol=0, atol=1e-12)
    torch.testing.assert_close(kinetic_energy(after), kinetic_energy(before), rtol=1e-13, atol=0)


def test_molecules_and_aligned_cells_keep_every_bit():
    before, after = evaluated()
    for system in (1, 3):
        rows = before.batch_idx == system
        for name in ("positions", "velocities", "forces"):
            assert torch.equal(after[name][rows], before[name][rows]), name
        assert torch.equal(after.cell[system], before.cell[system])
        assert torch.equal(after.stress[system], before.stress[system])


def results_disagree(before: Batch, after: Batch) -> list[str]:
    """Fields that are not those of the turned state, as the model and mechanics have them."""
    fresh = after.clone()
    fresh.forces = None
    engine = engine_with(NVE, dt=2.0)
    engine.model.model_config.active_outputs = {"energy", "forces", "stress"}
    engine.run(fresh, 0)
    wrong = [
        name
        for name in ("energy", "forces", "stress")
        if not torch.allclose(fresh[name], after[name], rtol=0, atol=1e-10)
    ]
    power = [(batch.velocities * batch.forces).sum(dim=1) for batch in (before, after)]
    if not torch.allclose(*power, rtol=0, atol=1e-12):
        wrong.append("velocities")
    return wrong


def test_results_are_those_of_the_turned_state(monkeypatch):
    before, after = evaluated()
    assert after.fresh_results() == before.fresh_results() is not None
    assert results_disagree(before, after) == []
    for name, table in (("velocities", "_VECTORS"), ("forces", "_VECTORS"), ("stress", "_TENSORS")):
        with monkeypatch.context() as mutant:  # each field that is forgotten is noticed
            mutant.setattr(align_cell, table, tuple(n for n in getattr(align_cell, table) if n != name))
            assert name in results_disagree(*evaluated())


def test_a_molecule_that_collapses_would_be_noticed(monkeypatch):
    molecule = [batch.positions[batch.batch_idx == 1] for batch in evaluated()]
    assert torch.equal(*molecule)

    class Collapses(AlignCellHook):
        def __call__(self, ctx, stage):
            frame, _ = align_cell.aligned_frame(ctx.batch.cell)
            zero = (ctx.batch.cell == 0).flatten(1).all(1)
            axes = torch.where(zero[:, None, None], 0.0, frame)
            align_cell.turn_fields_(ctx.batch, axes, torch.ones_like(zero))

    molecule = [batch.positions[batch.batch_idx == 1] for batch in evaluated(Collapses())]
    assert float(molecule[1].abs().max()) == 0 < float(molecule[0].abs().max())


def test_a_turned_run_is_the_run_of_the_aligned_system():
    turned, aligned = (Batch.from_data_list([sheared(0, turn)]) for turn in (rotation(5), None))
    searched = []
    for batch in (turned, aligned):
        engine = engine_with(NVE, AlignCellHook(), dt=4.0)
        engine.run(batch, 40)
        searched.append(batch.pair_list.num_pairs)
    torch.testing.assert_close(turned.positions, aligned.positions, rtol=0, atol=1e-9)
    torch.testing.assert_close(turned.velocities, aligned.velocities, rtol=0, atol=1e-9)
    assert searched[0] == searched[1]


def test_the_neighbour_list_turns_with_its_system():
    batch = Batch.from_data_list([sheared(0, rotation(1))])
    engine = engine_with(NVE, dt=1.0)
    engine.run(batch, 1)
    searched = batch.pair_list.neighbors
    engine.register_hook(AlignCellHook())
    engine.run(batch, 1)
    assert bool((batch.cell.triu(1) == 0).all())
    assert batch.pair_list.neighbors is searched


def moving_cell(kind, *hooks, steps: int, **arguments) -> Batch:
    batch = Batch.from_data_list([sheared(0, rotation(4)), sheared(1)])
    engine_with(kind, *hooks, **arguments).run(batch, steps)
    return batch


TRICLINIC = {"dt": 4.0, "pressure": 0.02 * GPa, "barostat_time": 150.0, "pressure_coupling": "triclinic"}


@pytest.mark.parametrize(
    ("kind", "arguments"), [(NPH, TRICLINIC), (FIREVariableCell, {"dt": 0.3, "on_error": "raise"})]
)
def test_what_an_engine_remembers_turns_too(kind, arguments, monkeypatch):
    free, aligned = moving_cell(kind, steps=60, **arguments), moving_cell(kind, AlignCellHook(), steps=60, **arguments)
    torch.testing.assert_close(aligned.energy, free.energy, rtol=0, atol=1e-8)
    torch.testing.assert_close(aligned.volume, free.volume, rtol=1e-8, atol=0)
    with monkeypatch.context() as mutant:  # mutant: the rate of the cell stays behind
        mutant.setattr(align_cell, "_turn_state_", lambda *a: None)
        wrong = moving_cell(kind, AlignCellHook(), steps=60, **arguments)
    assert float((wrong.volume / free.volume - 1).abs().max()) > 1e-6


def test_a_pressure_with_directions_does_not_turn():
    pressure = torch.tensor([[0.01, 0.02, 0.01]] * 2, dtype=F64)
    arguments = {**TRICLINIC, "pressure": pressure}
    with pytest.raises(InputError, match=r"can not turn `pressure` of NPH"):
        moving_cell(NPH, AlignCellHook(), steps=1, **arguments)


def test_an_anisotropic_cell_is_aligned_before_it_moves():
    batch = moving_cell(NPH, AlignCellHook(), steps=5, **{**TRICLINIC, "pressure_coupling": "anisotropic"})
    assert bool((batch.cell.triu(1) == 0).all())
    batch = moving_cell(NPH, steps=5, **{**TRICLINIC, "pressure_coupling": "anisotropic"})
    engine = engine_with(NPH, **{**TRICLINIC, "pressure_coupling": "anisotropic"})
    engine.run(batch, 5)
    engine.register_hook(AlignCellHook())
    with pytest.raises(InputError, match="cell_momentum"):
        engine.run(batch, 1)


def test_finished_systems_and_companions():
    together = Batch.from_data_list([sheared(1, rotation(8)), sheared(0, rotation(4))])
    together.status = torch.tensor([[1], [0]])
    alone = Batch.from_data_list([sheared(0, rotation(4))])
    before = together.cell[0].clone()
    for batch in (together, alone):
        engine_with(NVE, AlignCellHook(), dt=2.0).run(batch, 5)
    assert torch.equal(together.cell[0], before)
    assert torch.equal(together.positions[32:], alone.positions)


def test_without_a_cell_nothing_happens():
    batch = Batch.from_data_list([argon_cluster(4, 0)])
    other = batch.clone()
    for one, hooks in ((batch, [AlignCellHook()]), (other, [])):
        engine_with(NVE, *hooks, dt=2.0, keep_velocities=True).run(one, 3)
    assert torch.equal(batch.positions, other.positions)
