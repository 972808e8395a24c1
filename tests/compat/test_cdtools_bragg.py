"""CDTools' door to tilted samples: its arguments, its patterns, and files of its models."""

import math

import numpy as np
import pytest
import torch

from phaseloom.compat import cdtools as CDTools
from phaseloom.compat.cdtools.build import tilt_sample
from phaseloom.data.scan import LAB_BASIS
from phaseloom.errors import BadInput
from phaseloom.physics import tilted_planes as oblique
from phaseloom.physics import tilted_planes as surface

SIDE, WAVE, ANGLE = 17, 1e-9, 2e-3
NORMAL = [0.5, 0.2, 0.8]
UNIT = tuple((np.array(NORMAL) / np.linalg.norm(NORMAL)).tolist())
PIXEL = WAVE / SIDE / ANGLE


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def arguments(seed: int = 0) -> tuple[np.ndarray, np.ndarray, dict]:
    rng = np.random.default_rng(seed)
    places = np.column_stack([rng.uniform(-1e-6, 1e-6, (12, 2)), rng.uniform(-3e-5, 3e-5, 12)])
    y, x = np.indices((SIDE, SIDE)) - SIDE // 2
    bright = 400 * np.exp(-(y**2 + x**2) / 18)
    counts = rng.poisson(np.broadcast_to(bright, (12, SIDE, SIDE))).astype(np.float32)
    detector = {"distance": 1.0, "basis": np.asarray(LAB_BASIS) * ANGLE}
    return places, counts, {"wavelength": WAVE, "detector_geometry": detector}


def dataset(seed: int = 0):
    places, counts, optics = arguments(seed)
    return CDTools.datasets.Ptycho2DDataset(places, counts, **optics)


def test_a_normal_comes_before_a_mode_and_that_before_the_file():
    scan = dataset().scan
    tilted = tilt_sample(scan, "r", NORMAL)
    assert tilted.geometry.normal == pytest.approx(UNIT)
    assert tilt_sample(tilted) is tilted
    assert not tilt_sample(tilted, " Transmission").geometry.has_tilted_sample
    assert np.allclose(tilt_sample(tilted, "t").positions, scan.positions)
    with pytest.raises(BadInput, match="scattering_mode"):
        tilt_sample(scan, "sideways")
    with pytest.raises(BadInput, match="surface_normal"):
        tilt_sample(scan, None, [1.0, 0.0])
    with pytest.raises(BadInput, match="probe_fourier_crop"):
        CDTools.models.Bragg2DPtycho.from_dataset(dataset(), probe_fourier_crop=[1, 2])


def pair(knobs: dict):
    """Their model and ours of a scan on whole pixels, and a little more: theirs rounds down."""
    cdtools = pytest.importorskip("cdtools")
    places, counts, optics = arguments()
    numbers = np.random.default_rng(4).integers(-2, 3, (12, 2)) * PIXEL
    numbers[0], numbers[1:] = numbers.min(0), numbers[1:] + 1e-3 * PIXEL
    beam = 1e-10 * surface.restore_beam(numbers * 1e10, places[:, 2] * 1e10, LAB_BASIS, UNIT)
    basis = torch.as_tensor(optics["detector_geometry"]["basis"])
    known = {"wavelength": torch.tensor(WAVE), "detector_geometry": {"distance": 1.0, "basis": basis}}
    theirs = cdtools.datasets.Ptycho2DDataset(beam.astype(np.float32), counts, **known)
    mine = CDTools.datasets.Ptycho2DDataset(beam, counts, **optics)
    other = cdtools.models.Bragg2DPtycho.from_dataset(theirs, **knobs)
    return CDTools.models.Bragg2DPtycho.from_dataset(mine, **knobs), other, torch.as_tensor(beam).float()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("correct", [True, False])
def test_patterns_are_those_of_their_model(correct):
    """With the same probe and object; but for the share of light, by which they multiply the wave itself."""
    one, other, beam = pair({"surface_normal": NORMAL, "correct_tilt": correct, "obj_padding": 4})
    core, index, rng = one.core, torch.arange(12), np.random.default_rng(9)
    thing = torch.as_tensor(np.exp(1j * rng.normal(0, 0.5, other.obj.shape)), dtype=torch.complex64)
    wave = core.probe.modes().detach() * torch.exp(0.1j * torch.arange(SIDE)[:, None])
    first = (core.scan.start.round().long() - SIDE // 2).min(0).values - 4
    rows, columns = (slice(int(c), int(c) + n) for c, n in zip(first, thing.shape, strict=True))
    canvas = torch.ones(core.object.canvas.shape, dtype=torch.complex64)
    canvas[rows, columns] = thing[: canvas[rows].shape[0], : canvas[:, columns].shape[1]]
    core.object.set_transmission(canvas[None, None])
    core.probe.set_modes(wave)
    with torch.no_grad():
        core.detector.root.zero_()
        other.obj.copy_(thing)
        other.probe.copy_(wave / other.probe_norm)
        # where flights are told from: its median, our mean
        other.median_propagation.fill_(-core.heights.middle * 1e-10)
        mask = core.detector.display(core.detector.mask[None])[0].numpy()
        share = oblique.ewald((SIDE, SIDE), (ANGLE, ANGLE), LAB_BASIS, UNIT)[1] if correct else 1.0
        theirs, ours = other(index, beam).numpy() * mask, one(index).numpy() * share * mask
    assert mask.mean() > 0.8
    error = np.sqrt(((ours - theirs) ** 2).sum() / (ours**2).sum())
    assert error < (0.03 if correct else 2e-3)


def test_a_tilted_model_is_fitted_saved_and_read_again(tmp_path):
    data = dataset()
    model = CDTools.models.Bragg2DPtycho.from_dataset(data, surface_normal=NORMAL, lens=True)
    assert np.isfinite(list(model.Adam_optimize(3, data))).all()
    assert np.allclose(model.corrected_translations(), data.translations.numpy(), atol=2e-7)
    model.save_to_h5(tmp_path / "tilted.h5")
    again = CDTools.models.Bragg2DPtycho.from_results_h5(tmp_path / "tilted.h5")
    index = torch.arange(3)
    assert torch.equal(again(index), model(index))
    basis = model.save_results()["obj_basis"]
    assert np.allclose(np.array(NORMAL) @ basis, 0, atol=1e-12)
    assert math.isclose(np.linalg.norm(basis[:2, 0]), PIXEL, rel_tol=1e-6)
