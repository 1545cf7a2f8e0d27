"""Philox4x32-10 in torch with int64 arithmetic: any device, the oracle and the explanation."""

from __future__ import annotations

import math

import torch

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


def uniform(
    segment_ptr: torch.Tensor,
    system_id: torch.Tensor,
    step: torch.Tensor,
    seed: int,
    purpose: int,
    columns: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Map the upper 52 (single: 23) bits m to (m + 1/2) / 2^52 (2^23)."""
    bits = 23 if dtype == torch.float32 else 52
    blocks = (columns + 1) // 2
    integers = random_bits(segment_ptr, system_id, step, seed, purpose, blocks)
    mantissa = (integers.flatten(1)[:, :columns] >> (64 - bits)) & (2**bits - 1)
    return ((mantissa.double() + 0.5) * 2.0**-bits).to(dtype)


def normal(
    segment_ptr: torch.Tensor,
    system_id: torch.Tensor,
    step: torch.Tensor,
    seed: int,
    purpose: int,
    columns: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Box and Muller's transform of the two uniforms of each block; both results are used."""
    blocks = (columns + 1) // 2
    pairs = uniform(segment_ptr, system_id, step, seed, purpose, 2 * blocks, torch.float64).unflatten(1, (blocks, 2))
    radius, angle = torch.sqrt(-2.0 * torch.log(pairs[..., 0])), (2.0 * math.pi) * pairs[..., 1]
    normals = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)
    return normals.flatten(1)[:, :columns].to(dtype).contiguous()
