"""Bare numbers read with another type than they were written with: told, and with the right one silent."""

import numpy as np
import pytest

from phaseloom.data import formats
from phaseloom.data.diagnostics import inspect
from phaseloom.data.formats.quantities.stored_type import suggest_dtype

KNOBS = {"energy": 200e3, "angle": 1e-3, "step": 1.2, "shape": [3, 4, 24, 22]}


def patterns(mean: float, offset: float = 0.0) -> np.ndarray:
    """A disk on a smooth background, with counting noise."""
    y, x = np.indices((24, 22)) - 11.0
    light = mean * (0.05 + (np.hypot(y, x) < 7) * np.exp(-np.hypot(y, x) / 9))
    return np.random.default_rng(0).poisson(light + offset, (12, 24, 22))


@pytest.mark.parametrize("mean", [0.05, 3.0, 200.0, 5000.0])
@pytest.mark.parametrize("written", ["<u2", ">u2", "<i2", "<u4", ">i4", "<i8", "<f4", ">f4", ">f8"])
def test_the_other_byte_order_is_named_and_the_right_one_is_silent(written, mean, tmp_path):
    path = tmp_path / "a.raw"
    patterns(mean).astype(written).tofile(path)
    other = np.dtype(written).newbyteorder("S").str
    with np.errstate(all="ignore"):
        wrong = formats.read(path, knobs={**KNOBS, "dtype": other})
    remark = wrong.metadata["remarks"].splitlines()[0]
    assert remark == (
        f"a.raw: values are not plausible counts as {other}, but are as {written}: "
        f"check dtype, write dtype: '{written}'"
    )
    assert "remarks" not in formats.read(path, knobs={**KNOBS, "dtype": written}).metadata


def test_look_shows_the_type_that_would_do(tmp_path):
    patterns(3.0).astype(">u2").tofile(tmp_path / "a.raw")
    scan = formats.read(tmp_path / "a.raw", knobs={**KNOBS, "dtype": "uint16"})
    found = {one.name: one for one in inspect(scan)}["file"]
    assert found.level == "warn"
    assert "write dtype: '>u2'" in found.value


@pytest.mark.parametrize(
    ("written", "read"), [("<f4", "<u4"), (">f4", ">i4"), ("<f8", "<i8"), ("<i4", "<f4")]
)
def test_floats_read_as_integers_and_the_reverse_are_named(written, read):
    data = patterns(20.0).astype(written).view(read)
    assert suggest_dtype(data) == np.dtype(written)


@pytest.mark.parametrize("dtype", ["u2", "i2", "u4", "f4", "f8"])
def test_offsets_gains_and_noise_of_detectors_are_plausible(dtype):
    noise = np.random.default_rng(1)
    for data in (
        patterns(300.0, offset=500.0),
        patterns(30.0) * 37,
        patterns(3000.0) * 16 % 32768,
        noise.integers(0, 4096, (12, 24, 22)),
        np.zeros((12, 24, 22)),
        np.full((12, 24, 22), 7),
    ):
        assert suggest_dtype(data.astype(dtype)) is None
    if dtype in ("f4", "f8"):
        assert suggest_dtype((noise.normal(0, 1, (12, 24, 22)) * 1e-12).astype(dtype)) is None
