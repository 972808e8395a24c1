"""CDTools' ``tools.initializers``: geometry of the object, and first guesses of probes.

A dataset is what `CDTools.datasets` gives, or anything with its attributes. Lengths are metres.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phaseloom.compat.cdtools.tools import image_processing
from phaseloom.compat.cdtools.tools._shared import missing, steps_of, tensor, to_numpy, window_of
from phaseloom.compat.cdtools.tools.propagators import (
    far_field,
    generate_angular_spectrum_propagator,
    inverse_far_field,
    near_field,
)
from phaseloom.errors import BadInput
from phaseloom.physics.fourier import fit_window

__all__ = [
    "RPI_spectral_init",
    "SHARP_style_near_field_probe",
    "SHARP_style_probe",
    "STEM_style_probe",
    "calc_object_setup",
    "exit_wave_geometry",
    "gaussian",
    "gaussian_probe",
    "generate_subdominant_modes",
]

__getattr__ = missing("initializers", __all__)


def exit_wave_geometry(
    det_basis: Any, det_shape: Any, wavelength: Any, distance: Any, oversampling: int = 1
) -> Tensor:
    """Basis ``(xyz, 2)`` of an exit wave whose far field fills a detector: the dual of the detector's.

    ``oversampling`` has no effect, as in CDTools: more pixels on the detector widen the window, not its grid.
    """
    basis = tensor(det_basis)
    sides = basis * torch.tensor(window_of(det_shape), device=basis.device).to(basis)
    scale = (float(value) for value in (wavelength, distance))
    return torch.linalg.pinv(sides).mT * np.prod(list(scale))


def calc_object_setup(probe_shape: Any, translations: Tensor, padding: int = 0) -> tuple[torch.Size, Tensor]:
    """Shape of an object that holds all windows, ``padding`` more at each edge, and its first pixel."""
    low = translations.amin(0)
    high = translations.amax(0)
    sides = [int(n) + 2 * padding for n in (high - low).ceil()]
    y, x = window_of(probe_shape)
    return torch.Size((y + sides[0], x + sides[1])), low - padding


def gaussian(
    shape: Any,
    sigma: Any,
    amplitude: complex = 1,
    center: Any = None,
    curvature: Any = (0, 0),
) -> Tensor:
    """Complex Gaussian ``amplitude exp(-r^2 / (2 sigma^2) + i curvature r^2 / 2)``, complex64.

    ``sigma``, ``center`` (default: ``(N - 1) / 2``) and ``curvature`` are (y, x) in pixels, the last radian
    per pixel squared.
    """
    window = window_of(shape)
    middle = [(n - 1) / 2 for n in window] if center is None else center
    rows, columns = (
        (0.5j * float(bend) - 0.5 / float(width) ** 2) * (np.arange(n) - float(place)) ** 2
        for n, width, place, bend in zip(window, sigma, middle, curvature, strict=True)
    )
    return torch.as_tensor(amplitude * np.exp(np.add.outer(rows, columns)), dtype=torch.complex64)


def gaussian_probe(  # noqa: PLR0917 -- CDTools' arguments
    dataset: Any,
    basis: Any,
    shape: Any,
    sigma: Any,
    propagation_distance: float | None = 0,
    polarized: bool = False,
    left_polarized: bool = True,
) -> Tensor:
    """A Gaussian beam with the power of the mean pattern, some way from its waist.

    ``sigma`` is the width of the amplitude in the waist, metres (y, x) or one number. As in CDTools, the wave
    converges at a positive ``propagation_distance``, which its propagators call behind the waist: give the
    negative of a distance behind it. ``polarized`` must be False.
    """
    if polarized:
        raise BadInput("gaussian_probe.polarized", True, "is not supported: there are no polarised models")
    pixel = np.array(steps_of(basis))
    waist = np.broadcast_to(np.asarray(sigma, float), 2)
    z = -float(propagation_distance or 0)
    wave = 2 * np.pi / float(dataset.wavelength)
    range_ = wave * waist**2
    bend = wave * z / (z**2 + range_**2) * pixel**2
    probe = gaussian(shape, waist * np.sqrt(1 + (z / range_) ** 2) / pixel, curvature=bend)
    power = tensor(dataset.patterns).double().sum((-2, -1)).mean()
    return probe * (power / probe.abs().square().sum()).sqrt().to(probe)


def SHARP_style_probe(
    dataset: Any, propagation_distance: float | None = None, oversampling: int = 1
) -> Tensor:
    """Probe from the root of the mean pattern, its phase flat in the far field.

    The window is ``oversampling`` times wider, dark at its edges; without ``propagation_distance``, from the
    focus to the sample, it is in focus.
    """
    y, x = (oversampling * int(n) for n in dataset.patterns.shape[-2:])
    probe = fit_window(inverse_far_field(_mean_wave(dataset)), (y, x))
    return probe if propagation_distance is None else _propagate(dataset, probe, propagation_distance)


def SHARP_style_near_field_probe(
    dataset: Any, backward_propagator: Callable[[Tensor], Tensor], oversampling: int = 1
) -> Tensor:
    """Probe from the root of the mean pattern flown back from the detector by a function."""
    probe = backward_propagator(_mean_wave(dataset))
    return probe if oversampling == 1 else image_processing.fourier_upsample(probe, oversampling)


def STEM_style_probe(  # noqa: PLR0917 -- CDTools' arguments
    dataset: Any,
    shape: Any,
    det_slice: Any,
    convergence_semiangle: float,
    propagation_distance: float | None = None,
    oversampling: int = 1,
) -> Tensor:
    """Probe of a round aperture around the centre of the mean pattern, with its mean intensity.

    ``convergence_semiangle`` is in mrad; ``propagation_distance`` from the focus to the sample;
    ``oversampling`` are pixels of the wave per pixel of the detector; ``det_slice`` has no effect, as in
    CDTools.
    """
    window = window_of(shape)
    patterns = tensor(dataset.patterns)
    mean = patterns.to(torch.promote_types(patterns.dtype, torch.float32)).mean(0)
    middle = image_processing.centroid(mean).tolist()
    basis = tensor(dataset.detector_geometry["basis"]).double() / oversampling
    y, x = (torch.arange(n, dtype=torch.float64) - place for n, place in zip(window, middle, strict=True))
    place = basis[:, 0, None, None] * y[:, None] + basis[:, 1, None, None] * x
    along = place[2] + float(dataset.detector_geometry["distance"])
    angle = torch.atan2(torch.hypot(place[0], place[1]), along)
    aperture = (1e3 * angle < convergence_semiangle).to(torch.complex64)
    probe = inverse_far_field(aperture * (mean.mean() / aperture.abs().mean()).sqrt())
    return probe if propagation_distance is None else _propagate(dataset, probe, propagation_distance)


def RPI_spectral_init(  # noqa: PLR0917 -- CDTools' arguments
    pattern: Any,
    probe: Tensor,
    obj_shape: Any,
    n_modes: int = 1,
    mask: Any = None,
    background: Any = None,
) -> Tensor:
    """Objects ``(mode, v, u)`` for randomised probe imaging: leading eigenvectors of ``A Y A^H``.

    ``A^H`` takes an object to the wave on the detector, ``Y`` weights it by the pattern over what a flat
    scene gives; the phase of each is not determined. Strongest first, the amplitude as the eigenvalue, as in
    CDTools, where their order is open and objects of odd sides in even windows have a ramp. ``mask`` is True
    where the pattern counts; ``background`` is taken off.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    counts = to_numpy(pattern).astype(float)
    counts = counts if background is None else counts - to_numpy(background)
    counts = np.abs(counts if mask is None else counts * to_numpy(mask))
    light = probe.detach().to(torch.complex128)
    small = window_of(obj_shape)

    def to_detector(flat: Any) -> Tensor:
        scene = torch.as_tensor(np.asarray(flat, complex)).reshape(small)
        return far_field(light * inverse_far_field(fit_window(far_field(scene), window_of(light))))

    def from_detector(wave: Tensor) -> np.ndarray:
        back = far_field(light.conj() * inverse_far_field(wave))
        return to_numpy(inverse_far_field(fit_window(back, small))).ravel()

    flat = to_detector(from_detector(to_detector(np.ones(small)))).abs()
    weight = torch.as_tensor(counts) / flat
    size = small[0] * small[1]
    make: Any = LinearOperator
    operator = make((size, size), lambda v: from_detector(weight * to_detector(v)))
    values, vectors = eigsh(operator, k=n_modes, which="LM", v0=np.ones(size, complex))
    order = np.argsort(-np.abs(values))
    values = np.real(values[order])
    vectors = vectors[:, order].T.reshape(n_modes, *small)
    scale = np.sqrt(counts.sum() / float(light.abs().square().sum())) * values / np.sum(values**2)
    return torch.as_tensor(vectors * scale[:, None, None], dtype=torch.complex64)


