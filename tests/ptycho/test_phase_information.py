"""What patterns tell of the phase, against the inverted Fisher matrix of a tiny scan."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from phaseloom.data.scan import Scan4D
from phaseloom.ptycho.curvature import (
    fit_contrast,
    incident_waves,
    measure_phase_information,
    split_by_rings,
    sum_exit_light,
    sum_illumination,
)
from phaseloom.ptycho.detectors import counting
from phaseloom.ptycho.likelihood import CountLoader
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.probes import focused
from phaseloom.simulation import simulate

WINDOW, PIXEL = 16, 0.25


def tiny(defocus: float = 60.0, *, background: float = 0.0, dose: float = 1e4) -> tuple[Ptychography, Scan4D]:
    """A model at the truth: 7 x 7 positions, 1.9 pixels apart."""
    margin = (WINDOW // 2 + 2) * PIXEL
    positions = simulate.raster((7, 7), 1.9 * PIXEL, jitter=0.02, seed=1)
    positions += margin - positions.min(0)
    shape = np.ceil((positions.max(0) + margin) / PIXEL).astype(int)
    truth = simulate.atoms((int(shape[0]), int(shape[1])), PIXEL, peak=0.6, seed=2)
    beam = {"energy": 80e3, "semiangle": 0.045, "defocus": defocus, "window": WINDOW, "dose": dose}
    scan, _ = simulate.electron_scan(truth, PIXEL, positions, **beam)
    scan = replace(scan, background=np.full((WINDOW, WINDOW), background) if background else None)
    probe = focused(scan, semiangle=0.045, defocus=defocus, modes=1)
    model = Ptychography.of(scan, probe=probe)
    model.requires_grad_(False)
    inner = np.zeros(model.scan.canvas.shape)
    y, x = (min(a, b) for a, b in zip(inner.shape, truth.shape[-2:], strict=True))
    inner[:y, :x] = truth.reshape(truth.shape[-2:])[:y, :x]
    model.object.set_transmission(
        torch.polar(torch.ones(inner.shape), torch.tensor(inner).float())[None, None]
    )
    return model, scan


def invert_fisher_matrix(model: Ptychography) -> np.ndarray:
    """True standard deviation of the phase of each pixel, without what cannot be measured."""
    shape = model.scan.canvas.shape
    count = shape[0] * shape[1]
    index = torch.arange(len(model.scan.start))
    place, rest = model.scan(index)
    probe = model.probe(rest).to(torch.complex128)
    wave = model.object.transmission().to(torch.complex128)[0, 0]
    transform = torch.fft.fft2(torch.eye(WINDOW**2).view(-1, WINDOW, WINDOW), norm="ortho").view(
        -1, WINDOW**2
    )
    transform = transform.to(torch.complex128)
    fisher = torch.zeros(count, count, dtype=torch.float64)
    numbers = torch.arange(count).view(shape)
    for number, (top, left) in enumerate(place.tolist()):
        exit_wave = probe[number].view(1, WINDOW, WINDOW)[0] * wave[top : top + WINDOW, left : left + WINDOW]
        far = exit_wave.reshape(-1) @ transform
        slope = 2 * (far.conj() * 1j * exit_wave.reshape(-1, 1) * transform).real
        part = slope / far.abs().clamp(min=1e-9)
        here = numbers[top : top + WINDOW, left : left + WINDOW].reshape(-1)
        fisher[here[:, None], here[None]] += part @ part.T
    lit = fisher.diagonal() > 1e-3 * fisher.diagonal().max()
    some = fisher[lit][:, lit]
    variance = torch.full((count,), torch.nan, dtype=torch.float64)
    variance[lit] = torch.linalg.pinv(some, rtol=1e-6, hermitian=True).diagonal()
    return variance.clamp(min=0).sqrt().view(shape).numpy()


def bound_and_core(model: Ptychography) -> tuple[np.ndarray, np.ndarray]:
    light = sum_exit_light(model, incident_waves(model))[0].double().numpy()
    return 1 / np.sqrt(2 * np.maximum(light, 1e-9)), light > 0.5 * light.max()


class TestTheBound:
    def test_the_light_gives_the_inverted_fisher_matrix_of_a_defocused_probe_to_ten_per_cent(self):
        model, _ = tiny()
        bound, core = bound_and_core(model)
        ratio = invert_fisher_matrix(model)[core] / bound[core]
        assert 0.98 < np.median(ratio) < 1.10
        assert np.percentile(ratio, 95) < 1.2

    def test_a_focused_probe_does_worse(self):
        model, _ = tiny(0.0)
        bound, core = bound_and_core(model)
        assert np.median(invert_fisher_matrix(model)[core] / bound[core]) > 1.15


class TestInformation:
    def test_an_ideal_detector_tells_all_that_the_light_could(self):
        found = measure_phase_information(tiny()[0])
        assert float(found.ideal[2:].mean()) == pytest.approx(1.0, abs=0.06)

    def test_kappa_is_one_without_background(self):
        assert measure_phase_information(tiny()[0]).kappa == 1.0

    def test_background_takes_information(self):
        shares = [measure_phase_information(tiny(background=b)[0]).kappa for b in (0.05, 0.5, 5.0)]
        assert 0.9 > shares[0] > shares[1] > shares[2] > 0

    def test_masked_pixels_tell_nothing(self):
        model, scan = tiny()
        mask = np.ones((WINDOW, WINDOW), bool)
        mask[: WINDOW // 2] = False
        model.detector = counting(replace(scan, mask=mask))
        model.detector.requires_grad_(False)
        assert measure_phase_information(model).kappa == pytest.approx(0.5, abs=0.15)

    def test_a_floor_of_the_likelihood_wastes_what_dark_pixels_tell(self):
        found = measure_phase_information(tiny()[0], floor=0.1)
        assert (found.used < found.counted).all()

    def test_the_model_is_the_same_afterwards(self):
        model, _ = tiny()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        measure_phase_information(model)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

    def test_a_scale_between_probe_and_object_does_not_matter(self):
        model, _ = tiny()
        light = sum_exit_light(model, incident_waves(model))
        model.object.set_transmission(0.5 * model.object.transmission())
        model.probe.set_modes(2 * model.probe.modes())
        torch.testing.assert_close(sum_exit_light(model, incident_waves(model)), light, rtol=1e-4, atol=1e-3)


def test_the_light_follows_the_intensity_of_shots():
    model, _ = tiny()
    waves = incident_waves(model)
    weights = torch.linspace(0.5, 2.0, 49)
    lone = sum_illumination(model, waves, weights=torch.eye(49)[7])
    rest = sum_illumination(model, waves, weights=weights - weights[7] * torch.eye(49)[7])
    torch.testing.assert_close(
        sum_illumination(model, waves, weights=weights), rest + weights[7] * lone, rtol=1e-4, atol=1e-2
    )


def fade(model: Ptychography, share: float) -> np.ndarray:
    """Leave a share of the phase; the phase that is left, ``(slice, y, x)``."""
    phase = share * model.object.transmission()[0].angle()
    model.object.set_transmission(torch.polar(torch.ones_like(phase), phase)[None])
    return phase.numpy()


def draw_counts(model: Ptychography, scan: Scan4D, seed: int = 1) -> CountLoader:
    """Poisson counts of a model, laid as it has them."""
    expected = model(torch.arange(len(scan)))
    counts = torch.poisson(expected.clamp(min=0), generator=torch.Generator().manual_seed(seed))
    shown = model.detector.display(counts).numpy()
    return CountLoader(replace(scan, counts=shown), model.detector.arrange)


class TestContrast:
    @pytest.mark.parametrize("dose", [1e4, 150.0])  # of the second 0.6 counts in a pixel
    @pytest.mark.parametrize("share", [0.5, 1.0])
    def test_the_contrast_that_a_phase_lacks_is_told_by_few_counts(self, dose, share):
        model, scan = tiny(dose=dose)
        measured = draw_counts(model, scan)
        phase = fade(model, share)
        found = fit_contrast(model, measured, split_by_rings(phase), floor=0.0)
        middle = slice(1, 4)  # where the object has most of its power, and patterns tell of it
        assert found.converged
        assert found.gains[middle].mean() == pytest.approx(1 / share - 1, abs=0.1 if dose > 1e3 else 0.35)
        assert found.dose == pytest.approx(1, abs=0.03)

    def test_counts_that_the_model_lacks_are_dose(self):
        model, scan = tiny()
        measured = draw_counts(model, scan)
        with torch.no_grad():
            model.probe.set_modes(0.8 * model.probe.modes())
        found = fit_contrast(model, measured, split_by_rings(fade(model, 1.0)), floor=0.0)
        assert found.dose == pytest.approx(1 / 0.64, rel=0.01)

    def test_the_model_is_the_same_afterwards(self):
        model, scan = tiny()
        measured = draw_counts(model, scan)
        phase = fade(model, 0.5)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        fit_contrast(model, measured, split_by_rings(phase), floor=0.01)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
