"""Philox4x32-10 with numba: a few hundred atoms at a time, so that every loop runs in vector registers."""

from __future__ import annotations

import numpy as np

from athanor.kernels._numba_options import jit
from athanor.kernels.philox._cpu_normal import cosines_and_sines, radii

CHUNK = 256
"""Atoms that go through the loops together; their scratch rows stay in the first cache."""

_U32 = np.uint64(0xFFFFFFFF)
_S32 = np.uint64(32)
_M0 = np.uint64(0xD2511F53)
_M1 = np.uint64(0xCD9E8D57)
_W0 = np.uint64(0x9E3779B9)
_W1 = np.uint64(0xBB67AE85)
_BLOCK_BITS = np.uint64(28)
_S24 = np.uint64(24)
_STEP_HALF = 2.0**-52
_STEP_HALF_SINGLE = 2.0**-23


@jit
def in_range(segment_ptr, system_id, step, most_atoms):
    """Whether every number fits its place in the counter."""
    for b in range(system_id.shape[0]):
        if (system_id[b] >> 32) != 0 or (step[b] >> 56) != 0 or segment_ptr[b + 1] - segment_ptr[b] >= most_atoms:
            return False
    return True


@jit
def count_up(segment_ptr, system_id, step, purpose, start, stop, b, counters):
    """Write the counter words of atoms ``start .. stop - 1``, the first of system `b` or later; return the last's."""
    last_word = np.uint64(purpose) << _S24
    for i in range(start, stop):
        while i >= segment_ptr[b + 1]:
            b += 1
        wide_step = np.uint64(step[b])
        counters[0, i - start] = np.uint64(i - segment_ptr[b])
        counters[1, i - start] = np.uint64(system_id[b])
        counters[2, i - start] = wide_step & _U32
        counters[3, i - start] = last_word | (wide_step >> _S32)
    return b


@jit
def philox_blocks(counters, block, seed, count, pairs):
    """Ten rounds on four 32-bit words, each held in 64 bits; two 64-bit integers for each of `count` counters."""
    key = np.uint64(seed)
    number = np.uint64(block) << _BLOCK_BITS
    for m in range(count):
        c0, c1, c2, c3 = counters[0, m] | number, counters[1, m], counters[2, m], counters[3, m]
        k0, k1 = key & _U32, key >> _S32
        for _ in range(10):
            p0 = _M0 * (c0 & _U32)
            p1 = _M1 * (c2 & _U32)
            c0 = (p1 >> _S32) ^ c1 ^ k0
            c1 = p1 & _U32
            c2 = (p0 >> _S32) ^ c3 ^ k1
            c3 = p0 & _U32
            k0 = (k0 + _W0) & _U32
            k1 = (k1 + _W1) & _U32
        pairs[0, m] = (c0 << _S32) | c1
        pairs[1, m] = (c2 << _S32) | c3


@jit
def uniforms(bits, single, count, out):
    """Map the upper 52 (`single`: 23) bits m to (m + 1/2) / 2^52 (2^23)."""
    drop, half = (np.int64(41), _STEP_HALF_SINGLE) if single else (np.int64(12), _STEP_HALF)
    keep = np.int64(2**23 - 1) if single else np.int64(2**52 - 1)
    for m in range(count):
        out[m] = (np.float64((np.int64(bits[m]) >> drop) & keep) + 0.5) * half


@jit
def fill(segment_ptr, system_id, step, seed, purpose, kind, out, start, stop):
    """Fill rows ``start .. stop - 1``: `kind` 0 for doubles in (0, 1), 1 for singles in (0, 1), 2 for normals."""
    columns = out.shape[1]
    counters, pairs = np.empty((4, CHUNK), np.uint64), np.empty((2, CHUNK), np.uint64)
    u, v = np.empty(CHUNK), np.empty(CHUNK)
    radius, mantissa, cosine, sine = np.empty(CHUNK), np.empty(CHUNK), np.empty(CHUNK), np.empty(CHUNK)
    b = 0
    for first in range(start, stop, CHUNK):
        count = min(CHUNK, stop - first)
        b = count_up(segment_ptr, system_id, step, purpose, first, first + count, b, counters)
        for k in range(0, columns, 2):
            philox_blocks(counters, k // 2, seed, count, pairs)
            uniforms(pairs[0], kind == 1, count, u)
            uniforms(pairs[1], kind == 1, count, v)
            if kind == 2:
                radii(u, count, mantissa, radius)
                cosines_and_sines(v, count, cosine, sine)
                for m in range(count):
                    u[m] = radius[m] * cosine[m]
                    v[m] = radius[m] * sine[m]
            for m in range(count):
                out[first + m, k] = u[m]
            if k + 1 < columns:
                for m in range(count):
                    out[first + m, k + 1] = v[m]
