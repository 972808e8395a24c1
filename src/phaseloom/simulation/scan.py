"""A simulated scan: the patterns of a specimen in an experiment, and the phase that they come from."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics import atoms, detect, optics, patches, propagate
from phaseloom.physics.fourier import shift, to_real, to_reciprocal
from phaseloom.physics.propagate import multislice
from phaseloom.simulation.experiment import (
    BAND_EDGE,
    BAND_TAPER,
    Experiment,
    band_limit,
    collect_on_detector,
    compute_far_intensity,
)
from phaseloom.simulation.specimens import Specimen

__all__ = ["Sample", "diffract", "project_phase", "simulate_scan", "transmit"]

MAX_PIXELS_PER_BATCH = 2**19
"""Pixels of the windows that are computed together: more fall out of a processor's cache."""


@dataclass(frozen=True)
class Sample:
    """A simulated scan with its truth.

    Attributes:
        patterns: ``(rows, columns, y, x)`` fractions of the beam, with counting noise if the experiment has.
        phase: ``(y, x)`` radian, interaction parameter times thermally averaged projected potential in the
            band of the waves; the first probe stands at pixel (5, 5), in a periodic cell at (0, 0).
        positions: true places ``(n, 2)`` of the probes, angstrom.
        experiment: that made it.
        specimen: its name.
        group: family and elements, by which sets are split.
        thickness: angstrom.
    """

    patterns: np.ndarray
    phase: np.ndarray
    positions: np.ndarray
    experiment: Experiment
    specimen: str
    group: str
    thickness: float

    def scan(self) -> Scan4D:
        """The scan as a measurement would give it: counts (of 1e6 electrons without noise).

        Pixels beyond the band of the waves, where nothing was simulated, are masked.
        """
        dose = self.experiment.dose or 1e6
        counts = self.patterns.reshape(-1, *self.patterns.shape[2:]) * np.float32(dose)
        if self.experiment.dose is not None:  # they were drawn as whole numbers
            counts = np.rint(counts)
        nominal = replace(self.experiment, jitter=0.0).positions(torch.Generator()).numpy()
        rows, columns = self.experiment.scan
        angle = self.experiment.angle
        geometry = Geometry(
            wavelength=self.experiment.wavelength,
            shape=self.experiment.detector_shape,
            angle=(angle, angle),
            beam="electron",
        )
        known = _find_band_pixels(self.experiment)
        return Scan4D(counts=counts, positions=nominal, geometry=geometry, grid=(rows, columns), mask=known)


def simulate_scan(specimen: Specimen, experiment: Experiment, /, *, seed: int = 0) -> Sample:
    """The patterns of a specimen in an experiment, and the phase that they come from.

    Args:
        specimen: whose box is that of the experiment.
        experiment: see `Experiment`.
        seed: of thermal motion, position errors and counts.

    Raises:
        BadInput: a specimen of another size.
    """
    generator = torch.Generator().manual_seed(seed)
    if not np.allclose(specimen.size[1:], experiment.box, atol=1e-3):
        fix = f"must be the box of the experiment, {experiment.box} A"
        raise BadInput("simulate: specimen", specimen.size[1:], fix)
    positions = experiment.positions(generator)
    waves = transmit(specimen, experiment, generator)
    patterns = diffract(waves, positions, experiment, thickness=specimen.thickness)
    if experiment.dose is not None:
        patterns = detect.draw_counts(patterns * experiment.dose, generator=generator) / experiment.dose
    phase = project_phase(specimen, experiment)
    return Sample(
        patterns=patterns.reshape(*experiment.scan, *patterns.shape[1:]).numpy(),
        phase=phase.numpy(),
        positions=positions.numpy(),
        experiment=experiment,
        specimen=specimen.name,
        group=specimen.group,
        thickness=specimen.thickness,
    )


def project_phase(specimen: Specimen, experiment: Experiment, /) -> Tensor:
    """Phase ``(y, x)`` of the average specimen in the image, radian, in the band of the waves."""
    blur = experiment.vibration
    band = BAND_EDGE - BAND_TAPER / 2
    whole = _project_potential(specimen.places[:, 1:], specimen.numbers, experiment, blur, band=band)
    rows, columns = experiment.image
    edge = experiment.margin
    return (optics.interaction(experiment.energy) * whole)[edge : edge + rows, edge : edge + columns]


