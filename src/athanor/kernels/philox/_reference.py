"""Philox4x32-10 in torch with int64 arithmetic: any device, the oracle and the explanation."""

from __future__ import annotations

import torch

from athanor.kernels.philox import _polynomials as p
from athanor.kernels.segment._reference import segment_index

_U32 = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def philox_block(counter: tuple[torch.Tensor, ...], key: tuple[int, int]) -> tuple[torch.Tensor, ...]:
    """Ten rounds on four 32-bit words held in int64; products wrap, and the shift is masked back to 32 bits."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) & _U32) ^ c1 ^ k0, p1 & _U32, ((p0 >> 32) & _U32) ^ c3 ^ k1, p0 & _U32
        k0, k1 = (k0 + _KEY_STEPS[0]) & _U32, (k1 + _KEY_STEPS[1]) & _U32
    return c0, c1, c2, c3


def random_bits(
    segment_ptr: torch.Tensor, system_id: torch.Tensor, step: torch.Tensor, seed: int, purpose: int, blocks: int
) -> torch.Tensor:
    """Return two 64-bit integers per atom and block, int64 [N, blocks, 2]; see `philox_uniform` for the counter."""
    num_atoms = int(segment_ptr[-1])
    system = segment_index(segment_ptr, num_atoms)
    atom = torch.arange(num_atoms, device=segment_ptr.device) - segment_ptr.long()[system]
    first = atom[:, None] | (torch.arange(blocks, device=atom.device) << 28)
    last = (purpose << 24) | (step >> 32)
    rows = [word[system][:, None].expand_as(first) for word in (system_id, step & _U32, last)]
    x0, x1, x2, x3 = philox_block((first, *rows), (seed & _U32, seed >> 32))
    return torch.stack(((x0 << 32) | x1, (x2 << 32) | x3), dim=-1)


def uniform(segment_ptr, system_id, step, seed, purpose, columns, dtype):
    """Map the upper 52 (single: 23) bits m to (m + 1/2) / 2^52 (2^23)."""
    bits = 23 if dtype == torch.float32 else 52
    blocks = (columns + 1) // 2
    integers = random_bits(segment_ptr, system_id, step, seed, purpose, blocks)
    mantissa = (integers.flatten(1)[:, :columns] >> (64 - bits)) & (2**bits - 1)
    return ((mantissa.double() + 0.5) * 2.0**-bits).to(dtype)


def radii(u: torch.Tensor) -> torch.Tensor:
    r"""Return the square root of -2 ln u for doubles inside (0, 1).

    With :math:`u = 2^k (1 + f)`, the logarithm is :math:`k \ln 2` and a series of :math:`2 \tanh^{-1} s` in
    :math:`s = f/(2 + f)`; right to one unit in the last place.
    """
    bits = u.view(torch.int64)
    exponent = (bits - p.ROOT_HALF_BITS) >> 52
    f, k = (bits - (exponent << 52)).view(torch.float64) - 1.0, exponent.double()
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    series = w * (p.L2 + w * (p.L4 + w * p.L6)) + z * (p.L1 + w * (p.L3 + w * (p.L5 + w * p.L7)))
    half = 0.5 * f * f
    log = k * p.LN2_HIGH - ((half - (s * (half + series) + k * p.LN2_LOW)) - f)
    return torch.sqrt(-2.0 * log)


def cosines_and_sines(v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosine and sine of 2 pi v for doubles in [0, 1), by minimax polynomials on an eighth of a turn.

    The argument is reduced before it is multiplied by pi/2, so nothing is lost near the zeros.
    """
    quarter = torch.floor(4.0 * v + 0.5)
    x = (4.0 * v - quarter) * p.HALF_PI
    z = x * x
    s = x + z * x * (p.S1 + z * (p.S2 + z * (p.S3 + z * (p.S4 + z * (p.S5 + z * p.S6)))))
    c = 1.0 - (0.5 * z - z * z * (p.C1 + z * (p.C2 + z * (p.C3 + z * (p.C4 + z * (p.C5 + z * p.C6))))))
    swap, left, below = (quarter % 2) == 1, (quarter == 1) | (quarter == 2), (quarter == 2) | (quarter == 3)
    cosine, sine = torch.where(swap, s, c), torch.where(swap, c, s)
    return torch.where(left, -cosine, cosine), torch.where(below, -sine, sine)


def normal(segment_ptr, system_id, step, seed, purpose, columns, dtype):
    """Box and Muller's transform of the two uniforms of each block; both results are used."""
    blocks = (columns + 1) // 2
    pairs = uniform(segment_ptr, system_id, step, seed, purpose, 2 * blocks, torch.float64).unflatten(1, (blocks, 2))
    normals = radii(pairs[..., 0].contiguous())[..., None] * torch.stack(cosines_and_sines(pairs[..., 1]), dim=-1)
    return normals.flatten(1)[:, :columns].to(dtype).contiguous()
