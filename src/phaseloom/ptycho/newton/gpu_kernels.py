"""Compiling kernels for the GPU at hand, and launching them on PyTorch's stream."""

import ctypes
import hashlib
import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from phaseloom.files import get_cache_folder
from phaseloom.physics.gpu.source import list_kernels, plan_kernels, read_kernels

__all__ = ["Arguments", "KernelLauncher", "load_kernels"]

log = logging.getLogger(__name__)

Shape = tuple[int, int, int]


def _read_fields() -> list[tuple[str, Any]]:
    """Fields of the structure that all kernels take, as the source declares them."""
    body = read_kernels().split("struct Arguments {", 1)[1].split("};", 1)[0]
    kinds = {"float": ctypes.c_float, "int": ctypes.c_int}
    fields: list[tuple[str, Any]] = []
    for line in body.splitlines():
        found = re.match(r"\s*(?:const )?(\w+(?: \w+)?)(\*?) ([\w, ]+);", line)
        if found:
            kind = ctypes.c_void_p if found[2] else kinds[found[1]]
            fields += [(name.strip(), kind) for name in found[3].split(",")]
    return fields


class Arguments(ctypes.Structure):
    """What all kernels take: see ``struct Arguments`` in ``kernels.cu``."""

    _fields_ = _read_fields()


@runtime_checkable
class KernelLauncher(Protocol):
    """Kernels of a shape that can be launched."""

    @property
    def processors(self) -> int:
        """Multiprocessors that want to be kept busy."""
        ...

    def launch(self, name: str, grid: Shape, threads: int, arguments: Arguments, *numbers: int) -> None:
        """Queue a kernel."""
        ...

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Launches that are made again at once, and are not made now."""
        ...


class _CudaKernels:
    """Kernels on the GPU that PyTorch uses now."""

    def __init__(self, source: str):
        driver = self._driver = import_module("cuda.bindings.driver")
        self._device = torch.cuda.current_device()
        self.processors = torch.cuda.get_device_properties(self._device).multi_processor_count
        major, minor = torch.cuda.get_device_capability(self._device)
        binary = _find_binary(source, f"sm_{major}{minor}")
        torch.cuda.current_stream().synchronize()  # makes PyTorch's context the current one
        self._module = _check(driver.cuModuleLoadData(binary))
        self._functions = {
            name: _check(driver.cuModuleGetFunction(self._module, name.encode()))
            for name in list_kernels(source)
        }

    def launch(self, name: str, grid: Shape, threads: int, arguments: Arguments, *numbers: int) -> None:
        """See `KernelLauncher`."""
        given = [ctypes.c_int(number) for number in numbers]
        places = [ctypes.addressof(one) for one in (arguments, *given)]
        table = np.array(places, np.uint64)
        stream = torch.cuda.current_stream().cuda_stream
        _check(
            self._driver.cuLaunchKernel(
                self._functions[name], *grid, threads, 1, 1, 0, stream, table.ctypes.data, 0
            )
        )

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """See `KernelLauncher`: a CUDA graph."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device), torch.cuda.graph(graph):
            work()
        return graph.replay


@lru_cache(maxsize=8)
def load_kernels(shape: tuple[int, int], device: torch.device) -> KernelLauncher | None:
    """Kernels for windows of a shape on a GPU, compiled when first asked for; ``None`` where there are none.

    They need ``cuda-bindings``, which PyTorch's builds for CUDA bring along on Linux from 2.11 on.
    """
    plan = plan_kernels(shape)
    if plan is None or device.type != "cuda":
        return None
    try:
        with torch.cuda.device(device):
            return _CudaKernels(plan.write_source())
    except ImportError:
        log.info("kernels of a GPU are left out: pip install 'phaseloom[gpu]' brings their compiler")
    except RuntimeError as problem:
        log.warning("kernels of the GPU are left out: %s", problem)
    return None


def _find_binary(source: str, architecture: str) -> bytes:
    """Machine code of a source, compiled once by every user: it takes seconds."""
    nvrtc = import_module("cuda.bindings.nvrtc")
    version = _check(nvrtc.nvrtcVersion(), whole=True)
    name = hashlib.sha256(f"{version} {architecture}\n{source}".encode()).hexdigest()
    path = get_cache_folder("kernels") / f"{name}.cubin"
    with suppress(OSError):
        return path.read_bytes()
    binary = _compile(source, architecture)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_bytes(binary)
        beside.replace(path)
    return binary


def _compile(source: str, architecture: str) -> bytes:
    """Machine code of a source.

    Raises:
        RuntimeError: the compiler refuses it.
    """
    nvrtc = import_module("cuda.bindings.nvrtc")
    program = _check(nvrtc.nvrtcCreateProgram(source.encode(), b"kernels.cu", 0, [], []))
    options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17"]
    code = nvrtc.nvrtcCompileProgram(program, len(options), options)[0]
    if int(code):
        said = b" " * _check(nvrtc.nvrtcGetProgramLogSize(program))
        nvrtc.nvrtcGetProgramLog(program, said)
        raise RuntimeError(said.decode(errors="replace").strip()[:500])
    binary = b" " * _check(nvrtc.nvrtcGetCUBINSize(program))
    _check(nvrtc.nvrtcGetCUBIN(program, binary))
    return binary


def _check(answer: tuple[Any, ...], *, whole: bool = False) -> Any:
    """What a call of CUDA gives: the first thing, or all.

    Raises:
        RuntimeError: it failed.
    """
    code, *found = answer
    if int(code):
        raise RuntimeError(f"CUDA says {code!r}")
    return found if whole or not found else found[0]
