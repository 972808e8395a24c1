"""Kernels of a GPU on the processor: the same source, compiled by a C++ compiler, a fiber for each thread.

Blocks are done one after the other, and the threads of a block in turns, from barrier to barrier.
"""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from phaseloom.physics.gpu.source import list_kernels, plan_kernels
from phaseloom.ptycho.newton.gpu_kernels import Arguments, Shape

COMPILER = shutil.which("g++")

HEAD = """
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <vector>
#include <functional>
using std::max; using std::min;
struct float2 { float x, y; };
struct int2 { int x, y; };
struct float4 { float x, y, z, w; };
struct dim3 { unsigned x, y, z; };
static float2 make_float2(float x, float y) { return {x, y}; }
static int2 make_int2(int x, int y) { return {x, y}; }
static dim3 threadIdx, blockIdx, blockDim, gridDim;
#define __global__
#define __device__
#define __launch_bounds__(n)
#define __shared__ static
static ucontext_t scheduler;
static std::vector<ucontext_t> fibers;
static std::vector<char> over;
static int now;
static void __syncthreads() { swapcontext(&fibers[now], &scheduler); }
static void __syncwarp() { __syncthreads(); }
template <class T, class V> static void atomicAdd(T* into, V value) { *into += T(value); }
static void atomicMin(int* into, int value) { *into = min(*into, value); }
static void atomicMax(int* into, int value) { *into = max(*into, value); }
static void sincospif(float turns, float* s, float* c) {
  *s = float(std::sin(M_PI * double(turns)));
  *c = float(std::cos(M_PI * double(turns)));
}
"""

TAIL = """
static std::function<void()> work;
static void run_fiber() {
  work();
  over[now] = 1;
  swapcontext(&fibers[now], &scheduler);
}
static void run_block(int threads, std::vector<std::vector<char>>& stacks) {
  over.assign(threads, 0);
  for (int i = 0; i < threads; ++i) {
    getcontext(&fibers[i]);
    fibers[i].uc_stack.ss_sp = stacks[i].data();
    fibers[i].uc_stack.ss_size = stacks[i].size();
    fibers[i].uc_link = &scheduler;
    makecontext(&fibers[i], run_fiber, 0);
  }
  for (bool busy = true; busy;) {
    busy = false;
    int waiting = 0;
    for (int i = 0; i < threads; ++i) {
      if (over[i]) continue;
      now = i;
      threadIdx = {unsigned(i), 0, 0};
      swapcontext(&scheduler, &fibers[i]);
      busy = true;
      waiting += !over[i];
    }
    if (waiting && waiting != threads) std::abort();  // a barrier that some threads never reach
  }
}
#define VISIBLE extern "C" __attribute__((visibility("default")))
VISIBLE void launch(int kernel, int gx, int gy, int gz, int threads, Arguments* a, int number) {
  static std::vector<std::vector<char>> stacks;
  while (int(stacks.size()) < threads) stacks.emplace_back(1 << 16);
  fibers.resize(threads);
  gridDim = {unsigned(gx), unsigned(gy), unsigned(gz)};
  blockDim = {unsigned(threads), 1, 1};
  work = [=] { switch (kernel) { CASES } };
  for (int z = 0; z < gz; ++z)
    for (int y = 0; y < gy; ++y)
      for (int x = 0; x < gx; ++x) {
        blockIdx = {unsigned(x), unsigned(y), unsigned(z)};
        run_block(threads, stacks);
      }
}
VISIBLE int size_of_arguments() { return sizeof(Arguments); }
"""


class EmulatedKernels:
    """See `phaseloom.ptycho.newton.gpu_kernels.KernelLauncher`."""

    processors = 2

    def __init__(self, shape: tuple[int, int], folder: Path):
        plan = plan_kernels(shape)
        assert plan is not None
        source = plan.write_source()
        heads = list_kernels(source)
        self.names = list(heads)
        calls = [f"{name}(*a{', number' if more else ''})" for name, more in heads.items()]
        cases = " ".join(f"case {k}: {call}; break;" for k, call in enumerate(calls))
        file = folder / f"kernels-{shape[0]}-{shape[1]}.cpp"
        file.write_text(HEAD + source.replace("#pragma unroll", "") + TAIL.replace("CASES", cases))
        library = file.with_suffix(".so")
        # what is shared by the threads of a block is not to be shared with kernels of another shape
        apart = ["-fno-gnu-unique", "-fvisibility=hidden"]
        command = [COMPILER, "-O1", "-w", "-std=c++17", "-shared", "-fPIC", *apart, file, "-o", library]
        subprocess.run(command, check=True)
        self.library = ctypes.CDLL(str(library))
        assert self.library.size_of_arguments() == ctypes.sizeof(Arguments)

    def launch(self, name: str, grid: Shape, threads: int, arguments: Arguments, *numbers: int) -> None:
        number = numbers[0] if numbers else 0
        self.library.launch(self.names.index(name), *grid, threads, ctypes.byref(arguments), number)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        return work