def generate_subdominant_modes(dominant_mode: Tensor, n_modes: int, circular: bool = True) -> Tensor:
    """Weaker modes ``(n_modes, y, x)``: the far field of the first times polynomials of rising order.

    In ``y + i x`` and ``y - i x`` where ``circular``, else in y and x. Each has the power of the first;
    CDTools divides by a sum of moduli, so theirs depends on the unit.
    """
    light = far_field(dominant_mode)
    y, x = (torch.arange(n, device=light.device).to(light) - n // 2 for n in light.shape[-2:])
    first, second = (y[:, None] + 1j * x, y[:, None] - 1j * x) if circular else (y[:, None], x[None])
    power = dominant_mode.abs().square().sum()
    modes = []
    for one, two in _orders(n_modes):
        mode = inverse_far_field(first**one * second**two * light)
        modes.append(mode * (power / mode.abs().square().sum()).sqrt())
    return torch.stack(modes)


def _orders(count: int) -> Iterator[tuple[int, int]]:
    """Pairs of exponents, the sum rising from one."""
    pairs = ((one, total - one) for total in range(1, count + 1) for one in range(total + 1))
    return (pair for pair, _ in zip(pairs, range(count), strict=False))


def _mean_wave(dataset: Any) -> Tensor:
    """Root of the mean pattern without its background, complex64."""
    patterns = tensor(dataset.patterns)
    mean = patterns.double().sum(0) / len(patterns)
    if getattr(dataset, "mask", None) is not None:
        mean = mean * dataset.mask.to(mean.device)
    if getattr(dataset, "background", None) is not None:
        mean = (mean - dataset.background.to(mean)).clamp(min=0)
    return mean.sqrt().to(torch.complex64)


def _propagate(dataset: Any, probe: Tensor, distance: float) -> Tensor:
    """A probe on the grid of the dataset's exit waves, some way further."""
    geometry = dataset.detector_geometry
    window = dataset.patterns.shape[-2:]
    scale = float(dataset.wavelength) * float(geometry["distance"])
    spacing: Sequence[float] = [
        scale / (n * step) for n, step in zip(window, steps_of(geometry["basis"]), strict=True)
    ]
    kernel = generate_angular_spectrum_propagator(probe.shape, spacing, dataset.wavelength, distance)
    return near_field(probe, kernel.to(probe.device))
