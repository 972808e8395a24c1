"""The unrolled network: its physics, what it does not depend on, and scans that it has not seen."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import poisson

from phaseloom.data import prepare
from phaseloom.data.formats import native
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.export.files import load
from phaseloom.learning import weight_files
from phaseloom.physics.optics import electron_wavelength, probe_wave
from phaseloom.ptycho.probes.guesses import BeamOptics
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.retrieval.networks import unrolled as networks
from phaseloom.retrieval.networks.unrolled import ThinScans, mean_amplitude, unrolled
from phaseloom.retrieval.predict_scans import (
    _select_block,
    check_prediction,
    check_settings,
    predict_scan,
    write_prediction,
)
from phaseloom.retrieval.prediction import predict
from phaseloom.retrieval.unrolled_error import SHARE_OF_EXPECTED, PatternResiduals, calibrate_error

WAVELENGTH = electron_wavelength(80e3)
SEMIANGLE = 0.020
STEP = 1.1


def draw_phase(shape=(96, 96), pixel=0.4, seed=0):
    """Blobs, radian, on a periodic field."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(shape[0], pixel)[:, None], np.fft.fftfreq(shape[1], pixel))
    noise = np.fft.fft2(rng.standard_normal(shape)) * np.exp(-((frequency / 0.25) ** 2)) * (frequency > 0)
    blobs = np.fft.ifft2(noise).real
    return torch.from_numpy(0.25 * blobs / blobs.std()).float()


def make_scans(phase=None, *, count=5, step=3.2, window=32, start=24.0, seed=1):
    """Patterns of a phase, as `ThinScans`; places between pixels."""
    phase = draw_phase() if phase is None else phase
    line = start + step * torch.arange(count)
    places = torch.cartesian_prod(line, line) + 0.3 * torch.rand(
        count**2, 2, generator=torch.Generator().manual_seed(seed)
    )
    pixel = (WAVELENGTH / SEMIANGLE / 5,) * 2
    probe = probe_wave(
        (window, window), pixel, wavelength=WAVELENGTH, semiangle=SEMIANGLE, aberrations={"defocus": 60.0}
    )
    scans = ThinScans(
        patterns=torch.zeros(count**2, window, window),
        mask=torch.ones(1, window, window),
        probes=probe[None],
        places=places,
        scan=torch.zeros(count**2, dtype=torch.long),
        shape=tuple(phase.shape),
        dose=torch.tensor([1e9]),
        conditions=torch.tensor([[0.2, 0.6, 1.0, 1.0]]),
    )
    return replace(scans, patterns=make_patterns(scans, phase[None]))


