"""The Lennard-Jones potential: closed form, forces and virial as derivatives, limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from athanor import kernels
from athanor.errors import InputError, ShapeError
from athanor.kernels.pairs import pair_table

ONE = torch.ones(1, 1, dtype=torch.float64)
TABLE = pair_table("lennard-jones", 2.5, False, ONE, ONE)


def _evaluate(
    positions: torch.Tensor,
    cell: torch.Tensor,
    pbc: bool = True,
    half: bool = False,
    form: tuple[Any, ...] = (2.5, 0.5, False),
) -> tuple[torch.Tensor, ...]:
    n = len(positions)
    pointer, none = torch.tensor([0, n], dtype=torch.int32), torch.zeros(0, dtype=torch.int32)
    old = (torch.zeros(n + 1, dtype=torch.int64), none, none, torch.zeros(n, 3, dtype=torch.int32))
    flags, rebuild = torch.full((1, 3), pbc), torch.tensor([True])
    lists = kernels.build_neighbor_list(positions, cell[None], flags, pointer, 2.8, half, rebuild, *old)
    types = torch.zeros(n, dtype=torch.int32)
    cutoff, switch_width, shift = form
    table = pair_table("lennard-jones", cutoff, shift, ONE, ONE)
    return kernels.pair_potential(
        positions, cell[None], pointer, *lists, types, table, "lennard-jones", cutoff, switch_width, half
    )


def _dimer(distance: float, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[torch.Tensor, ...]:
    positions = torch.tensor([[0.0, 0, 0], [0, distance, 0]], dtype=dtype)
    return _evaluate(positions, torch.zeros(3, 3, dtype=dtype), pbc=False, **options)


def _crystal() -> tuple[torch.Tensor, torch.Tensor]:
    grid = torch.cartesian_prod(*[torch.arange(3)] * 3).double() * 1.15
    noise = 0.05 * torch.randn(27, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cell = torch.eye(3, dtype=torch.float64) * 3.45
    cell[1, 0], cell[2, 1] = 0.2, -0.3
    return grid + noise, cell


@pytest.mark.parametrize("half", [False, True])
def test_dimer_at_the_minimum_and_inside(half: bool) -> None:
    energy, forces, virial = _dimer(2 ** (1 / 6), half=half, form=(2.5, 0.0, False))
    assert energy.item() == pytest.approx(-1.0, abs=1e-14)
    assert forces.abs().max() < 1e-13
    energy, forces, virial = _dimer(1.0, half=half, form=(2.5, 0.0, False))
    assert energy.item() == pytest.approx(0.0, abs=1e-14)
    assert forces[:, 1].tolist() == pytest.approx([-24.0, 24.0])
    assert virial[0, 1, 1].item() == pytest.approx(24.0)


def test_cutoff_shift_and_switch() -> None:
    assert _dimer(2.5)[0].item() == 0.0
    hard, shifted = _dimer(2.4999, form=(2.5, 0.0, False))[0], _dimer(2.4999, form=(2.5, 0.0, True))[0]
    assert abs(shifted.item()) < 1e-4 < abs(hard.item())
    x = (2.2 - 2.0) / 0.5
    taper = 1 - 10 * x**3 + 15 * x**4 - 6 * x**5
    assert _dimer(2.2)[0].item() == pytest.approx(4 * (2.2**-12 - 2.2**-6) * taper, rel=1e-14)
    assert abs(_dimer(2.4999)[0].item()) < 1e-9


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("form", [(2.5, 0.5, False), (2.5, 0.5, True)])
def test_forces_and_virial_are_derivatives(half: bool, form: tuple[Any, ...]) -> None:
    positions, cell = _crystal()
    _, forces, virial = _evaluate(positions, cell, half=half, form=form)
    h = 1e-5
    for i, c in ((0, 0), (13, 1), (26, 2)):
        step = torch.zeros_like(positions)
        step[i, c] = h
        up, down = (_evaluate(positions + s * step, cell, half=half, form=form)[0] for s in (1, -1))
        assert forces[i, c].item() == pytest.approx(-(up - down).item() / (2 * h), abs=1e-5)
    for a in range(3):
        for c in range(3):
            strain = torch.zeros(3, 3, dtype=torch.float64)
            strain[a, c] = h
            plus, minus = (torch.eye(3, dtype=torch.float64) + s * strain for s in (1, -1))
            up = _evaluate(positions @ plus, cell @ plus, half=half, form=form)[0]
            down = _evaluate(positions @ minus, cell @ minus, half=half, form=form)[0]
            slope = (up - down).item() / (2 * h)
            assert virial[0, a, c].item() == pytest.approx(-slope, abs=1e-4)
    assert abs(virial[0].trace()) > 1.0, "a wrong sign would pass"
    assert forces.sum(0).abs().max() < 1e-10


def test_wrapping_and_precision() -> None:
    positions, cell = _crystal()
    turns = torch.randint(-3, 4, (27, 3), generator=torch.Generator().manual_seed(2)).double()
    here, there = _evaluate(positions, cell), _evaluate(positions + turns @ cell, cell)
    assert torch.allclose(here[0], there[0], rtol=1e-12)
    assert torch.allclose(here[1], there[1], atol=1e-9)
    single = _evaluate(positions.float(), cell.float())
    assert [t.dtype for t in single] == [torch.float32] * 3
    assert torch.allclose(single[0].double(), here[0], rtol=1e-5)


def test_two_atoms_in_one_place_are_not_finite() -> None:
    for half in (False, True):
        energy, forces, _ = _dimer(0.0, half=half)
        assert not torch.isfinite(energy).any()
        assert not torch.isfinite(forces[:, 0]).any()


def test_refusals() -> None:
    with pytest.raises(InputError, match="cutoff"):
        _dimer(1.0, form=(0.0, 0.0, False))
    with pytest.raises(InputError, match="switch_width"):
        _dimer(1.0, form=(2.5, -0.1, False))
    x, none = torch.zeros(2, 3), torch.zeros(0, dtype=torch.int32)
    rows, offsets = torch.zeros(3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int32)
    pointer, cell = torch.tensor([0, 2], dtype=torch.int32), torch.zeros(1, 3, 3)
    with pytest.raises(ShapeError, match="types"):
        kernels.pair_potential(x, cell, pointer, rows, none, none, offsets, none, TABLE, "morse", 2.5, 0.0, False)
    types = torch.zeros(2, dtype=torch.int32)
    with pytest.raises(ShapeError, match="`table`"):
        kernels.pair_potential(x, cell, pointer, rows, none, none, offsets, types, ONE, "morse", 2.5, 0.0, False)
    with pytest.raises(InputError, match="`form` is 'coulomb'; it must be one of lennard-jones, morse"):
        kernels.pair_potential(x, cell, pointer, rows, none, none, offsets, types, TABLE, "coulomb", 2.5, 0.0, False)
