"""Four doubles in a vector register, for loops over so few elements that LLVM unrolls them instead.

Elementwise operations only, so that bits are the same on every machine. Import this only from ``_cpu.py`` files.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

_FOUR = ir.VectorType(ir.DoubleType(), 4)


class Vector(types.Type):
    """Type of four doubles."""

    def __init__(self) -> None:
        super().__init__(name="athanor.Vector")


_vector = Vector()


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FOUR)


def _place(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), _FOUR.as_pointer())


def _splat(builder: Any, number: Any) -> Any:
    one = builder.insert_element(ir.Constant(_FOUR, ir.Undefined), number, ir.IntType(32)(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), 4), [0] * 4))


def _zeros(typing: Any) -> Any:
    """Return four zeros."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(_FOUR, [0.0] * 4)

    return _vector(), generate


def _load(typing: Any, array: Any, at: Any) -> Any:
    """Return ``array[at : at + 4]`` of a contiguous array of doubles; nothing is checked."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_place(context, builder, array, *arguments), align=8)

    return _vector(array, types.intp), generate


def _store(typing: Any, array: Any, at: Any, values: Any) -> Any:
    """Write ``array[at : at + 4]`` of a contiguous array of doubles; nothing is checked."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _place(context, builder, array, *arguments[:2]), align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, _vector), generate


def _add_scaled(typing: Any, total: Any, factor: Any, values: Any) -> Any:
    """Return ``total + factor * values``, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        total, factor, values = arguments
        kind = ir.FunctionType(_FOUR, [_FOUR] * 3)
        fused = cgutils.get_or_insert_function(builder.module, kind, "llvm.fma.v4f64")
        return builder.call(fused, [_splat(builder, factor), values, total])

    return _vector(_vector, types.float64, _vector), generate


zeros: Any = intrinsic(_zeros)
load: Any = intrinsic(_load)
store: Any = intrinsic(_store)
add_scaled: Any = intrinsic(_add_scaled)
