"""Vectors of numbers as a type of numba, so that kernels say themselves what is done side by side.

A `Lanes` is what fits in 64 bytes: 16 numbers of single precision or 8 of double. The compiler divides it
where registers are narrower. Loops that a compiler has to find out for itself are vectorised only if it can
prove that no array overlaps another, which a transform in place forbids.

Arrays are given by their `address`; complex ones as real numbers, real and imaginary parts in turn.

The cache of numba looks at the file of a kernel alone: after a change here, change `KERNELS_VERSION` there.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

__all__ = ["LANE_BYTES", "Lanes", "add_pair", "add_up", "address", "advance", "fill", "fill_like", "load"]
__all__ += [
    "load_imag",
    "load_real",
    "logarithm",
    "maximum",
    "pick",
    "root",
    "store",
    "store_pair",
    "transpose_tile",
]

LANE_BYTES = 64
"""Size of a vector: that of a line of the cache, and of a register of AVX-512."""

FLAGS = ("contract", "nsz")
"""A product and a sum may become one operation; NaN and infinities keep their meaning."""

INDEX = ir.IntType(32)


class Lanes(types.Type):
    """The type of a vector of numbers of a ``dtype``."""

    def __init__(self, dtype: Any):
        self.dtype = dtype
        self.size = dtype.bitwidth // 8
        self.count = LANE_BYTES // self.size
        super().__init__(name=f"Lanes({dtype})")


def _vector(lanes: Lanes) -> ir.VectorType:
    return ir.VectorType(ir.FloatType() if lanes.size == 4 else ir.DoubleType(), lanes.count)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Lanes):
        super().__init__(dmm, fe_type, _vector(fe_type))


def _define_operator(call: Callable[..., Any], instruction: str) -> None:
    """Let an operator of Python act lane by lane."""

    @infer_global(call)  # pyright: ignore[reportOptionalCall] - has no types
    class Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            same = len(args) == 2 and isinstance(args[0], Lanes) and args[0] == args[1]
            return signature(args[0], *args) if same else None

    @lower_builtin(call, Lanes, Lanes)
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args, flags=FLAGS)


for _call, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define_operator(_call, _instruction)


def _pointer(context: Any, builder: Any, value: Any, at: Any, lanes: Lanes) -> Any:
    return builder.bitcast(builder.gep(value, [at]), _vector(lanes).as_pointer())


def _load(builder: Any, place: Any, lanes: Lanes) -> Any:
    return builder.load(place, align=lanes.size)


def _add(builder: Any, at: Any, many: int) -> Any:
    return builder.add(at, ir.Constant(at.type, many))


def _shuffle(builder: Any, a: Any, b: Any, places: Any) -> Any:
    places = list(places)
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INDEX, len(places)), places))


def _fill(builder: Any, lanes: Lanes, number: Any) -> Any:
    empty = ir.Constant(_vector(lanes), ir.Undefined)
    first = builder.insert_element(empty, number, ir.Constant(INDEX, 0))
    return _shuffle(builder, first, empty, [0] * lanes.count)


def _constant(lanes: Lanes, number: float) -> Any:
    return ir.Constant(_vector(lanes), [number] * lanes.count)


@intrinsic
def address(typingctx: Any, array: Any) -> Any:
    """Where the numbers of an array begin. Arrays themselves are counted whenever a kernel is given them."""

    def make(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.make_array(array)(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), make


@intrinsic
def advance(typingctx: Any, array: Any, many: Any) -> Any:
    """The address so many numbers on."""

    def make(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return array(array, types.intp), make


@intrinsic
def pick(typingctx: Any, array: Any, at: Any) -> Any:
    """One number."""

    def make(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(builder.gep(args[0], [args[1]]))

    return array.dtype(array, types.intp), make


@intrinsic
def put(typingctx: Any, array: Any, at: Any, number: Any) -> Any:
    """Write one number."""

    def make(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], builder.gep(args[0], [args[1]]))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), make


@intrinsic
def load(typingctx: Any, array: Any, at: Any) -> Any:
    """Numbers from ``at`` on."""
    lanes = Lanes(array.dtype)

    def make(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _load(builder, _pointer(context, builder, args[0], args[1], lanes), lanes)

    return lanes(array, types.intp), make


def _load_half(array: Any, half: int) -> Any:
    """The real (0) or imaginary (1) parts of complex numbers that begin at ``at``."""
    lanes = Lanes(array.dtype)

    def make(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        places = [args[1], _add(builder, args[1], lanes.count)]
        given = (_pointer(context, builder, args[0], place, lanes) for place in places)
        pair = [_load(builder, one, lanes) for one in given]
        return _shuffle(builder, pair[0], pair[1], range(half, 2 * lanes.count, 2))

    return lanes(array, types.intp), make


@intrinsic
def load_real(typingctx: Any, array: Any, at: Any) -> Any:
    """Real parts of complex numbers; ``at`` counts real ones."""
    return _load_half(array, 0)


@intrinsic
def load_imag(typingctx: Any, array: Any, at: Any) -> Any:
    """Imaginary parts of complex numbers; ``at`` counts real ones."""
    return _load_half(array, 1)


@intrinsic
def store(typingctx: Any, array: Any, at: Any, value: Any) -> Any:
    """Write numbers from ``at`` on."""

    def make(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = _pointer(context, builder, args[0], args[1], value)
        builder.store(args[2], place, align=value.size)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), make


def _write_pair(array: Any, lanes: Lanes, *, add: bool) -> Any:
    """Complex numbers, real and imaginary parts in turn."""

    def make(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        for half in (0, 1):
            first = half * lanes.count // 2
            turn = [place for i in range(lanes.count // 2) for place in (first + i, lanes.count + first + i)]
            value = _shuffle(builder, args[2], args[3], turn)
            at = _add(builder, args[1], half * lanes.count)
            place = _pointer(context, builder, args[0], at, lanes)
            if add:
                value = builder.fadd(_load(builder, place, lanes), value, flags=FLAGS)
            builder.store(value, place, align=lanes.size)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes, lanes), make


@intrinsic
def store_pair(typingctx: Any, array: Any, at: Any, real: Any, imag: Any) -> Any:
    """Write complex numbers; ``at`` counts real ones."""
    return _write_pair(array, real, add=False)


@intrinsic
def add_pair(typingctx: Any, array: Any, at: Any, real: Any, imag: Any) -> Any:
    """Add complex numbers to those of an array; ``at`` counts real ones."""
    return _write_pair(array, real, add=True)


@intrinsic
def fill(typingctx: Any, number: Any) -> Any:
    """One number in every lane."""
    lanes = Lanes(number)

    def make(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _fill(builder, lanes, args[0])

    return lanes(number), make


@intrinsic
def fill_like(typingctx: Any, array: Any, number: Any) -> Any:
    """One number in every lane, as precise as those of an array."""
    lanes = Lanes(array.dtype)

    def make(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _fill(builder, lanes, context.cast(builder, args[1], types.float64, lanes.dtype))

    return lanes(array, types.float64), make


def _reduce(value: Lanes, combine: Callable[[Any, Any, Any], Any]) -> Any:
    """One number of all lanes, combined by halves."""

    def make(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        (found,) = args
        half = value.count // 2
        while half:
            folded = [i + half if i < half else i for i in range(value.count)]
            found = combine(builder, found, _shuffle(builder, found, found, folded))
            half //= 2
        return builder.extract_element(found, ir.Constant(INDEX, 0))

    return value.dtype(value), make


@intrinsic
def add_up(typingctx: Any, value: Any) -> Any:
    """Sum over the lanes."""
    return _reduce(value, lambda builder, a, b: builder.fadd(a, b, flags=FLAGS))


def _larger(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", one, other), other, one)


@intrinsic
def peak(typingctx: Any, value: Any) -> Any:
    """The largest number of all lanes."""
    return _reduce(value, _larger)


@intrinsic
def get_lane(typingctx: Any, value: Any, lane: Any) -> Any:
    """The number of one lane."""

    def make(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.extract_element(*args)

    return value.dtype(value, types.intp), make


@intrinsic
def set_lane(typingctx: Any, value: Any, lane: Any, number: Any) -> Any:
    """The same numbers but one."""

    def make(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        cast = context.cast(builder, args[2], types.float64, value.dtype)
        return builder.insert_element(args[0], cast, args[1])

    return value(value, types.intp, types.float64), make


@intrinsic
def lane_count(typingctx: Any, value: Any) -> Any:
    """How many numbers a vector has."""

    def make(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.get_constant(types.intp, value.count)

    return types.intp(value), make


@intrinsic
def maximum(typingctx: Any, one: Any, other: Any) -> Any:
    """The larger number of each lane; that of ``one`` where either is NaN."""

    def make(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _larger(builder, *args)

    return one(one, other), make


@intrinsic
def root(typingctx: Any, value: Any) -> Any:
    """Square root."""

    def make(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = _vector(value)
        name = f"llvm.sqrt.v{value.count}f{8 * value.size}"
        call = builder.module.globals.get(name) or ir.Function(
            builder.module, ir.FunctionType(kind, [kind]), name
        )
        return builder.call(call, args)

    return value(value), make


LOG_2 = 0.6931471805599453
ROOT_HALF = 0.7071067811865476
LOG_TERMS = {4: 5, 8: 11}
"""Terms of the series that leave less than rounding, by the bytes of a number."""


@intrinsic
def logarithm(typingctx: Any, value: Any) -> Any:
    """Natural logarithm of normal positive numbers, to rounding.

    With ``x = 2^k m`` and ``m`` between the roots of 1/2 and 2, ``log m`` is twice the series of the inverse
    hyperbolic tangent of ``s = (m - 1) / (m + 1)``, whose square is at most 0.0295.
    """

    def make(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits, digits = (32, 23) if value.size == 4 else (64, 52)
        whole = ir.VectorType(ir.IntType(bits), value.count)

        def same(number: int) -> Any:
            return ir.Constant(whole, [number] * value.count)

        def plus(a: Any, b: Any) -> Any:
            return builder.fadd(a, b, flags=FLAGS)

        def times(a: Any, b: Any) -> Any:
            return builder.fmul(a, b, flags=FLAGS)

        one = _constant(value, 1.0)
        low = builder.bitcast(_constant(value, ROOT_HALF), whole)
        gap = builder.sub(builder.bitcast(args[0], whole), low)
        power = builder.ashr(gap, same(digits))
        rest = builder.and_(gap, same((1 << digits) - 1))
        mantissa = builder.bitcast(builder.add(rest, low), _vector(value))
        less = builder.fsub(mantissa, one)
        s = builder.fdiv(less, plus(mantissa, one))
        square = times(s, s)
        series = _constant(value, 1 / (2 * LOG_TERMS[value.size] - 1))
        for term in reversed(range(1, LOG_TERMS[value.size] - 1)):
            series = plus(times(series, square), _constant(value, 1 / (2 * term + 1)))
        # 2 s = less - s less, whose first term is exact
        tail = times(s, builder.fsub(times(times(_constant(value, 2.0), square), series), less))
        exponent = builder.sitofp(power, _vector(value))
        return plus(times(exponent, _constant(value, LOG_2)), plus(less, tail))

    return value(value), make


@intrinsic
def transpose_tile(typingctx: Any, source: Any, at: Any, step: Any, target: Any, to: Any, stride: Any) -> Any:
    """Write a square tile, as wide as a vector, with rows and columns exchanged.

    Blocks of ``2^k`` numbers change sides in step ``k`` (Eklundh 1972). Rows are ``step`` numbers apart in
    the source, and ``stride`` in the target.
    """
    lanes = Lanes(source.dtype)
    n = lanes.count

    def make(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        def row(value: Any, first: Any, apart: Any, number: int) -> Any:
            place = builder.add(first, builder.mul(apart, ir.Constant(apart.type, number)))
            return _pointer(context, builder, value, place, lanes)

        rows = [_load(builder, row(args[0], args[1], args[2], i), lanes) for i in range(n)]
        size = 1
        while size < n:
            for i in range(n):
                if not i & size:
                    pair = rows[i], rows[i + size]
                    rows[i] = _shuffle(builder, *pair, (n + j - size if j & size else j for j in range(n)))
                    other = (n + j if j & size else j + size for j in range(n))
                    rows[i + size] = _shuffle(builder, *pair, other)
            size *= 2
        for i in range(n):
            builder.store(rows[i], row(args[3], args[4], args[5], i), align=lanes.size)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), make
