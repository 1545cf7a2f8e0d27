"""Many tensors are looked at and copied in one call, compiled or not, whatever their memory is."""

from __future__ import annotations

import pytest
import torch

from athanor.errors import ShapeError
from athanor.kernels import KeptTensors


def tensors() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    doubles = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    return [doubles, doubles[:, 0].float(), torch.arange(5), torch.tensor([True, False, True]), torch.zeros(0, 3)]


@pytest.mark.parametrize("strided", [False, True])
def test_copies_and_limits(strided: bool) -> None:
    given = tensors()
    if strided:
        given[0] = torch.cat([given[0], given[0]], dim=1)[:, ::2]
    kept = KeptTensors(given, [torch.zeros_like(tensor) for tensor in given], {0: torch.inf, 1: 5.0})
    assert kept._compiled != strided
    assert kept.keep_if_below()
    assert all(torch.equal(copy, tensor) for copy, tensor in zip(kept._copies, given, strict=True))
    for index, bad in ((0, torch.nan), (0, torch.inf), (1, -5.0), (1, torch.nan)):
        before = given[index].clone()
        given[index][-1] = bad
        assert not kept.all_below()
        assert not kept.keep_if_below()
        assert torch.equal(kept._copies[index], before)
        given[index].copy_(before)
    assert kept.all_below()


def test_exchanged_memory_is_followed() -> None:
    given = tensors()
    kept = KeptTensors(given, [tensor.clone() for tensor in given], {0: torch.inf})
    given[0].data = torch.full((7, 3), 2.0, dtype=torch.float64)
    kept.keep()
    assert torch.equal(kept._copies[0], given[0])
    given[0].data = torch.full((7, 3), torch.nan, dtype=torch.float64)
    assert not kept.all_below()


def test_a_copy_of_another_shape_is_refused() -> None:
    with pytest.raises(ShapeError, match="The copy of a"):
        KeptTensors([torch.zeros(3)], [torch.zeros(4)], {})