def make_patterns(scans, phase):
    """Patterns by plain indexing, window by window."""
    n = scans.probes.shape[-1]
    out = []
    f = torch.fft.fftfreq(n)
    for place, scan in zip(scans.places.double(), scans.scan.tolist(), strict=True):
        corner = place.round()
        rest = place - corner
        ramp = torch.exp(-2j * math.pi * (rest[0] * f[:, None] + rest[1] * f))
        probe = torch.fft.ifft2(torch.fft.fft2(scans.probes[scan].to(torch.complex128)) * ramp)
        y, x = (int(c) - n // 2 for c in corner)
        wave = torch.exp(1j * phase[scan].double()[y : y + n, x : x + n])
        out.append(torch.fft.fft2(probe * wave, norm="ortho").abs().square())
    return torch.stack(out).float()


@pytest.mark.parametrize("mean", [0.01, 0.1, 0.5, 1.0, 3.0, 10.0, 100.0])
def test_the_mean_amplitude_is_that_of_poisson_counts(mean):
    counts = np.arange(400)
    wanted = float((np.sqrt(counts) * poisson.pmf(counts, mean)).sum())
    assert float(mean_amplitude(torch.tensor(math.sqrt(mean)), torch.tensor(1.0))) == pytest.approx(
        wanted, abs=0.004
    )


def test_the_true_phase_lacks_nothing():
    phase = draw_phase()
    scans = make_scans(phase)
    lack = scans.propagate_back(phase[None])
    flat = scans.propagate_back(torch.zeros_like(phase)[None])
    assert float(lack.abs().max()) < 1e-3 * float(flat.abs().max())


def test_what_patterns_lack_is_the_gradient_of_squared_amplitudes():
    scans = make_scans()
    guess = (0.3 * draw_phase(seed=5))[None].requires_grad_()
    loss = 0.0
    wave = torch.polar(torch.ones_like(guess), guess)[0]
    for part, probes, index in scans.split():
        far = torch.fft.fft2(probes * wave.reshape(-1)[index], norm="ortho").abs()
        loss = loss + 0.5 * (far - scans.patterns[part].sqrt()).square().sum()
    (slope,) = torch.autograd.grad(loss, guess)
    lack = scans.propagate_back(guess.detach())
    assert torch.allclose(lack.imag, -slope, atol=1e-3 * float(slope.abs().max()))


def test_parts_of_the_patterns_add_up(monkeypatch):
    scans = make_scans()
    whole = scans.propagate_back(0.5 * draw_phase(seed=3)[None])
    monkeypatch.setattr(networks, "MAX_PIXELS_KEPT", 0)
    monkeypatch.setattr(networks, "MAX_PIXELS_IN_CACHE", 3 * 32 * 32)
    parts = replace(scans).propagate_back(0.5 * draw_phase(seed=3)[None])
    assert torch.allclose(whole, parts, atol=1e-6)


def test_masked_pixels_push_nowhere():
    scans = make_scans()
    mask = torch.ones(1, 32, 32)
    mask[0, 2, 5] = 0
    broken = scans.patterns.clone()
    broken[:, 2, 5] = 7.0
    clean = replace(scans, mask=mask).propagate_back(torch.zeros(1, 96, 96))
    assert torch.equal(
        replace(scans, mask=mask, patterns=broken).propagate_back(torch.zeros(1, 96, 96)), clean
    )


def test_modelled_patterns_are_those_of_plain_indexing():
    phase = draw_phase()
    scans = make_scans(phase)
    found = torch.cat([model for _, model in scans.diffract(phase[None])])
    assert torch.allclose(found, scans.patterns, atol=1e-6)


def test_averages_over_light_keep_the_beam_and_constants():
    scans = make_scans()
    values = torch.rand(len(scans.patterns), generator=torch.Generator().manual_seed(3))
    light = scans.illuminate()
    assert float((light * scans.average(values)).sum()) == pytest.approx(float(values.sum()), rel=1e-4)
    even = scans.average(torch.full_like(values, 0.7))[light > 1e-6]
    assert torch.allclose(even, torch.tensor(0.7), rtol=1e-4)


def count_electrons(scans, dose, seed=0):
    """The same with Poisson counts."""
    counts = torch.poisson(scans.patterns * dose, generator=torch.Generator().manual_seed(seed))
    return replace(scans, patterns=counts / dose, dose=torch.tensor([float(dose)]))


@pytest.mark.parametrize("dose", [3e3, 1e5])
def test_the_true_phase_leaves_counting_noise_only(dose):
    phase = draw_phase()
    found = PatternResiduals.of(count_electrons(make_scans(phase, count=9), dose), phase[None])
    assert float(found.differences.mean()) > 0.004
    assert abs(float(found.unexplained.mean())) < 0.15 * float(found.differences.mean())


def test_intensities_that_drift_are_not_unexplained():
    phase = draw_phase()
    scans = make_scans(phase)
    drift = torch.linspace(0.9, 1.1, len(scans.patterns))[:, None, None]
    found = PatternResiduals.of(replace(scans, patterns=scans.patterns * drift), phase[None])
    assert float(found.unexplained.mean()) < 1e-3 * float(found.differences.mean())


def test_the_error_grows_with_what_patterns_do_not_explain():
    phase = draw_phase()
    scans = count_electrons(make_scans(phase), 1e5)
    expected = torch.full((1, 96, 96), 0.1)
    lit = scans.illuminate() > 0.3 * scans.illuminate().max()
    shares = (0.0, 0.3, 1.0)  # of the right phase, that is lacking
    means = [
        float(calibrate_error(scans, (1 - share) * phase[None], expected)[lit].mean()) for share in shares
    ]
    assert means[0] == pytest.approx(SHARE_OF_EXPECTED * 0.1, rel=0.02)
    assert means[0] < means[1] < means[2]
    assert means[2] > 0.3 * float(phase.std())


def test_the_error_grows_where_patterns_are_not_explained():
    phase = draw_phase()
    scans = make_scans(phase, count=9)
    line = torch.arange(96)
    spot = torch.exp(-((line[:, None] - 30) ** 2 + (line - 30) ** 2) / 60.0)
    error = calibrate_error(scans, (phase + 0.8 * spot)[None], torch.full((1, 96, 96), 0.05))[0]
    assert float(error[30, 30]) > 2 * float(error[49, 49])


def test_illumination_is_the_beam_of_all_patterns():
    scans = make_scans()
    assert float(scans.illuminate().sum()) == pytest.approx(len(scans.patterns), rel=1e-4)


def make_trained_net():
    """Weights that matter, small enough for sums not to grow."""
    net = unrolled(steps=3, widths=(8, 8, 16), memory=4)
    generator = torch.Generator().manual_seed(0)
    for weight in net.parameters():
        weight.data += 0.02 * torch.randn(weight.shape, generator=generator)
    return net.eval()


@torch.no_grad()
def test_scans_of_a_batch_do_not_see_each_other():
    net = make_trained_net()
    one, other = make_scans(), make_scans(draw_phase(seed=9), seed=4)
    joined = {
        name: torch.cat([getattr(one, name), getattr(other, name)])
        for name in ("patterns", "mask", "probes", "places", "dose", "conditions")
    }
    both = ThinScans(**joined, scan=torch.cat([one.scan, other.scan + 1]), shape=one.shape)
    phase, error = net(both)
    for n, alone in enumerate((one, other)):
        expected = net(alone)
        assert torch.allclose(phase[n], expected[0][0], atol=2e-5)
        assert torch.allclose(error[n], expected[1][0], rtol=1e-3)
    assert not torch.allclose(phase[0], phase[1], atol=1e-2)


@torch.no_grad()
def test_the_order_of_patterns_does_not_matter():
    net, scans = make_trained_net(), make_scans()
    order = torch.randperm(len(scans.patterns), generator=torch.Generator().manual_seed(2))
    mixed = replace(scans, patterns=scans.patterns[order], places=scans.places[order])
    assert torch.allclose(net(scans)[0], net(mixed)[0], atol=2e-5)


def draw_atoms(shape, pixel, seed=0):
    """Narrow peaks, radian, so that the dark field shows where matter is."""
    rng = np.random.default_rng(seed)
    field = np.zeros(shape)
    places = rng.integers(0, shape[0], (round(shape[0] * shape[1] * pixel**2 / 9), 2))
    field[places[:, 0], places[:, 1]] = 1
    frequency = np.hypot(np.fft.fftfreq(shape[0], pixel)[:, None], np.fft.fftfreq(shape[1], pixel))
    peaks = np.fft.ifft2(np.fft.fft2(field) * np.exp(-2 * (math.pi * 0.35 * frequency) ** 2)).real
    return torch.from_numpy(0.6 * peaks / peaks.max()).float()


def make_scan(
    *,
    defocus=90.0,
    angle=0.0025,
    pixels=32,
    step=STEP,
    count=18,
    electrons=None,
    turn=0.0,
    seed=0,
    draw=draw_phase,
):
    """A `Scan4D` of a phase in angstrom, simulated on finer pixels than the network's; and that phase."""
    fine = WAVELENGTH / (pixels * 2 * angle)  # window twice as far in angle, so pixels are half as wide
    size = 512
    phase = draw((size, size), fine, seed)
    line = (np.arange(count) - (count - 1) / 2) * step
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    cosine, sine = math.cos(turn), math.sin(turn)
    places = grid @ np.array([[cosine, sine], [-sine, cosine]])
    window = 2 * pixels
    probe = probe_wave(
        (window, window),
        (fine, fine),
        wavelength=WAVELENGTH,
        semiangle=SEMIANGLE,
        aberrations={"defocus": defocus},
        soft=True,
    )
    made = ThinScans(
        patterns=torch.zeros(len(places), window, window),
        mask=torch.ones(1, window, window),
        probes=probe[None],
        places=torch.from_numpy(places / fine + size // 2).float(),
        scan=torch.zeros(len(places), dtype=torch.long),
        shape=(size, size),
        dose=torch.tensor([1e9]),
        conditions=torch.zeros(1, 4),
    )
    whole = torch.fft.fftshift(make_patterns(made, phase[None]), dim=(-2, -1)).numpy()
    cut = (window - pixels) // 2
    counts = whole[:, cut : cut + pixels, cut : cut + pixels]
    rng = np.random.default_rng(seed)
    counts = rng.poisson(counts * electrons).astype(np.float32) if electrons else counts * np.float32(1e6)
    geometry = Geometry(wavelength=WAVELENGTH, shape=(pixels, pixels), angle=(angle, angle), beam="electron")
    scan = Scan4D(counts=counts, positions=places, geometry=geometry, grid=(count, count))
    return scan, phase.numpy(), fine


def correlate(made, phase, fine, rim=6):
    """Correlation of a prediction with the true phase at its pixels."""
    from scipy.ndimage import map_coordinates

    lines = [made.origin[axis] + np.arange(made.phase.shape[axis]) * made.pixel[axis] for axis in (0, 1)]
    index = np.stack(np.meshgrid(*lines, indexing="ij")) / fine + phase.shape[0] // 2
    true = map_coordinates(phase, index, order=3)
    inner = (slice(rim, -rim), slice(rim, -rim))
    return float(np.corrcoef(made.phase[inner].ravel(), true[inner].ravel())[0, 1])


@pytest.fixture(scope="module")
def shipped():
    path = weight_files.find_network("unrolled", "retrieval")
    return weight_files.load_network(path), {"name": "unrolled", **weight_files.load_card(path)}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"defocus": -90.0},
        {"defocus": 200.0, "step": 2.2},
        {"turn": 0.4},
        {"angle": 0.00125, "pixels": 64},
        {"electrons": 1e4},
    ],
    ids=str,
)
def test_scans_of_any_probe_come_out(shipped, change):
    net, card = shipped
    scan, phase, fine = make_scan(**change)
    optics = BeamOptics(semiangle=SEMIANGLE, aberrations={"defocus": change.get("defocus", 90.0)})
    made = predict(net, card, scan, optics)
    assert correlate(made, phase, fine) > (0.9 if "electrons" in change else 0.95)
    assert made.error is not None
    assert made.error.shape == made.phase.shape
    assert float(made.error.min()) > 0


