"""Random numbers as a pure function of (seed, purpose, system, step, atom): public calls and registration."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from athanor import _runtime
from athanor.errors import DtypeError, InputError, ShapeError
from athanor.kernels._library import LazyModule, as_array, as_tensor, register_op
from athanor.kernels._threads import even_bounds, num_parts, run_parts
from athanor.kernels.philox import _reference

_cpu = LazyModule("athanor.kernels.philox._cpu")

MAX_COLUMNS = 32
_MAX_ATOMS = 2**28


def philox_uniform(
    segment_ptr: torch.Tensor,
    system_id: torch.Tensor,
    step: torch.Tensor,
    seed: int,
    purpose: int,
    columns: int = 3,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """Draw uniform numbers in the open interval (0, 1) from Philox4x32-10.

    ===============  ==================================================================================
    counter word     content
    ===============  ==================================================================================
    0                bits 0 to 27: index of the atom within its system; bits 28 to 31: block number
    1                system id
    2                step, low 32 bits
    3                bits 0 to 23: step, bits 32 to 55; bits 24 to 31: purpose
    key              64-bit seed, low word first
    ===============  ==================================================================================

    Block ``m`` gives columns ``2 m`` and ``2 m + 1``, from its words 0, 1 and 2, 3 (the even word is the upper half of
    64 bits). A double is ``(m + 1/2) / 2^52`` of the upper 52 bits: an odd multiple of 2^-53, exact, never 0 or 1.
    A single is ``(m + 1/2) / 2^23`` of the upper 23 bits.

    Parameters
    ----------
    segment_ptr
        int32 [B + 1], first atom of each system.
    system_id
        int64 [B], identity of each system, 0 to 2^32 - 1.
    step
        int64 [B], 0 to 2^56 - 1.
    seed
        0 to 2^64 - 1.
    purpose
        Number of a `Purpose`, 0 to 255.
    columns
        Numbers per atom, 1 to 32.
    dtype
        float32 or float64.

    Returns
    -------
    torch.Tensor
        [N, columns], the same on every device.

    Raises
    ------
    InputError
        If an integer is outside its range, or a system has 2^28 atoms or more.
    ShapeError, DtypeError
        If a tensor or `dtype` is not as above.

    Notes
    -----
    Checking the ranges waits for the device.

    References
    ----------
    .. [1] J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, SC'11 (2011). doi:10.1145/2063384.2063405
    """
    _check(segment_ptr, system_id, step, seed, purpose, columns, dtype)
    return _philox_uniform(segment_ptr, system_id, step, _signed(seed), int(purpose), columns, dtype)


def philox_normal(
    segment_ptr: torch.Tensor,
    system_id: torch.Tensor,
    step: torch.Tensor,
    seed: int,
    purpose: int,
    columns: int = 3,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    r"""Draw normal numbers of mean 0 and variance 1 from Philox4x32-10.

    .. math:: n_{2m} = \sqrt{-2 \ln u_{2m}}\,\cos(2\pi u_{2m+1}), \quad
              n_{2m+1} = \sqrt{-2 \ln u_{2m}}\,\sin(2\pi u_{2m+1})

    with the doubles :math:`u` of `philox_uniform`, whose parameters and errors these are. Singles are rounded doubles.

    Returns
    -------
    torch.Tensor
        [N, columns]; right to 3 units in the last place. Devices agree to 2, as their square roots do not all round
        correctly; everything before the root has equal bits.

    References
    ----------
    .. [1] G. E. P. Box, M. E. Muller, Ann. Math. Stat. 29, 610 (1958). doi:10.1214/aoms/1177706645
    """
    _check(segment_ptr, system_id, step, seed, purpose, columns, dtype)
    return _philox_normal(segment_ptr, system_id, step, _signed(seed), int(purpose), columns, dtype)


def _check(segment_ptr, system_id, step, seed, purpose, columns, dtype):
    _runtime.ready()
    systems = segment_ptr.shape[0] - 1
    if system_id.shape != (systems,) or step.shape != (systems,):
        raise ShapeError(
            f"`system_id` has shape {tuple(system_id.shape)} and `step` {tuple(step.shape)}; "
            f"{systems} systems need ({systems},) for both."
        )
    if system_id.dtype != torch.int64 or step.dtype != torch.int64:
        raise DtypeError(f"`system_id` is {system_id.dtype} and `step` {step.dtype}; both must be torch.int64.")
    if dtype not in (torch.float32, torch.float64):
        raise DtypeError(f"`dtype` is {dtype}; random numbers are torch.float32 or torch.float64.")
    for name, value, limit in (("seed", seed, 2**64), ("purpose", purpose, 256)):
        if not 0 <= value < limit:
            raise InputError(f"`{name}` is {value}; it must be from 0 to {limit - 1}.")
    if not 1 <= columns <= MAX_COLUMNS:
        raise InputError(f"`columns` is {columns}; it must be from 1 to {MAX_COLUMNS}.")


def _signed(seed: int) -> int:
    return seed - 2**64 if seed >= 2**63 else seed


def _check_ranges(segment_ptr: torch.Tensor, system_id: torch.Tensor, step: torch.Tensor) -> None:
    if system_id.shape[0] == 0:
        return
    for name, values, bits in (("system_id", system_id, 32), ("step", step, 56)):
        outside = (values >> bits) != 0
        if outside.any():
            index = int(outside.nonzero()[0])
            raise InputError(
                f"`{name}` is {int(values[index])} (index {index}); noise needs 0 to 2^{bits} - 1. "
                f"Give the systems smaller numbers."
            )
    largest = int(torch.diff(segment_ptr).max())
    if largest >= _MAX_ATOMS:
        raise InputError(f"A system has {largest} atoms; noise needs fewer than {_MAX_ATOMS} in each.")


def _draw_cpu(normal, segment_ptr, system_id, step, seed, purpose, columns, dtype):
    ptr, ids, steps = as_array(segment_ptr), as_array(system_id), as_array(step)
    if not _cpu.in_range(ptr, ids, steps, _MAX_ATOMS):
        _check_ranges(segment_ptr, system_id, step)
    kind = 2 if normal else 1 if dtype == torch.float32 else 0
    num_atoms = int(ptr[-1])
    out = np.empty((num_atoms, columns))
    parts = num_parts(num_atoms * columns * (20.0 if normal else 5.0))
    run_parts(_cpu.fill, (ptr, ids, steps, seed, purpose, kind, out), even_bounds(num_atoms, parts))
    return as_tensor(out, dtype)


def _draw_reference(draw, segment_ptr, system_id, step, seed, *rest):
    _check_ranges(segment_ptr, system_id, step)
    return draw(segment_ptr, system_id, step, seed % 2**64, *rest)


def _fake(segment_ptr: torch.Tensor, *rest: Any) -> torch.Tensor:
    *_, columns, dtype = rest
    num_atoms = torch.library.get_ctx().new_dynamic_size()
    return torch.empty((num_atoms, columns), dtype=dtype, device=segment_ptr.device)


def _register(public: Any, normal: bool, reference: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    cpu, elsewhere = partial(_draw_cpu, normal), partial(_draw_reference, reference)
    return register_op(public, cpu=cpu, reference=elsewhere, fake=_fake)


_philox_uniform = _register(philox_uniform, False, _reference.uniform)
_philox_normal = _register(philox_normal, True, _reference.normal)
