"""Optics, flights, patterns and gradients against arrays that PtyRAD 1.0.0 computed from random input."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from phaseloom.data.scan import Geometry, Scan4D, wavelength_of
from phaseloom.physics import optics, propagate
from phaseloom.physics.fourier import shift, shift_to_centre
from phaseloom.ptycho import detectors, objects, penalties, propagators, scans
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.model import Ptychography

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "ptyrad_reference.npz")
N, PIXEL, ENERGY, SEMIANGLE = 32, 0.3, 80e3, 25e-3


def golden(name):
    return GOLDEN[name]


def off(ours, theirs):
    """Largest relative difference, in the L2 norm."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    return np.linalg.norm((ours - theirs).ravel()) / np.linalg.norm(theirs.ravel())


def geometry(shape=(N, N)):
    wavelength = wavelength_of(ENERGY, "electron")
    angle = tuple(wavelength / (n * PIXEL) for n in (N, N))
    return Geometry(wavelength=wavelength, shape=shape, angle=angle, beam="electron")


def experiment(*, tilt=None, gap=None, enlarged=None, detector=None):
    """The reference's object, probe and positions in our parts."""
    amplitude, phase = golden("fwd/in_obja"), golden("fwd/in_objp")
    places = golden("fwd/in_crop_pos") + N // 2 + golden("fwd/in_probe_pos_shifts")
    measured = geometry() if enlarged is None else enlarged
    counts = np.ones((16, *measured.shape), np.float32)
    scan = Scan4D(counts=counts, positions=places * PIXEL, geometry=measured)
    if enlarged is not None:
        scan = replace(scan, modelled=geometry())
    room = scans.Canvas(amplitude.shape[-2:], (N, N), (PIXEL, PIXEL), (0.0, 0.0))
    gap = float(golden("prop/dz_lam")[0]) if gap is None else gap
    share = torch.as_tensor(golden("fwd/in_omode_occu"))
    wave = torch.polar(torch.as_tensor(amplitude), torch.as_tensor(phase))
    thing = objects.PixelObject(wave, "amplitude and phase", (gap, gap), room, share)
    with torch.no_grad():
        thing.amplitude.copy_(torch.as_tensor(amplitude))
        thing.phase.copy_(torch.as_tensor(phase))
    flight = propagators.FreeFlight(
        scan,
        (gap, gap),
        propagate.angular_spectrum,
        torch.zeros(1, 2) if tilt is None else torch.as_tensor(tilt),
    )
    return Ptychography(
        object=thing,
        probe=Probe(torch.as_tensor(golden("fwd/in_probe")), scan.window, relative=False),
        scan=scans.Positions.of(scan, room),
        propagator=flight,
        detector=detectors.counting(scan, **(detector or {})),
    )


def patterns(model):
    with torch.no_grad():
        return shift_to_centre(model(torch.arange(16))).numpy()


def test_wavelength_and_interaction():
    for kv, wavelength, sigma in zip(
        *(golden(f"optics/{n}") for n in ("kv", "wavelength_A", "sigma_per_kV_A")), strict=True
    ):
        assert wavelength_of(kv * 1e3, "electron") == pytest.approx(wavelength, rel=2e-6)
        assert optics.interaction(kv * 1e3) * 1e3 == pytest.approx(sigma, rel=2e-6)


def test_the_reference_was_made_with_this_optics():
    n, dx, kv, alpha = golden("optics/N_dx_kv_alpha")
    assert (n, dx, kv) == (N, PIXEL, ENERGY / 1e3)
    assert alpha == pytest.approx(SEMIANGLE * 1e3)


def test_aberrated_probe():
    named = dict(zip(golden("optics/aberr_keys").tolist(), golden("optics/aberr_vals").tolist(), strict=True))
    named = {k: np.deg2rad(v) if k.startswith("phi") else v for k, v in named.items()}
    cartesian = optics.to_cartesian(optics.coefficients(named))
    named = {key: round(value, 3) for key, value in cartesian.items()}  # as the reference stored them
    wave = optics.probe_wave(
        (N, N),
        (PIXEL, PIXEL),
        wavelength=wavelength_of(ENERGY, "electron"),
        semiangle=SEMIANGLE,
        aberrations=named,
        dtype=torch.complex128,
    )
    theirs = golden("optics/probe")
    phase = np.vdot(wave.numpy(), theirs)
    assert off(wave.numpy() * phase / abs(phase), theirs) < 2e-6
    assert abs(np.angle(phase)) < 1e-6


def test_propagator_up_to_the_carrier():
    gap, wavelength = golden("prop/dz_lam")
    ours = propagate.angular_spectrum((N, N), (PIXEL, PIXEL), wavelength, torch.tensor(gap))
    carrier = np.exp(2j * np.pi * gap / wavelength)
    assert off(ours.numpy() * carrier, golden("prop/H")) < 2e-6