def test_a_prediction_moves_with_its_scan(shipped):
    net, card = shipped
    scan, _, _ = make_scan(count=10)
    optics = BeamOptics(semiangle=SEMIANGLE, aberrations={"defocus": 90.0})
    here = predict(net, card, scan, optics)
    there = predict(net, card, replace(scan, positions=scan.positions + np.array([130.0, -77.0])), optics)
    assert np.allclose(np.subtract(there.origin, here.origin), (130.0, -77.0), atol=0.5)
    places = np.stack(np.meshgrid(np.arange(-3, 3, 0.5), np.arange(-3, 3, 0.5), indexing="ij"), -1)
    difference = there.sample(places + np.array([130.0, -77.0])) - here.sample(places)
    assert float(difference.std()) < 0.1 * float(here.sample(places).std())


def test_optics_in_double_precision_are_taken(shipped):
    net, card = shipped
    scan, _, _ = make_scan(count=5)
    plain = predict(net, card, scan, BeamOptics(semiangle=SEMIANGLE, aberrations={"defocus": 90.0}))
    double = {"defocus": np.float64(90.0)}
    made = predict(net, card, scan, BeamOptics(semiangle=np.float64(SEMIANGLE), aberrations=double))
    assert np.array_equal(made.phase, plain.phase)


