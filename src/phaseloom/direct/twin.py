"""Which of two twins a scan shows: the phase, or its negative with opposite optics.

The bright field of a scan turned by 180 degrees with opposite aberrations and the opposite phase is the same.
Outside knowledge decides: the sign of a stated defocus; the dark field, which is bright where matter is,
whatever the optics; or that atoms are peaks of the phase of electrons, never pits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Complex, Float
from scipy.ndimage import gaussian_filter
from torch import Tensor

from phaseloom.data.counts import split_indices
from phaseloom.data.scan import Scan4D
from phaseloom.direct.grid import fit_lattice
from phaseloom.direct.solve import DirectImage
from phaseloom.direct.survey import DiskSurvey
from phaseloom.direct.transfer import LinearOptics, compute_aperture, compute_chi

__all__ = [
    "TwinEvidence",
    "choose_twin",
    "compare_with_dark_field",
    "compute_skewness",
    "correlate_with_dark_field",
    "judge_twin",
    "measure_dark_field",
]

TWINS = "twin (the opposite phase, with opposite defocus and the scan turned by 180 degrees, fits as well)"
"""Beginning of the sentence on what decided between them."""

MIN_SKEWNESS = 3.0
"""Skewness of a phase, in standard errors, below which peaks and pits are not told apart."""

MIN_DARK_FIELD_CORRELATION = 5.0
"""Correlation of phase and dark field, in standard errors, from which it decides alone. On 30 of 40 crystals,
layers and particles of `benchmarks.faulty_scans` it was larger than 3, always with the right sign."""

MIN_SAFE_DARK_FIELD = 3.0
"""The same from which it tells together with peaks or pits that do not contradict."""

MIN_TRANSFER = 0.3
"""Share of its largest value that the transfer of the probe's intensity must have: where it is small, the
dark field of strong and thick objects has either sign."""

MIN_STATED_DEFOCUS = 0.5
"""Defocus, in units of wavelength / semiangle^2, below which the sign of a stated one decides nothing."""

DARK_FIELD_FROM = 1.1
"""Radius, in those of the disk, at which the dark field begins, and `DARK_FIELD_MARGIN` pixels more."""

DARK_FIELD_MARGIN = 1.5

MIN_DARK_PIXELS = 20
"""Detector pixels beyond the disk below which there is no dark field."""

PUPIL_SAMPLES = 19
"""Places along the diameter of the aperture from which the probe's transfer is summed."""

FREQUENCIES_AT_ONCE = 256

PATTERNS_AT_ONCE = 128
"""Patterns that are made floating-point numbers together."""

SLOW_CHANGES = 0.1
"""Share of the scan over which changes are slow, and are taken off before images are compared."""


@dataclass(frozen=True)
class TwinEvidence:
    """What speaks for one twin (positive) or the other (negative), in standard errors.

    Attributes:
        skewness: of the phase: peaks are positive.
        dark_field: correlation of phase and dark field; ``None``: no dark field was recorded.
    """

    skewness: float
    dark_field: float | None

    @property
    def sign(self) -> int:
        """1: the phase is right; -1: its negative is; 0: nothing decides."""
        strength, _ = self._weigh()
        return 0 if strength == 0 else (1 if strength > 0 else -1)

    @property
    def is_clear(self) -> bool:
        """Whether the dark field decides alone: it is clear, and peaks or pits as clear do not contradict."""
        dark = self.dark_field or 0.0
        contradicted = dark * self.skewness < 0 and abs(self.skewness) > MIN_DARK_FIELD_CORRELATION
        return abs(dark) > MIN_DARK_FIELD_CORRELATION and not contradicted

    @property
    def is_safe(self) -> bool:
        """Whether the dark field decides, alone or with peaks or pits that say the same.

        Peaks alone had the wrong sign at up to 14 standard errors, on layers: where a lattice is just
        resolved the middles of its hexagons are sharper than the atoms.
        """
        dark = self.dark_field or 0.0
        return self.is_clear or (abs(dark) > MIN_SAFE_DARK_FIELD and dark * self.skewness >= 0)

    def combine(self, run: TwinEvidence | None) -> TwinEvidence:
        """Add to the evidence of a direct image that of a reconstruction, which decides where it is clear."""
        if run is None or (self.sign and not run.is_clear):
            return self
        if run.is_clear:
            return run
        known = [one.dark_field for one in (self, run) if one.dark_field is not None]
        dark = sum(known) / math.sqrt(len(known)) if known else None
        return TwinEvidence((self.skewness + run.skewness) / math.sqrt(2), dark)

    def describe(self) -> str:
        """What decided, in words, with the numbers of the twin that was chosen."""
        strength, witnesses = self._weigh()
        sign = 1 if strength >= 0 else -1
        values = {"dark field": sign * (self.dark_field or 0.0), "peaks": sign * self.skewness}
        said = {
            "dark field": ("the dark field follows the phase", "the dark field is opposite to the phase"),
            "peaks": ("atoms are peaks of the phase", "atoms are pits of the phase"),
        }
        kinds = {"dark field": "correlation", "peaks": "skewness"}
        texts = {
            name: f"{said[name][values[name] < 0]} ({kinds[name]} {values[name]:.1f} standard errors)"
            for name in witnesses
        }
        agreeing = " and ".join(text for name, text in texts.items() if values[name] >= 0)
        against = [text for name, text in texts.items() if values[name] < 0]
        return ", though ".join([agreeing, *against]) or "nothing"

    def _weigh(self) -> tuple[float, tuple[str, ...]]:
        """The strength of what decides, 0: nothing does; and its names."""
        if self.dark_field is None:
            strength: float = self.skewness
            witnesses: tuple[str, ...] = ("peaks",)
        elif self.is_clear:
            return self.dark_field, ("dark field",)
        else:
            strength = (self.dark_field + self.skewness) / math.sqrt(2)
            witnesses = ("dark field", "peaks")
        return (strength, witnesses) if abs(strength) > MIN_SKEWNESS else (0.0, ())


