"""Fourier transforms of a line of a window as CUDA C++: how a length is taken apart, and the code for it.

A line of ``length`` numbers is shared by ``threads``, each of which holds those at ``thread + threads * m``
in registers, before, between and after the stages. A stage of radix R does butterflies of R of them; between
two stages numbers change places through shared memory (Stockham's order: nothing is reversed at the end).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["LinePlan", "plan_line", "write_transform"]

MAX_RADIX = 16
"""Largest butterfly: sixteen complex numbers, and room to add them, are what registers hold."""

FEW_NUMBERS = 12
"""Complex numbers that a thread should hold: with more, fewer threads hide the memory's delay. On an H200 8
of 128 took a sixth less time than 16, in spite of one more stage."""

MAX_NUMBERS = 28
"""Complex numbers that registers have room for."""

MAX_THREADS_OF_LINE = 64
"""Threads of a line: sixteen lines of so many are a block."""


@dataclass(frozen=True)
class LinePlan:
    """How a line is transformed.

    Attributes:
        length: numbers in it.
        radices: of the stages.
        threads: that share it.
        numbers: of each of them.
    """

    length: int
    radices: tuple[int, ...]
    threads: int
    numbers: int


@lru_cache(maxsize=64)
def plan_line(length: int, /) -> LinePlan | None:
    """The plan with the fewest stages, many numbers for a thread counting as one more stage.

    Returns:
        ``None`` for lengths with a prime factor above 13, and for those that need more than a thread holds.

    Example:
        >>> plan_line(128)
        LinePlan(length=128, radices=(8, 4, 4), threads=16, numbers=8)
        >>> plan_line(127) is None
        True
    """
    best: tuple[tuple[int, int, int], LinePlan] | None = None
    for radices in _list_factorings(length):
        numbers = math.lcm(*radices)
        threads = length // numbers
        if numbers > MAX_NUMBERS or length % numbers or not 1 <= threads <= MAX_THREADS_OF_LINE:
            continue
        cost = (len(radices) + (numbers > FEW_NUMBERS), numbers, sum(radices))
        if best is None or cost < best[0]:
            best = cost, LinePlan(length, radices, threads, numbers)
    return None if best is None else best[1]


def _list_factorings(length: int, largest: int = MAX_RADIX) -> list[tuple[int, ...]]:
    """Products of radices, the larger ones first."""
    found = [(length,)] if 2 <= length <= largest else []
    for first in range(min(largest, length // 2), 1, -1):
        if length % first == 0:
            found += [(first, *rest) for rest in _list_factorings(length // first, first)]
    return found


def write_transform(axis: str, plan: LinePlan, /) -> str:
    """``transform_AXIS<SIGN>(numbers, thread, room)``, unscaled, with ``exp(SIGN 2 pi i j k / length)``.

    The room has ``put(place, number)``, ``get(place)`` and ``sync()``.

    Args:
        axis: ends the names of the function and of the constants ``N, T, E``: length, threads and numbers.
        plan: of the line.
    """
    name = axis.upper()
    lines = [
        f"#define N{name} {plan.length}",
        f"#define T{name} {plan.threads}",
        f"#define E{name} {plan.numbers}",
        "template <int SIGN, class Room>",
        f"__device__ inline void transform_{axis}(float2 (&v)[E{name}], int t, Room room) {{",
    ]
    done = 1
    for number, radix in enumerate(plan.radices):
        last = number == len(plan.radices) - 1
        stride = plan.numbers // radix
        if not last:
            lines.append("  room.sync();")
        for first in range(stride):
            held = [f"v[{first + k * stride}]" for k in range(radix)]
            lines.append("  {")
            lines.append(f"    int j = t + {first * plan.threads};")
            if done > 1:
                lines += _write_turns(held, done, radix)
            lines += [f"    {line}" for line in _write_butterfly(held)]
            if not last:
                lines.append(f"    int at = j / {done} * {done * radix} + j % {done};")
                lines += [f"    room.put(at + {k * done}, {one});" for k, one in enumerate(held)]
            lines.append("  }")
        if not last:
            lines.append("  room.sync();")
            lines += [f"  v[{m}] = room.get(t + {m * plan.threads});" for m in range(plan.numbers)]
        done *= radix
    return "\n".join([*lines, "}"])


def _write_turns(held: list[str], done: int, radix: int) -> list[str]:
    """Factors between two stages: powers of one, each the product of two of half its order.

    They are the same in both directions, so that a compiler makes them once for a transform and the one back.
    """
    lines = [f"    float2 w1 = unit(float(j % {done}) / {done * radix}.0f);"]
    for k in range(2, radix):
        lines.append(f"    float2 w{k} = times(w{k // 2}, w{k - k // 2});")
    return lines + [f"    {one} = turn<SIGN>({one}, w{k}.x, w{k}.y);" for k, one in enumerate(held) if k]


def _write_butterfly(held: list[str]) -> list[str]:
    """A transform of few numbers, in place."""
    statements = _Statements()
    out = statements.transform(held)
    return [*statements.lines, *(f"{one} = {value};" for one, value in zip(held, out, strict=True))]


class _Statements:
    """Statements that transform few numbers; each has a name of its own."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def _keep(self, expression: str) -> str:
        name = f"a{len(self.lines)}"
        self.lines.append(f"float2 {name} = {expression};")
        return name

    def transform(self, values: list[str]) -> list[str]:
        """Names of the transformed numbers: of a product of two lengths by transforms of both."""
        many = len(values)
        inner = next((f for f in (4, 2, 3, 5, 7, 11, 13) if many % f == 0 and many > f), 0)
        if not inner:
            return self._transform_four(values) if many == 4 else self._transform_prime(values)
        outer = many // inner
        rows = [self.transform(values[b::outer]) for b in range(outer)]
        out = [""] * many
        for k in range(inner):
            turned = [self._turn(rows[b][k], b * k, many) for b in range(outer)]
            for place, value in enumerate(self.transform(turned) if outer > 1 else turned):
                out[k + inner * place] = value
        return out

    def _turn(self, value: str, k: int, many: int) -> str:
        """Times ``exp(SIGN 2 pi i k / many)``."""
        if not k:
            return value
        if 4 * k == many:
            return self._keep(f"quarter<SIGN>({value})")
        angle = 2 * math.pi * k / many
        return self._keep(f"turn<SIGN>({value}, {math.cos(angle):.9e}f, {math.sin(angle):.9e}f)")

    def _transform_four(self, values: list[str]) -> list[str]:
        a, b, c, d = values
        even = self._keep(f"plus({a}, {c})")
        odd = self._keep(f"minus({a}, {c})")
        more = self._keep(f"plus({b}, {d})")
        less = self._keep(f"quarter<SIGN>(minus({b}, {d}))")
        pairs = ("plus", even, more), ("plus", odd, less), ("minus", even, more), ("minus", odd, less)
        return [self._keep(f"{how}({p}, {q})") for how, p, q in pairs]

    def _transform_prime(self, values: list[str]) -> list[str]:
        """Two by two, for the numbers k from either end meet conjugate factors."""
        many = len(values)
        if many == 2:
            return [self._keep(f"{how}({values[0]}, {values[1]})") for how in ("plus", "minus")]
        half = range(1, many // 2 + 1)
        sums = {k: self._keep(f"plus({values[k]}, {values[many - k]})") for k in half}
        gaps = {k: self._keep(f"minus({values[k]}, {values[many - k]})") for k in half}
        out = [values[0]] * many
        for k in half:
            out[0] = self._keep(f"plus({out[0]}, {sums[k]})")
        for j in half:
            even = values[0]
            odd = ""
            for k in half:
                angle = 2 * math.pi * (j * k % many) / many
                even = self._keep(f"plus({even}, scaled({sums[k]}, {math.cos(angle):.9e}f))")
                part = f"scaled({gaps[k]}, {math.sin(angle):.9e}f)"
                odd = self._keep(f"plus({odd}, {part})" if odd else part)
            side = self._keep(f"quarter<SIGN>({odd})")
            out[j] = self._keep(f"plus({even}, {side})")
            out[many - j] = self._keep(f"minus({even}, {side})")
        return out