def test_a_disk_beside_the_middle_does_not_matter(shipped):
    net, card = shipped
    scan, phase, fine = make_scan(pixels=40, angle=0.0025)
    moved = replace(scan, counts=np.roll(scan.counts, (2, -3), (1, 2)))
    optics = BeamOptics(semiangle=SEMIANGLE, aberrations={"defocus": 90.0})
    made = predict(net, card, moved, optics)
    assert correlate(made, phase, fine) > 0.95
    assert any("beside the middle" in note for note in made.notes)


@pytest.mark.parametrize("unit", [1e-5, 50.0])
def test_a_stated_dose_gives_other_units_their_noise(shipped, unit):
    net, card = shipped
    scan, phase, fine = make_scan(electrons=1e5)
    optics = BeamOptics(semiangle=SEMIANGLE, aberrations={"defocus": 90.0})
    counted = predict(net, card, scan, optics, dose=1e5)
    other = predict(net, card, replace(scan, counts=scan.counts * np.float32(unit)), optics, dose=1e5)
    assert correlate(other, phase, fine) > 0.95
    assert np.corrcoef(counted.phase.ravel(), other.phase.ravel())[0, 1] > 0.999
    assert any("for an electron" in note for note in other.notes)
    assert not any("for an electron" in note for note in counted.notes)


def test_a_twin_is_told_by_the_dark_field(shipped):
    net, card = shipped
    scan, phase, fine = make_scan(pixels=48, electrons=1e6, draw=draw_atoms)
    turned = prepare.flip(prepare.flip(scan, axis="y"), axis="x")
    right = predict(net, card, scan, BeamOptics(semiangle=SEMIANGLE, aberrations={"defocus": 90.0}))
    twin = predict(net, card, turned, BeamOptics(semiangle=SEMIANGLE, aberrations={"defocus": -90.0}))
    assert correlate(right, phase, fine) > 0.9
    assert correlate(twin, phase, fine) < -0.3
    assert not any("twin" in line for line in check_prediction(right, scan, 1.0)[1])
    assert any("sign of the defocus" in line for line in check_prediction(twin, turned, 1.0)[1])