def choose_twin(
    optics: LinearOptics,
    image: DirectImage,
    /,
    *,
    stated: float | None,
    judge: Callable[[], TwinEvidence] | None,
) -> tuple[LinearOptics, DirectImage, str]:
    """One of two optics that explain the bright field alike.

    Args:
        optics: as fitted.
        image: made with them.
        stated: C10 as the user knows it, angstrom; ``None``: not known.
        judge: looks at the image and the dark field, where nothing is stated; ``None``: not of electrons,
            whose phase matter advances.
    """
    unit = optics.wavelength / float(optics.semiangle) ** 2
    if stated and min(abs(stated), abs(optics.defocus)) > MIN_STATED_DEFOCUS * unit:
        sign = 1 if -stated * optics.defocus >= 0 else -1
        why = "the sign of the stated defocus"
    else:
        evidence = TwinEvidence(0.0, None) if judge is None else judge()
        sign = evidence.sign
        why = evidence.describe()
    if sign == 0:
        note = f"{TWINS}: not decided, the phase may be upside down: state the sign of the defocus"
    else:
        note = f"{TWINS}: decided by {why}"
    if sign >= 0:
        return optics, image, note
    return optics.get_twin(), replace(image, phase=-image.phase), note


def judge_twin(
    scan: Scan4D, survey: DiskSurvey, optics: LinearOptics, phase: Float[np.ndarray, "slow fast"], /
) -> TwinEvidence:
    """What the image and the dark field say of the sign of a phase of electrons.

    Args:
        scan: the data, read once more for its dark field where it is a raster.
        survey: of its detector.
        optics: with which the image was made.
        phase: of the direct image, on the raster of the scan or a finer one, radian.
    """
    skewness = compute_skewness(phase) / math.sqrt(6 / phase.size)
    if scan.grid is None or any(fine % coarse for fine, coarse in zip(phase.shape, scan.grid, strict=True)):
        return TwinEvidence(skewness, None)  # an image of positions that are no raster has a grid of its own
    dark = measure_dark_field(scan, survey)
    if dark is None:
        return TwinEvidence(skewness, None)
    rows, columns = (fine // coarse for fine, coarse in zip(phase.shape, dark.shape, strict=True))
    correlation = correlate_with_dark_field(scan, optics, phase[::rows, ::columns], dark)
    return TwinEvidence(skewness, correlation)


def measure_dark_field(scan: Scan4D, survey: DiskSurvey, /) -> Float[np.ndarray, "slow fast"] | None:
    """The share of the counts of each pattern beyond the disk; ``None`` without pixels or counts there.

    Args:
        scan: a raster; read once.
        survey: its disk, descan and trusted pixels.
    """
    away = 0.0 if survey.descan is None else float(np.abs(survey.descan).max())
    row, column = np.indices(survey.mask.shape)
    radius = np.hypot(row - survey.disk.centre[0], column - survey.disk.centre[1])
    limit = DARK_FIELD_FROM * survey.disk.radius + DARK_FIELD_MARGIN + away
    dark = (radius > limit) & survey.mask
    if dark.sum() < MIN_DARK_PIXELS or scan.grid is None:
        return None
    table = np.stack([dark, survey.mask], -1).reshape(-1, 2).astype(np.float32)
    sums = np.empty((len(scan), 2))
    for piece in split_indices(scan.counts):
        for index in np.array_split(piece, max(1, len(piece) // PATTERNS_AT_ONCE)):
            stack = np.asarray(scan.counts[index], np.float32)
            sums[index] = stack.reshape(len(index), -1) @ table
    if not sums[:, 0].any():
        return None
    share = sums[:, 0] / np.maximum(sums[:, 1], 1e-9)
    return share.reshape(scan.grid)


def correlate_with_dark_field(
    scan: Scan4D,
    optics: LinearOptics,
    phase: Float[np.ndarray, "slow fast"],
    dark: Float[np.ndarray, "slow fast"],
    /,
) -> float:
    """Correlation of a phase, as the intensity of the probe would show it, with the dark field; in errors.

    The dark field of thin matter is an incoherent image: what scatters, seen by the intensity of the probe.
    A twin has the same probe and the same dark field, and the opposite phase.

    Args:
        scan: for its raster.
        optics: with which the phase was made.
        phase: of the direct image, radian.
        dark: see `measure_dark_field`.
    """
    assert scan.grid is not None
    steps = fit_lattice(scan.positions, scan.grid)
    if steps is None:
        return 0.0
    rows, columns = scan.grid
    lines = (torch.fft.fftfreq(rows, dtype=torch.float64), torch.fft.rfftfreq(columns, dtype=torch.float64))
    frequency = torch.cartesian_prod(*lines) @ torch.linalg.inv(torch.from_numpy(steps)).T
    transfer = _compute_probe_transfer(optics, frequency).reshape(rows, -1).numpy()
    transfer = transfer * (np.abs(transfer) > MIN_TRANSFER * np.abs(transfer).max())
    seen = np.fft.irfft2(np.fft.rfft2(phase) * transfer, s=scan.grid)
    return compare_with_dark_field(seen, dark)


def compare_with_dark_field(
    seen: Float[np.ndarray, "slow fast"], dark: Float[np.ndarray, "slow fast"], /
) -> float:
    """Correlation of an image with the dark field, without slow changes, in standard errors.

    Args:
        seen: phase, blurred by the intensity of the beam.
        dark: see `measure_dark_field`.

    Example:
        >>> image = np.zeros((16, 16)); image[5, 5] = 1
        >>> round(compare_with_dark_field(-image, 0.2 * image))
        -16
    """
    one, other = (_remove_slow_changes(values) for values in (seen, dark))
    power = math.sqrt(float((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / power * math.sqrt(seen.size) if power > 0 else 0.0


def _compute_probe_transfer(
    optics: LinearOptics, frequency: Float[Tensor, "frequency 2"]
) -> Complex[Tensor, " frequency"]:
    """Transfer of an image by the intensity of the probe: the autocorrelation of the pupil."""
    limit = float(optics.semiangle) / optics.wavelength
    line = torch.linspace(-limit, limit, PUPIL_SAMPLES, dtype=frequency.dtype)
    inside = torch.cartesian_prod(line, line)
    inside = inside[inside.norm(dim=-1) < limit]
    chi = compute_chi(optics, inside)
    turned = optics.turn_frequencies(frequency)
    out = torch.zeros(len(turned), dtype=torch.complex128)
    for index in torch.nonzero(turned.norm(dim=-1) < 2 * limit)[:, 0].split(FREQUENCIES_AT_ONCE):
        beside = inside[None] + turned[index, None]
        overlap = compute_aperture(optics, beside, 0.0)
        out[index] = torch.polar(overlap, compute_chi(optics, beside) - chi).mean(1)
    return out


def compute_skewness(values: Float[np.ndarray, "slow fast"], /) -> float:
    """Third moment of an image in units of its spread: positive for peaks.

    Args:
        values: image; slow changes over it are taken off.

    Example:
        >>> image = np.zeros((16, 16)); image[5, 5] = 1
        >>> compute_skewness(image) > 1
        True
    """
    flat = _remove_slow_changes(values)
    return float((flat**3).mean() / max(float((flat**2).mean()) ** 1.5, 1e-300))


def _remove_slow_changes(values: np.ndarray) -> np.ndarray:
    slow = gaussian_filter(values, [n * SLOW_CHANGES for n in values.shape], mode="nearest")
    flat = values - slow
    return flat - flat.mean()
