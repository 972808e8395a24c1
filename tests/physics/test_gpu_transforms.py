"""Transforms of the kernels of a GPU, for every kind of length, as numpy has them."""

import math

import numpy as np
import pytest

from phaseloom.physics.gpu.source import plan_kernels
from phaseloom.physics.gpu.transforms import plan_line
from phaseloom.ptycho.newton.gpu_kernels import Arguments
from tests.emulated_gpu import COMPILER, EmulatedKernels

SHAPES = [
    (8, 28),
    (24, 14),
    (32, 22),
    (48, 26),
    (64, 100),
    (96, 16),
    (128, 18),
    (160, 4),
    (192, 6),
    (256, 12),
]


def test_a_plan_multiplies_to_its_length():
    plans = [plan_line(length) for length in range(2, 1025)]
    for plan in filter(None, plans):
        assert math.prod(plan.radices) == plan.length == plan.threads * plan.numbers
        assert all(plan.numbers % radix == 0 for radix in plan.radices)
    known = {plan.length for plan in plans if plan}
    assert all(2**a * 3**b <= 512 and 2**a * 3**b in known for a in range(1, 7) for b in range(2))


@pytest.mark.parametrize("side", [32, 48, 64, 80, 96, 100, 128, 144, 160, 192, 200, 224, 256, 320, 384, 512])
def test_usual_detectors_have_kernels_of_whole_blocks(side):
    plan = plan_kernels((side, side))
    assert plan is not None
    assert side % plan.lines == side % plan.abreast == 0
    assert max(plan.row_threads, plan.column_threads) <= 1024
    assert plan.abreast >= 4


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_columns_and_rows_are_transformed(shape, tmp_path):
    height, width = shape
    kernels, plan = EmulatedKernels(shape, tmp_path), plan_kernels(shape)
    draw = np.random.default_rng(0)
    given = [draw.normal(size=(2, *shape)) for _ in range(2)]
    spectrum = (given[0] + 1j * given[1]).astype(np.complex64)
    held = {
        "spectrum": spectrum,
        "wave": np.zeros_like(spectrum),
        "incident": np.zeros_like(spectrum),
        "object": np.full((1, *shape), 2j, np.complex64),
        "ramps_y": np.ones(height, np.complex64),
        "ramps_x": np.ones(width, np.complex64),
        "first": np.array([0, 1], np.int32),
        "batch": np.zeros(1, np.int32),
        "corners": np.zeros((1, 2), np.int32),
    }
    arguments = Arguments(modes=2, slices=1, tall=height, broad=width, patterns=1)
    for name, value in held.items():
        setattr(arguments, name, value.ctypes.data)
    kernels.launch("enter", (width // plan.abreast, 2, 1), plan.column_threads, arguments)
    along_y = np.fft.ifft(spectrum, axis=1, norm="forward")
    assert_close(held["wave"], along_y)
    kernels.launch("transmit", (height // plan.lines, 2, 1), plan.row_threads, arguments, 0)
    assert_close(held["incident"], np.fft.ifft(along_y, axis=2, norm="forward"))
    assert_close(held["wave"], 2j * width * along_y)


def assert_close(found, known):
    assert np.abs(found - known).max() < 3e-6 * np.abs(known).max()