def test_the_right_orientation_of_the_detector_explains_more(shipped):
    net, card = shipped
    scan, _, _ = make_scan(electrons=1e4, count=12)
    optics = BeamOptics(semiangle=SEMIANGLE, aberrations={"defocus": 90.0})
    assert check_settings(net, card, scan, optics) == []
    (line,) = check_settings(net, card, prepare.transpose(scan), optics)
    assert "prepare: [transpose]" in line
    (line,) = check_settings(net, card, prepare.flip(scan, axis="y"), optics)
    assert "prepare: [{flip: {axis: y}}]" in line


@pytest.mark.parametrize(("factor", "words"), [(1.07, "steps 8 % shorter"), (0.93, "steps 8 % longer")])
def test_the_right_step_explains_more(shipped, factor, words):
    net, card = shipped
    scan, _, _ = make_scan(electrons=1e6, count=12, draw=draw_atoms)
    optics = BeamOptics(semiangle=SEMIANGLE, aberrations={"defocus": 90.0})
    (line,) = check_settings(net, card, replace(scan, positions=scan.positions * factor), optics)
    assert words in line
    assert "phaseloom calibrate" in line


@pytest.mark.parametrize(
    ("grid", "expected"),
    [((60, 5), (16, 5)), ((17, 40), (16, 16)), (None, None), ((10, 10), (10, 10))],
)
def test_orientations_are_compared_on_the_middle_of_a_raster(grid, expected):
    count = 300 if grid is None else math.prod(grid)
    geometry = Geometry(wavelength=WAVELENGTH, shape=(4, 4), angle=(0.02, 0.02), beam="electron")
    places = np.random.default_rng(0).uniform(0, 9, (count, 2))
    scan = Scan4D(counts=np.ones((count, 4, 4), np.float32), positions=places, geometry=geometry, grid=grid)
    block = _select_block(scan)
    assert (None if block is None else block.grid) == expected
    if block is not None and grid is not None:
        rows, columns = grid
        first = (rows - expected[0]) // 2 * columns + (columns - expected[1]) // 2
        assert np.array_equal(block.positions[0], places[first])


def test_known_descan_is_taken_into_account(shipped):
    net, card = shipped
    scan, phase, fine = make_scan(pixels=40)
    shift = np.rint(scan.positions / np.abs(scan.positions).max() * (2.0, -3.0)).astype(int)
    counts = np.stack([np.roll(one, tuple(by), (0, 1)) for one, by in zip(scan.counts, shift, strict=True)])
    optics = BeamOptics(semiangle=SEMIANGLE, aberrations={"defocus": 90.0})
    blind = predict(net, card, replace(scan, counts=counts), optics)
    told = predict(net, card, replace(scan, counts=counts, descan=shift.astype(float)), optics)
    assert correlate(told, phase, fine) > 0.95
    assert correlate(blind, phase, fine) < correlate(told, phase, fine) - 0.02
    assert not any("descan" in note for note in told.notes)


@pytest.mark.parametrize(
    ("change", "optics", "match"),
    [
        ({}, {}, "defocus: is not given"),
        ({}, {"defocus": 2000.0}, "is beyond the 835 A"),
        ({"step": 6.0, "count": 4}, {"defocus": 90.0}, "is beyond the 4.59 A"),
        (
            {"pixels": 16, "angle": 0.0025, "count": 4},
            {"defocus": 90.0},
            "detector: a reach of 20 mrad misses",
        ),
        ({"count": 2}, {"defocus": 90.0}, "4 patterns"),
        ({"pixels": 12, "angle": 0.0075, "count": 4}, {"defocus": 90.0}, "needs .* mrad or less: bin less"),
    ],
)
def test_what_it_was_not_trained_for_is_refused(shipped, change, optics, match):
    net, card = shipped
    scan, _, _ = make_scan(**change)
    with pytest.raises(BadInput, match=match):
        predict(net, card, scan, BeamOptics(semiangle=SEMIANGLE, aberrations=optics))


def test_the_error_is_written_and_exported(shipped, tmp_path):
    scan, _, _ = make_scan(count=6)
    native.write(scan, tmp_path / "scan.h5")
    tree = {
        "file": str(tmp_path / "scan.h5"),
        "probe": {"focused": {"semiangle": "20 mrad", "defocus": "90 A"}},
    }
    outcome = predict_scan(Reconstruct.of(tree), model="unrolled")
    write_prediction(outcome, tmp_path)
    signals = {one.name: one.values for one in load(tmp_path / "prediction.h5").signals}
    assert np.array_equal(signals["error"], outcome.prediction.error)
    assert np.array_equal(signals["phase"], outcome.prediction.phase)
