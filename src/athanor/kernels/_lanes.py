"""Eight doubles at once, for loops over pairs: what stands in one lane meets the others in `add_up` alone.

Term m of a row goes to lane m mod 8, and lanes are added in a fixed order. So the bits of a sum are a function of its
terms and their order, whatever registers a processor has. Arithmetic, ``math.sqrt``, ``math.exp`` and ``max`` work on
lanes as they do on floats, so that a formula is written once. Import this only from ``_cpu.py`` files.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, overload, register_model

from athanor.kernels._numba_options import inlined

WIDTH = 8

_BIT, _INT, _LONG, _DOUBLE = ir.IntType(1), ir.IntType(32), ir.IntType(64), ir.DoubleType()
_BITS, _INTS, _LONGS, _DOUBLES = (ir.VectorType(kind, WIDTH) for kind in (_BIT, _INT, _LONG, _DOUBLE))
_FOUR = ir.VectorType(_DOUBLE, 4)


class Lanes(types.Type):
    """Type of eight doubles, indices or bits."""

    def __init__(self, kind: str) -> None:
        super().__init__(name=f"athanor.Lanes({kind})")
        self.vector = {"doubles": _DOUBLES, "indices": _INTS, "mask": _BITS}[kind]


DOUBLES, INDICES, MASK = Lanes("doubles"), Lanes("indices"), Lanes("mask")


@register_model(Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, kind.vector)


class _Array(NamedTuple):
    """An array as LLVM's builder sees it: a pointer to its numbers, and their type."""

    data: Any
    element: Any

    def place(self, builder: Any, at: Any, kind: Any) -> Any:
        """Return a pointer to a value of another type that begins at an element."""
        return builder.bitcast(builder.gep(self.data, [at]), kind.as_pointer())


