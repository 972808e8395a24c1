"""One pattern of a known probe of fine structure shows an object of coarse pixels.

The probe is the far field of a disk of random phases, which fills nine tenths of the detector's width; the
object has random amplitudes and phases on its own pixels.
"""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phaseloom.compat import cdtools as CDTools
from phaseloom.compat.cdtools.models.rpi import RPI
from phaseloom.data.formats import native
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct

N, P = 48, 24
GEOMETRY = Geometry(wavelength=1.4, shape=(N, N), angle=(4e-5, 4e-5), distance=2e10)
Y, X = np.mgrid[:N, :N] - N // 2
RADIUS = np.hypot(Y, X)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def probe(kind: str = "speckle", photons: float = 1e7) -> np.ndarray:
    """Square roots of counts; as smooth as a Gaussian, or a speckle pattern."""
    wave = np.exp(-((RADIUS / (0.3 * N)) ** 2)) + 0j
    if kind == "speckle":
        phases = np.random.default_rng(0).random((N, N))
        pupil = (RADIUS < 0.45 * N) * np.exp(2j * np.pi * phases)
        wave = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(pupil)))
    return wave * math.sqrt(photons / (abs(wave) ** 2).sum())


def thing(seed: int = 1, size: tuple[int, int] = (P, P), phase: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (1 - 0.3 * rng.random(size)) * np.exp(1j * phase * rng.random(size))


def finer(field: np.ndarray) -> np.ndarray:
    """Interpolated as in a textbook: each pixel becomes a sum of plane waves."""
    for axis, n in enumerate(field.shape):
        f = np.arange(n) - n // 2
        waves = np.exp(2j * np.pi * f * (np.arange(N)[:, None] - N // 2) / N)
        parts = np.exp(-2j * np.pi * f[:, None] * (np.arange(n) - n // 2) / n) / n
        field = np.moveaxis(np.tensordot(waves @ parts, field, (1, axis)), 0, axis)
    return field


def pattern(wave: np.ndarray, sample: np.ndarray, seed: int | None = 5) -> np.ndarray:
    exit_ = np.fft.ifftshift(wave * finer(sample))
    counts = abs(np.fft.fftshift(np.fft.fft2(exit_, norm="ortho"))) ** 2
    return counts if seed is None else np.random.default_rng(seed).poisson(counts)


def shots(wave: np.ndarray, samples: list[np.ndarray]) -> Scan4D:
    counts = np.stack([pattern(wave, one, seed) for seed, one in enumerate(samples)]).astype(np.uint32)
    where = np.zeros((len(samples), 2))
    return Scan4D(counts=counts, positions=where, geometry=GEOMETRY, probe=wave[None])


def error(found: Any, truth: np.ndarray) -> float:
    """Relative, but for a complex factor, which one pattern does not tell of."""
    found = np.asarray(found)
    factor = np.vdot(found, truth) / np.vdot(found, found)
    return float(np.linalg.norm(factor * found - truth) / np.linalg.norm(truth))


def run(folder: Path, scan: Scan4D, **changes: Any) -> Job:
    """A run of a parameter file that knows the probe; its object has the pixels of `thing`."""
    native.write(scan, folder / "scan.h5")
    tree = {
        "file": str(folder / "scan.h5"),
        "object": {"bandlimited": {"pixel": f"{GEOMETRY.pixel[0] * N / P} A"}},
        "probe": {"stored": {"modes": 1}},
        "start": "none",
        "noise": "amplitude",
        "rates": {"probe": 0, "positions": 0, "affine": 0},
        "epochs": 60,
    }
    job = Job.begin(Reconstruct.of({**tree, **changes}))
    for _ in job:
        pass
    return job


def left(job: Job, truth: np.ndarray, wave: np.ndarray) -> float:
    """Error of the object in the window, where the light is."""
    top, first = job.model.scan(torch.arange(1))[0][0].tolist()
    found = job.model.object.transmission().detach().cpu().numpy()[0, 0, top : top + N, first : first + N]
    return error(found * abs(wave), finer(truth) * abs(wave))


def test_a_structured_probe_shows_an_object_in_one_pattern_and_a_smooth_one_does_not(tmp_path: Path):
    """Measured: 0.043 and 0.40 of the object."""
    errors = {}
    for kind in ("speckle", "smooth"):
        wave, sample = probe(kind), thing()
        knobs = {"object": {"bandlimited": {"pixel": f"{1.95 * GEOMETRY.pixel[0]} A"}}}
        job = run(tmp_path, shots(wave, [sample]), **knobs)
        errors[kind] = left(job, sample, wave)
        assert job.model.object.grid == (33, 33)
    assert errors["speckle"] < 0.06
    assert errors["smooth"] > 0.2


def test_projections_of_amplitude_or_phase_are_refused(tmp_path: Path):
    knobs = {"pixel": "0.1 um", "kind": "amplitude and phase"}
    with pytest.raises(BadInput, match="acts on pixels of the canvas, and a band-limited object has its own"):
        run(tmp_path, shots(probe(), [thing()]), object={"bandlimited": knobs}, projections=["positive"])


def dataset(samples: list[np.ndarray], wave: np.ndarray | None = None) -> Any:
    return CDTools.datasets.Ptycho2DDataset.of(shots(probe() if wave is None else wave, samples))


def fitted(model: Any, data: Any, number: int, epochs: int = 100, **knobs: Any) -> list[float]:
    return list(model.Adam_optimize(epochs, data, lr=0.03, subset=[number], **knobs))


def test_each_pattern_has_an_object_of_its_own():
    """Measured: 0.013 of the object."""
    samples = [thing(1), thing(2)]
    data = dataset(samples)
    model = RPI.from_dataset(data, probe(), initialization="uniform")
    assert model.bandlimited_object.grid == (P, P)
    for sample, found in zip(
        samples, model.reconstruct_each(80, data, initialization="uniform", lr=0.03), strict=True
    ):
        assert found.shape == (1, P, P)
        assert error(found[0], sample) < 0.02
    free = [name for name, parameter in model.core.named_parameters() if parameter.requires_grad]
    assert free == ["object.wave"]


@pytest.mark.parametrize("size", [(12, 12), (13, 11)])
def test_the_spectral_start_finds_an_object_of_many_turns_of_phase(size: tuple[int, int]):
    sample = thing(3, size, phase=6.28)
    data = dataset([thing(4, size), sample])
    model = RPI.from_dataset(data, probe(), size, initialization="uniform")
    model.init_obj("spectral", pattern=data.patterns[1])
    begun = error(model.bandlimited_object.coarse().detach()[0, 0], sample)
    assert begun < 0.9
    fitted(model, data, 1)
    assert error(model.bandlimited_object.coarse().detach()[0, 0], sample) < 0.02


def test_patterns_are_those_of_cdtools():
    pytest.importorskip("cdtools")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cdtools
    rng = np.random.default_rng(0)
    waves = np.stack([probe(), 0.3 * probe("smooth")]).astype(np.complex64)
    data = dataset([thing()])
    known = {name: getattr(data, name) for name in ("wavelength", "detector_geometry")}
    arrays = data.translations.numpy(), data.patterns.numpy()
    theirs = cdtools.datasets.Ptycho2DDataset(*arrays, **known)
    knobs = {"n_modes": 2, "exponentiate_obj": True, "initialization": "uniform"}
    background = rng.random((N, N)).astype(np.float32)
    their = cdtools.models.RPI.from_dataset(theirs, torch.as_tensor(waves), [P, P - 2], background, **knobs)
    our = RPI.from_dataset(data, waves, [P, P - 2], background, **knobs)
    phase = torch.as_tensor(rng.normal(size=(2, P, P - 2)) + 0.2j * rng.random((2, P, P - 2)))
    their.obj.data = phase.to(torch.complex64)
    our.core.object.set_transmission(torch.exp(1j * phase)[:, None].to(torch.complex64))
    seen, wanted = our(0), their(0, theirs.translations[0])
    assert (seen - wanted).norm() < 1e-5 * wanted.norm()


def test_the_regulariser_is_the_sum_of_squares():
    model = RPI.from_dataset(dataset([thing()]), probe(), n_modes=2)
    assert model.regularizer([1.0, 0.0]).item() == pytest.approx(P * P)
    assert model.regularizer([0.5, 2.0]).item() == pytest.approx(2.5 * P * P)
    model.regularizer([1.0, 1.0]).backward()
    torch.testing.assert_close(model.obj.grad, 2 * model.obj.detach())
    with pytest.raises(BadInput, match="must be two numbers for an object of several modes"):
        model.regularizer([1.0])


@pytest.mark.parametrize("knobs", [{}, {"phase_only": True}, {"exponentiate_obj": True, "n_modes": 2}])
def test_results_make_the_model_again_and_calibrate_another(tmp_path: Path, knobs: dict[str, Any]):
    data = dataset([thing(1), thing(2)])
    mask = np.ones((N, N), bool)
    mask[3, 4] = False
    model = RPI.from_dataset(data, probe(), [P, P - 3], np.full((N, N), 0.5), mask, **knobs)
    fitted(model, data, 0, epochs=3)
    model.save_to_h5(tmp_path / "r.h5")
    again = RPI.from_results_h5(tmp_path / "r.h5")
    torch.testing.assert_close(again(0), model(0), rtol=1e-4, atol=1e-2)
    assert again.loss_history == pytest.approx(model.loss_history)
    assert not again.core.detector.display(again.core.detector.mask)[3, 4]
    found = again.save_results()
    assert found["obj"].shape == (P, P - 3)
    ratio = np.linalg.norm(found["obj_basis"], axis=0) / np.linalg.norm(found["probe_basis"], axis=0)
    np.testing.assert_allclose(ratio, [N / P, N / (P - 3)])
    for number in (0, 1):
        assert np.isfinite(fitted(again, data, number, epochs=2)).all()


def test_ptychography_calibrates_it():
    data = dataset([thing(1), thing(2)])
    ptychography = CDTools.models.FancyPtycho.from_dataset(data, obj_padding=0)
    ptychography.core.probe.set_modes(torch.as_tensor(probe()[None], dtype=torch.complex64))
    model = RPI.from_calibration(ptychography.save_results(), initialization="uniform")
    model.background = torch.zeros(N, N)
    assert fitted(model, data, 1)[-1] < 1
    assert error(model.bandlimited_object.coarse().detach()[0, 0], thing(2)) < 0.02


def test_what_cannot_be_is_told():
    data = dataset([thing()])
    with pytest.raises(BadInput, match="must have the pixels of the exit wave"):
        RPI.from_dataset(data, probe()[:-1])
    with pytest.raises(
        BadInput, match=r"obj_size: \(60, 3\) must be two numbers of pixels, at most \(48, 48\)"
    ):
        RPI.from_dataset(data, probe(), (60, 3))
    model = RPI.from_dataset(data, probe())
    with pytest.raises(BadInput, match="is needed by a spectral start"):
        model.init_obj("spectral")
    with pytest.raises(BadInput, match="did you mean 'uniform'"):
        model.init_obj("unifrom")
    with pytest.raises(BadInput, match="lacks wavelength, obj_basis"):
        RPI.from_calibration({"probe": probe()})


def test_a_matrix_may_mix_the_modes_and_a_threshold_bound_the_object():
    wave = np.stack([probe(), 0.5 * probe("smooth")])
    data = dataset([thing()])
    model = RPI.from_dataset(data, wave, weight_matrix=True, initialization="uniform")
    before = model.weights.detach().clone()
    losses = fitted(model, data, 0, epochs=30)
    assert losses[-1] < losses[0]
    assert (model.weights - before).abs().max() > 0.01
    bound = RPI.from_dataset(data, probe("smooth"), probe_threshold=0.5)
    assert 0 < float(bound.bandlimited_object.support.mean()) < 0.9
    assert bound.bandlimited_object.coarse()[0, 0, 0, 0] == 0
