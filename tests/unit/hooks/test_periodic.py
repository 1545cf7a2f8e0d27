"""Wrapping moves atoms by whole lattice vectors of periodic axes, and by nothing else."""

from __future__ import annotations

from enum import Enum

import pytest
import torch
from ase.build import bulk

from athanor.data import AtomicData
from athanor.data.batch import Batch
from athanor.dynamics import NVE
from athanor.hooks import DynamicsStage, HookContext, WrapPeriodicHook
from athanor.hooks.periodic import complete_cell, wrap_positions
from athanor.models.lj import LennardJonesModelWrapper
from athanor.neighbors import compute_neighbors
from athanor.testing.dynamics_contract import argon_model, with_neighbor_hooks
from athanor.testing.systems import standard_systems, structure

SHEAR = torch.tensor([[4.0, 0.0, 0.0], [1.5, 5.0, 0.0], [-0.7, 1.1, 6.0]], dtype=torch.float64)
STAGE = DynamicsStage.AFTER_POST_UPDATE


def wrap(batch: Batch) -> None:
    WrapPeriodicHook()(HookContext(batch=batch), STAGE)


def random_batch(dtype: torch.dtype = torch.float64) -> Batch:
    """All eight kinds of periodicity with tilted cells, and a molecule."""
    generator = torch.Generator().manual_seed(0)
    systems = []
    for code in range(8):
        pbc = [bool(code & 1), bool(code & 2), bool(code & 4)]
        positions = 30.0 * torch.randn(5, 3, generator=generator, dtype=torch.float64)
        systems.append(structure(positions.to(dtype), [18] * 5, SHEAR.to(dtype), pbc))
    systems.append(structure(30.0 * torch.ones(2, 3, dtype=dtype), [18, 18]))
    return Batch.from_data_list(systems, dtype=dtype)


