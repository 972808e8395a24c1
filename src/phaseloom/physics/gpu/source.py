"""The source of all kernels for windows of a shape, as the compiler of a GPU takes it."""

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from phaseloom.physics.gpu.transforms import LinePlan, plan_line, write_transform

__all__ = ["WindowKernels", "list_kernels", "plan_kernels", "read_kernels"]

COLUMNS_AT_ONCE = 16
"""Columns of a block at most: a row of them is the 128 bytes that a GPU reads at once."""

THREADS_OF_ROWS = 128
"""Threads of a block of rows, about."""

THREADS_OF_WARP = 32
"""Threads that need no barrier among each other."""

MAX_THREADS_OF_BLOCK = 1024
"""Threads of a block at most."""

MAX_SHARED_BYTES = 48 * 1024
"""Shared memory that a block has without asking."""

COMMON = """
__device__ inline float2 plus(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }
__device__ inline float2 minus(float2 a, float2 b) { return make_float2(a.x - b.x, a.y - b.y); }
__device__ inline float2 scaled(float2 a, float s) { return make_float2(a.x * s, a.y * s); }
__device__ inline float2 times(float2 a, float2 b) {
  return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}
template <int SIGN>
__device__ inline float2 quarter(float2 a) {
  return SIGN > 0 ? make_float2(-a.y, a.x) : make_float2(a.y, -a.x);
}
template <int SIGN>
__device__ inline float2 turn(float2 a, float c, float s) {
  return SIGN > 0 ? times(a, make_float2(c, s)) : times(a, make_float2(c, -s));
}
// exp(2 pi i turns)
__device__ inline float2 unit(float turns) {
  float2 out;
  sincospif(2.0f * turns, &out.y, &out.x);
  return out;
}
struct ColumnRoom {
  float2* base;
  __device__ inline void put(int i, float2 value) { base[i * COLUMNS] = value; }
  __device__ inline float2 get(int i) { return base[i * COLUMNS]; }
  __device__ inline void sync() { __syncthreads(); }
};
// One number in sixteen is left free, so that threads which put far apart do not meet in a bank.
struct RowRoom {
  float2* base;
  __device__ inline void put(int i, float2 value) { base[i + i / 16] = value; }
  __device__ inline float2 get(int i) { return base[i + i / 16]; }
  __device__ inline void sync() { ROW_SYNC; }
};
"""


@dataclass(frozen=True)
class WindowKernels:
    """Kernels for windows of a shape.

    Attributes:
        rows: plan of a row of the window, along x.
        columns: plan of a column, along y.
        lines: rows of a block.
        abreast: columns of a block.
    """

    rows: LinePlan
    columns: LinePlan
    lines: int
    abreast: int

    @property
    def row_threads(self) -> int:
        """Threads of a block of rows."""
        return self.lines * self.rows.threads

    @property
    def column_threads(self) -> int:
        """Threads of a block of columns."""
        return self.abreast * self.columns.threads

    def write_source(self) -> str:
        """CUDA C++ without includes."""
        room = self.rows.length + self.rows.length // 16 + 1
        in_warps = THREADS_OF_WARP % self.rows.threads == 0
        sizes = {
            "COLUMNS": self.abreast,
            "LINES": self.lines,
            "ROW_ROOM": room,
            "ROW_SYNC": "__syncwarp()" if in_warps else "__syncthreads()",
            "COLUMN_BOUNDS": f"__launch_bounds__({self.column_threads})",
            "ROW_BOUNDS": f"__launch_bounds__({self.row_threads})",
        }
        defined = "\n".join(f"#define {name} {value}" for name, value in sizes.items())
        transforms = write_transform("y", self.columns), write_transform("x", self.rows)
        return "\n".join([defined, COMMON, *transforms, read_kernels()])


def read_kernels() -> str:
    """The source that all shapes share."""
    return files("phaseloom.physics.gpu").joinpath("kernels.cu").read_text(encoding="utf-8")


def list_kernels(source: str, /) -> dict[str, bool]:
    """Kernels of a source by name, and whether they take a number beside the arguments.

    Example:
        >>> list_kernels('extern "C" __global__ void fly_on(Arguments a, int gap) {}')
        {'fly_on': True}
    """
    head = r'extern "C" __global__ void (?:\w+_BOUNDS )?(\w+)\(Arguments a(, int \w+)?\)'
    return {name: bool(more) for name, more in re.findall(head, source)}


@lru_cache(maxsize=16)
def plan_kernels(shape: tuple[int, int], /) -> WindowKernels | None:
    """Kernels for windows ``(y, x)``; ``None`` where a side has a prime factor above 13 or is too long.

    Example:
        >>> plan_kernels((128, 128))
        WindowKernels(rows=LinePlan(length=128, radices=(8, 4, 4), threads=16, numbers=8), ...
        >>> plan_kernels((128, 127)) is None
        True
    """
    columns, rows = map(plan_line, shape)
    if columns is None or rows is None:
        return None
    height, width = shape
    in_memory = (MAX_SHARED_BYTES - 8192) // (8 * height)
    in_block = MAX_THREADS_OF_BLOCK // columns.threads
    abreast = _find_divisor(width, min(COLUMNS_AT_ONCE, in_block, in_memory))
    room = 8 * (width + width // 16 + 1)
    lines = _find_divisor(height, min(max(1, THREADS_OF_ROWS // rows.threads), MAX_SHARED_BYTES // room))
    return WindowKernels(rows, columns, lines, abreast)


def _find_divisor(number: int, most: int) -> int:
    """The largest divisor up to a bound."""
    return next(one for one in range(max(most, 1), 0, -1) if number % one == 0)
