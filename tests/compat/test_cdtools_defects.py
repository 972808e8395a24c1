"""What was found broken in CDTools 0.3.2, each as a sentence that holds here.

Sentences that stand elsewhere:

- unsigned integers, NaN from a file, ``downsample`` of integers:
  test_cdtools_script.test_any_kind_of_counts_is_learned_from,
  test_cdtools_datasets.test_broken_pixels_are_masked
- energy in eV or in ``beam_1``, titles as arrays, translations ``(n, 2)``, a basis for each pattern, geometry
  without ``_1``: test_malformed_files.test_variants_in_the_wild_read_to_the_same_scan
- a mask whose ones are good: test_malformed_files.test_an_inverted_mask_is_turned_round_with_a_warning
- ``pad`` forgets the flat field: test_cdtools_datasets.test_pad_is_that_of_numpy
- a near field cannot be saved: test_cdtools_results.test_a_near_field_is_saved_and_loaded
- ``compare`` needs the dataset: test_cdtools_script.test_compare_and_inspect_need_no_dataset
- SGD without a batch size: test_cdtools_script.test_gradient_descent_falls
- checkpoints without the optimiser, that cannot be read, whose skipped epochs crash, no resuming to the same
  bits: test_cdtools_results.TestCheckpoints
- a new Adam at every call: test_cdtools_script.test_moments_outlive_a_call
- pairs of options that crash: test_cdtools_pairs
- positions along the beam without effect: test_cdtools_script.test_the_sample_moves_along_the_beam

``backward_propagator`` has no counterpart here.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from phaseloom.compat import cdtools as CDTools
from phaseloom.data import prepare
from phaseloom.data.formats import cxi
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.fitting.loop import Progress
from phaseloom.ptycho import objects, scans
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.model import Ptychography

torch.set_num_threads(1)
N, GAP = 32, 2e5
GEOMETRY = Geometry(wavelength=1.4, shape=(N, N), angle=(4e-5, 4e-5), distance=2e10)
PIXEL = GEOMETRY.pixel[0]
PLACES = np.array([[0.0, 0.0], [3.5, 2.5], [7.31, 6.9], [2.1, 8.44]])
ALL = torch.arange(len(PLACES))


def scan(places: np.ndarray = PLACES) -> Scan4D:
    counts = np.ones((len(places), N, N), np.float32)
    return Scan4D(counts=counts, positions=places * PIXEL, geometry=GEOMETRY)


def modes(count: int, size: int = N) -> np.ndarray:
    """Beams that are dark at the edges of the window."""
    y, x = np.indices((size, size)) - size // 2
    first = np.exp((-0.05 + 0.03j) * (y**2 + x**2))
    return np.array([first, 0.5 * (y + 0.5j * x) * first, 0.3 * x * first])[:count]


def experiment(data: Scan4D, waves: np.ndarray, **thing: Any) -> Ptychography:
    """A model with a random object of phases and amplitudes."""
    room = scans.canvas(data, border=3)
    part = objects.pixels(room, **thing)
    rng = np.random.default_rng(4)
    wave = rng.uniform(0.7, 1.0, part.wave.shape) * np.exp(1j * rng.uniform(0, 0.8, part.wave.shape))
    part.set_transmission(torch.as_tensor(wave, dtype=torch.complex64))
    light = Probe(torch.as_tensor(waves, dtype=torch.complex64), data.window)
    core = Ptychography.of(data, object=part, probe=light)
    core.detector.root.data.zero_()
    return core


def ramps(rest: np.ndarray, size: int) -> np.ndarray:
    f = np.fft.fftfreq(size)
    return np.exp(-2j * np.pi * (rest[0] * f[:, None] + rest[1] * f[None]))


def direct(core: Ptychography, waves: np.ndarray, index: int, gap: float) -> np.ndarray:
    """The same pattern in double precision from the definitions, one state and mode after the other."""
    thing = core.object.transmission().detach().numpy().astype(complex)
    place = core.scan.current_positions()[index].detach().numpy().astype(float)
    size = waves.shape[-1]
    corner = np.round(place).astype(int) - size // 2
    q = np.fft.fftfreq(size, core.scan.canvas.pixel[0])
    square = 1 / GEOMETRY.wavelength**2 - q[:, None] ** 2 - q[None] ** 2
    flight = np.exp(2j * np.pi * gap * (np.sqrt(square) - 1 / GEOMETRY.wavelength))
    total = np.zeros((size, size))
    for share, state in zip(core.object.occupancy.numpy(), thing, strict=True):
        for mode in waves:
            wave = np.fft.ifft2(np.fft.fft2(mode) * ramps(place - np.round(place), size))
            for number, part in enumerate(state):
                wave = np.fft.ifft2(np.fft.fft2(wave) * flight) if number else wave
                wave = wave * part[corner[0] : corner[0] + size, corner[1] : corner[1] + size]
            total += share * abs(np.fft.fftshift(np.fft.fft2(wave, norm="ortho"))) ** 2
    return total


def patterns(core: Ptychography) -> np.ndarray:
    with torch.no_grad():
        return core.detector.display(core(ALL)).numpy()


def off(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


class TestSlices:
    @pytest.mark.parametrize("count", [1, 2])
    def test_part_of_a_pixel_moves_the_probe_once_and_not_in_every_slice(self, count: int) -> None:
        waves = modes(count)
        core = experiment(scan(), waves, slices=4, thickness=GAP)
        wanted = np.array([direct(core, waves, n, GAP) for n in range(len(PLACES))])
        assert off(patterns(core), wanted) < 1e-5

    def test_slices_without_distance_are_their_product(self) -> None:
        waves = modes(1)
        core = experiment(scan(), waves, slices=8, thickness=1e-3)
        thin = experiment(scan(), waves)
        thin.object.set_transmission(core.object.transmission().prod(1, keepdim=True))
        assert off(patterns(core), patterns(thin)) < 1e-5

    def test_a_finer_detector_goes_with_slices(self) -> None:
        """``oversampling=2``: the probe has twice the room, and detector pixels collect what is theirs."""
        data = prepare.enlarge(scan(), to=(2 * N, 2 * N), match="resample")
        waves = modes(2, 2 * N)
        core = experiment(data, waves, slices=3, thickness=GAP)
        fine = np.array([direct(core, waves, n, GAP) for n in range(len(PLACES))])
        shares = np.zeros((N, 2 * N))
        for n in range(N):
            shares[n, [2 * n - 1, 2 * n, 2 * n + 1]] = 0.5, 1.0, 0.5
        assert patterns(core).shape == (len(PLACES), N, N)
        inside = (
            slice(None),
            slice(1, None),
            slice(1, None),
        )  # the first row and column have half a pixel less
        assert off(patterns(core)[inside], (shares @ fine @ shares.T)[inside]) < 1e-5


class TestStates:
    @pytest.mark.parametrize(("states", "count"), [(3, 2), (2, 3), (3, 1), (2, 2)])
    def test_those_of_the_object_go_with_any_number_of_modes(self, states: int, count: int) -> None:
        waves = modes(count)
        core = experiment(scan(), waves, modes=states, slices=2, thickness=GAP)
        wanted = np.array([direct(core, waves, n, GAP) for n in range(len(PLACES))])
        assert off(patterns(core), wanted) < 1e-5

    def test_they_are_fitted(self) -> None:
        data = CDTools.datasets.Ptycho2DDataset.of(fitting())
        model = CDTools.models.FancyPtycho.from_dataset(data, n_modes=2, n_obj_modes=3)
        losses = list(model.Adam_optimize(12, data, lr=0.004))
        assert losses[-1] < losses[0]


def fitting() -> Scan4D:
    """Counts of a model that is worth a fit."""
    steps = np.stack(np.meshgrid(4 * np.arange(4), 4 * np.arange(4), indexing="ij"), -1).reshape(-1, 2)
    data = scan(steps + np.random.default_rng(1).uniform(0, 1, steps.shape))
    core = experiment(data, 60 * modes(1))
    with torch.no_grad():
        counts = core.detector.display(core(torch.arange(len(steps)))).numpy()
    return replace(data, counts=np.random.default_rng(2).poisson(counts).astype(np.uint16))


class TestPositions:
    def test_just_below_a_whole_pixel_is_on_it(self) -> None:
        """A floor would move the probe by nearly a pixel, and its tails round the window."""
        whole = experiment(scan(np.round(PLACES)), modes(2))
        below = experiment(scan(np.round(PLACES)), modes(2))
        with torch.no_grad():
            below.scan.start.sub_(1e-6)
        assert off(patterns(below), patterns(whole)) < 1e-5
        assert torch.equal(below.scan(ALL)[0], whole.scan(ALL)[0])

    def test_shifts_of_patterns_begin_at_what_is_given(self) -> None:
        known = np.random.default_rng(3).normal(0, 2, (16, 2))
        data = CDTools.datasets.Ptycho2DDataset.of(replace(fitting(), descan=known))
        model = CDTools.models.FancyPtycho.from_dataset(data, allow_probe_fourier_shifts=True)
        with torch.no_grad():
            model.translation_offsets.fill_(3.0)
        assert model.probe_fourier_shifts.detach().numpy() == pytest.approx(known, rel=1e-6)
        model.save_to_h5("shifts.h5")
        again = CDTools.models.FancyPtycho.from_results_h5("shifts.h5")
        assert torch.equal(again.probe_fourier_shifts, model.probe_fourier_shifts)
        assert torch.equal(again(2), model(2))


class TestOptimisers:
    def model(self) -> tuple[Any, Any]:
        data = CDTools.datasets.Ptycho2DDataset.of(fitting())
        return CDTools.models.FancyPtycho.from_dataset(data), data

    def test_a_second_call_with_smaller_steps_makes_no_spike(self) -> None:
        model, data = self.model()
        first = list(model.Adam_optimize(60, data, batch_size=4, lr=0.02))
        second = list(model.Adam_optimize(10, data, batch_size=4, lr=0.005))
        assert max(second) < 1.2 * first[-1]
        assert second[-1] < first[-1]

    def test_an_epoch_of_lbfgs_tells_its_passes(self) -> None:
        model, data = self.model()
        losses = list(model.LBFGS_optimize(2, data))
        assert losses[1] < losses[0]
        progress = model.fit.progress
        assert isinstance(progress, Progress)
        assert all(1 < event["passes"] <= 25 for event in progress.history)

    def test_a_schedule_begins_anew_with_every_call(self) -> None:
        model, data = self.model()
        list(model.Adam_optimize(14, data, lr=1e-9, schedule=True))
        assert model.fit.progress.history[-1]["rates"]["probe"] == pytest.approx(2e-10)
        list(model.Adam_optimize(1, data, lr=1e-9, schedule=True))
        assert model.fit.progress.history[-1]["rates"]["probe"] == pytest.approx(1e-9)


def test_a_phase_object_keeps_its_modulus() -> None:
    data = CDTools.datasets.Ptycho2DDataset.of(fitting())
    model = CDTools.models.FancyPtycho.from_dataset(data, phase_only=True)
    list(model.Adam_optimize(3, data, lr=0.05))
    thing = model.core.object.transmission().detach()
    assert thing.abs().numpy() == pytest.approx(1, abs=1e-6)
    assert thing.angle().std() > 0.01


def test_a_whole_scan_of_integers_with_an_odd_mask_is_learned_from() -> None:
    """Marks of good and bad pixels as detectors write them, the mark of a signal among them."""
    import h5py

    cxi.write(fitting(), "marks.cxi")
    with h5py.File("marks.cxi", "r+") as file:
        marks = file["entry_1/instrument_1/detector_1/mask"]
        marks[0, :3], marks[1, :2] = (1, 2, 0x1001), 0x1000
    data = CDTools.datasets.Ptycho2DDataset.from_cxi("marks.cxi")
    assert (~data.mask).nonzero().tolist() == [[0, 0], [0, 1], [0, 2]]
    model = CDTools.models.FancyPtycho.from_dataset(data)
    assert np.isfinite(list(model.Adam_optimize(2, data))).all()


def test_one_pattern_may_be_the_subset() -> None:
    data = CDTools.datasets.Ptycho2DDataset.of(fitting())
    model = CDTools.models.FancyPtycho.from_dataset(data)
    assert np.isfinite(list(model.Adam_optimize(1, data, subset=3))).all()
