"""When lists are built, kept and rebuilt, system by system."""

from __future__ import annotations

import pytest
import torch

from athanor.data.batch import Batch
from athanor.hooks import DynamicsStage, HookContext, NeighborListHook, WrapPeriodicHook
from athanor.models.lj import LennardJonesModelWrapper
from athanor.neighbors import NeighborConfig, compute_neighbors
from athanor.neighbors.skin import update_pair_list
from athanor.testing.systems import fcc_crystal, standard_systems

CUTOFF, SKIN = 6.0, 1.0


def crystals(*repeats: int, jitter: float = 0.1) -> Batch:
    return Batch.from_data_list(
        [fcc_crystal(3.8, repeat=(repeat,) * 3, jitter=jitter, seed=index) for index, repeat in enumerate(repeats)]
    )


def lists_of(batch: Batch) -> list[torch.Tensor]:
    pairs = batch.pair_list
    return [pairs.row_ptr, pairs.neighbors, pairs.images, pairs.wrap_offsets]


def same_bits(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def rebuilt(batch: Batch, **changes) -> list[bool]:
    """Update the list and say which systems got new reference positions."""
    before = batch.pair_list.reference_positions.clone()
    arguments = {"cutoff": CUTOFF, "skin": SKIN, "half": False, **changes}
    update_pair_list(batch, **arguments)
    after = batch.pair_list.reference_positions
    changed = (before != after).any(dim=1)
    return [bool(changed[batch.batch_idx == system].any()) for system in range(batch.num_graphs)]


def test_the_first_call_builds_with_stamps() -> None:
    batch = crystals(1, 2)
    assert batch.pair_list is None
    update_pair_list(batch, CUTOFF, SKIN, half=False)
    assert batch._neighbor_list_cutoff == CUTOFF
    assert batch.neighbor_list_radius == CUTOFF + SKIN
    assert bool(batch.pair_list.valid.all())
    other = crystals(1, 2)
    compute_neighbors(other, CUTOFF + SKIN)
    assert same_bits(lists_of(batch), lists_of(other))


def test_only_a_systems_own_motion_rebuilds_its_list() -> None:
    batch = crystals(2, 1, 2)
    update_pair_list(batch, CUTOFF, SKIN, half=False)
    first_atoms = batch.batch_ptr[:-1].long()
    batch.positions[first_atoms, 0] += 0.45 * SKIN
    assert rebuilt(batch) == [False, False, False]
    batch.positions[first_atoms[1], 0] += 0.1 * SKIN
    assert rebuilt(batch) == [False, True, False]
    assert rebuilt(batch) == [False, False, False]


def test_only_a_systems_own_strain_rebuilds_its_list() -> None:
    batch = crystals(2, 2)
    update_pair_list(batch, CUTOFF, SKIN, half=False)
    strain = torch.ones(2, 1, 1, dtype=torch.float64)
    for factor, expected in ((0.95, [False, False]), (0.8, [False, True])):
        strain[1] = factor
        batch.cell = crystals(2, 2).cell * strain
        batch.positions = crystals(2, 2).positions * strain[batch.batch_idx, 0]
        assert rebuilt(batch) == expected


def test_a_partial_rebuild_has_the_bits_of_a_full_one() -> None:
    """The twin rebuilds the wrong system."""
    batch = crystals(2, 1, 2)
    update_pair_list(batch, CUTOFF, SKIN, half=False)
    stale = lists_of(batch)
    moved = batch.batch_idx == 1
    batch.positions[moved] += 0.8 * torch.randn(int(moved.sum()), 3, dtype=torch.float64)
    assert rebuilt(batch) == [False, True, False]
    full = batch.clone()
    compute_neighbors(full, CUTOFF + SKIN)
    assert same_bits(lists_of(batch), lists_of(full))
    assert not same_bits(stale, lists_of(full))


@pytest.mark.parametrize("changes", [{"cutoff": 5.0}, {"skin": 0.0}, {"half": True}])
def test_another_cutoff_skin_or_kind_builds_all_anew(changes: dict) -> None:
    batch = crystals(1, 1)
    update_pair_list(batch, CUTOFF, SKIN, half=False)
    batch.positions += 0.01
    assert rebuilt(batch) == [False, False]
    assert rebuilt(batch, **changes) == [True, True]
    assert batch.pair_list.half is changes.get("half", False)


def test_without_skin_every_call_builds() -> None:
    batch = crystals(1)
    update_pair_list(batch, CUTOFF, 0.0, half=False)
    batch.positions += 1e-6
    assert rebuilt(batch, skin=0.0) == [True]


def test_periodicity_that_changes_in_place_rebuilds_its_system() -> None:
    batch = crystals(1, 2)
    update_pair_list(batch, CUTOFF, SKIN, half=False)
    batch.pbc[0, 1] = False
    update_pair_list(batch, CUTOFF, SKIN, half=False)
    other = crystals(1, 2)
    other.pbc[0, 1] = False
    compute_neighbors(other, CUTOFF + SKIN)
    assert same_bits(lists_of(batch), lists_of(other))


def test_an_invalid_system_is_rebuilt_and_a_broken_one_is_left() -> None:
    batch = crystals(1, 1)
    update_pair_list(batch, CUTOFF, SKIN, half=False)
    batch.pair_list = batch.pair_list.replace(valid=torch.tensor([True, False]))
    batch.positions += 0.01
    assert rebuilt(batch) == [False, True]
    batch.positions[0, 0] = torch.nan
    assert rebuilt(batch) == [False, False]
    update_pair_list(batch, CUTOFF, 0.0, half=False)  # and does not stop the search
    assert int(batch.pair_list.row_ptr[4]) == 0
    assert int(batch.pair_list.row_ptr[-1]) > 0


def test_refill_and_selection_keep_the_age_of_the_others() -> None:
    batch = crystals(1, 2)
    update_pair_list(batch, CUTOFF, SKIN, half=False)
    batch.positions += 0.2
    reference = batch.pair_list.reference_positions[batch.batch_idx == 1].clone()
    chosen = batch.index_select([1])
    chosen.append(crystals(1))
    update_pair_list(chosen, CUTOFF, SKIN, half=False)
    assert torch.equal(chosen.pair_list.reference_positions[chosen.batch_idx == 0], reference)
    fresh = chosen.clone()
    compute_neighbors(fresh, CUTOFF)
    model = LennardJonesModelWrapper(0.0104, 3.4, CUTOFF)
    torch.testing.assert_close(model(chosen)["energy"], model(fresh)["energy"], rtol=1e-14, atol=0.0)


def test_max_neighbors_is_the_smallest_width_of_the_matrix_only() -> None:
    batch = crystals(1)
    compute_neighbors(batch, CUTOFF, max_neighbors=3)
    longest = int(batch.num_neighbors.max())
    assert batch.neighbor_matrix.shape == (4, longest)
    compute_neighbors(batch, CUTOFF, max_neighbors=longest + 10)
    assert batch.neighbor_matrix.shape == (4, longest + 10)
    assert (batch.neighbor_matrix[:, longest:] == batch.num_nodes).all()
    assert batch.index_select([0]).clone().neighbor_matrix.shape == (4, longest + 10)


def test_compute_neighbors_takes_a_config_or_a_cutoff() -> None:
    batch = crystals(1)
    with pytest.raises(ValueError, match="A cutoff is needed"):
        compute_neighbors(batch)
    with pytest.raises(ValueError, match="greater than 0"):
        compute_neighbors(batch, -1.0)
    compute_neighbors(batch, 3.0, config=NeighborConfig(cutoff=CUTOFF, half_list=True, skin=1.0))
    assert (batch.neighbor_list_radius, batch.pair_list.half) == (CUTOFF, True)
    pairs = batch.num_edges
    compute_neighbors(batch, config=NeighborConfig(cutoff=CUTOFF))
    assert batch.num_edges == 2 * pairs


def test_systems_without_a_cell_have_pairs_too() -> None:
    systems = standard_systems()
    batch = Batch.from_data_list([systems["pair"], systems["atom"], systems["cluster"]])
    compute_neighbors(batch, 20.0)
    assert batch.num_neighbors.tolist() == [1, 1, 0, 4, 4, 4, 4, 4]


def test_a_rebuild_drops_other_edge_fields_with_one_warning() -> None:
    batch = crystals(1)
    update_pair_list(batch, CUTOFF, SKIN, half=False)
    batch.edge_embeddings = torch.zeros(batch.num_edges, 4)
    batch.positions += 0.01
    update_pair_list(batch, CUTOFF, SKIN, half=False)
    assert "edge_embeddings" in batch
    batch.positions[0] += SKIN
    with pytest.warns(UserWarning, match="edge_embeddings"):
        update_pair_list(batch, CUTOFF, SKIN, half=False)
    assert "edge_embeddings" not in batch


def test_hook_uses_its_own_skin_if_it_has_one() -> None:
    config = NeighborConfig(cutoff=CUTOFF, skin=0.7)
    assert NeighborListHook(config).skin == 0.7
    assert NeighborListHook(config, skin=0.5).skin == 0.5
    hook = NeighborListHook(config, stage=DynamicsStage.BEFORE_STEP, method="cell_list")
    assert (hook.stage, hook.method, hook.frequency) == (DynamicsStage.BEFORE_STEP, "cell_list", 1)
    assert NeighborListHook(config).stage is DynamicsStage.BEFORE_COMPUTE
    for wrong in ({"skin": -1.0}, {"max_neighbors": -1}):
        with pytest.raises(ValueError, match=r"must not be negative|at least 0"):
            NeighborListHook(config, **wrong)
    batch = crystals(1)
    hook(HookContext(batch=batch), DynamicsStage.BEFORE_STEP)
    assert (batch._neighbor_list_cutoff, batch.neighbor_list_radius) == (CUTOFF, pytest.approx(CUTOFF + 0.7))


def energies_of_a_moving_crystal(skin: float, wrap: bool, num_steps: int = 60, forget: bool = False):
    """Energies of two shaking crystals that drift far; `forget` is the twin that never updates the list."""
    model = LennardJonesModelWrapper(0.0104, 3.4, CUTOFF)
    batch = Batch.from_data_list([fcc_crystal(3.8, repeat=(2, 2, 2), jitter=0.05), standard_systems()["slab"]])
    hook, wrapping = NeighborListHook(model.model_config.neighbor_config, skin=skin), WrapPeriodicHook()
    generator = torch.Generator().manual_seed(5)
    drift = 0.04 * torch.randn(2, 3, generator=generator, dtype=torch.float64)[batch.batch_idx]
    context, energies, builds, past = HookContext(batch=batch), [], 0, torch.zeros_like(drift)
    for _ in range(num_steps):
        shake = 0.12 * torch.randn(batch.positions.shape, generator=generator, dtype=torch.float64)
        batch.positions = batch.positions + drift + shake - past
        past = shake
        if wrap:
            wrapping(context, DynamicsStage.AFTER_POST_UPDATE)
        before = batch.pair_list
        if not (forget and before is not None):
            hook(context, DynamicsStage.BEFORE_COMPUTE)
        builds += batch.pair_list is not before
        energies.append(model(batch)["energy"])
    return torch.stack(energies), builds


def test_skin_and_wrapping_give_the_energies_without_skin() -> None:
    """The twin uses the first list for ever."""
    plain, builds = energies_of_a_moving_crystal(skin=0.0, wrap=False)
    assert builds == 60
    kept, kept_builds = energies_of_a_moving_crystal(skin=2.0, wrap=False)
    wrapped, wrapped_builds = energies_of_a_moving_crystal(skin=2.0, wrap=True)
    assert kept_builds == wrapped_builds < 50, "wrapping makes no list stale"
    torch.testing.assert_close(kept, plain, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(wrapped, plain, rtol=0.0, atol=1e-12)
    twin, _ = energies_of_a_moving_crystal(skin=0.1, wrap=False, forget=True)
    assert float((twin - plain).abs().max()) > 1e-4
