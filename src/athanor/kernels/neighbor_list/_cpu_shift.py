"""Reading a packed shift inside a kernel."""

from __future__ import annotations

from typing import Any

from numba.core import types
from numba.extending import overload


def unpack_shift(code: Any) -> Any:
    """Return the three signed numbers of a packed shift, of two bits in an int8 and ten in an int32."""
    raise NotImplementedError


@overload(unpack_shift)
def _unpack_shift(code):
    bits = 2 if code == types.int8 else 10
    keep, first, second, third = 64 - bits, 64 - bits, 64 - 2 * bits, 64 - 3 * bits

    def unpack(code):
        wide = types.int64(code)
        return (wide << first) >> keep, (wide << second) >> keep, (wide << third) >> keep

    return unpack
