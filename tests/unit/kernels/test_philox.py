"""Known answers, statistics and limits of the random numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import torch

from athanor import kernels
from athanor.errors import DtypeError, InputError, ShapeError
from athanor.kernels.philox import _reference
from athanor.kernels.philox.purposes import Purpose

ONES = 0xFFFFFFFF
KNOWN_ANSWERS = [  # Random123 (Salmon et al. 2011), philox4x32-10: counter, key, result
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def _one_system(atoms: int, step: int = 0, system_id: int = 0) -> tuple[torch.Tensor, ...]:
    return torch.tensor([0, atoms], dtype=torch.int32), torch.tensor([system_id]), torch.tensor([step])


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    from athanor.kernels.philox import _cpu

    words = tuple(torch.tensor([word]) for word in counter)
    assert tuple(int(x) for x in _reference.philox_block(words, key)) == expected
    pairs = np.empty((2, 1), np.uint64)
    _cpu.philox_blocks(
        np.array(counter, np.uint64)[:, None], 0, np.uint64(key[0] | key[1] << 32).view(np.int64), 1, pairs
    )
    assert tuple(word for pair in pairs[:, 0] for word in (int(pair) >> 32, int(pair) & ONES)) == expected
    mutant = _reference.philox_block(words, (key[1], (key[0] + 1) & ONES))
    assert tuple(int(x) for x in mutant) != expected


def _units_in_the_last_place(value: float, exact: mpmath.mpf) -> float:
    return abs(float((mpmath.mpf(value) - exact) / math.ulp(value)))


def test_normals_are_right_to_three_units_in_the_last_place() -> None:
    """Also where a cosine or sine is near zero, where 2 pi u rounded before the reduction would lose all digits."""
    uniforms = kernels.philox_uniform(*_one_system(500), 7, 1, 2).tolist()
    normals = kernels.philox_normal(*_one_system(500), 7, 1, 2).tolist()
    with mpmath.workprec(120):
        worst = rounded_first = 0.0
        for (u, v), (x, y) in zip(uniforms, normals, strict=True):
            radius = mpmath.sqrt(-2 * mpmath.log(u))
            cosine, sine = radius * mpmath.cospi(2 * mpmath.mpf(v)), radius * mpmath.sinpi(2 * mpmath.mpf(v))
            worst = max(worst, _units_in_the_last_place(x, cosine), _units_in_the_last_place(y, sine))
            mutant = math.sqrt(-2.0 * math.log(u)) * math.sin(2.0 * math.pi * v)
            rounded_first = max(rounded_first, _units_in_the_last_place(mutant, sine))
    assert worst < 3.0
    assert rounded_first > 3.0


@pytest.mark.parametrize("u", [2.0**-53, 3 * 2.0**-53, 0.25, 0.5, math.sqrt(0.5), 1.0 - 2.0**-53])
def test_extreme_uniforms_give_finite_normals(u: float) -> None:
    radius = _reference.radii(torch.tensor([u], dtype=torch.float64)).item()
    assert radius == pytest.approx(math.sqrt(-2.0 * math.log(u)), rel=1e-15)


def test_counter_layout_of_the_second_block() -> None:
    pointer, system_id, step = _one_system(4, step=2**32 * 5 + 7, system_id=2**32 - 1)
    drawn = kernels.philox_uniform(pointer, system_id, step, 2**64 - 2, Purpose.LANGEVIN)
    words = (3 | (1 << 28), 2**32 - 1, 7, (2 << 24) | 5)
    block = [int(x) for x in _reference.philox_block(tuple(torch.tensor([w]) for w in words), (ONES - 1, ONES))]
    assert drawn[3, 2].item() == (((block[0] << 32 | block[1]) >> 12) + 0.5) / 2.0**52


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniforms_are_inside_the_open_interval_and_even(dtype: torch.dtype) -> None:
    u = kernels.philox_uniform(*_one_system(100_000), 1, 2, 3, dtype).double()
    assert u.min() > 0.0
    assert u.max() < 1.0
    assert abs(u.mean() - 0.5) < 5 * (1 / 12 / u.numel()) ** 0.5
    assert abs(u.var() - 1 / 12) < 1e-3


def _assert_standard_normal(x: torch.Tensor) -> None:
    n = x.numel()
    assert abs(x.mean()) < 5 / n**0.5, "mean"
    assert abs(x.var() - 1) < 5 * (2 / n) ** 0.5, "variance"
    assert abs((x**4).mean() - 3) < 5 * (96 / n) ** 0.5, "fourth moment"


def _correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return abs(float((a * b).mean())) * a.numel() ** 0.5


def test_normals_have_mean_variance_and_kurtosis() -> None:
    x = kernels.philox_normal(*_one_system(100_000), 42, 1)
    _assert_standard_normal(x)
    for k in range(3):
        assert _correlation(x[:, k], x[:, (k + 1) % 3]) < 5
    for wrong, what in ((x + 0.02, "mean"), (x * 1.01, "variance"), (x.sign(), "fourth moment")):
        with pytest.raises(AssertionError, match=what):
            _assert_standard_normal(wrong)


def test_neighbouring_seeds_steps_systems_and_purposes_are_not_correlated() -> None:
    base = kernels.philox_normal(*_one_system(50_000, step=10, system_id=3), 42, 1)
    others = {
        "seed": kernels.philox_normal(*_one_system(50_000, step=10, system_id=3), 43, 1),
        "step": kernels.philox_normal(*_one_system(50_000, step=11, system_id=3), 42, 1),
        "seed + step": kernels.philox_normal(*_one_system(50_000, step=9, system_id=3), 43, 1),
        "system": kernels.philox_normal(*_one_system(50_000, step=10, system_id=4), 42, 1),
        "purpose": kernels.philox_normal(*_one_system(50_000, step=10, system_id=3), 42, 2),
    }
    for name, other in others.items():
        assert _correlation(base, other) < 5, name
        assert _correlation(base[1:], other[:-1]) < 5, name

    def added(seed: int, step: int) -> torch.Tensor:  # the mutant: seed and step are added
        return kernels.philox_normal(*_one_system(1000), seed + step, 1)

    assert _correlation(added(42, 10), added(43, 9)) > 5


SEEDS, STEPS = (0, 1, 2**32 - 1, 2**32, 2**32 + 1), (0, 1, 2, 2**32 - 1, 2**32, 2**32 + 1, 2**55 - 1, 2**55)
SYSTEMS, PURPOSES, ATOMS = (0, 1, 2, 3, 2**31, 2**32 - 1), (1, 2, 128), 7_000


def blocks_of_neighbours(draw: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Both doubles of blocks of 128 bits, of neighbouring streams: [seeds, purposes, steps, systems, atoms, 2]."""
    rows = [(step, system) for step in STEPS for system in SYSTEMS]
    pointer = torch.arange(0, ATOMS * len(rows) + 1, ATOMS, dtype=torch.int32)
    steps, systems = torch.tensor(rows).unbind(1)
    streams = [draw(pointer, systems, steps, seed, purpose, 2) for seed in SEEDS for purpose in PURPOSES]
    return torch.stack(streams).view(len(SEEDS), len(PURPOSES), len(STEPS), len(SYSTEMS), ATOMS, 2)