def transmit(specimen: Specimen, experiment: Experiment, generator: torch.Generator, /) -> Tensor:
    """Transmissions ``(instant, slice, y, x)`` of the whole field, in the band of the waves."""
    places = torch.as_tensor(specimen.places)
    numbers = specimen.numbers
    thick = specimen.thickness
    limit = experiment.slice_thickness
    count = 1 if limit is None else max(1, math.ceil(thick / limit - 1e-9))
    strength = optics.interaction(experiment.energy)
    still = experiment.phonons == 0
    instants = []
    for _ in range(max(1, experiment.phonons)):
        now = places if still else atoms.displace_atoms(places, experiment.vibration, generator=generator)
        which = atoms.assign_slices(places[:, 0], max(thick, 1e-6), count).numpy()
        blur = experiment.vibration if still else 0.0
        each = [
            _project_potential(now[which == n, 1:], numbers[which == n], experiment, blur)
            for n in range(count)
        ]
        phase = strength * torch.stack(each)
        instants.append(_limit_band(torch.polar(torch.ones_like(phase), phase), experiment.spacing))
    return torch.stack(instants)


def diffract(
    waves: Tensor, positions: Tensor, experiment: Experiment, /, *, thickness: float = 0.0
) -> Tensor:
    """Patterns ``(n, y, x)`` behind transmissions, fractions of the beam, averaged over instants.

    Args:
        waves: ``(instant, slice, y, x)``, of the whole field or of a periodic cell.
        positions: ``(n, 2)`` angstrom from the first pixel of the image.
        experiment: its probe and detector.
        thickness: of all slices together, angstrom.
    """
    size = (experiment.window, experiment.window)
    beam = experiment.probe()
    places = positions / experiment.spacing + experiment.margin
    if experiment.cell is not None:
        waves = _tile_cell(waves, experiment.window)
        places = places + experiment.window
    corner = places.round().long() - experiment.window // 2
    rest = (places - places.round()).float()
    kernel = _build_propagator(experiment, thickness / waves.shape[1]) if waves.shape[1] > 1 else None
    out = torch.empty(len(positions), *experiment.detector_shape)
    for index in torch.arange(len(positions)).split(max(1, MAX_PIXELS_PER_BATCH // experiment.window**2)):
        still = bool(rest[index].abs().max() < 1e-6)
        here = beam[None].expand(len(index), -1, -1, -1)
        here = here if still else shift(here, rest[index, None])
        total = torch.zeros(len(index), *size)
        for slices in waves:
            leaving = multislice(here, patches.gather(slices, corner[index], size), kernel)
            total += compute_far_intensity(leaving, experiment)
        out[index] = collect_on_detector(total / len(waves), experiment)
    return out


def _project_potential(
    places: np.ndarray | Tensor, numbers: np.ndarray, experiment: Experiment, blur: float, band: float = 1.0
) -> Tensor:
    """Projected potential of the field in single precision, its phases made in double."""
    rows, columns = (n + 2 * experiment.margin for n in experiment.image)
    pixel = (experiment.spacing, experiment.spacing)
    where = torch.as_tensor(np.asarray(places), dtype=torch.float32)
    kinds = torch.as_tensor(np.asarray(numbers), dtype=torch.int64)
    return atoms.project_potential(
        where, kinds, (rows, columns), pixel, table=experiment.table, vibration=blur, band=band
    )


def _limit_band(waves: Tensor, spacing: float) -> Tensor:
    """Waves without the frequencies that products would fold back."""
    return to_real(to_reciprocal(waves) * band_limit((waves.shape[-2], waves.shape[-1]), spacing))


def _find_band_pixels(experiment: Experiment) -> np.ndarray:
    """Detector pixels that lie in the band of the waves."""
    disk = band_limit((experiment.window, experiment.window), experiment.spacing)
    whole = collect_on_detector(torch.ones_like(disk)[None], experiment)[0]
    inside = collect_on_detector(disk[None], experiment)[0]
    return (inside > 0.999 * whole).numpy()


def _tile_cell(waves: Tensor, around: int) -> Tensor:
    """A periodic cell with as many pixels of its copies around it."""
    rows, columns = (torch.arange(-around, n + around) % n for n in waves.shape[-2:])
    return waves[..., rows, :][..., columns]


def _build_propagator(experiment: Experiment, distance: float) -> Tensor:
    """Free flight between slices, in the band of the waves."""
    size = (experiment.window, experiment.window)
    pixel = (experiment.spacing, experiment.spacing)
    far = torch.tensor(distance, dtype=torch.float64)
    kernel = propagate.fresnel(size, pixel, experiment.wavelength, far)
    return kernel.to(torch.complex64) * band_limit(size, experiment.spacing)
