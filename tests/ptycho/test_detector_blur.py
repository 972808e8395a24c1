"""The point spread of a detector, stated and fitted: SciPy's Gaussian, slopes, own numpy holograms."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

import phaseloom as pl
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.physics.detect import spread_patterns
from phaseloom.ptycho import detectors

SHAPE = (24, 27)


def near_scan() -> Scan4D:
    geometry = Geometry(wavelength=1.0, shape=SHAPE, angle=(1e-4, 1e-4), distance=1e8, focus=np.inf)
    return Scan4D(counts=np.ones((3, *SHAPE)), positions=np.eye(3)[:, :2] * 1e4, geometry=geometry)


def seen(detector: torch.nn.Module, light: np.ndarray) -> np.ndarray:
    wave = torch.as_tensor(np.sqrt(light), dtype=torch.complex64)[None, None]
    return detector.collect(wave)[0].detach().numpy()


def test_a_stated_blur_of_a_near_field_mirrors_patterns_at_their_edge_alone() -> None:
    light = np.random.default_rng(0).random(SHAPE)
    expected = ndimage.gaussian_filter(light, 0.8, mode="mirror")
    assert np.abs(seen(detectors.counting(near_scan(), blur=0.8), light) - expected).max() < 2e-3


def test_a_fitted_blur_is_a_gaussian_of_its_own_along_each_axis() -> None:
    light = ndimage.gaussian_filter(np.random.default_rng(1).random(SHAPE), 1.5, mode="mirror")
    detector = detectors.counting(near_scan(), blur=0.5)
    detector.start_blur()
    assert detector.blur() == pytest.approx((0.5, 0.5))
    with torch.no_grad():
        detector.parts()["blur"][0].copy_(torch.tensor([1.0 - 0.25, 1.69 - 0.25]))
    assert detector.blur() == pytest.approx((1.0, 1.3))
    expected = ndimage.gaussian_filter(light, (1.0, 1.3), mode="mirror")
    assert np.abs(seen(detector, light) - expected).max() < 2e-3


@pytest.mark.parametrize("near", [True, False])
@pytest.mark.parametrize("variance", [0.0, 0.4])
def test_the_slope_of_a_blur_is_that_of_differences(near: bool, variance: float) -> None:
    pattern = torch.rand(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    at = torch.tensor([variance, variance + 0.1], dtype=torch.float64, requires_grad=True)
    weight = torch.rand(*SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (slope,) = torch.autograd.grad((weight * spread_patterns(pattern, at, near=near)).sum(), at)
    for axis in (0, 1):
        step = torch.zeros(2, dtype=torch.float64)
        step[axis] = 1e-5
        ends = [(weight * spread_patterns(pattern, at.detach() + s * step, near=near)).sum() for s in (1, -1)]
        assert float(slope[axis]) == pytest.approx(float(ends[0] - ends[1]) / 2e-5, rel=1e-5)
    assert float(slope.abs().min()) > 0


def test_a_variance_below_zero_blurs_nothing_and_comes_back() -> None:
    light = np.random.default_rng(2).random(SHAPE)
    detector = detectors.counting(near_scan())
    detector.start_blur()
    (spread,) = detector.parts()["blur"]
    with torch.no_grad():
        spread.fill_(-0.3)
    assert np.abs(seen(detector, light) - light).max() < 1e-5
    wave = torch.as_tensor(np.sqrt(light), dtype=torch.complex64)[None, None]
    detector.collect(wave).square().sum().backward()
    assert spread.grad is not None
    assert bool((spread.grad < 0).all())  # smoothing takes from squares


def blurred_scan(blur: tuple[float, float], side: int = 48, counts: float = 3000.0) -> Scan4D:
    """Own holograms of a diffuse beam, 60 mm behind a weak object, with pixels of 0.1 um at 1 A."""
    rng = np.random.default_rng(7)

    def smooth(size: int, width: float) -> np.ndarray:
        noise = ndimage.gaussian_filter(rng.normal(size=(size, size)), width, mode="wrap")
        return noise / noise.std()

    y, x = np.indices((side, side)) - side // 2
    beam = np.exp(-((np.hypot(y, x) / 14) ** 6)) * np.exp(0.8j * smooth(side, 3.0))
    thing = np.exp(-0.4j * smooth(96, 2.0) - 0.02 * (1 + smooth(96, 4.0)))
    rows = np.fft.fftfreq(side, 1e3)
    kernel = np.exp(-1j * np.pi * 6e7 * (rows[:, None] ** 2 + rows[None] ** 2))
    corners = np.indices((7, 7)).reshape(2, -1).T * 6 + rng.integers(0, 3, (49, 2))
    light = []
    for top, left in corners:
        wave = np.fft.ifft2(np.fft.fft2(beam * thing[top : top + side, left : left + side]) * kernel)
        light.append(ndimage.gaussian_filter(abs(wave) ** 2, blur, mode="wrap"))
    unit = counts / np.percentile(light, 95)
    angle = 1e3 / 6e7
    geometry = Geometry(wavelength=1.0, shape=(side, side), angle=(angle, angle), distance=6e7, focus=np.inf)
    return Scan4D(
        counts=rng.poisson(unit * np.array(light)).astype(np.float32),
        positions=corners * 1e3,
        geometry=geometry,
        probe=(beam * np.sqrt(unit))[None],
    )


def fit_blur(scan: Scan4D, rate: float) -> tuple[tuple[float, float], float]:
    """The blur that a run with a known beam finds from none, and its loss."""
    rates = {"object": 0.5, "probe": 0, "positions": 0, "affine": 0, "blur": rate}
    tree = {"start": "none", "probe": {"stored": {"modes": 1}}, "epochs": 40, "rates": rates, "holdout": 0}
    job = pl.Job.begin(pl.Reconstruct.of(tree), scan=scan)
    for _ in job:
        pass
    return job.model.detector.blur(), job.progress.history[-1]["loss"]


@pytest.mark.medium
@pytest.mark.parametrize("blur", [(0.8, 0.8), (1.2, 0.6)])
def test_a_blur_is_found_from_zero(blur: tuple[float, float]) -> None:
    scan = blurred_scan(blur)
    found, loss = fit_blur(scan, 0.3)
    _, without = fit_blur(scan, 0.0)
    assert np.allclose(found, blur, atol=0.1)
    assert loss < 0.9 * without


def test_a_blur_that_is_fitted_is_written_into_the_parameter_file(tmp_path: Path) -> None:
    rates = {"object": 0.5, "probe": 0, "positions": 0, "affine": 0, "blur": 0.3}
    tree = {"start": "none", "probe": {"stored": {"modes": 1}}, "epochs": 2, "rates": rates, "holdout": 0}
    job = pl.Job.begin(pl.Reconstruct.of(tree), tmp_path / "run", scan=blurred_scan((0.8, 0.8)))
    for _ in job:
        pass
    written = pl.Reconstruct.from_path(tmp_path / "run" / "run.yaml")
    assert written.found["fitted"]["blur (pixels)"] == pytest.approx(job.model.detector.blur(), rel=1e-3)
    assert job.result().recipe == written.to_text()
    assert pl.Job.load(tmp_path / "run", scan=blurred_scan((0.8, 0.8))).progress.epoch == 2
    again = pl.Job.begin(pl.Reconstruct.of({**tree, "found": written.found}), scan=blurred_scan((0.8, 0.8)))
    assert "fitted" not in again.recorded.found


@pytest.mark.parametrize(("probe", "is_told"), [(0.4, True), (0.0, False)])
def test_a_blur_beside_a_free_illumination_is_said_not_to_be_told_from_it(
    probe: float, is_told: bool
) -> None:
    rates = {"object": 0.5, "probe": probe, "positions": 0, "affine": 0, "blur": 0.3}
    tree = {"start": "none", "probe": {"stored": {"modes": 1}}, "epochs": 2, "rates": rates, "holdout": 0}
    job = pl.Job.begin(pl.Reconstruct.of(tree), scan=blurred_scan((0.8, 0.8)))
    for _ in job:
        pass
    advice = [one for one in job.advice() if one.code == "blur_with_free_probe"]
    assert len(advice) == is_told
    assert all("rates: {probe: 0}" in one for one in advice)
