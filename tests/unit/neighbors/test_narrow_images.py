"""Images of neighbours in a byte: the same pairs and forces as in four, and wider ones where a cell is small."""

from __future__ import annotations

import pytest
import torch

from athanor import kernels
from athanor.data import Batch
from athanor.kernels.neighbor_list import _cpu_candidates, packing
from athanor.models.lj import LennardJonesModelWrapper
from athanor.neighbors import compute_neighbors
from athanor.testing.systems import fcc_crystal

CUTOFF = 6.0
MODEL = LennardJonesModelWrapper(0.0104, 3.4, CUTOFF, switch_width=0.5)


def crystals(*repeats: int) -> list[Batch]:
    """Return a batch for each crystal; one of one cube is smaller than the cutoff."""
    systems = [fcc_crystal(3.8, repeat=(repeat,) * 3, jitter=0.2, seed=repeat) for repeat in repeats]
    return [Batch.from_data_list([system]) for system in systems]


def images(batch: Batch) -> torch.Tensor:
    return kernels.unpack_images(batch.pair_list.images)


def with_list(batch: Batch, *, wide: bool = False) -> Batch:
    compute_neighbors(batch, CUTOFF)
    if wide:
        batch.pair_list = batch.pair_list.widened()
    return batch


def assert_same_results(one: Batch, other: Batch) -> None:
    for name, value in MODEL(one).items():
        assert torch.equal(value, MODEL(other)[name]), name


def test_a_byte_is_enough_for_large_cells_and_changes_no_bit() -> None:
    narrow, wide = with_list(crystals(3)[0]), with_list(crystals(3)[0], wide=True)
    assert (narrow.pair_list.images.dtype, wide.pair_list.images.dtype) == (torch.int8, torch.int32)
    assert images(narrow).abs().max() == 1
    assert torch.equal(images(narrow), images(wide))
    assert_same_results(narrow, wide)


def test_a_small_cell_takes_four_bytes() -> None:
    (small,) = crystals(1)
    compute_neighbors(small, 2.0 * CUTOFF)
    assert small.pair_list.images.dtype == torch.int32
    assert images(small).abs().max() >= 2


def test_joining_leaving_and_coming_again_keep_pairs_and_bits() -> None:
    large, small, other = (with_list(batch) for batch in crystals(3, 1, 2))
    alone = {name: value.clone() for name, value in MODEL(large).items()}
    large.append(small)
    large.append(other)
    assert large.pair_list.images.dtype == torch.int32
    assert torch.equal(MODEL(large)["forces"][large.batch_idx == 0], alone["forces"])
    large.remove_systems([1])
    assert torch.equal(MODEL(large)["energy"][:1], alone["energy"])
    again = with_list(crystals(2)[0])
    assert torch.equal(images(large)[-len(images(again)) :], images(again))


def test_what_does_not_fit_is_told_before_anything_is_searched() -> None:
    with pytest.raises(packing.NarrowImagesError, match=r"torch\.int32"):
        kernels.pack_images(torch.tensor([[0, 2, 0]]), torch.int8)
    every = torch.cartesian_prod(*[torch.arange(-1, 2)] * 3).int()
    assert torch.equal(kernels.unpack_images(kernels.pack_images(every, torch.int8)), every)


def test_a_wrong_bit_would_be_noticed() -> None:
    """The twin: the fields of y and z exchanged."""
    batch, right = with_list(crystals(3)[0]), with_list(crystals(3)[0])
    exchanged = images(batch)[:, [0, 2, 1]]
    batch.pair_list = batch.pair_list.replace(images=kernels.pack_images(exchanged, torch.int8))
    with pytest.raises(AssertionError, match=r"^(forces|energy)"):
        assert_same_results(batch, right)


def test_ranks_of_images_are_their_order() -> None:
    widths = (3, 1, 5)
    found = [int(_cpu_candidates.code_of_rank(rank, widths, 10)) for rank in range(15)]
    unpacked = kernels.unpack_images(torch.tensor(found, dtype=torch.int32)).tolist()
    assert unpacked == sorted(unpacked)
    assert unpacked[0] == [-1, 0, -2]
    assert unpacked[7] == [0, 0, 0]