def test_propagators_of_each_tilt():
    gap, wavelength = golden("prop/dz_lam")
    tilt = torch.as_tensor(golden("fwd/in_tilts_mrad")).double() * 1e-3
    z = torch.tensor(gap, dtype=torch.float64)
    ours = propagate.angular_spectrum((N, N), (PIXEL, PIXEL), wavelength, z)
    ours = ours * propagate.tilt_ramp((N, N), (PIXEL, PIXEL), z, tilt)
    carrier = np.exp(2j * np.pi * gap / wavelength)
    assert off(ours.numpy() * carrier, golden("prop/H_tilt_each")) < 2e-6


def test_shifted_probes():
    moved = shift(
        torch.as_tensor(golden("fwd/in_probe"))[None],
        torch.as_tensor(golden("fwd/in_probe_pos_shifts"))[:, None],
    )
    assert off(moved, golden("fwd/shifted_probes")) < 2e-6


def test_patterns():
    assert off(patterns(experiment()), golden("fwd/patterns")) < 2e-6


def test_patterns_of_each_tilt():
    model = experiment(tilt=golden("fwd/in_tilts_mrad") * 1e-3)
    assert off(patterns(model), golden("fwd/patterns_tilt_each")) < 2e-6


def test_blurred_patterns():
    assert off(patterns(experiment(detector={"blur": 0.8})), golden("fwd/patterns_blur0.8")) < 2e-6


def test_patterns_cropped_to_a_smaller_detector():
    model = experiment(enlarged=geometry((24, 24)))
    assert off(patterns(model), golden("fwd/patterns_simu_crop24")) < 2e-6


def test_patterns_resampled_to_a_coarser_detector():
    coarse = replace(geometry((16, 16)), angle=tuple(2 * a for a in geometry().angle))
    model = experiment(enlarged=coarse, detector={"collect": "bilinear"})
    assert off(patterns(model), golden("fwd/patterns_simu_resample16")) < 2e-6


def with_a_carrier(shape, pixel, wavelength, z):
    """The kernel with its carrier ``exp(i k z)`` in single precision, where a refined thickness puts it.

    About a thousand radian leave an error of 1e-4 in the phase: the reference's gradients have it.
    """
    f = torch.fft.fftfreq(N, dtype=torch.float32) * (2 * torch.pi / torch.tensor(PIXEL))
    k = 2 * torch.pi / torch.tensor(wavelength, dtype=torch.float32)
    angle = z * torch.sqrt(k**2 - f[None] ** 2 - f[:, None] ** 2)
    return torch.polar(torch.ones_like(angle), angle)


def slopes(kernel, dtype):
    """Their loss and its gradients in our parameters, by the names of the reference."""
    model = experiment(tilt=golden("fwd/in_tilts_mrad") * 1e-3)
    model.propagator.kernel = kernel
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_complex():
            tensor.data = tensor.to(dtype.to_complex())
        elif tensor.is_floating_point():
            tensor.data = tensor.to(dtype)
    model.requires_grad_(True)
    counts = torch.fft.ifftshift(torch.as_tensor(golden("fwd/in_meas")), dim=(-2, -1)).to(dtype)
    loss = penalties.relative_gaussian(model(torch.arange(16)), counts)
    loss.backward()
    return {
        "loss_single": loss.detach(),
        "obja": model.object.amplitude.grad,
        "objp": model.object.phase.grad,
        "obj_tilts": model.propagator.tilt.grad,
        "slice_thickness": model.propagator.stretch.grad[0] / float(golden("prop/dz_lam")[0]),
        "probe": torch.view_as_real(model.probe.relative.grad),
        "probe_pos_shifts": model.scan.offsets.grad,
    }


PARTS = ["obja", "objp", "obj_tilts", "probe", "probe_pos_shifts"]


@pytest.fixture(scope="module")
def theirs():
    return slopes(with_a_carrier, torch.float32)


@pytest.fixture(scope="module")
def ours():
    return slopes(propagate.angular_spectrum, torch.float32)


@pytest.fixture(scope="module")
def exact():
    return slopes(propagate.angular_spectrum, torch.float64)


def test_loss_behind_the_gradients(theirs):
    assert theirs["loss_single"].item() == pytest.approx(float(golden("grad/loss_single")), rel=2e-6)


@pytest.mark.parametrize("name", PARTS)
def test_gradients_in_their_arithmetic(theirs, name):
    # their kernel takes sines of thousands of radian in float32, which processors round differently
    assert off(theirs[name], golden(f"grad/{name}")) < 2e-4


@pytest.mark.parametrize("name", [*PARTS, "slice_thickness"])
def test_gradients_in_ours_are_those_of_double_precision(ours, exact, name):
    assert off(ours[name], exact[name]) < 2e-5


@pytest.mark.parametrize(("name", "most"), [*((name, 1e-4) for name in PARTS), ("slice_thickness", 5e-4)])
def test_the_carrier_costs_the_reference_this_much(exact, name, most):
    assert off(exact[name], golden(f"grad/{name}")) < most
