"""Philox4x32-10 with numba."""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._numba_options import jit

_U32 = np.uint64(0xFFFFFFFF)
_S32 = np.uint64(32)
_M0 = np.uint64(0xD2511F53)
_M1 = np.uint64(0xCD9E8D57)
_W0 = np.uint64(0x9E3779B9)
_W1 = np.uint64(0xBB67AE85)
_BLOCK_BITS = np.uint64(28)
_S24 = np.uint64(24)
_S12 = np.uint64(12)
_S41 = np.uint64(41)
_STEP_HALF = 2.0**-52
_STEP_HALF_SINGLE = 2.0**-23
_TWO_PI = 2.0 * math.pi


@jit
def in_range(segment_ptr: np.ndarray, system_id: np.ndarray, step: np.ndarray, most_atoms: int) -> bool:
    """Whether every number fits its place in the counter."""
    for b in range(system_id.shape[0]):
        if (system_id[b] >> 32) != 0 or (step[b] >> 56) != 0 or segment_ptr[b + 1] - segment_ptr[b] >= most_atoms:
            return False
    return True


@jit
def philox_block(
    c0: np.uint64, c1: np.uint64, c2: np.uint64, c3: np.uint64, k0: np.uint64, k1: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Ten rounds on four 32-bit words, each held in 64 bits."""
    for _ in range(10):
        p0 = _M0 * c0
        p1 = _M1 * c2
        c0 = (p1 >> _S32) ^ c1 ^ k0
        c1 = p1 & _U32
        c2 = (p0 >> _S32) ^ c3 ^ k1
        c3 = p0 & _U32
        k0 = (k0 + _W0) & _U32
        k1 = (k1 + _W1) & _U32
    return c0, c1, c2, c3


@jit
def fill(
    segment_ptr: np.ndarray,
    system_id: np.ndarray,
    step: np.ndarray,
    seed: int,
    purpose: int,
    kind: int,
    out: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Fill rows ``start .. stop - 1``: `kind` 0 for doubles in (0, 1), 1 for singles in (0, 1), 2 for normals."""
    columns = out.shape[1]
    key = np.uint64(seed)
    k0 = key & _U32
    k1 = key >> _S32
    b = 0
    for i in range(start, stop):
        while i >= segment_ptr[b + 1]:
            b += 1
        c0 = np.uint64(i - segment_ptr[b])
        c1 = np.uint64(system_id[b])
        wide_step = np.uint64(step[b])
        c2 = wide_step & _U32
        c3 = (np.uint64(purpose) << _S24) | (wide_step >> _S32)
        for k in range(0, columns, 2):
            block = np.uint64(k // 2) << _BLOCK_BITS
            x0, x1, x2, x3 = philox_block(c0 | block, c1, c2, c3, k0, k1)
            a = (x0 << _S32) | x1
            c = (x2 << _S32) | x3
            if kind == 1:
                out[i, k] = (np.float64(a >> _S41) + 0.5) * _STEP_HALF_SINGLE
                if k + 1 < columns:
                    out[i, k + 1] = (np.float64(c >> _S41) + 0.5) * _STEP_HALF_SINGLE
                continue
            u = (np.float64(a >> _S12) + 0.5) * _STEP_HALF
            v = (np.float64(c >> _S12) + 0.5) * _STEP_HALF
            if kind == 2:
                radius = math.sqrt(-2.0 * math.log(u))
                angle = _TWO_PI * v
                u = np.float64(radius * math.cos(angle))
                if k + 1 < columns:
                    v = np.float64(radius * math.sin(angle))
            out[i, k] = u
            if k + 1 < columns:
                out[i, k + 1] = v
