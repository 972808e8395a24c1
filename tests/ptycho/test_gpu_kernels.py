"""Compiled kernels are kept by source, and what goes wrong leaves a run on the plain path."""

import logging

import pytest
import torch

from phaseloom.ptycho.newton import gpu_kernels


class FakeCompiler:
    """Stands in for ``cuda.bindings.nvrtc``."""

    def __init__(self, code=0):
        self.code = code
        self.compiled = []

    def nvrtcVersion(self):
        return 0, 13, 0

    def nvrtcCreateProgram(self, source, *_):
        self.compiled.append(source)
        return 0, source

    def nvrtcCompileProgram(self, *_):
        return (self.code,)

    def nvrtcGetProgramLogSize(self, _):
        return 0, 20

    def nvrtcGetProgramLog(self, *_):
        return (0,)

    def nvrtcGetCUBINSize(self, _):
        return 0, 4

    def nvrtcGetCUBIN(self, *_):
        return (0,)


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    made = FakeCompiler()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(gpu_kernels, "import_module", lambda name: made)
    return made


def test_a_source_is_compiled_once_for_an_architecture(compiler, tmp_path):
    for source, architecture in (("a", "sm_90"), ("a", "sm_90"), ("a", "sm_80"), ("b", "sm_90")):
        assert gpu_kernels._find_binary(source, architecture) == b" " * 4
    assert compiler.compiled == [b"a", b"a", b"b"]
    kept = sorted(path.suffix for path in (tmp_path / "phaseloom" / "kernels").iterdir())
    assert kept == [".cubin"] * 3


def test_a_folder_that_cannot_be_written_to_costs_the_cache_alone(compiler, tmp_path):
    (tmp_path / "phaseloom").write_text("in the way")
    assert gpu_kernels._find_binary("a", "sm_90") == b" " * 4
    assert gpu_kernels._find_binary("a", "sm_90") == b" " * 4
    assert len(compiler.compiled) == 2


@pytest.mark.parametrize("problem", [ImportError("no cuda"), RuntimeError("CUDA says 700")])
def test_without_kernels_a_run_is_told_and_goes_on(problem, monkeypatch, caplog):
    def refuse(source):
        raise problem

    gpu_kernels.load_kernels.cache_clear()
    monkeypatch.setattr(gpu_kernels, "_CudaKernels", refuse)
    monkeypatch.setattr(torch.cuda, "device", _NoDevice)
    caplog.set_level(logging.INFO, "phaseloom")
    assert gpu_kernels.load_kernels((64, 64), torch.device("cuda")) is None
    assert "left out" in caplog.text
    gpu_kernels.load_kernels.cache_clear()


class _NoDevice:
    def __init__(self, device):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def test_a_compiler_that_refuses_is_quoted(compiler):
    compiler.code = 6
    with pytest.raises(RuntimeError):
        gpu_kernels._compile("a", "sm_90")


def test_no_kernels_for_a_processor():
    assert gpu_kernels.load_kernels((64, 64), torch.device("cpu")) is None