def equal_blocks(blocks: torch.Tensor) -> int:
    """Pairs of neighbours in size that are equal in both doubles, 104 of the 128 bits."""
    first, order = blocks.reshape(-1, 2)[:, 0].sort()
    second = blocks.reshape(-1, 2)[:, 1][order]
    return int(((first.diff() == 0) & (second.diff() == 0)).sum())


def test_ten_million_draws_of_neighbours_share_no_block_and_do_not_correlate() -> None:
    blocks = blocks_of_neighbours(kernels.philox_uniform)
    assert blocks.numel() >= 10_000_000
    assert equal_blocks(blocks) == 0
    noise = (blocks - 0.5) * 12**0.5
    for axis, name in enumerate(("seed", "purpose", "step", "system", "atom")):
        for lag in (1, 2):
            count = noise.shape[axis] - lag
            one, other = noise.narrow(axis, 0, count), noise.narrow(axis, lag, count)
            assert _correlation(one, other) < 5, (name, lag)
            assert _correlation(one[..., 0], other[..., 1]) < 5, (name, lag)
    for function in (lambda step, seed: (step % 2**32, seed), lambda step, seed: (step, seed % 2**32)):  # mutants

        def cut(pointer: Any, systems: Any, steps: Any, seed: int, *rest: Any, function: Any = function) -> Any:
            steps, seed = function(steps, seed)
            return kernels.philox_uniform(pointer, systems, steps, seed, *rest)

        twin = blocks_of_neighbours(cut)
        assert equal_blocks(twin) > 1000


def test_singles_are_rounded_doubles() -> None:
    single = kernels.philox_normal(*_one_system(1000), 5, 1, 3, torch.float32)
    assert torch.equal(single, kernels.philox_normal(*_one_system(1000), 5, 1).float())


def test_refusals_name_the_number() -> None:
    with pytest.raises(InputError, match=rf"system_id.*{2**32}"):
        kernels.philox_normal(*_one_system(2, system_id=2**32), 1, 1)
    with pytest.raises(InputError, match=r"system_id.*-1"):
        kernels.philox_uniform(*_one_system(2, system_id=-1), 1, 1)
    with pytest.raises(InputError, match="step"):
        kernels.philox_uniform(*_one_system(2, step=2**56), 1, 1)
    with pytest.raises(InputError, match="seed"):
        kernels.philox_uniform(*_one_system(2), 2**64, 1)
    with pytest.raises(InputError, match="purpose"):
        kernels.philox_uniform(*_one_system(2), 1, 256)
    with pytest.raises(InputError, match="columns"):
        kernels.philox_uniform(*_one_system(2), 1, 1, 33)
    with pytest.raises(ShapeError, match="system_id"):
        kernels.philox_uniform(torch.tensor([0, 1, 2], dtype=torch.int32), torch.tensor([1]), torch.tensor([1]), 1, 1)
    with pytest.raises(DtypeError, match="int32"):
        kernels.philox_uniform(
            torch.tensor([0, 1], dtype=torch.int32), torch.tensor([1]).int(), torch.tensor([1]), 1, 1
        )


def test_purposes_are_unique_and_fit_eight_bits() -> None:
    assert len({p.value for p in Purpose}) == len(Purpose)
    assert all(0 < p < 256 for p in Purpose)
