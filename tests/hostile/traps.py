"""Scans that no experiment gives, and settings that no one means: numbers far from any use."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np

from phaseloom.data.scan import Geometry, Scan4D
from tests.conftest import electrons

Make = Callable[[], Scan4D]


@cache
def scan() -> Scan4D:
    return electrons()


def with_counts(change: Callable[[np.ndarray], np.ndarray]) -> Make:
    return lambda: replace(scan(), counts=change(np.asarray(scan().counts, np.float32)))


def of_detector(side: int) -> Make:
    """Patterns of few pixels in the middle of the detector."""

    def make() -> Scan4D:
        first = 12 - side // 2
        part = slice(first, first + side)
        geometry = scan().geometry.crop((side, side))
        counts = np.asarray(scan().counts)[:, part, part]
        return replace(scan(), counts=counts, geometry=geometry, mask=np.ones((side, side), bool), probe=None)

    return make


def few_patterns() -> Scan4D:
    rng = np.random.default_rng(3)
    geometry = Geometry(wavelength=0.0418, shape=(31, 37), angle=(4e-3, 4e-3), beam="electron")
    return Scan4D(
        counts=rng.poisson(20.0, (7, 31, 37)).astype(np.uint16),
        positions=rng.random((7, 2)) * 20,
        geometry=geometry,
    )


def saturated(counts: np.ndarray) -> np.ndarray:
    return np.full(counts.shape, 65535, np.uint16)


def one_lit(counts: np.ndarray) -> np.ndarray:
    out = np.zeros_like(counts)
    out[7] = counts[7]
    return out


def of_energy(wavelength: float) -> Make:
    return lambda: replace(scan(), geometry=replace(scan().geometry, wavelength=wavelength), probe=None)


def at_one_place() -> Scan4D:
    return replace(scan(), positions=np.zeros_like(scan().positions), grid=None)


SCANS: dict[str, Make] = {
    "counts times 1e30": with_counts(lambda x: x * np.float32(1e30)),
    "counts times 1e300": with_counts(lambda x: x.astype(np.float64) * 1e300),
    "counts times 1e-30": with_counts(lambda x: x * np.float32(1e-30)),
    "1x1 detector": of_detector(1),
    "3x3 detector": of_detector(3),
    "8x8 detector": of_detector(8),
    "7 of 31x37": few_patterns,
    "all saturated": with_counts(saturated),
    "all NaN": with_counts(lambda x: np.full_like(x, np.nan)),
    "all zero": with_counts(np.zeros_like),
    "one lit pattern": with_counts(one_lit),
    "one place": at_one_place,
    "1 eV": of_energy(12.2643),
    "far positions": lambda: replace(scan(), positions=scan().positions * 1e10, grid=None),
    "distance 1e10": lambda: replace(
        scan(), geometry=replace(scan().geometry, angle=(4e-20, 4e-20)), probe=None
    ),
}

SETTINGS: dict[str, list[str]] = {
    "dose 1e30": ["prepare=[{poisson: {dose: 1.0e+30}}]"],
    "pad to 20000": ["prepare=[{pad: {to: [20000, 20000]}}]"],
    "resample by 1e9": ["prepare=[{resample: {factor: 1.0e+9}}]"],
    "normalise nan": ["prepare=[{normalise: {value: .nan}}]"],
    "normalise 0": ["prepare=[{normalise: {value: 0}}]"],
    "normalise -1": ["prepare=[{normalise: {value: -1}}]"],
    "epochs of 400 digits": [f"epochs={'9' * 400}"],
    "epochs of 5000 digits": [f"epochs={'9' * 5000}"],
    "epochs 1:30": ["epochs=1:30"],
    "10,000 steps": ["prepare=[" + ", ".join(["transpose"] * 10_000) + "]"],
    "a million modes": ["probe.focused.modes=1000000"],
    "2000 modes": ["probe.focused.modes=2000"],
    "late nan": ["shape={late: {plateau: .nan}}"],
    "title with a zero": ['title="a\\0b"'],
    "bin to 3x3": ["prepare=[{bin: {factor: 7}}]"],
    "bin to 1x1": ["prepare=[{bin: {factor: 24}}]"],
    "path out of the folder": ["outputs=[{stacks: {suffix: /../../../../x}}]"],
}
