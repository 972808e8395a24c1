"""The newer transforms of a scan keep the physics as the older ones do, lazily as in memory."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from phaseloom.data import prepare
from phaseloom.data.counts import MappedCounts
from phaseloom.data.formats import native
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput

REFERENCE = Path(__file__).parents[1] / "data" / "ptyrad_reference.npz"


def far(probe: np.ndarray) -> np.ndarray:
    axes = (-2, -1)
    wave = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(probe, axes), norm="ortho"), axes)
    return (abs(wave) ** 2).sum(0)


def smooth_probe(shape: tuple[int, int]) -> np.ndarray:
    y, x = (np.arange(n) - n // 2 for n in shape)
    tilt = np.exp(0.2j * (y[:, None] * 0.7 - x[None, :]))
    one = np.exp(-((y[:, None] - 0.6) ** 2 / 5 + (x[None, :] + 0.8) ** 2 / 7)) * tilt
    return np.stack([one, 0.5 * one * (y[:, None] + 0.3 * x[None, :])])


def example(shape: tuple[int, int] = (24, 25), *, near: bool = False) -> Scan4D:
    """Empty-beam patterns of the probe that is in the scan, on a raster of 2 x 3."""
    geometry = Geometry(
        wavelength=1.4, shape=shape, angle=(3e-5, 4e-5), distance=1e10, focus=1e8 if near else None
    )
    probe = 20 * smooth_probe(shape)
    pattern = (abs(probe) ** 2).sum(0) if near else far(probe)
    mask = np.ones(shape, bool)
    mask[1, 2] = False
    return Scan4D(
        counts=np.arange(1.0, 7)[:, None, None] * pattern,
        positions=np.indices((2, 3)).reshape(2, -1).T * np.array([2.0, 3.0]) + 0.3,
        geometry=geometry,
        mask=mask,
        background=pattern * 0.1,
        flat=1 + 0.1 * np.random.default_rng(0).random(shape),
        probe=probe,
        weights=np.arange(1.0, 7) / 3.5,
        grid=(2, 3),
    )


ALL: dict[str, Callable[[Scan4D], Scan4D]] = {
    "region": lambda scan: prepare.region(scan, rows=(1, 2), columns=(0, 2)),
    "window": lambda scan: prepare.window(scan, rows=(1, 20), columns=(3, 23)),
    "pad constant": lambda scan: prepare.pad(scan, to=(31, 30), fill="constant", value=3.0),
    "pad edge": lambda scan: prepare.pad(scan, to=(31, 30), fill="edge"),
    "pad ramp": lambda scan: prepare.pad(scan, to=(31, 30), fill="ramp"),
    "pad exponential": lambda scan: prepare.pad(scan, to=(31, 30), fill="exponential"),
    "pad power": lambda scan: prepare.pad(scan, to=(31, 30), fill="power"),
    "resample": lambda scan: prepare.resample(scan, factor=1.5),
    "resample edges": lambda scan: prepare.resample(scan, to=(20, 40), aligned="pixel edges"),
    "source size": lambda scan: prepare.source_size(scan, std=2.0),
    "detector blur": lambda scan: prepare.detector_blur(scan, std=0.8),
    "poisson": lambda scan: prepare.poisson(scan, dose=1000.0, seed=2),
    "poisson per area": lambda scan: prepare.poisson(scan, per_area=30.0),
    "nonnegative": lambda scan: prepare.nonnegative(scan, how="subtract", value=0.5),
    "clip below": lambda scan: prepare.nonnegative(scan, how="clip below", value=0.5),
    "normalise": prepare.normalise,
    "affine": lambda scan: prepare.affine(scan, scale=1.1, asymmetry=0.1, rotation=0.2, shear=0.1),
    "jitter": lambda scan: prepare.jitter(scan, std=0.5),
    "calibrate": lambda scan: prepare.calibrate(scan, angle=5e-5),
    "enlarge": lambda scan: prepare.enlarge(scan, to=(30, 32)),
}
FAR_ONLY = ("calibrate",)


def all_of(scan: Scan4D) -> np.ndarray:
    return scan.counts[np.arange(len(scan))]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("dtype", ["f8", "f4", "u2", "u1", "i4"])
def test_lazy_and_loaded_patterns_agree(name: str, near: bool, dtype: str, tmp_path: Path) -> None:
    if near and name in FAR_ONLY:
        return
    scan = example(near=near)
    top = min(float(scan.counts.max()), np.iinfo(dtype).max if dtype[0] != "f" else np.inf)
    scan = replace(scan, counts=(scan.counts * top / scan.counts.max()).astype(dtype))
    native.write(scan, tmp_path / "a.h5")
    now, later = ALL[name](scan), ALL[name](native.read(tmp_path / "a.h5"))
    assert isinstance(now.counts, np.ndarray)
    assert not isinstance(later.counts, np.ndarray)
    assert now.counts.dtype == later.counts.dtype
    np.testing.assert_array_equal(all_of(now), all_of(later))
    assert now.geometry == later.geometry
    assert now.mask.shape == now.counts.shape[1:] == now.geometry.shape
    assert now.probe is not None
    assert now.probe.shape[-2:] == now.geometry.shape
    assert np.isfinite(all_of(now)).all()
    assert (all_of(now) >= 0).all()


@pytest.mark.parametrize("name", ALL)
def test_integers_stay_integers_where_nothing_is_interpolated(name: str) -> None:
    scan = example()
    scan = replace(scan, counts=scan.counts.astype(np.uint16))
    stays = name in ("region", "window", "pad constant", "poisson", "poisson per area", "clip below")
    stays = stays or name in ("affine", "jitter", "calibrate", "enlarge")
    if stays:
        assert ALL[name](scan).counts.dtype.kind in "iu"
    elif not name.startswith("pad"):
        assert ALL[name](scan).counts.dtype == np.float32


@pytest.mark.parametrize("how", ["edge", "power", "constant"])
@pytest.mark.parametrize("lazy", [False, True])
def test_padding_or_resampling_when_read_takes_no_memory(how: str, lazy: bool) -> None:
    scan = example()
    padded = prepare.pad(scan, to=(40, 40), fill=how, lazy=lazy)
    finer = prepare.resample(scan, factor=2, lazy=lazy)
    for new in (padded, finer):
        assert isinstance(new.counts, MappedCounts) == lazy
    if lazy:
        assert padded.counts.source is scan.counts
        np.testing.assert_array_equal(all_of(padded), prepare.pad(scan, to=(40, 40), fill=how).counts)
        np.testing.assert_array_equal(all_of(finer), prepare.resample(scan, factor=2).counts)


# --- the raster and the window


def test_a_region_keeps_what_belongs_to_its_patterns() -> None:
    part = prepare.region(example(), columns=(1, 3))
    assert part.grid == (2, 2)
    np.testing.assert_array_equal(part.counts, example().counts[[1, 2, 4, 5]])
    np.testing.assert_array_equal(part.positions, example().positions[[1, 2, 4, 5]])
    np.testing.assert_array_equal(part.weights, example().weights[[1, 2, 4, 5]])


@pytest.mark.parametrize("shape", [(24, 25), (25, 24)])
@pytest.mark.parametrize("near", [False, True])
def test_a_window_in_the_middle_is_a_crop(shape: tuple[int, int], near: bool) -> None:
    scan = example(shape, near=near)
    first = [n // 2 - m // 2 for n, m in zip(shape, (15, 18), strict=True)]
    one = prepare.window(scan, rows=(first[0], first[0] + 15), columns=(first[1], first[1] + 18))
    other = prepare.crop(scan, to=(15, 18))
    np.testing.assert_array_equal(one.counts, other.counts)
    np.testing.assert_allclose(one.probe, other.probe, atol=1e-9)
    assert one.geometry == other.geometry


@pytest.mark.parametrize("rows", [(2, 22), (0, 19), (5, 24)])
def test_the_probe_follows_a_window_beside_the_middle(rows: tuple[int, int]) -> None:
    scan = prepare.window(example((24, 25)), rows=rows, columns=(2, 25))
    np.testing.assert_allclose(far(scan.probe), scan.counts[0], atol=2e-3 * scan.counts[0].max())


@pytest.mark.parametrize("axis", ["y", "x"])
@pytest.mark.parametrize("shape", [(24, 25), (25, 24)])
@pytest.mark.parametrize("near", [False, True])
def test_flipping_about_the_detector_is_a_plain_flip(axis, shape: tuple[int, int], near: bool) -> None:
    scan = example(shape, near=near)
    flipped = prepare.flip(scan, axis=axis, about="detector")
    np.testing.assert_array_equal(flipped.counts, np.flip(scan.counts, 1 if axis == "y" else 2))
    np.testing.assert_array_equal(flipped.mask, np.flip(scan.mask, 0 if axis == "y" else 1))
    predicted = (abs(flipped.probe) ** 2).sum(0) if near else far(flipped.probe)
    np.testing.assert_allclose(predicted, flipped.counts[0], atol=1e-9)


# --- padding


def test_filled_pixels_are_compared_as_data_and_others_stay_masked() -> None:
    for fill in ("constant", "edge", "ramp", "exponential", "power"):
        padded = prepare.pad(example(), to=(32, 33), fill=fill)
        assert padded.mask.sum() == 32 * 33 - 1
        np.testing.assert_array_equal(prepare.crop(padded, to=(24, 25)).counts, example().counts)
        assert (padded.flat[~prepare.pad(example(), to=(32, 33)).mask] > 0).all()
    assert prepare.pad(example(), to=(32, 33)).mask.sum() == 24 * 25 - 1


@pytest.mark.parametrize("law", ["power", "exponential"])
def test_a_fall_of_known_law_is_continued(law: str) -> None:
    y, x = (np.arange(n) - n // 2 for n in (61, 60))
    away = np.maximum(np.hypot(y[:, None], x[None]), 0.5)
    amplitude = 30 * (away**-1.7 if law == "power" else np.exp(-away / 9))
    truth = amplitude**2
    whole = Geometry(wavelength=0.02, shape=(61, 60), angle=(1e-3, 1e-3), beam="electron")
    full = Scan4D(counts=truth[None], positions=np.zeros((1, 2)), geometry=whole)
    padded = prepare.pad(prepare.crop(full, to=(33, 31)), to=(61, 60), fill=law)
    np.testing.assert_allclose(padded.counts[0], truth, rtol=1e-3)


def test_a_masked_pixel_at_the_edge_is_not_continued() -> None:
    scan = example()
    counts, mask = scan.counts.copy(), scan.mask.copy()
    counts[:, 0], mask[0] = 1e9, False
    padded = prepare.pad(replace(scan, counts=counts, mask=mask), to=(30, 25), fill="edge")
    assert padded.counts[:, :3].max() < 1e6


def test_a_ramp_ends_at_its_value() -> None:
    padded = prepare.pad(example(), to=(34, 35), fill="ramp", value=4.0)
    frame = np.ones((34, 35), bool)
    frame[1:-1, 1:-1] = False
    np.testing.assert_allclose(padded.counts[:, frame], 4.0)


# --- resampling


@pytest.mark.parametrize("factor", [0.5, 2 / 3, 1.0, 1.5, 2.0, (2.0, 0.8)])
@pytest.mark.parametrize("aligned", ["zero frequency", "pixel edges"])
@pytest.mark.parametrize("shape", [(24, 24), (25, 27)])
def test_resampling_conserves_counts_and_geometry(factor, aligned: str, shape: tuple[int, int]) -> None:
    scan = example(shape)
    new = prepare.resample(scan, factor=factor, aligned=aligned)
    np.testing.assert_allclose(new.counts.sum((1, 2)), scan.counts.sum((1, 2)), rtol=0.02)
    assert new.background.sum() == pytest.approx(scan.background.sum(), rel=0.02)
    assert new.geometry.pixel == pytest.approx(scan.geometry.pixel)
    assert new.flat.mean() == pytest.approx(scan.flat.mean(), rel=0.01)
    assert not new.mask.all()


@pytest.mark.parametrize("n", range(6, 11))
@pytest.mark.parametrize("m", range(4, 17))
def test_zero_frequency_stays_in_the_middle(n: int, m: int) -> None:
    geometry = Geometry(wavelength=1.0, shape=(n, n), angle=(1e-5, 1e-5))
    counts = np.zeros((1, n, n))
    counts[0, n // 2, n // 2] = 7
    new = prepare.resample(
        Scan4D(counts=counts, positions=np.zeros((1, 2)), geometry=geometry), to=(m, m)
    ).counts[0]
    assert np.unravel_index(new.argmax(), new.shape) == (m // 2, m // 2)
    line = new[m // 2]
    reach = min(m // 2, m - m // 2 - 1)
    np.testing.assert_allclose(line[m // 2 - reach : m // 2], line[m // 2 + reach : m // 2 : -1], atol=1e-12)


@pytest.mark.parametrize("factor", [2.0, 3.0, 1.5])
def test_pixel_edges_are_those_of_bilinear_interpolation_elsewhere(factor: float) -> None:
    scan = example((24, 26))
    new = prepare.resample(scan, factor=factor, aligned="pixel edges")
    other = torch.nn.functional.interpolate(
        torch.as_tensor(scan.counts)[None], new.geometry.shape, mode="bilinear", align_corners=False
    )[0]
    np.testing.assert_allclose(new.counts, other.numpy() / factor**2, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("aligned", ["zero frequency", "pixel edges"])
@pytest.mark.parametrize("to", [(48, 50), (16, 18), (36, 25)])
def test_the_probe_predicts_the_resampled_pattern(aligned: str, to: tuple[int, int]) -> None:
    scan = prepare.resample(example((24, 25)), to=to, aligned=aligned)
    predicted, counts = far(scan.probe), scan.counts[0]
    assert np.corrcoef(predicted.ravel(), counts.ravel())[0, 1] > 0.97
    middle = [np.average(np.arange(n), weights=predicted.sum(1 - a)) for a, n in enumerate(counts.shape)]
    wanted = [np.average(np.arange(n), weights=counts.sum(1 - a)) for a, n in enumerate(counts.shape)]
    np.testing.assert_allclose(middle, wanted, atol=0.12)


def test_a_larger_grid_for_the_model_leaves_the_patterns_alone() -> None:
    wider = prepare.enlarge(example(), to=(48, 50))
    finer = prepare.enlarge(example(), to=(48, 50), match="resample")
    assert wider.counts is not None
    assert wider.geometry == finer.geometry == example().geometry
    assert wider.window.pixel == pytest.approx(tuple(p / 2 for p in example().geometry.pixel))
    assert finer.window.pixel == pytest.approx(example().geometry.pixel)


# --- intensity


def test_detector_blur_is_a_gaussian_and_bad_pixels_do_not_spread() -> None:
    scan = replace(example(), mask=np.ones((24, 25), bool))
    blurred = prepare.detector_blur(scan, std=1.2)
    np.testing.assert_allclose(blurred.counts, gaussian_filter(scan.counts, (0, 1.2, 1.2)), rtol=1e-6)
    np.testing.assert_allclose(blurred.counts.sum((1, 2)), scan.counts.sum((1, 2)))
    counts = example().counts.copy()
    counts[:, 1, 2] = 1e9
    assert prepare.detector_blur(replace(example(), counts=counts), std=1.2).counts.max() < 1e5


def test_source_size_is_a_gaussian_over_the_raster() -> None:
    rng = np.random.default_rng(0)
    grid, step = (7, 9), (0.5, 0.8)
    places = np.indices(grid).reshape(2, -1).T * step
    counts = rng.poisson(9.0, (63, 4, 5)).astype(np.uint8)
    geometry = Geometry(wavelength=0.02, shape=(4, 5), angle=(1e-3, 1e-3), beam="electron")
    scan = Scan4D(counts=counts, positions=places, geometry=geometry, grid=grid)
    blurred = prepare.source_size(prepare.rotate(scan, angle=0.4), std=0.7)
    sigma = (0.7 / 0.5, 0.7 / 0.8, 0, 0)
    wanted = gaussian_filter(counts.reshape(*grid, 4, 5).astype(float), sigma).reshape(-1, 4, 5)
    np.testing.assert_allclose(blurred.counts, wanted, rtol=2e-3, atol=1e-3)
    assert blurred.counts.sum() == pytest.approx(counts.sum(), rel=1e-4)
    one_row = prepare.source_size(replace(scan.select(np.arange(9)), grid=(1, 9)), std=0.7)
    assert one_row.counts.shape == (9, 4, 5)


def test_drawn_counts_have_the_dose_and_the_scatter_of_poisson() -> None:
    geometry = Geometry(wavelength=0.02, shape=(16, 16), angle=(1e-3, 1e-3), beam="electron")
    scan = Scan4D(
        counts=np.full((400, 16, 16), 3.7, np.float32),
        positions=np.indices((20, 20)).reshape(2, -1).T * 0.5,
        geometry=geometry,
        grid=(20, 20),
        background=np.full((16, 16), 0.37),
        probe=np.ones((1, 16, 16), np.complex64),
    )
    drawn = prepare.poisson(scan, dose=2560.0, seed=1)
    assert drawn.counts.dtype == np.uint16
    assert drawn.counts.mean() == pytest.approx(10, rel=0.005)
    assert drawn.counts.var() == pytest.approx(10, rel=0.02)
    assert drawn.background.mean() == pytest.approx(1.0)
    assert (abs(drawn.probe) ** 2).mean() == pytest.approx(10 / 3.7)
    by_area = prepare.poisson(scan, per_area=2560 / 0.25, seed=1)
    np.testing.assert_array_equal(by_area.counts, drawn.counts)
    assert (prepare.poisson(scan, dose=2560.0, seed=2).counts != drawn.counts).any()
    assert prepare.poisson(scan, dose=20.0).counts.dtype == np.uint8
    pairs = np.corrcoef(drawn.counts.reshape(400, -1)[:40])
    assert abs(pairs - np.eye(40)).max() < 0.35


def test_negative_values_are_removed_in_four_ways() -> None:
    base = np.linspace(-2, 5, 24 * 25).reshape(24, 25)
    scan = replace(example(), counts=np.stack([base] * 6), mask=np.ones((24, 25), bool), background=None)
    wanted = {
        "clip": np.maximum(base, 0),
        "clip below": np.where(base < 1.5, 0, base),
        "subtract minimum": base + 2,
        "subtract": np.maximum(base - 1.5, 0),
    }
    for how, values in wanted.items():
        done = prepare.nonnegative(scan, how=how, value=1.5)  # type: ignore[arg-type]
        np.testing.assert_allclose(done.counts[3], values, atol=1e-12)
    lifted = prepare.nonnegative(
        replace(scan, counts=np.rint(scan.counts).astype(np.int8)), how="subtract minimum"
    )
    assert lifted.counts.dtype.kind == "i"
    assert lifted.counts.min() == 0


@pytest.mark.parametrize("by", ["mean at one", "max at one", "sum to one", "divide"])
def test_normalising_keeps_every_shape(by: str) -> None:
    scan = prepare.normalise(example(), by=by, value=3.0 if by == "divide" else None)  # type: ignore[arg-type]
    factor = scan.counts[0].sum() / example().counts[0].sum()
    np.testing.assert_allclose(scan.counts, example().counts * factor)
    np.testing.assert_allclose(scan.background, example().background * factor)
    np.testing.assert_allclose(far(scan.probe), scan.counts[0], atol=1e-9)
    mean = scan.counts.mean(0)[scan.mask]
    told = {"mean at one": mean.mean(), "max at one": mean.max(), "sum to one": mean.sum()}
    assert told.get(by, factor * 3) == pytest.approx(1.0)


# --- positions


def test_affine_is_that_of_other_programs() -> None:
    reference = np.load(REFERENCE)
    scale, asymmetry, rotation, shear = reference["misc/affine_in"].tolist()
    knobs = {"scale": scale, "asymmetry": asymmetry}
    knobs |= {"rotation": np.deg2rad(rotation), "shear": np.deg2rad(shear)}
    moved = prepare.affine(example(), **knobs).positions
    arm = example().positions - example().positions.mean(0)
    np.testing.assert_allclose(moved - moved.mean(0), arm @ reference["misc/affine_out"], rtol=1e-5)
    np.testing.assert_allclose(moved.mean(0), example().positions.mean(0))


def test_affine_with_a_rotation_alone_is_a_rotation() -> None:
    one = prepare.affine(example(), rotation=0.3).positions
    other = prepare.rotate(example(), angle=0.3).positions
    np.testing.assert_allclose(np.diff(one, axis=0), np.diff(other, axis=0))


def test_jitter_has_its_spread_and_follows_its_seed() -> None:
    geometry = replace(example().geometry, shape=(2, 3))
    scan = Scan4D(counts=np.ones((2000, 2, 3)), positions=np.zeros((2000, 2)), geometry=geometry)
    moved = prepare.jitter(scan, std=0.15, seed=4)
    spread = moved.positions.std(0) / np.array(scan.geometry.pixel)
    np.testing.assert_allclose(spread, 0.15, rtol=0.06)
    np.testing.assert_array_equal(moved.positions, prepare.jitter(scan, std=0.15, seed=4).positions)
    assert (moved.positions != prepare.jitter(scan, std=0.15, seed=5).positions).any()


def test_positions_are_replaced_by_those_of_a_file(tmp_path: Path) -> None:
    places = np.random.default_rng(0).random((6, 2))
    np.save(tmp_path / "a.npy", places)
    np.savetxt(tmp_path / "a.csv", places, delimiter=",")
    for name in ("a.npy", "a.csv"):
        moved = prepare.positions(example(), path=str(tmp_path / name), unit="nm")
        np.testing.assert_allclose(moved.positions, places * 10)
        assert moved.grid == (2, 3)
    pixels = prepare.positions(example(), path=str(tmp_path / "a.npy"), unit="px")
    np.testing.assert_allclose(pixels.positions, places * np.array(example().geometry.pixel))


REFUSED: dict[str, Callable[[Scan4D], Scan4D]] = {
    "a region without a raster": lambda scan: prepare.region(replace(scan, grid=None), rows=(0, 1)),
    "a region beyond the raster": lambda scan: prepare.region(scan, rows=(0, 3)),
    "an empty region": lambda scan: prepare.region(scan, rows=(1, 1)),
    "a region from below zero": lambda scan: prepare.region(scan, columns=(-1, 2)),
    "a window beyond the detector": lambda scan: prepare.window(scan, rows=(0, 99)),
    "a window of half a pixel": lambda scan: prepare.window(scan, rows=(0, 9.5)),  # type: ignore[arg-type]
    "a flip about nothing": lambda scan: prepare.flip(scan, axis="y", about="edge"),  # type: ignore[arg-type]
    "an unknown fill": lambda scan: prepare.pad(scan, to=(30, 30), fill="soft"),  # type: ignore[arg-type]
    "a negative fill": lambda scan: prepare.pad(scan, to=(30, 30), fill="constant", value=-1),
    "a threshold of zero": lambda scan: prepare.pad(scan, to=(30, 30), fill="power", threshold=0),
    "a fall of darkness": lambda scan: prepare.pad(
        replace(scan, counts=scan.counts * 0), to=(30, 30), fill="power"
    ),
    "no size": prepare.resample,
    "two sizes": lambda scan: prepare.resample(scan, factor=2, to=(9, 9)),
    "a factor of zero": lambda scan: prepare.resample(scan, factor=0.0),
    "a factor that leaves nothing": lambda scan: prepare.resample(scan, factor=0.01),
    "an unknown alignment": lambda scan: prepare.resample(scan, factor=2, aligned="left"),  # type: ignore
    "a smaller model": lambda scan: prepare.enlarge(scan, to=(9, 9)),
    "an unknown match": lambda scan: prepare.enlarge(scan, to=(90, 90), match="bin"),  # type: ignore[arg-type]
    "a source of no size": lambda scan: prepare.source_size(scan, std=0.0),
    "a source without a raster": lambda scan: prepare.source_size(replace(scan, grid=None), std=1.0),
    "a source on a scan that stands": lambda scan: prepare.source_size(
        replace(scan, positions=np.zeros((6, 2))), std=1.0
    ),
    "a negative blur": lambda scan: prepare.detector_blur(scan, std=-1.0),
    "no dose": prepare.poisson,
    "two doses": lambda scan: prepare.poisson(scan, dose=1.0, per_area=1.0),
    "a dose of zero": lambda scan: prepare.poisson(scan, dose=0.0),
    "a dose of darkness": lambda scan: prepare.poisson(replace(scan, counts=scan.counts * 0), dose=1.0),
    "a dose of NaN": lambda scan: prepare.poisson(replace(scan, counts=scan.counts * np.nan), dose=1.0),
    "an area of nothing": lambda scan: prepare.poisson(
        replace(scan, positions=np.zeros((6, 2))), per_area=1.0
    ),
    "an unknown lift": lambda scan: prepare.nonnegative(scan, how="abs"),  # type: ignore[arg-type]
    "an infinite lift": lambda scan: prepare.nonnegative(scan, how="subtract", value=np.inf),
    "an unknown norm": lambda scan: prepare.normalise(scan, by="two"),  # type: ignore[arg-type]
    "a division by nothing": lambda scan: prepare.normalise(scan, by="divide"),
    "a division by zero": lambda scan: prepare.normalise(scan, by="divide", value=0.0),
    "a norm of darkness": lambda scan: prepare.normalise(replace(scan, counts=scan.counts * 0)),
    "an affine of no size": lambda scan: prepare.affine(scan, scale=0.0),
    "an affine that folds": lambda scan: prepare.affine(scan, asymmetry=2.0),
    "an infinite shear": lambda scan: prepare.affine(scan, shear=np.inf),
    "a negative jitter": lambda scan: prepare.jitter(scan, std=-0.1),
    "positions nowhere": lambda scan: prepare.positions(scan, path="nowhere.npy"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused(name: str) -> None:
    with pytest.raises(BadInput) as caught:
        REFUSED[name](example())
    assert "\n" not in str(caught.value)


def test_too_few_positions_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((5, 2)))
    with pytest.raises(BadInput, match="5 rows"):
        prepare.positions(example(), path=str(tmp_path / "a.npy"))


def test_every_transform_can_be_called_from_a_parameter_file() -> None:
    from phaseloom import spec

    room = "phaseloom.data.prepare"
    assert spec.names(room) == [*sorted(prepare.__all__), "denoise", "register"]
    assert spec.call(room, {"source_size": {"std": "0.4 A"}}, "prepare").values == {"std": 0.4}
    node = {"affine": {"scale": 1.1, "rotation": "3 deg"}}
    assert spec.call(room, node, "prepare")(example()).positions.shape == (6, 2)
    fit = spec.call(room, {"calibrate": {"angle": "2 mrad"}}, "prepare")
    assert fit(example()).geometry.angle == (2e-3, 2e-3)
    with pytest.raises(BadInput, match="choice"):
        spec.call(room, {"pad": {"to": [30, 30], "fill": "soft"}}, "prepare")


def test_positions_come_from_a_result_of_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from phaseloom.data import importers as models

    Path("model.mat5").write_bytes(b"something")
    monkeypatch.setattr(models, "find_program", lambda path: "ptychoshelves")
    for found, message in ((np.ones((6, 2)), None), (np.ones((5, 2)), "5 positions"), (None, "no positions")):
        answer = SimpleNamespace(positions=found)
        monkeypatch.setattr(models, "read", lambda path, answer=answer, **known: answer)
        if message is None:
            assert prepare.positions(example(), path="model.mat5").positions.tolist() == found.tolist()
        else:
            with pytest.raises(BadInput, match=message):
                prepare.positions(example(), path="model.mat5")
