"""Reading a packed shift inside a kernel."""

from __future__ import annotations

from athanor.kernels._numba_options import jit


@jit
def unpack_shift(code):
    """Return the three signed ten-bit numbers of a packed shift."""
    return (code << 54) >> 54, (code << 44) >> 54, (code << 34) >> 54