def _operation(result: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make a function of numba of one of LLVM's builder and values."""

    def decorate(build: Callable[..., Any]) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            def given(kind: Any, value: Any) -> Any:
                if not isinstance(kind, types.Array):
                    return value
                return _Array(context.make_array(kind)(context, builder, value).data, context.get_data_type(kind.dtype))

            built = build(builder, *map(given, signature.args, values))
            return context.make_tuple(builder, result, built) if isinstance(built, tuple) else built

        def operation(typing: Any, *arguments: Any) -> Any:
            return result(*arguments), generate

        operation.__name__ = operation.__qualname__ = build.__name__
        operation.__signature__ = inspect.signature(build)  # type: ignore[attr-defined]  # numba wants a name for each
        return intrinsic(operation)

    return decorate


def _constant(kind: Any, numbers: Any) -> Any:
    return ir.Constant(ir.VectorType(kind, len(numbers)), list(numbers))


def _shuffled(builder: Any, first: Any, second: Any, *lanes: int) -> Any:
    return builder.shuffle_vector(first, second, _constant(_INT, lanes))


def _spread(builder: Any, number: Any) -> Any:
    one = builder.insert_element(ir.Constant(ir.VectorType(number.type, WIDTH), ir.Undefined), number, _INT(0))
    return _shuffled(builder, one, one, *[0] * WIDTH)


def _call(builder: Any, name: str, *values: Any) -> Any:
    kind = ir.FunctionType(_DOUBLES, [value.type for value in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v8f64"), values)


@_operation(DOUBLES)
def spread(builder, number):
    """Return a float in all lanes."""
    return _spread(builder, number)


@_operation(DOUBLES)
def add_product(builder, total, x, y):
    """Return ``total + x * y``, rounded once."""
    return _call(builder, "fma", x, y, total)


@_operation(DOUBLES)
def choose(builder, mask, x, y):
    """Return `x` where the mask is set, else `y`."""
    return builder.select(mask, x, y)


@_operation(MASK)
def is_less(builder, x, y):
    """Return where ``x < y``."""
    return builder.fcmp_ordered("<", x, y)


@_operation(MASK)
def is_at_least(builder, x, y):
    """Return where ``x >= y``."""
    return builder.fcmp_ordered(">=", x, y)


@_operation(MASK)
def lanes_before(builder, count):
    """Return the first `count` lanes."""
    return _lanes_before(builder, count)


def _lanes_before(builder: Any, count: Any) -> Any:
    return builder.icmp_signed("<", _constant(_LONG, range(WIDTH)), _spread(builder, _long(builder, count)))


@_operation(MASK)
def both(builder, x, y):
    """Return where both masks are set."""
    return builder.and_(x, y)


@_operation(types.int64)
def bits_of(builder, mask):
    """Return the lanes of a mask as bits, the first one lowest."""
    return builder.zext(builder.bitcast(mask, ir.IntType(WIDTH)), _LONG)


@_operation(types.int64)
def lowest_bit(builder, word):
    """Return which is the lowest bit of a word that is not 0."""
    kind = ir.FunctionType(_LONG, [_LONG, _BIT])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.cttz.i64"), [word, _BIT(1)])


@_operation(types.boolean)
def any_set(builder, indices):
    """Whether an index is not 0."""
    return builder.icmp_signed("!=", builder.bitcast(indices, ir.IntType(32 * WIDTH)), ir.IntType(32 * WIDTH)(0))


@_operation(DOUBLES)
def load(builder, array, at):
    """Return ``array[at : at + 8]`` of contiguous doubles; nothing is checked."""
    return builder.load(array.place(builder, at, _DOUBLES), align=8)


@_operation(INDICES)
def load_indices(builder, array, at, count):
    """Return ``array[at : at + 8]`` of contiguous int32s or int8s; of fewer, `count`, the rest is 0 and not read."""
    some = ir.VectorType(array.element, WIDTH)
    with builder.if_else(builder.icmp_signed(">=", count, count.type(WIDTH)), likely=True) as (then, otherwise):
        with then:
            whole = builder.load(array.place(builder, at, some), align=array.element.width // 8)
            whole_at = builder.block
        with otherwise:
            inside = [builder.icmp_signed("<", count.type(k), count) for k in range(WIDTH)]
            places = [builder.select(there, _LONG(k), _LONG(0)) for k, there in enumerate(inside)]
            part = _gathered(builder, array, [builder.add(_long(builder, at), place) for place in places], some)
            part = builder.select(_lanes_before(builder, count), part, _constant(array.element, [0] * WIDTH))
            part_at = builder.block
    loaded = builder.phi(some)
    loaded.add_incoming(whole, whole_at)
    loaded.add_incoming(part, part_at)
    return loaded if array.element == _INT else builder.sext(loaded, _INTS)


@_operation(types.UniTuple(DOUBLES, 4))
def load_rows(builder, rows, first, indices):
    """Return the columns of ``rows[first + index]``, contiguous rows of four doubles: eight loads and a transpose."""
    base = builder.bitcast(rows.data, _FOUR.as_pointer())
    four = [builder.load(builder.gep(base, [at]), align=8) for at in _places(builder, first, indices)]
    pairs = [_shuffled(builder, four[k], four[k + 4], *range(8)) for k in range(4)]  # rows k and k + 4
    even, odd = (0, 8, 2, 10, 4, 12, 6, 14), (1, 9, 3, 11, 5, 13, 7, 15)
    low, high = (0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15)
    zeroth_and_second = [_shuffled(builder, *pairs[k : k + 2], *even) for k in (0, 2)]
    first_and_third = [_shuffled(builder, *pairs[k : k + 2], *odd) for k in (0, 2)]
    both = (zeroth_and_second, first_and_third)
    return tuple(_shuffled(builder, *halves, *half) for half in (low, high) for halves in both)


@_operation(DOUBLES)
def gather(builder, array, first, indices):
    """Return ``array[first + index]`` of contiguous doubles."""
    return _gathered(builder, array, _places(builder, first, indices), _DOUBLES)


@_operation(INDICES)
def gather_indices(builder, array, first, indices):
    """Return ``array[first + index]`` of contiguous int32s."""
    return _gathered(builder, array, _places(builder, first, indices), _INTS)


def _places(builder: Any, first: Any, indices: Any) -> list[Any]:
    each = (builder.extract_element(indices, _INT(k)) for k in range(WIDTH))
    return [builder.add(_long(builder, first), _long(builder, index)) for index in each]


def _long(builder: Any, number: Any) -> Any:
    return builder.sext(number, _LONG) if number.type.width < _LONG.width else number


def _gathered(builder: Any, array: Any, places: list[Any], kind: Any) -> Any:
    found = ir.Constant(kind, ir.Undefined)
    for k, place in enumerate(places):
        found = builder.insert_element(found, builder.load(builder.gep(array.data, [place])), _INT(k))
    return found


@_operation(INDICES)
def scale_indices(builder, factor, indices, added):
    """Return ``factor * indices + added``; both may be numbers or lanes."""
    factor, added = (_indices(builder, each) for each in (factor, added))
    return builder.add(builder.mul(factor, indices), added)


def _indices(builder: Any, number: Any) -> Any:
    if number.type == _INTS:
        return number
    return _spread(builder, builder.trunc(_long(builder, number), _INT))


@_operation(INDICES)
def truncate(builder, x):
    """Return doubles without their fractions, which must fit."""
    return builder.fptosi(x, _INTS)


@_operation(DOUBLES)
def as_doubles(builder, indices):
    """Return indices as doubles."""
    return builder.sitofp(indices, _DOUBLES)


@_operation(types.UniTuple(DOUBLES, 3))
def unpack_shifts(builder, codes, array):
    """Return the three signed numbers of shifts from `array`, of two bits each in int8s, else of ten, as doubles."""
    bits = 2 if array.element.width == 8 else 10
    lefts = (_constant(_INT, [32 - bits * axis] * WIDTH) for axis in (1, 2, 3))
    right = _constant(_INT, [32 - bits] * WIDTH)
    return tuple(builder.sitofp(builder.ashr(builder.shl(codes, left), right), _DOUBLES) for left in lefts)


@_operation(types.float64)
def add_up(builder, lanes):
    """Return the sum of all lanes: halves, then quarters, then the last two."""
    four = builder.fadd(_shuffled(builder, lanes, lanes, 0, 1, 2, 3), _shuffled(builder, lanes, lanes, 4, 5, 6, 7))
    two = builder.fadd(_shuffled(builder, four, four, 0, 1), _shuffled(builder, four, four, 2, 3))
    return builder.fadd(builder.extract_element(two, _INT(0)), builder.extract_element(two, _INT(1)))


@_operation(types.float64)
def lane_of(builder, lanes, k):
    """Return what stands in lane k."""
    return builder.extract_element(lanes, builder.trunc(k, _INT))


def _arithmetic(function: Any, name: str) -> None:
    """Have an operator of Python work on lanes, and on lanes and a float."""

    @_operation(DOUBLES)
    def apply(builder, x, y):
        return getattr(builder, name)(x, y)

    @overload(function)
    def on_lanes(x, y):
        if x == DOUBLES and y == DOUBLES:
            return lambda x, y: apply(x, y)
        if x == DOUBLES and isinstance(y, types.Float):
            return lambda x, y: apply(x, spread(y))
        if y == DOUBLES and isinstance(x, types.Float):
            return lambda x, y: apply(spread(x), y)
        return None


_arithmetic(operator.add, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")
_arithmetic(operator.truediv, "fdiv")


@_operation(DOUBLES)
def _negative(builder, x):
    return builder.fneg(x)


@_operation(DOUBLES)
def _root(builder, x):
    return _call(builder, "sqrt", x)


@_operation(DOUBLES)
def _nearest(builder, x):
    return _call(builder, "rint", x)


@_operation(DOUBLES)
def _power_of_two(builder, n):
    """Return 2^n for whole numbers from -1022 to 1023."""
    shifted = builder.add(builder.fptosi(n, _LONGS), _constant(_LONG, [1023] * WIDTH))
    return builder.bitcast(builder.shl(shifted, _constant(_LONG, [52] * WIDTH)), _DOUBLES)


@inlined
def _exponential(x):
    """Return e^x to within two units in the last place: a power of two times a Taylor series within ln 2 / 2."""
    x = choose(is_less(x, spread(-750.0)), spread(-750.0), x)  # there it is 0, and soon infinite on the other side
    x = choose(is_less(spread(750.0), x), spread(750.0), x)
    n = _nearest(x * 1.4426950408889634)
    z = add_product(add_product(x, n, spread(-6.93147180369123816490e-01)), n, spread(-1.90821492927058770002e-10))
    p = spread(1.0 / 6227020800.0)
    p = add_product(spread(1.0 / 479001600.0), p, z)
    p = add_product(spread(1.0 / 39916800.0), p, z)
    p = add_product(spread(1.0 / 3628800.0), p, z)
    p = add_product(spread(1.0 / 362880.0), p, z)
    p = add_product(spread(1.0 / 40320.0), p, z)
    p = add_product(spread(1.0 / 5040.0), p, z)
    p = add_product(spread(1.0 / 720.0), p, z)
    p = add_product(spread(1.0 / 120.0), p, z)
    p = add_product(spread(1.0 / 24.0), p, z)
    p = add_product(spread(1.0 / 6.0), p, z)
    p = add_product(spread(0.5), p, z)
    p = add_product(spread(1.0), p, z)
    p = add_product(spread(1.0), p, z)
    half = _nearest(n * 0.5)
    return p * _power_of_two(half) * _power_of_two(n - half)


@overload(operator.neg)
def _negative_of_lanes(x):
    return (lambda x: _negative(x)) if x == DOUBLES else None


@overload(math.sqrt)
def _root_of_lanes(x):
    return (lambda x: _root(x)) if x == DOUBLES else None


@overload(math.exp)
def _exponential_of_lanes(x):
    return (lambda x: _exponential(x)) if x == DOUBLES else None


@overload(max)
def _larger_of_lanes(x, y):
    """Return the larger, or `x` where one is NaN."""
    if x == DOUBLES and y == DOUBLES:
        return lambda x, y: choose(is_less(x, y), y, x)
    if x == DOUBLES and isinstance(y, types.Float):
        return lambda x, y: choose(is_less(x, spread(y)), spread(y), x)
    return None
