"""Target pressures: what may be given, whom they act on, and what a cell may do under them."""

from __future__ import annotations

import pytest
import torch
from ase.build import bulk

import athanor
from athanor.data import Batch
from athanor.dynamics import NPH, NPT, NVE, FailureCode, NPTCRescale, NVTNoseHoover
from athanor.errors import InputError
from athanor.testing.dynamics_contract import argon_cluster, argon_crystal, argon_model, with_neighbor_hooks
from athanor.units import GPa

ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}


def crystals(*ids, **options):
    return Batch.from_data_list([argon_crystal(2, k, **options) for k in ids])


def npt(pressure, coupling="isotropic", engine=NPT, **options):
    times = {"barostat_time": 400.0, "thermostat_time": 100.0} | options
    return with_neighbor_hooks(engine(argon_model(), 4.0, 60.0, pressure, pressure_coupling=coupling, **times))


@pytest.mark.parametrize(
    ("pressure", "coupling", "match"),
    [
        (torch.zeros(3), "isotropic", r"shape \(3,\); the batch has 2 systems"),
        (torch.zeros(2, 2), "triclinic", "a diagonal"),
        (torch.tensor([[0.0, 0.0, 0.1]]), "isotropic", "Use anisotropic or triclinic coupling"),
        (
            torch.tensor([[[0.0, 0.01, 0.0], [0.01, 0.0, 0.0], [0.0, 0.0, 0.0]]]),
            "anisotropic",
            "Use triclinic coupling",
        ),
        (torch.tensor([[[0.0, 0.01, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]), "triclinic", "not symmetric"),
        (100.0, "isotropic", "it must be at most"),
        (float("nan"), "isotropic", "finite"),
    ],
)
def test_a_pressure_that_makes_no_sense_is_refused(pressure, coupling, match):
    with pytest.raises(InputError, match=match):
        npt(pressure, coupling).run(crystals(1, 2), 1)


def test_a_tensor_or_three_diagonals_is_asked():
    tensor = 0.1 * GPa * torch.eye(3, dtype=torch.float64)
    with pytest.raises(InputError, match="one tensor, or the diagonals of 3 systems"):
        npt(tensor, "triclinic").run(crystals(1, 2, 3), 1)
    one, three = crystals(1, 2, 3), crystals(1, 2, 3)
    npt(tensor[None], "triclinic").run(one, 2)
    npt(torch.diag_embed(torch.full((3, 3), 0.1 * GPa, dtype=torch.float64)), "triclinic").run(three, 2)
    assert torch.equal(one.cell, three.cell)


def test_names_and_numbers_that_make_no_sense_are_refused():
    model = argon_model()
    with pytest.raises(InputError, match="use one of isotropic, anisotropic, triclinic"):
        npt(0.0, "cubic")
    with pytest.raises(InputError, match="`barostat_time` is 0"):
        NPH(model, 1.0, 0.0, 0.0)
    with pytest.raises(InputError, match="`temperature` is 0"):
        NVTNoseHoover(model, 1.0, 0.0, 100.0)
    with pytest.raises(InputError, match="`chain_length` is 9; it must be at most 8"):
        NVTNoseHoover(model, 1.0, 60.0, 100.0, chain_length=9)
    with pytest.raises(InputError, match="weights of order 1, 3 and 5"):
        NVTNoseHoover(model, 1.0, 60.0, 100.0, yoshida_order=4)


@pytest.mark.parametrize("engine", [NPT, NPTCRescale])
def test_molecules_and_slabs_are_set_aside(engine):
    slab = argon_crystal(2, 3)
    slab.pbc = torch.tensor([[True, True, False]])
    batch = Batch.from_data_list([argon_cluster(9, 1), argon_crystal(2, 2), slab])
    before = batch.positions.clone()
    npt(0.0, engine=engine).run(batch, 3)
    wrong = int(FailureCode.PRESSURE_WITHOUT_CRYSTAL)
    assert batch.failure_code.flatten().tolist() == [wrong, 0, wrong]
    still = batch.batch_idx != 1
    assert torch.equal(batch.positions[still], before[still])
    alone = Batch.from_data_list([argon_cluster(9, 1)])
    npt(0.0, engine=engine).run(alone, 3)
    assert bool(alone.energy.isnan().all())  # nobody computed it, and who looks finds so


def test_a_run_in_which_nobody_can_be_under_pressure_is_a_table_of_reasons(tmp_path):
    cluster, slab = bulk("Ar", "fcc", a=5.4, cubic=True), bulk("Ar", "fcc", a=5.4, cubic=True) * (2, 2, 1)
    cluster.pbc = False
    slab.pbc = (True, True, False)
    run = athanor.md([cluster, slab], model=ARGON, ensemble="npt", temperature=30, steps=3, out=tmp_path / "md")
    relaxed = athanor.relax([slab], model=ARGON, pressure="1 GPa", out=tmp_path / "relax")
    for reason in (*run.reasons, *relaxed.reasons):
        assert "periodic in all three directions" in reason


def test_a_cell_that_runs_away_is_set_aside_and_others_go_on():
    """All atoms held, and a barostat of a few steps: the cell explodes."""
    wild = argon_crystal(2, 1)
    wild.cell = wild.cell * 1.2
    wild.fixed = torch.ones(wild.num_nodes, dtype=torch.bool)
    batch = Batch.from_data_list([wild, argon_crystal(2, 2)])
    times = torch.tensor([20.0, 400.0])
    npt(0.5 * GPa, "triclinic", barostat_time=times).run(batch, 40)
    alone = crystals(2)
    npt(0.5 * GPa, "triclinic").run(alone, 40)
    assert int(batch.failure_code[0]) > 0
    assert torch.equal(alone.positions, batch.get_data(1).positions)


def test_pressures_and_couplings_for_each_system_equal_single_runs():
    tensor = torch.zeros(2, 3, 3, dtype=torch.float64)
    tensor[0] = torch.diag(torch.tensor([0.1, 0.0, 0.2])) * GPa
    tensor[1, 0, 1] = tensor[1, 1, 0] = 0.05 * GPa
    for engine in (NPT, NPTCRescale):
        together = crystals(1, 2)
        npt(tensor, "triclinic", engine).run(together, 25)
        for place in range(2):
            alone = crystals(place + 1)
            npt(tensor[place : place + 1], "triclinic", engine).run(alone, 25)
            assert torch.equal(alone.cell[0], together.cell[place])
            assert torch.equal(alone.positions, together.get_data(place).positions)


class ColumnCell(NPH):
    """Broken twin: the cell is strained as if its columns were the lattice vectors."""

    _selects_active = True

    def pre_update(self, batch):
        before = batch.cell.clone()
        super().pre_update(batch)
        strain = torch.linalg.solve(before, batch.cell)
        batch.cell.copy_(strain.mT @ before)

    def post_update(self, batch):
        super().post_update(batch)


def _fractional_drift(engine):
    """How far the fractional places of resting atoms move, when only the cell does."""
    data = argon_crystal(2, 1)
    data.cell = data.cell + torch.tensor([[[0.0, 0.0, 0.0], [0.6, 0.0, 0.0], [0.3, -0.4, 0.0]]])
    data.fixed = torch.ones(data.num_nodes, dtype=torch.bool)
    batch = Batch.from_data_list([data])
    before = torch.linalg.solve(batch.cell[0].mT, batch.positions.mT)
    with_neighbor_hooks(engine(argon_model(), 4.0, 0.1 * GPa, 2000.0, "triclinic")).run(batch, 20)
    assert not torch.allclose(batch.cell[0], data.cell[0], atol=1e-3)
    return float((torch.linalg.solve(batch.cell[0].mT, batch.positions.mT) - before).abs().max())


def test_atoms_flow_with_their_cell_whose_rows_are_lattice_vectors():
    assert _fractional_drift(NPH) < 1e-12
    assert _fractional_drift(ColumnCell) > 1e-4


@pytest.mark.parametrize("coupling", ["isotropic", "anisotropic", "triclinic"])
def test_a_coupling_moves_what_it_says(coupling):
    batch = crystals(1)
    start = batch.cell[0].clone()
    npt(0.3 * GPa, coupling).run(batch, 30)
    strain = torch.linalg.solve(start, batch.cell[0]) - torch.eye(3)
    off = strain - torch.diag(strain.diagonal())
    assert float(strain.diagonal().abs().min()) > 1e-6
    assert (float(off.abs().max()) > 1e-7) == (coupling == "triclinic")
    assert (float(strain.diagonal().std()) > 1e-9) == (coupling != "isotropic")


def test_a_compressed_crystal_expands():
    """The sign of the virial: a twin with the other one would shrink it."""
    for engine in (NPT, NPTCRescale):
        batch = crystals(1, strain=-0.05)
        before = float(batch.volume)
        npt(0.0, engine=engine).run(batch, 40)
        assert float(batch.volume) > 1.01 * before


def test_a_glide_goes_on_and_is_no_heat():
    """Thermostats and cells act on motion relative to the centre of mass."""
    for make in (
        lambda m: NVTNoseHoover(m, 4.0, 60.0, 100.0),
        lambda m: NPT(m, 4.0, 60.0, 0.0, 400.0, 100.0),
        lambda m: NVE(m, 4.0),
    ):
        still, gliding = crystals(1), crystals(1)
        gliding.velocities += torch.tensor([0.05, -0.02, 0.01], dtype=torch.float64)
        for batch in (still, gliding):
            with_neighbor_hooks(make(argon_model())).run(batch, 30)
        difference = gliding.velocities - still.velocities
        assert torch.allclose(
            difference, torch.tensor([0.05, -0.02, 0.01], dtype=torch.float64).expand_as(difference), atol=1e-9
        )


def test_a_tensor_that_was_computed_in_single_precision_is_symmetric():
    turn = torch.linalg.qr(torch.tensor([[1.0, 0.2, 0.5], [0.3, 2.0, -0.7], [0.1, 0.4, 1.5]]))[0]
    tensor = (turn @ torch.diag(torch.tensor([0.1, 0.2, 0.3]) * GPa) @ turn.T)[None]
    assert not torch.equal(tensor, tensor.mT)
    batch = crystals(1)
    engine = npt(tensor, "triclinic")
    engine.run(batch, 1)
    rows = batch.state_rows(engine.key)["pressure"]
    assert torch.equal(rows, rows.mT)
    torch.testing.assert_close(rows, tensor.double(), rtol=1e-5, atol=1e-9)
