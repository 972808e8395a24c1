"""The inspection names what is wrong with a scan, and keeps quiet about a good one."""

import re
from dataclasses import replace

import numpy as np
import pytest

from phaseloom.data import formats
from phaseloom.data.diagnostics import (
    Finding,
    d4sigma,
    find_constant_level,
    inspect,
    require_counts,
    require_order_of_axes,
)
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.plot.scan import list_facts, scan_overview
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.runs.scan_recipe import find_lit_patterns

N, DX, DIAMETER = 48, 0.5, 8.0
HOT = ("pixel in the corner", "pixel in the dark", "pixel in the disk", "cluster", "row")


def speckled(*, step: float = 2.0, dose: float = 1e5, diameter: float = DIAMETER) -> Scan4D:
    """An evenly lit disk on a random phase object, measured on an irregular scan with shot noise."""
    rng = np.random.default_rng(2)
    y = (np.arange(N) - N // 2) * DX
    disk = np.hypot(y[:, None], y[None, :]) <= diameter / 2
    smooth = np.exp(-(np.hypot(y[:, None], y[None, :]) ** 2))
    patterns = []
    for _ in range(40):
        noise = rng.normal(size=(N, N))
        phase = np.fft.ifft2(np.fft.fft2(noise) * np.fft.fft2(np.fft.ifftshift(smooth))).real
        wave = disk * np.exp(1j * phase)
        patterns.append(np.fft.fftshift(abs(np.fft.fft2(wave)) ** 2))
    counts = rng.poisson(np.stack(patterns) * dose / patterns[0].sum())
    positions = np.indices((5, 8)).reshape(2, -1).T * step + rng.normal(0, 0.1 * step, (40, 2))
    wavelength = 0.0417
    geometry = Geometry(
        wavelength=wavelength, shape=(N, N), angle=(wavelength / N / DX,) * 2, beam="electron"
    )
    return Scan4D(counts=counts, positions=positions, geometry=geometry)


GOOD = speckled()


def find(scan: Scan4D, name: str) -> Finding:
    return next(finding for finding in inspect(scan) if finding.name == name)


def test_a_good_scan_has_nothing_wrong() -> None:
    findings = inspect(GOOD)
    assert {finding.level for finding in findings} == {"good"}
    assert all((finding.advice == "") == (finding.level == "good") for finding in findings)


@pytest.mark.parametrize("diameter", [5.0, 8.0, 11.0])
def test_the_speckles_tell_the_size_of_the_beam(diameter: float) -> None:
    text = find(speckled(diameter=diameter), "overlap").value
    beam = float(text.split("beam ")[1].split()[0])
    unit = {"A": 1, "nm": 10}[text.rstrip(")").split()[-1]]
    assert beam * unit == pytest.approx(diameter, rel=0.2)


def test_dose_is_counted_by_pattern_and_area() -> None:
    counts, _, _, _, per_area = find(GOOD, "dose").value.split()[:5]
    assert GOOD.area_per_pattern is not None
    assert float(counts) == pytest.approx(1e5, rel=0.01)
    assert float(per_area) == pytest.approx(float(counts) / GOOD.area_per_pattern, rel=0.01)
    assert find(speckled(dose=20), "dose").level == "warn"


def test_the_dose_of_a_raster_is_counts_over_the_product_of_its_steps() -> None:
    """However few positions there are: the extent of 5 x 8 positions has 4 x 7 steps."""
    places = np.indices((5, 8)).reshape(2, -1).T * np.array([2.0, 1.5])
    for grid in ((5, 8), None):
        per_area = find(replace(GOOD, positions=places, grid=grid), "dose").value.split()[4]
        assert float(per_area) == pytest.approx(1e5 / 3.0, rel=0.05 if grid is None else 0.01)


@pytest.mark.parametrize("has_grid", [True, False])
@pytest.mark.parametrize("angle", [0.0, 0.3])
@pytest.mark.parametrize("drift", [0.0, 0.02])
def test_picture_and_lines_say_the_same_of_the_raster(has_grid: bool, angle: float, drift: float) -> None:
    """The lines had "perfect, 26 x 26" beside "676 free positions" in the picture of one scan."""
    sine, cosine = np.sin(angle), np.cos(angle)
    places = np.indices((5, 8)).reshape(2, -1).T * 2.0 + np.arange(40)[:, None] ** 2 * drift
    places = places @ np.array([[cosine, sine], [-sine, cosine]])
    scan = replace(GOOD, positions=places, grid=(5, 8) if has_grid else None)
    said = find(scan, "raster")
    assert dict(list_facts(scan))["raster"] == said.value
    is_found = drift == 0 and (has_grid or angle == 0)
    assert said.value.startswith("perfect, 5 x 8") == is_found == (said.level == "note")
    assert ("free positions" in said.value) == (not has_grid and not is_found)


def test_holograms_share_the_field_that_all_of_them_cover() -> None:
    geometry = Geometry(
        wavelength=1.0, shape=(8, 10), angle=(1e-6, 1e-6), distance=1e9, focus=np.inf, beam="photon"
    )
    scan = Scan4D(
        counts=np.ones((4, 8, 10)),
        positions=np.array([[0, 0], [0, 50], [80, 0], [80, 50.0]]),
        geometry=geometry,
    )
    pixel = geometry.pixel[0]
    assert scan.area_per_pattern == pytest.approx((80 + 8 * pixel) * (50 + 10 * pixel) / 4)
    positions_alone = replace(scan, positions=np.zeros((4, 2)))
    assert positions_alone.area_per_pattern == pytest.approx(8 * 10 * pixel**2 / 4)


def with_counts(change) -> Scan4D:
    counts = np.array(GOOD.counts)
    change(counts)
    return replace(GOOD, counts=counts)


def hot(counts: np.ndarray) -> None:
    counts[:, 5, 5] = 100000


def hot_in_the_disk(counts: np.ndarray) -> None:
    counts[:, 25, 23] = 1000000


def dead(counts: np.ndarray) -> None:
    counts[:, 22, 26] = 0


def saturated(counts: np.ndarray) -> None:
    np.minimum(counts, 1000, out=counts)


def dark(counts: np.ndarray) -> None:
    counts[:] = 0


def flat(counts: np.ndarray) -> None:
    counts[:] = 50


def flickering(counts: np.ndarray) -> None:
    counts[::2] //= 10


def gaussian_probe(part: float) -> np.ndarray:
    """A beam whose diameter (four standard deviations of its intensity) is a part of the window."""
    y = np.arange(N) - N // 2
    return np.exp(-(np.hypot(y[:, None], y) ** 2) / (2 * part * N / 4) ** 2)[None].astype(complex)


@pytest.mark.parametrize(
    ("scan", "name", "level"),
    [
        (with_counts(hot), "hot pixels", "warn"),
        (with_counts(hot_in_the_disk), "hot pixels", "warn"),
        (with_counts(dead), "dead pixels", "warn"),
        (replace(GOOD, counts=7 * np.asarray(GOOD.counts)), "counts", "warn"),
        (with_counts(saturated), "saturated pixels", "warn"),
        (with_counts(dark), "counts", "bad"),
        (with_counts(flat), "detector", "warn"),
        (with_counts(flickering), "dose", "note"),
        (replace(GOOD, positions=GOOD.positions * 2.5), "overlap", "warn"),
        (replace(GOOD, positions=GOOD.positions * 10), "overlap", "bad"),
        (replace(GOOD, positions=GOOD.positions * 1e-2), "overlap", "warn"),
        (replace(GOOD, positions=np.zeros((40, 2))), "positions", "bad"),
        (GOOD.select(np.array([7])), "positions", "bad"),
        (replace(GOOD, positions=np.repeat(GOOD.positions[:20], 2, 0)), "positions", "note"),
        (replace(GOOD, positions=np.indices((5, 8)).reshape(2, -1).T * 2.0), "raster", "note"),
        (replace(GOOD, positions=GOOD.positions * 1e7), "extent", "bad"),
        (replace(GOOD, positions=GOOD.positions * 1e-4), "extent", "bad"),
        (replace(GOOD, oriented=False), "orientation", "note"),
        (replace(GOOD, mask=np.arange(N * N).reshape(N, N) % 3 == 0), "masked", "warn"),
        (replace(GOOD, background=np.full((N, N), 100.0)), "background", "warn"),
        (speckled(diameter=22.0), "window", "note"),
        (replace(GOOD, probe=gaussian_probe(0.6)), "window", "good"),
        (replace(GOOD, probe=gaussian_probe(0.8)), "window", "warn"),
        (replace(GOOD, probe=np.ones((1, N, N), complex)), "window", "bad"),
        (replace(GOOD, geometry=replace(GOOD.geometry, wavelength=3.0)), "beam", "warn"),
        (replace(GOOD, counts=np.roll(GOOD.counts, 3, 1)), "centre", "warn"),
    ],
)
def test_what_is_wrong_is_named_with_advice(scan: Scan4D, name: str, level: str) -> None:
    finding = find(scan, name)
    assert finding.level == level
    assert finding.advice.endswith(".") == (level != "good")


def spoilt(name: str, times: float = 0.0) -> Scan4D:
    """A scan with bad pixels that count so many times the mean pixel."""
    counts = np.array(GOOD.counts, float)
    places = {
        "hot pixel in the corner": np.s_[:, 2, 45],
        "hot pixel in the dark": np.s_[:, 40, 6],
        "hot pixel in the disk": np.s_[:, 25, 23],
        "hot cluster": np.s_[:, 3:6, 40:43],
        "hot row": np.s_[:, 7],
        "dead pixel": np.s_[:, 22, 26],
        "dead row": np.s_[:, 20],
        "dead columns": np.s_[:, :, 27:29],
    }
    counts[places[name]] = round(times * counts.mean())
    return replace(GOOD, counts=counts)


def numbers(finding: Finding) -> list[float]:
    """Those of its value, lengths in angstrom."""
    value = re.sub(r"([\d.]+) nm", lambda found: f"{10 * float(found[1]):g} A", finding.value)
    return [float(number) for number in re.findall(r"[-+]?[\d.]+(?:e[-+]?\d+)?", value)]


@pytest.mark.parametrize(
    ("name", "times"),
    [
        *((f"hot {where}", 10.0**power) for power in (2, 3, 4, 5, 6) for where in HOT),
        *((f"dead {where}", 0.0) for where in ("pixel", "row", "columns")),
    ],
)
def test_bad_pixels_that_are_named_are_left_out_of_all_else(name: str, times: float) -> None:
    spoilt_scan = spoilt(name, times)
    found = {finding.name: finding for finding in inspect(spoilt_scan)}
    kind = f"{name.split(maxsplit=1)[0]} pixels"
    assert found[kind].level == "warn"
    assert len(found[kind].pixels) == int(found[kind].value.split(";")[0])
    part = 0.25 if name.startswith("dead") else 0.03  # of the counts: those of dead pixels are lost
    for clean in inspect(GOOD):
        if clean.name in (kind, "centre"):
            continue
        assert found[clean.name].level == clean.level, clean.name
        tolerance = {"rel": part, "abs": 0.02}
        assert numbers(found[clean.name]) == pytest.approx(numbers(clean), **tolerance), clean.name
    assert np.abs(numbers(found["centre"])).max() < 1.0


def test_pixels_that_findings_name_are_not_drawn_as_counts() -> None:
    scan = spoilt("hot cluster", 1e6)
    figure = scan_overview(scan, inspect(scan))
    title = figure.axes[0].get_title()
    assert "9 untrusted pixels" in title
    assert figure.axes[2].get_xlim()[1] < 2 * GOOD.counts.sum((1, 2)).mean()


def thin_object(*, ratio: float, falls: float, share: float, level: float, dose: float = 1e5) -> Scan4D:
    """A disk, a share of the counts scattered beyond it that falls by a power, and a level in every pixel."""
    y, x = np.indices((N, N)) - N // 2
    away = np.hypot(y, x) / (N / 2 / ratio)
    disk = np.clip((1 - away) * 5 + 0.5, 0, 1)
    tail = np.maximum(away, 1.0) ** -falls
    mean = dose * ((1 - share) * disk / disk.sum() + share * tail / tail.sum()) + level
    counts = np.random.default_rng(4).poisson(np.broadcast_to(mean, (40, N, N)))
    return replace(GOOD, counts=counts)


@pytest.mark.parametrize("dose", [1e3, 1e5])
@pytest.mark.parametrize("ratio", [1.6, 2.5, 4.0])
@pytest.mark.parametrize(("falls", "share"), [(2.0, 0.1), (2.0, 0.6), (3.0, 0.3), (4.0, 0.05), (4.0, 0.5)])
def test_scattering_is_no_background(dose: float, ratio: float, falls: float, share: float) -> None:
    scan = thin_object(ratio=ratio, falls=falls, share=share, level=0, dose=dose)
    assert find(scan, "background").level == "good"


@pytest.mark.parametrize("ratio", [1.6, 2.5, 4.0])
@pytest.mark.parametrize(("level", "share"), [(2.0, 0.0), (2.0, 0.02), (20.0, 0.1), (20.0, 0.3)])
def test_counts_that_all_pixels_have_are_a_background(ratio: float, level: float, share: float) -> None:
    found = find(thin_object(ratio=ratio, falls=3.0, share=share, level=level), "background")
    assert found.level == "warn"
    told = float(found.value.split("at least ")[1].split()[0])
    assert 0.6 * level < told < 1.02 * level  # of scattering the least is told


def test_a_background_that_is_known_is_not_told_again() -> None:
    scan = thin_object(ratio=2.5, falls=3.0, share=0.1, level=20.0)
    assert find(replace(scan, background=np.full((N, N), 20.0)), "background").level == "good"
    more = find(replace(scan, background=np.full((N, N), 5.0)), "background")
    assert more.level == "warn"
    assert " more in each pixel" in more.value


def test_a_long_flight_needs_a_larger_window() -> None:
    parallel = Geometry(wavelength=1.0, shape=(N, N), angle=(1e-6, 1e-6), distance=1e9, focus=np.inf)
    assert find(replace(GOOD, geometry=parallel), "propagation").level == "warn"
    close = replace(parallel, distance=1e6, angle=(1e-3, 1e-3))
    assert find(replace(GOOD, geometry=close), "propagation").level == "good"


def test_a_file_with_the_axes_of_the_detector_first_is_told_apart() -> None:
    patterns = np.resize(GOOD.counts, (48, 48, 48, 48))
    for order, level in ((0, 1, 2, 3), "good"), ((2, 3, 0, 1), "bad"):
        counts = patterns.transpose(order).reshape(-1, 48, 48)
        positions = np.indices((48, 48)).reshape(2, -1).T * 2.0
        scan = replace(GOOD, counts=counts, positions=positions, grid=(48, 48))
        assert find(scan, "counts").level == level
        assert ("permute: [2, 3, 0, 1]" in find(scan, "counts").advice) == (level == "bad")
        assert {find(scan, name).level for name in ("detector", "background")} == {"good"}


def test_many_patterns_are_read_in_part() -> None:
    class Counted:
        shape, dtype, asked = (2000, 4, 4), np.dtype(np.float32), 0

        def __getitem__(self, index: np.ndarray) -> np.ndarray:
            Counted.asked += len(np.atleast_1d(index))
            return np.ones((len(index), 4, 4), np.float32)

    geometry = Geometry(wavelength=0.02, shape=(4, 4), angle=(1e-3, 1e-3), beam="electron")
    positions = np.random.default_rng(0).random((2000, 2))
    inspect(Scan4D(counts=Counted(), positions=positions, geometry=geometry))
    assert Counted.asked <= 1000


def test_a_narrow_beam_has_the_width_of_its_gaussian() -> None:
    y, x = np.indices((41, 41)) - 20
    beam = np.exp(-(np.square(0.1 * y) + np.square(0.1 * x)) / (2 * 0.3**2))
    assert d4sigma(beam, (0.1, 0.1)) == pytest.approx(4 * 0.3, rel=1e-6)


def test_positions_along_the_beam_are_named_because_they_are_not_modelled():
    geometry = Geometry(wavelength=1.0, shape=(8, 8), angle=(1e-3, 1e-3))
    flat = Scan4D(counts=np.ones((4, 8, 8)), positions=np.eye(4)[:, :2], geometry=geometry)
    tall = replace(flat, heights=np.arange(4) * 1e4)
    assert {f.name: f.level for f in inspect(tall)}["heights"] == "note"
    assert "heights" not in {f.name for f in inspect(flat)}


def along(*heights: float) -> Scan4D:
    """A soft disk at the mean of the heights, converging."""
    y = np.arange(N) - N // 2
    radius = np.hypot(y[:, None], y[None, :]) * DX
    wave = np.exp(-((radius / 3) ** 4)) * np.exp(-1j * np.pi * radius**2 / (GOOD.geometry.wavelength * 6e3))
    many = len(heights)
    scan = replace(GOOD.select(np.arange(many)), positions=np.zeros((many, 2)), heights=np.array(heights))
    return replace(scan, probe=wave[None])


def filled(scan: Scan4D) -> float:
    """How much of the window the inspection finds filled, per cent."""
    return float(find(scan, "window").value.split("%")[0].split()[-1])


def test_a_scan_along_the_beam_is_judged_where_the_beam_is_widest():
    near, far, turned = along(0, 10, -10), along(0, 4000, -4000), along(0, -4000, 4000)
    flat = replace(near, heights=None)
    assert filled(near) == pytest.approx(filled(flat), abs=1)
    assert filled(far) == filled(turned) > 1.4 * filled(near)
    assert "at its widest" in find(far, "window").value
    assert "at its widest" not in find(flat, "window").value


def with_value(value: float) -> Scan4D:
    counts = GOOD.counts[:].astype(float)
    counts[3, 4, 5] = value
    return replace(GOOD, counts=counts)


def test_values_that_are_not_counts_are_named() -> None:
    assert "values" not in [finding.name for finding in inspect(GOOD)]
    below = find(with_value(-2.0), "values")
    assert (below.value, below.level) == ("0 not finite, 1 negative", "warn")
    assert "prepare: nonnegative" in below.advice
    lost = find(with_value(np.nan), "values")
    assert (lost.value, lost.level) == ("1 not finite, 0 negative", "bad")
    assert "mask" in lost.advice
    clean = replace(GOOD, mask=GOOD.mask & ~(np.arange(N * N).reshape(N, N) == 4 * N + 5))
    assert [f for f in inspect(with_value(np.nan)) if f.name == "dose"] != []
    assert find(replace(with_value(np.nan), mask=clean.mask), "dose") == find(clean, "dose")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_a_run_refuses_values_that_are_not_counts(value: float, masked: bool) -> None:
    import phaseloom as pl

    scan = with_value(value)
    if masked:
        mask = scan.mask.copy()
        mask[4, 5] = False
        scan = replace(scan, mask=mask)
    recipe = pl.Reconstruct.of({"file": "x.h5", "epochs": 1})
    with pytest.raises(BadInput, match=r"scan.counts: pattern 3, pixel \[4, 5\]: (nan|inf|-1.0) is"):
        pl.Job.begin(recipe, scan=scan)
    if value == -1.0:
        require_counts(scan)
        recipe = recipe.with_settings({"prepare": "nonnegative", "start": "none"})
        assert pl.Job.begin(recipe, scan=scan).level is not None


def test_an_inverted_mask_is_told_and_a_mask_of_the_dark_part_is_not(tmp_path) -> None:
    rng = np.random.default_rng(5)
    bad = rng.random((N, N)) < 0.03
    counts = np.asarray(GOOD.counts).astype(np.uint16)
    counts[:, np.argwhere(bad)[::2, 0], np.argwhere(bad)[::2, 1]] = 60_000  # hot, the others are dead
    counts[:, np.argwhere(bad)[1::2, 0], np.argwhere(bad)[1::2, 1]] = 0
    inverted = find(replace(GOOD, counts=counts, mask=bad), "masked")
    assert inverted.level == "bad"
    assert inverted.value.endswith(", with most of the counts")
    assert "inverted" in inverted.advice
    assert find(replace(GOOD, counts=counts, mask=~bad), "masked").level == "good"
    mean = GOOD.mean_pattern()
    bright = mean > np.percentile(mean, 60)
    assert find(replace(GOOD, mask=bright), "masked").advice.startswith("Much of the detector")
    marked = counts.copy()
    marked[:, ~bright] = 65535
    assert find(replace(GOOD, counts=marked, mask=bright), "masked").level == "warn"
    np.save(tmp_path / "scan.npy", counts)
    np.save(tmp_path / "mask.npy", bad.astype(np.uint8))
    knobs = {"energy": 80e3, "pixel": DX, "step": 2.0, "grid": [5, 8], "mask": "mask.npy"}
    assert find(formats.read(tmp_path / "scan.npy", knobs=knobs), "masked").level == "bad"


def test_exchanged_axes_are_refused_by_runs_with_the_way_to_read_them(tmp_path):
    rng = np.random.default_rng(4)
    y, x = np.indices((24, 26))
    disk = np.hypot(y - 12, x - 13) < 6
    shade = 1 + 0.2 * np.sin(np.indices((10, 11)).sum(0) / 2)
    counts = rng.poisson(40 * shade[..., None, None] * disk).astype(np.uint16)
    wrong = np.ascontiguousarray(counts.transpose(2, 3, 0, 1))  # most patterns are blank
    knobs = "{energy: 80 keV, angle: 1 mrad, step: 0.8 A}"
    for name, array in {"right.npy": counts, "wrong.npy": wrong}.items():
        np.save(tmp_path / name, array)
        (tmp_path / f"{name}.phaseloom.yaml").write_text(knobs)
    assert len(Reconstruct.from_path(tmp_path / "right.npy").scan()) == 110
    with pytest.raises(BadInput, match=r"^wrong.npy: .* Read it with permute: \[2, 3, 0, 1\]"):
        Reconstruct.from_path(tmp_path / "wrong.npy").scan()
    too_much = {"read.npy.permute": [2, 3, 0, 1]}
    with pytest.raises(BadInput, match=r"^right.npy: .* Remove permute: \[2, 3, 0, 1\]"):
        Reconstruct.from_path(tmp_path / "right.npy", too_much).scan()
    read = formats.read(tmp_path / "right.npy", knobs={"permute": (2, 3, 1, 0)})
    assert "Read it with permute: [1, 0, 2, 3]" in find(read, "counts").advice
    again = Reconstruct.from_path(tmp_path / "wrong.npy", {"read.npy.permute": [2, 3, 0, 1]}).scan()
    np.testing.assert_array_equal(np.asarray(again.counts[:]), counts.reshape(110, 24, 26))


def test_holograms_and_steady_or_few_patterns_are_not_taken_for_exchanged_axes(tmp_path):
    of = {"energy": 80e3, "angle": 1e-3, "step": 0.8}
    flat = np.full((10, 11, 8, 8), 5, np.uint16)
    flat[:, 5:] = 0  # a shutter that closed: half is blank, and the detector is lit evenly
    np.save(tmp_path / "flat.npy", flat)
    scan = formats.read(tmp_path / "flat.npy", knobs=of)
    near = replace(scan, geometry=replace(scan.geometry, focus=float("inf"), distance=1e7))
    require_order_of_axes(near, "flat")
    few = np.zeros((4, 4, 8, 8), np.uint16)
    few[0, 0] = 9
    np.save(tmp_path / "few.npy", few)
    require_order_of_axes(formats.read(tmp_path / "few.npy", knobs=of), "few")


@pytest.mark.filterwarnings("error")
def test_a_known_background_that_is_too_bright_leaves_no_warnings_of_numpy():
    y, x = np.indices((48, 48)) - 24
    disk = 100.0 * (np.hypot(y, x) < 8)
    for level in (-1 / 500, -5.0):
        found = find_constant_level(disk + level, np.ones((48, 48), bool), patterns=500)
        assert found.least == pytest.approx(level)
        assert not found.is_clear


def test_a_pattern_far_brighter_than_the_others_is_named(caplog):
    rng = np.random.default_rng(0)
    counts = rng.poisson(5.0, (120, 16, 16))
    counts[37] *= 12
    positions = np.stack(np.meshgrid(np.arange(12), np.arange(10), indexing="ij"), -1).reshape(-1, 2) * 1.0
    geometry = Geometry(wavelength=0.02, shape=(16, 16), angle=(1e-3, 1e-3), beam="electron")
    scan = Scan4D(counts=counts, positions=positions, geometry=geometry)
    (finding,) = [one for one in inspect(scan) if one.name == "bright"]
    assert finding.value.startswith("pattern 37 holds 1")
    assert "numbers: [37]" in finding.advice
    find_lit_patterns(scan, "a.npy", names_bright=True)
    (record,) = caplog.records
    assert "a.npy: pattern 37 holds" in record.getMessage()
    assert "without: {numbers: [37]}" in record.getMessage()
    even = replace(scan, counts=rng.poisson(5.0, (120, 16, 16)))
    assert not [one for one in inspect(even) if one.name == "bright"]


def test_patterns_with_the_zero_frequency_in_the_corner_are_told():
    y, x = np.indices((32, 32)) - 16
    disk = 50.0 * (np.hypot(y, x) < 6) + 0.5
    counts = np.random.default_rng(0).poisson(disk, (16, 32, 32))
    positions = np.indices((4, 4)).reshape(2, -1).T * 1.0
    geometry = Geometry(wavelength=0.02, shape=(32, 32), angle=(1e-3, 1e-3), beam="electron")
    for patterns, told in ((counts, False), (np.fft.ifftshift(counts, axes=(1, 2)), True)):
        scan = Scan4D(counts=patterns, positions=positions, geometry=geometry)
        (detector,) = [one for one in inspect(scan) if one.name == "detector"]
        assert ("numpy.fft.fftshift" in detector.advice) is told
        assert (detector.level == "bad") is told


def scan_of(counts) -> Scan4D:
    """Patterns on a raster of 12 columns."""
    places = np.indices((len(counts) // 12, 12)).reshape(2, -1).T * 1.0
    geometry = Geometry(wavelength=0.02, shape=counts.shape[1:], angle=(1e-3, 1e-3), beam="electron")
    return Scan4D(counts=counts, positions=places, geometry=geometry)


def disks(many: int = 120, dose: float = 20.0) -> np.ndarray:
    y, x = np.indices((24, 24)) - 12
    disk = dose * (np.hypot(y, x) < 6) + dose / 100
    return np.random.default_rng(5).poisson(disk, (many, 24, 24)).astype(np.uint16)


def test_saturated_patterns_are_left_out_and_named_by_their_numbers_in_the_file(caplog):
    counts = disks()
    counts[[3, 4]] = 0
    counts[[50, 77]] = 65535
    counts[50, 2, 3] = 0  # a dead pixel
    used = find_lit_patterns(scan_of(counts), "a.npy", names_bright=True)
    assert np.flatnonzero(~used).tolist() == [3, 4, 50, 77]
    said = "a.npy: 2 of 120 patterns are saturated (one value in all pixels) and were left out: 50, 77"
    assert said in caplog.text
    assert "hold up to" not in caplog.text


def test_good_patterns_are_never_taken_for_saturated_ones():
    """Brightness alone, equal pixels alone, and both in many patterns are not enough."""
    dim = np.random.default_rng(3).poisson(0.02, (240, 24, 24)).astype(np.uint16)
    particle = dim.copy()
    particle[100:102] = disks(2, 500.0)  # thousands of times as bright as the empty field
    opened = dim.copy()
    opened[238:] = disks(2, 200.0)
    flat = disks(240)
    flat[7] = int(flat[0].mean())  # an empty place of a hologram
    few = np.zeros((240, 24, 24), np.uint16)
    few[:, 11, 11] = 1
    few[9, :12] = 1  # single electrons
    lamp = disks(240)
    lamp[:24] = 60000
    for counts in (particle, opened, flat, few, lamp):
        assert find_lit_patterns(scan_of(counts), "a.npy").all()
    small = np.ones((120, 4, 4), np.uint16)  # a segmented detector
    small[5] = 9
    assert find_lit_patterns(scan_of(small), "a.npy").all()


def test_saturated_patterns_spoil_nothing_that_is_found_of_a_scan():
    counts = disks()
    good = {one.name: one.value for one in inspect(scan_of(counts))}
    counts[[50, 77]] = 65535
    found = {one.name: one for one in inspect(scan_of(counts))}
    assert found["saturated patterns"].value.startswith("50, 77")
    assert "left out of reconstructions" in found["saturated patterns"].advice
    assert "bright" not in found
    for name in ("hot pixels", "dead pixels", "saturated pixels", "centre", "detector"):
        assert found[name].value == good[name]
    require_order_of_axes(replace(scan_of(counts), grid=(10, 12)), "a.npy")


def test_all_bright_patterns_are_listed_to_be_left_out():
    counts = disks(360)
    counts[[37, 200]] *= 12
    (finding,) = [one for one in inspect(scan_of(counts)) if one.name == "bright"]
    assert "numbers: [37, 200]" in finding.advice


def test_what_was_looked_for_in_some_patterns_says_in_how_many():
    counts = disks(1200)
    counts[3] = 0
    found = {one.name: one.value for one in inspect(scan_of(counts))}
    for name in ("saturated pixels", "hot pixels", "dead pixels"):
        assert found[name].endswith("in 500 of 1200 patterns")
    assert {one.name: one.value for one in inspect(scan_of(counts[:120]))}["saturated pixels"] == "none"


def test_little_overlap_may_be_a_step_in_the_wrong_unit():
    finding = find(speckled(step=0.8 * DIAMETER), "overlap")
    assert finding.level == "bad"
    assert "check the unit of the step" in finding.advice