def fractional(batch: Batch) -> torch.Tensor:
    inverse = torch.linalg.inv(complete_cell(batch.cell, batch.pbc))
    return torch.bmm(batch.positions.unsqueeze(1), inverse[batch.batch_idx]).squeeze(1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_kind_of_periodicity(dtype: torch.dtype) -> None:
    batch = random_batch(dtype)
    before = batch.positions.clone()
    wrap(batch)
    pbc = batch.pbc[batch.batch_idx]
    inside = fractional(batch)[pbc]
    slack = 10 * torch.finfo(dtype).eps
    assert float(inside.min()) >= -slack
    assert float(inside.max()) < 1.0 + slack
    cells = complete_cell(batch.cell, batch.pbc)[batch.batch_idx].double()
    moved = torch.linalg.solve(cells.transpose(1, 2), (before - batch.positions).double())
    whole = moved.round()
    torch.testing.assert_close(moved, whole, rtol=0.0, atol=1e-3 if dtype == torch.float32 else 1e-12)
    assert (whole[~pbc] == 0).all(), "atoms moved along an axis that is not periodic"
    assert (whole[pbc] != 0).any()
    molecule = batch.batch_idx == 8
    assert torch.equal(batch.positions[molecule], before[molecule])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_second_call_moves_nothing(dtype: torch.dtype) -> None:
    batch = random_batch(dtype)
    wrap(batch)
    once = batch.positions.clone()
    wrap(batch)
    assert torch.equal(batch.positions, once)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_faces_are_left_behind_for_good(dtype: torch.dtype) -> None:
    """Positions on faces and a rounding away from them, in cells whose inverse is not exact. The twin floors once."""
    generator = torch.Generator().manual_seed(1)
    tiny = torch.finfo(dtype).eps
    corners = torch.randint(-2, 3, (400, 3), generator=generator).to(dtype)
    once_was_not_enough = 0
    for _ in range(5):
        cell = SHEAR.to(dtype) + 0.5 * torch.randn(3, 3, generator=generator).to(dtype)
        noise = torch.randint(-3, 4, (400, 3), generator=generator).to(dtype) * tiny
        positions = (corners + noise) @ cell
        arguments = (cell[None], torch.ones(1, 3, dtype=torch.bool), torch.zeros(400, dtype=torch.int64))
        wrapped, _ = wrap_positions(positions, *arguments)
        again, offsets = wrap_positions(wrapped, *arguments)
        assert offsets is None
        assert torch.equal(again, wrapped)
        inverse = torch.linalg.inv(cell)
        floored = positions - (positions @ inverse).floor() @ cell
        outside = floored @ inverse
        once_was_not_enough += int(((outside < 0) | (outside >= 1)).sum())
    assert once_was_not_enough > 0


def test_list_results_and_energy_stay_valid() -> None:
    """The twin moves the positions and forgets the list."""
    model = LennardJonesModelWrapper(0.0104, 3.4, 8.0)
    systems = standard_systems()
    names = ("triclinic", "slab", "cluster", "left-handed")
    batch = Batch.from_data_list([systems[name] for name in names])
    shift = torch.tensor([50.0, -70.0, 90.0], dtype=torch.float64)
    batch.positions = batch.positions + shift * (batch.batch_idx != 2).unsqueeze(1)
    compute_neighbors(batch, 8.0)
    energy = model(batch)["energy"]
    batch.mark_results_fresh(model, {"energy"})
    shifts = batch.neighbor_list_shifts.clone()
    references = batch.pair_list.reference_positions - batch.positions
    forgetful = batch.clone()
    wrap(batch)
    assert batch.results_fresh(model, {"energy"})
    assert not torch.equal(batch.neighbor_list_shifts, shifts), "views follow the positions as they stand"
    torch.testing.assert_close(batch.pair_list.reference_positions - batch.positions, references, rtol=0, atol=1e-12)
    torch.testing.assert_close(model(batch)["energy"], energy, rtol=1e-12, atol=0.0)
    vectors = batch.positions[batch.neighbor_list[:, 1].long()] - batch.positions[batch.neighbor_list[:, 0].long()]
    cells = batch.cell[batch.batch_idx[batch.neighbor_list[:, 0].long()]]
    vectors += torch.bmm(batch.neighbor_list_shifts.double().unsqueeze(1), cells).squeeze(1)
    assert float(vectors.norm(dim=1).max()) < 8.0
    forgetful.positions = batch.positions.clone()
    assert float((model(forgetful)["energy"] - energy).abs().max()) > 1e-3


def test_stale_results_stay_stale() -> None:
    batch = random_batch()
    model = LennardJonesModelWrapper(0.0104, 3.4, 8.0)
    batch.mark_results_fresh(model, {"energy"})
    batch.positions = batch.positions + 1.0
    wrap(batch)
    assert not batch.results_fresh(model, {"energy"})


def test_broken_positions_stay_as_they_are() -> None:
    batch = random_batch()
    batch.positions[35, 0] = torch.nan
    batch.positions[36, 1] = torch.inf
    wrap(batch)
    assert not torch.isfinite(batch.positions[35, 0])
    assert not torch.isfinite(batch.positions[36, 1])
    assert torch.isfinite(batch.positions[:35]).all()


def test_cells_with_missing_vectors() -> None:
    wire = torch.zeros(1, 3, 3, dtype=torch.float64)
    wire[0, 0] = torch.tensor([3.0, 4.0, 0.0])
    pbc, first = torch.tensor([[True, False, False]]), torch.zeros(1, dtype=torch.int64)
    positions = torch.tensor([[33.5, 44.5, 7.0]], dtype=torch.float64)
    wrapped, offsets = wrap_positions(positions, wire, pbc, first)
    assert offsets is not None
    assert offsets.tolist() == [[11, 0, 0]]
    torch.testing.assert_close(wrapped, torch.tensor([[0.5, 0.5, 7.0]], dtype=torch.float64))
    flat = wire.clone()
    flat[0, 1] = 2.0 * flat[0, 0]
    assert torch.equal(complete_cell(flat, ~pbc & False), torch.eye(3, dtype=torch.float64)[None])
    two = wire.clone()
    two[0, 1, 2] = 9.0
    assert float(torch.linalg.det(complete_cell(two, pbc)).abs()) == pytest.approx(45.0)


def test_defaults_and_bad_arguments() -> None:
    hook = WrapPeriodicHook(frequency=7)
    assert (hook.frequency, hook.stage) == (7, DynamicsStage.AFTER_POST_UPDATE)
    assert WrapPeriodicHook(stage=DynamicsStage.AFTER_STEP).stage is DynamicsStage.AFTER_STEP
    with pytest.raises(ValueError, match="whole number of at least 1"):
        WrapPeriodicHook(frequency=0)
    molecule = Batch.from_data_list([structure(torch.ones(1, 3), [18])])
    wrap(molecule)
    assert torch.equal(molecule.positions, torch.ones(1, 3))


# ---------------------------------------------------------------------------------------------- each system for itself


def gliding(seed: int) -> Batch:
    """A crystal that drifts through its cell, so that atoms cross faces in every step."""
    crystal = bulk("Ar", "fcc", a=5.3, cubic=True)
    crystal.rattle(0.1, seed=seed)
    batch = Batch.from_data_list([AtomicData.from_atoms(crystal, dtype=torch.float64)])
    batch.velocities = torch.full_like(batch.positions, 5.0)
    return batch


def run_wrapped(batch: Batch, n_steps: int, hook: WrapPeriodicHook, **changes: object) -> None:
    engine = with_neighbor_hooks(NVE(argon_model(), dt=5.0))
    for name, value in changes.items():
        setattr(engine, name, value)
    engine.register_hook(hook)
    engine.run(batch, n_steps)


class CountsEngineSteps(WrapPeriodicHook):
    """A twin whose calls are due by the steps of the engine."""

    counts_each_system = False

    def _due(self, ctx: HookContext, stage: Enum) -> torch.Tensor | None:
        return None


@pytest.mark.parametrize("stage", [DynamicsStage.AFTER_POST_UPDATE, DynamicsStage.AFTER_STEP])
@pytest.mark.parametrize(("kind", "is_equal"), [(WrapPeriodicHook, True), (CountsEngineSteps, False)])
def test_when_a_system_joined_does_not_matter(
    kind: type[WrapPeriodicHook], is_equal: bool, stage: DynamicsStage
) -> None:
    alone, batch = gliding(1), gliding(0)
    run_wrapped(alone, 7, kind(frequency=3, stage=stage))
    engine = with_neighbor_hooks(NVE(argon_model(), dt=5.0))
    engine.register_hook(kind(frequency=3, stage=stage))
    engine.run(batch, 4)
    batch.append(gliding(1))
    engine.run(batch, 7)
    late = batch.index_select([1])
    assert late.step.tolist() == alone.step.tolist() == [[7]]
    assert torch.equal(late.positions, alone.positions) is is_equal


def test_a_system_that_stands_still_is_left_alone_also_in_a_batch_that_can_not_be_parted() -> None:
    moving, still = gliding(0), gliding(1)
    still.positions += 100.0
    batch = Batch.from_data_list([*moving.to_data_list(), *still.to_data_list()])
    batch.status = torch.tensor([[0], [1]])
    before = batch.positions.clone()
    of_still = batch.batch_idx == 1
    run_wrapped(batch, 3, WrapPeriodicHook(), rows_of_mine=torch.zeros(2))  # an attribute with a row for each system
    assert torch.equal(batch.positions[of_still], before[of_still])
    assert not torch.equal(batch.positions[~of_still], before[~of_still])
